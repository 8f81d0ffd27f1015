"""The embedded point tracker: Lucas–Kanade with dense-flow fallback, held together in 3D by rigid neighbours.

One step carries points from one frame to the next (or to the one before). Each point has up to three answers to "where
now?": what its own patch says (LK, else DIS flow, both forward–backward checked), what its rigid neighbours say (a
weighted Kabsch fit over nearby points that have kept their distances), and, while it has never moved, where it always was
(its *home*: free of drift). Depth and patch similarity decide between them and tell visible from occluded: a point behind
the observed surface keeps a position, carried by its neighbours, but is not visible.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from traceworld.geometry.cameras import invert_rigid, project, transform, unproject
from traceworld.perception.interfaces import BackendInfo, Frame
from traceworld.perception.intrinsics import assumed_K
from traceworld.perception.lifting import PSEUDO_DEPTH_M, depth_windows, jump_gate, sample_depth
from traceworld.perception.matching import lucas_kanade
from traceworld.perception.motion import DenseFlow, FlowField
from traceworld.perception.patches import sample_patches, similarity, texture
from traceworld.perception.rigidity import RigidPrediction, predict_by_neighbours, update_affinity
from traceworld.perception.surface_motion import local_motion, measure_cells


@dataclass(frozen=True)
class TrackingConfig:
    """Options of the embedded tracker; pixel figures hold at 640 px image width and scale with it.

    Attributes:
        fb_px: forward–backward error above which a match is refused.
        window, levels: Lucas–Kanade window side and pyramid levels.
        edge_window: window side for points so near a depth edge that the large window would see another surface too.
        patch_half: half side of the patch that similarity is judged on.
        neighbours: points in a rigid group (carries hidden points).
        reach_px: radius over which the visible surface around a point says how it moves.
        ncc_reacquire: similarity that an occluded point's patch must reach to count as seen again.
        ncc_keep: similarity below which a followed point is no longer believed (without depth; with it depth decides).
        depth_agreement: share of the depth within which the observed surface is the point's own.
        home_px: how far the evidence may add up before a still point is said to move.
        max_total: keypoints in the life of a clip, as a multiple of the budget (dead ones are replaced by new ones).
    """

    fb_px: float = 1.5
    window: int = 21
    edge_window: int = 9
    levels: int = 4
    patch_half: int = 6
    neighbours: int = 16
    reach_px: float = 60.0
    ncc_reacquire: float = 0.65
    ncc_keep: float = 0.35
    depth_agreement: float = 0.02
    home_px: float = 1.5
    max_total: float = 4.0


@dataclass(frozen=True, eq=False)
class View:
    """One frame as the tracker sees it. `depth_m` None: a source without depth."""

    gray: UInt8[np.ndarray, "H W"]
    depth_m: Float[np.ndarray, "H W"] | None
    cam_from_world: Float[np.ndarray, "4 4"]


@dataclass(eq=False)
class PointState:
    """Everything known about M points at one frame (mutable; rows are points).

    Attributes:
        xyz_world: position; seen: in view and unoccluded; valid: the position may be used.
        template: the patch a point is recognised by; home_world: where it was chosen; still: has not left home;
        creep_px: evidence of leaving home, added up; affinity [M,M]: how rigidly pairs have moved so far;
        lost: frames since last seen.
    """

    xyz_world: np.ndarray
    seen: np.ndarray
    valid: np.ndarray
    part_id: np.ndarray
    template: np.ndarray
    home_world: np.ndarray
    still: np.ndarray
    creep_px: np.ndarray
    affinity: np.ndarray
    lost: np.ndarray

    @staticmethod
    def begin(
        xyz_world: Float[np.ndarray, "M 3"],
        part_id: Int[np.ndarray, " M"],
        xy_px: Float[np.ndarray, "M 2"],
        view: View,
        half: int,
    ) -> PointState:
        """Points just chosen in `view`."""
        count = len(xyz_world)
        return PointState(
            xyz_world=xyz_world.astype(np.float64),
            seen=np.ones(count, bool),
            valid=np.ones(count, bool),
            part_id=part_id.astype(np.int32),
            template=sample_patches(view.gray, xy_px, half),
            home_world=xyz_world.astype(np.float64).copy(),
            still=np.ones(count, bool),
            creep_px=np.zeros((count, 2)),
            affinity=_fresh_affinity(part_id, part_id),
            lost=np.zeros(count, np.int64),
        )

    def join(self, other: PointState) -> PointState:
        """Both sets of points, these first."""
        rows = ("xyz_world", "seen", "valid", "part_id", "template", "home_world", "still", "creep_px", "lost")
        fields = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in rows}
        cross = _fresh_affinity(self.part_id, other.part_id)
        return PointState(**fields, affinity=np.block([[self.affinity, cross], [cross.T, other.affinity]]))

    def take(self, keep: np.ndarray) -> PointState:
        """The same state for some of the points."""
        rows = ("xyz_world", "seen", "valid", "part_id", "template", "home_world", "still", "creep_px", "lost")
        fields = {name: getattr(self, name)[keep].copy() for name in rows}
        return PointState(**fields, affinity=self.affinity[keep][:, keep].copy())


def _fresh_affinity(part_a: np.ndarray, part_b: np.ndarray) -> np.ndarray:
    return np.where(part_a[:, None] == part_b[None, :], 1.0, 0.2)


class EmbeddedTracker:
    """The tracker behind the `TrackerBackend` interface: image points in, image points out, one frame at a time.

    Frames with depth need `K` and, from a moving camera, poses; without depth the scene is a plane and pixels are exact.
    """

    info = BackendInfo("tracking", "embedded", "1", "Apache-2.0")

    def __init__(self, K: np.ndarray | None = None, config: TrackingConfig | None = None):
        self.config = config or TrackingConfig()
        self.K = K
        self._flow = DenseFlow()

    def start(self, frame: Frame) -> None:
        """Begin with this frame; forgets everything before."""
        self._view, self._small = self._see(frame)
        height, width = self._view.gray.shape
        K = self.K if self.K is not None else assumed_K(width, height)
        self._stepper = PointStepper(K, width, height, self.config)
        self._state = empty_state(self.config)

    def add(self, xy_px: Float[np.ndarray, "M 2"]) -> None:
        """Follow these points from the current frame on. Points without depth are never visible."""
        xy = np.asarray(xy_px, np.float64).reshape(-1, 2)
        z, _ = self._stepper.depth(self._view, xy, None)
        xyz = unproject(xy, np.asarray(z, np.float64), self._stepper.K, self._view.cam_from_world)
        state = PointState.begin(xyz, np.zeros(len(xy), np.int32), xy, self._view, self.config.patch_half)
        known = np.isfinite(xyz).all(-1)
        state.valid &= known
        state.seen &= known
        self._state = self._state.join(state)

    def step(self, frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `TrackerBackend`; confidence is 1 seen, 0.5 hidden with a position, 0 lost."""
        view, small = self._see(frame)
        height, width = view.gray.shape
        there = self._flow.between(self._small, small, width, height)
        back = self._flow.between(small, self._small, width, height)
        self._stepper.step(self._state, self._view, view, there, back)
        self._view, self._small = view, small
        state = self._state
        xy = project(state.xyz_world, self._stepper.K, view.cam_from_world)[..., :2]
        return xy, state.seen.copy(), np.where(state.seen, 1.0, np.where(state.valid, 0.5, 0.0))

    def _see(self, frame: Frame) -> tuple[View, np.ndarray]:
        gray = cv2.cvtColor(np.ascontiguousarray(frame.image), cv2.COLOR_RGB2GRAY)
        pose = np.eye(4) if frame.cam_from_world is None else np.asarray(frame.cam_from_world, np.float64)
        return View(gray, frame.depth_m, pose), self._flow.small(gray)


def empty_state(config: TrackingConfig) -> PointState:
    """No points yet."""
    side = 2 * config.patch_half + 1
    return PointState(
        xyz_world=np.zeros((0, 3)),
        seen=np.zeros(0, bool),
        valid=np.zeros(0, bool),
        part_id=np.zeros(0, np.int32),
        template=np.zeros((0, side, side), np.float32),
        home_world=np.zeros((0, 3)),
        still=np.zeros(0, bool),
        creep_px=np.zeros((0, 2)),
        affinity=np.zeros((0, 0)),
        lost=np.zeros(0, np.int64),
    )


class PointStepper:
    """Moves a `PointState` from one view to the next."""

    def __init__(
        self,
        K: Float[np.ndarray, "3 3"],
        width: int,
        height: int,
        config: TrackingConfig,
        background_rests: bool = False,
    ):
        self.K, self.width, self.height, self.config = np.asarray(K, np.float64), width, height, config
        self.px = width / 640  # pixel figures are stated at 640 px
        # Cameras are known (given, solved, or still): what is background then rests in the world.
        self.background_rests = background_rests

    def step(self, state: PointState, a: View, b: View, flow_ab: FlowField, flow_ba: FlowField) -> None:
        """Carry all points from view a to view b, in place."""
        if len(state.xyz_world) == 0:
            return
        config = self.config
        xy_a = project(state.xyz_world, self.K, a.cam_from_world)[..., :2]
        home = project(state.home_world, self.K, b.cam_from_world)
        stay = project(state.xyz_world, self.K, b.cam_from_world)  # if it stayed where it is in the world

        own_xy, own_ok = self._follow(state, a, b, flow_ab, flow_ba, xy_a, stay[:, :2])
        own_z, own_edge = self.depth(b, own_xy, stay[:, 2])
        own_ok &= np.isfinite(own_z) & (np.abs(own_z - stay[:, 2]) < 3 * jump_gate(stay[:, 2]))
        own_world = self._lift(own_xy, own_z, b)

        patch_own = sample_patches(b.gray, own_xy, config.patch_half)
        ncc_own = similarity(state.template, patch_own)
        grain = texture(state.template)
        trust = np.where(own_ok, np.clip(grain / 4.0, 0.05, 1.0) * np.where(own_edge, 0.3, 1.0), 0.0)
        trust *= np.where(ncc_own > 0.5, 1.0, 0.2)
        edge = self._near_edge(a, xy_a)
        trust *= np.where(edge, 0.4, 1.0)
        noise_m = np.maximum(stay[:, 2], 1e-3) / self.K[0, 0] * 2.0 * self.px
        rigid = predict_by_neighbours(state.xyz_world, own_world, trust, state.affinity, noise_m, config.neighbours)
        rigid = self._with_surface(state, a, b, flow_ab, flow_ba, rigid)
        moved = self._fuse(state, b, own_xy, own_ok, own_world, ncc_own, trust, rigid, stay)
        camera_still = bool(np.abs(a.cam_from_world - b.cam_from_world).max() < 1e-9)
        self._decide(state, b, moved, home, rigid, camera_still)
        update_affinity(state.affinity, rigid.source, state.xyz_world, own_ok & state.seen, noise_m)

    # ------------------------------------------------------------------ where its own patch went

    def _follow(self, state, a, b, flow_ab, flow_ba, xy_a, stay_xy):
        """LK from a to b, else DIS; both checked by going back. Returns positions and which may be used."""
        config = self.config
        limit = config.fb_px * self.px
        dense_xy = xy_a + flow_ab.at(xy_a)
        dense_error = np.linalg.norm(dense_xy + flow_ba.at(dense_xy) - xy_a, axis=-1)
        dense_ok = (dense_error < limit) & self._inside(dense_xy)
        start = np.where(dense_ok[:, None], dense_xy, stay_xy)
        usable = state.seen & self._inside(xy_a) & np.isfinite(start).all(-1)
        lk_xy, lk_ok = dense_xy.copy(), np.zeros(len(xy_a), bool)
        edge = self._near_edge(a, xy_a)
        sides = [max(5, round(side * self.px) // 2 * 2 + 1) for side in (config.window, config.edge_window)]
        for rows, side in zip((np.flatnonzero(usable & ~edge), np.flatnonzero(usable & edge)), sides, strict=True):
            levels = config.levels if side == sides[0] else 2
            found, error = lucas_kanade(a.gray, b.gray, xy_a[rows], start[rows], side, levels)
            lk_xy[rows], lk_ok[rows] = found, (error < limit) & self._inside(found)
        xy = np.where(lk_ok[:, None], lk_xy, dense_xy)
        return xy, (lk_ok | dense_ok) & usable

    def _near_edge(self, view: View, xy_px) -> np.ndarray:
        if view.depth_m is None:
            return np.zeros(len(xy_px), bool)
        half = max(2, round(self.config.window * self.px / 2))
        window = depth_windows(view.depth_m, xy_px, half)[:, :: max(1, half // 4), :: max(1, half // 4)]
        centre = depth_windows(view.depth_m, xy_px, 1).reshape(len(xy_px), -1)
        middle = np.sort(centre, axis=1)[:, 4]
        with np.errstate(invalid="ignore"):
            # A slope may tilt away by much over the window; an edge is a jump to something clearly elsewhere.
            off = np.abs(window - middle[:, None, None]) > 3 * jump_gate(middle)[:, None, None]
        return off.mean((1, 2)) > 0.06

    def _inside(self, xy_px: np.ndarray) -> np.ndarray:
        x, y = xy_px[..., 0], xy_px[..., 1]
        return (x > -0.5) & (y > -0.5) & (x < self.width - 0.5) & (y < self.height - 0.5)

    # ------------------------------------------------------------------ depth

    def depth(self, view: View, xy_px, z_expected) -> tuple[np.ndarray, np.ndarray]:
        """Depth at positions and whether they lie on an edge (the plane, for sources without depth)."""
        if view.depth_m is None:
            return np.full(len(xy_px), PSEUDO_DEPTH_M), np.zeros(len(xy_px), bool)
        return sample_depth(view.depth_m, xy_px, z_expected)

    def _lift(self, xy_px, z_m, view: View):
        return unproject(xy_px, np.asarray(z_m, np.float64), self.K, view.cam_from_world)

    def _surface(self, view: View, xyz_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How observed depth compares with points (x_px, y_px, z): agrees, and hidden (a nearer surface is in the way)."""
        inside = self._inside(xyz_px[:, :2]) & (xyz_px[:, 2] > 0)
        if view.depth_m is None:
            return inside, np.zeros(len(xyz_px), bool)
        window = depth_windows(view.depth_m, xyz_px[:, :2], 1).reshape(-1, 9)
        z = xyz_px[:, 2]
        gate = jump_gate(z, self.config.depth_agreement)
        known = np.isfinite(window)
        off = np.where(known, window - z[:, None], np.inf)
        agrees = (np.abs(off) < gate[:, None]).any(1) & inside
        nearer = np.where(known, off < -gate[:, None], False)
        hidden = inside & ~agrees & nearer.any(1)
        return agrees, hidden

    def _with_surface(self, state, a, b, flow_ab, flow_ba, rigid: RigidPrediction) -> RigidPrediction:
        """Seen points go with the surface around them; hidden ones with the points they used to move with."""
        rows = np.flatnonzero(state.seen)
        in_a = transform(a.cam_from_world, state.xyz_world[rows])
        cell = max(3, round(8 * self.px))
        h, w = self.height // cell, self.width // cell
        if len(rows) == 0 or min(h, w) < 2:
            return rigid
        near = np.zeros((h, w), np.uint8)
        xy = project(state.xyz_world[rows], self.K, a.cam_from_world)[:, :2]
        j, i = (xy[:, 0] / cell).astype(int).clip(0, w - 1), (xy[:, 1] / cell).astype(int).clip(0, h - 1)
        near[i, j] = 1
        wanted = cv2.dilate(near, np.ones((9, 9), np.uint8)) > 0
        cells = measure_cells(a.gray, b.gray, a.depth_m, b.depth_m, flow_ab, self.K, cell, wanted, PSEUDO_DEPTH_M)
        reach = self.config.reach_px * self.px * in_a[:, 2] / self.K[0, 0]
        in_b, ok = local_motion(cells, in_a, reach)
        xyz, good = rigid.xyz_world.copy(), rigid.ok.copy()
        xyz[rows[ok]] = transform(invert_rigid(b.cam_from_world), in_b[ok])
        good[rows[ok]] = True
        return RigidPrediction(xyz, good, rigid.source)

    # ------------------------------------------------------------------ decisions

    def _fuse(self, state, b, own_xy, own_ok, own_world, ncc_own, trust, rigid: RigidPrediction, stay):
        """One position per point out of its own match and its neighbours' motion. Returns world positions and ok flags."""
        guess = np.where(rigid.ok[:, None], rigid.xyz_world, state.xyz_world)
        guess_px = project(guess, self.K, b.cam_from_world)
        ncc_rigid = similarity(state.template, sample_patches(b.gray, guess_px[:, :2], self.config.patch_half))
        apart = np.linalg.norm(own_xy - guess_px[:, :2], axis=-1) / self.px
        jump = np.abs(project(own_world, self.K, b.cam_from_world)[:, 2] - guess_px[:, 2])
        fits = own_ok & (ncc_own > self.config.ncc_keep)
        contested = rigid.ok & ((apart > 4.0) | (jump > jump_gate(guess_px[:, 2])))
        fits &= ~(contested & (ncc_rigid > ncc_own - 0.05))
        fits &= ~(rigid.ok & (jump > 2 * jump_gate(guess_px[:, 2])))
        # Where the patch is plain, the match slides along the surface: lean on the neighbours there.
        lean = np.where(rigid.ok, (1 - np.clip(trust, 0, 1)) * np.exp(-((apart / 4.0) ** 2)), 0.0)[:, None]
        xy = np.where(fits[:, None], (1 - lean) * own_xy + lean * guess_px[:, :2], guess_px[:, :2])
        z, _ = self.depth(b, xy, guess_px[:, 2])
        near = np.isfinite(z) & (np.abs(z - guess_px[:, 2]) < 2 * jump_gate(guess_px[:, 2]))
        lifted = self._lift(xy, np.where(near, z, guess_px[:, 2]), b)
        ncc = np.where(fits, ncc_own, ncc_rigid)
        return lifted, fits, near, ncc, guess_px

    def _decide(self, state, b, moved, home, rigid: RigidPrediction, camera_still: bool):
        config = self.config
        lifted, fits, near, ncc, guess_px = moved
        agrees, hidden = self._surface(b, np.where(fits[:, None], project(lifted, self.K, b.cam_from_world), guess_px))
        was_seen = state.seen.copy()
        # Where depth is there to contradict, it decides about points in sight; patches wear and shine.
        keep_at = config.ncc_keep if b.depth_m is None else -1.0
        needed = np.where(was_seen, keep_at, config.ncc_reacquire)
        seen = (fits | (agrees & (ncc > needed))) & agrees & near
        xyz = np.where((seen | fits)[:, None], lifted, np.where(rigid.ok[:, None], rigid.xyz_world, state.xyz_world))
        valid = (
            seen
            | (hidden & state.valid & (rigid.ok | state.still))
            | (~self._inside(guess_px[:, :2]) & rigid.ok & state.valid)
        )

        # A point that has never moved is at home if nothing speaks against it. With depth, a background point's picture
        # alone does not: a shadow passing over makes it look moved, but only the surface itself can leave.
        evidence = project(xyz, self.K, b.cam_from_world)[:, :2] - home[:, :2]
        informed = fits | rigid.ok
        # Matches are a little off wherever the picture shifts as a whole: only what exceeds that counts.
        dead_px = (0.1 if camera_still else 0.5) * self.px
        length = np.linalg.norm(evidence, axis=-1, keepdims=True)
        evidence = evidence * np.maximum(0.0, 1 - dead_px / np.maximum(length, 1e-9))
        state.creep_px = np.where(informed[:, None], 0.9 * state.creep_px + evidence, state.creep_px)
        at_home, home_hidden = self._surface(b, home)
        ncc_home = similarity(state.template, sample_patches(b.gray, home[:, :2], config.patch_half))
        quiet = np.linalg.norm(state.creep_px, axis=-1) < config.home_px * self.px
        rests = (state.part_id < 0) & self.background_rests
        alike = ncc_home > 0.5
        stays = at_home & np.where(rests, alike | (b.depth_m is not None), quiet & alike)
        keeps = state.still & (stays | home_hidden | ~self._inside(home[:, :2]) | (rests & (b.depth_m is None)))
        state.still &= keeps | ~(seen | fits)
        xyz = np.where(keeps[:, None], state.home_world, xyz)
        seen = np.where(keeps, stays, seen)
        valid = np.where(keeps, True, valid)
        state.xyz_world, state.seen = xyz, seen
        state.valid = valid & np.isfinite(xyz).all(-1)
        state.seen &= state.valid
        state.lost = np.where(state.seen, 0, state.lost + 1)
        self._refresh_templates(state, b, ncc)

    def _refresh_templates(self, state, view, ncc):
        """A patch that turns or comes nearer slowly stops looking like its template: take a new one before it does."""
        worn = state.seen & ~state.still & (ncc < 0.8)
        rows = np.flatnonzero(worn)
        if len(rows):
            xy = project(state.xyz_world[rows], self.K, view.cam_from_world)[..., :2]
            state.template[rows] = sample_patches(view.gray, xy, self.config.patch_half)
