"""From frames to traces: the stages of TraceExtract up to the movement filter, streamed chunk by chunk (mu0-paper §2, A.1–A.4)."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int

from traceworld.errors import ExtractionError
from traceworld.extract.config import ExtractConfig
from traceworld.extract.keypoints import Keypoints, Representative, choose_keypoints, grid_keypoints
from traceworld.geometry.cameras import invert_rigid, project, unproject
from traceworld.geometry.motion import trace_diameter
from traceworld.perception.entities import EntityFinder
from traceworld.perception.features import EmbeddedFeatures
from traceworld.perception.interfaces import Frame, FrameSource
from traceworld.perception.intrinsics import assumed_K
from traceworld.perception.lifting import PSEUDO_DEPTH_M, depth_edges, fill_gaps, sample_depth
from traceworld.perception.motion import (
    DenseFlow,
    FlowField,
    camera_flow,
    depth_change,
    homography_flow,
    residual_motion,
    static_share,
    textured,
)
from traceworld.perception.odometry import RGBDOdometry, camera_is_static, far_frames, to_gray
from traceworld.perception.passes import ChunkView, Queries, follow_chunk
from traceworld.perception.tracking import PointState, View
from traceworld.traces.types import Cameras, Traces

log = logging.getLogger(__name__)

MIN_DEPTH_SHARE = 0.01  # with less measured depth than this a source counts as plain RGB
REPRESENTATIVES = 8
MOVING_PX = 0.8  # residual flow between neighbouring frames that counts as motion, at 640 px width
RETIRE_AFTER = 32  # frames unseen after which a point is not carried into the next chunk
MAX_CELLS = 12_000_000  # frames × points of one clip: bounds memory for films of any length
BLOCK_CELLS = 500_000  # frames × points whose paths are worked on at a time
MAX_GAP = 4
CHANGED_LEVEL = 5  # grey levels, mean over 5×5 px: above sensor and compression noise


@dataclass(frozen=True, eq=False)
class TrackResult:
    """Traces of one clip and what was found out on the way.

    Attributes:
        traces, cameras: over all frames. World = first camera unless the source gave poses.
        time_s: [T].
        metric: False without usable depth (then only pixels mean something).
        quality: JSON-able figures.
        status: "ok", "no_texture" (nothing to follow) or "static_clip" (nothing moves).
    """

    traces: Traces
    cameras: Cameras
    time_s: np.ndarray
    metric: bool
    quality: dict[str, Any]
    status: str


@dataclass(eq=False)
class _Chunk:
    """Frames of one chunk and what is computed from them."""

    index: list[int] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    grays: list[np.ndarray] = field(default_factory=list)
    small: list[np.ndarray] = field(default_factory=list)
    depth: list[Any] = field(default_factory=list)
    poses: list[np.ndarray] = field(default_factory=list)
    given: list[np.ndarray | None] = field(default_factory=list)
    forward: list[FlowField] = field(default_factory=list)
    backward: list[FlowField] = field(default_factory=list)

    def last_only(self) -> _Chunk:
        """The last frame alone: it is the first of the next chunk, so that nothing is lost in between."""
        names = ("index", "images", "grays", "small", "depth", "poses", "given")
        return _Chunk(**{name: getattr(self, name)[-1:] for name in names})


@dataclass(eq=False)
class _Piece:
    """Tracks of one chunk: `ids` of the points and their rows over frames `start`…"""

    start: int
    ids: np.ndarray
    xyz: np.ndarray
    visible: np.ndarray
    valid: np.ndarray


def build_traces(
    source: FrameSource, config: ExtractConfig, progress: Callable[[int], None] | None = None
) -> TrackResult:
    """Keypoints, camera, tracks and movement filter of one clip (mu0-paper A.1–A.4).

    Args:
        source: streamed once; never more than `config.chunk_frames` frames are held.
        config: of it num_keypoints, grid, chunk_frames, tau_moving_px, lambda_z, seed, tracking and odometry.
        progress: called with the number of frames done after each chunk.

    Raises:
        ExtractionError: the source has no frame.
    """
    return _Builder(source, config).run(progress)


class _Builder:
    def __init__(self, source: FrameSource, config: ExtractConfig):
        self.source, self.config = source, config
        self.width, self.height = source.width, source.height
        K = source.K if source.K is not None else assumed_K(source.width, source.height)
        self.K = np.asarray(K, np.float64)
        self.tracking, self.odometry_config = config.tracking, config.odometry
        self.flow = DenseFlow()
        self.features = EmbeddedFeatures()
        self.entities = EntityFinder(seed=config.seed)
        self.odometry: RGBDOdometry | None = None
        self.metric: bool | None = None
        self.px = self.width / 640
        self.times: list[float] = []
        self.poses: list[np.ndarray] = []
        self.pieces: list[_Piece] = []
        self.part: list[int] = []
        self.query_frame: list[int] = []
        self.carried: PointState | None = None
        self.carried_ids = np.zeros(0, np.int64)
        self.quality: dict[str, Any] = {"poses_held": 0, "camera": "still", "retired": 0}
        self.both_ways = True  # flow backwards too: the embedded tracker needs it
        self.later = False  # whether a chunk is done: the next begins with its last frame
        self.moved = False
        self.camera_rests = True
        self.textured_chunks = 0

    # ------------------------------------------------------------------ stream

    def run(self, progress: Callable[[int], None] | None) -> TrackResult:
        size = max(2, self.config.chunk_frames)
        chunk = _Chunk()
        for frame in self.source:
            self._append(chunk, frame)
            if len(chunk.grays) >= size + (1 if self.later else 0):
                self._finish(chunk)
                self.later = True
                chunk = chunk.last_only()
                if progress:
                    progress(len(self.times))
        if not self.times:
            raise ExtractionError("has no frames", where=self.source.uri, mend="give a video with at least one frame")
        if len(chunk.grays) > (1 if self.later else 0):
            self._finish(chunk)
        if progress:
            progress(len(self.times))
        return self._assemble()

    def _append(self, chunk: _Chunk, frame: Frame) -> None:
        chunk.index.append(len(self.times))
        self.times.append(float(frame.time_s))
        gray = to_gray(frame.image)
        small = self.flow.small(gray)
        if chunk.small:
            chunk.forward.append(self.flow.between(chunk.small[-1], small, self.width, self.height))
            if self.both_ways:
                chunk.backward.append(self.flow.between(small, chunk.small[-1], self.width, self.height))
        chunk.images.append(frame.image)
        chunk.grays.append(gray)
        chunk.small.append(small)
        chunk.depth.append(frame.depth_m)
        chunk.given.append(frame.cam_from_world)

    # ------------------------------------------------------------------ one chunk

    def _finish(self, chunk: _Chunk) -> None:
        if self.metric is None:
            shares = [np.isfinite(d).mean() if d is not None else 0.0 for d in chunk.depth]
            self.metric = bool(np.mean(shares) >= MIN_DEPTH_SHARE)
        nothing = np.full((self.height, self.width), np.nan, np.float32)
        chunk.depth = [(d if d is not None else nothing) if self.metric else None for d in chunk.depth]
        self._solve_cameras(chunk)
        residual = self._residuals(chunk)
        carried_xy = self._where_carried(chunk)
        keypoints = self._choose(chunk, residual, carried_xy)
        queries = self._lift_queries(chunk, keypoints)
        views = [View(g, d, p) for g, d, p in zip(chunk.grays, chunk.depth, chunk.poses, strict=True)]
        tracks = follow_chunk(
            ChunkView(views, chunk.forward, chunk.backward),
            self.K,
            self.carried,
            queries,
            self.tracking,
            background_rests=bool(self.metric) or self.camera_rests,
        )
        new_ids = np.arange(len(self.part), len(self.part) + len(queries))
        self.part += queries.part_id.tolist()
        self.query_frame += [chunk.index[t] for t in queries.frame]
        ids = np.concatenate([self.carried_ids, new_ids])
        skip = 1 if self.later else 0
        self.pieces.append(
            _Piece(chunk.index[skip], ids, tracks.xyz_world[skip:], tracks.visible[skip:], tracks.valid[skip:])
        )
        alive = tracks.end.valid & (tracks.end.lost < RETIRE_AFTER)
        self.quality["retired"] += int((~alive).sum())
        self.carried, self.carried_ids = tracks.end.take(np.flatnonzero(alive)), ids[alive]

    def _solve_cameras(self, chunk: _Chunk) -> None:
        """Poses of the chunk's frames (the first one of a later chunk is known already)."""
        if all(pose is not None for pose in chunk.given):
            chunk.poses = [np.asarray(pose, np.float64) for pose in chunk.given]
            self.quality["camera"] = "given"
        else:
            first = self.poses[-1] if self.poses else np.eye(4)
            masks = [textured(small) for small in chunk.small[:-1]]
            far = [
                self.flow.between(chunk.small[0], chunk.small[i], self.width, self.height)
                for i in far_frames(len(chunk.small))
            ]
            still = not chunk.forward or camera_is_static(
                chunk.forward, far, masks + masks[:1] * len(far), self.odometry_config.static_share
            )
            self.camera_rests = still
            if still or not self.metric:
                chunk.poses = [first] * len(chunk.grays)
                if not still:
                    self.quality["camera"] = "moving, not solved (no depth)"
            else:
                chunk.poses = self._odometry(chunk, first)
        self.poses.extend(chunk.poses[1 if self.later else 0 :])

    def _odometry(self, chunk: _Chunk, first: np.ndarray) -> list[np.ndarray]:
        self.quality["camera"] = "odometry"
        odometry = RGBDOdometry(self.K, self.odometry_config)
        odometry.start(chunk.grays[0], chunk.depth[0], first)
        poses = [first]
        for gray, depth in zip(chunk.grays[1:], chunk.depth[1:], strict=True):
            poses.append(odometry.step(gray, depth))
            self.quality["poses_held"] += bool(odometry.status)
        return poses

    def _residuals(self, chunk: _Chunk) -> list[np.ndarray]:
        """Motion against the scene between neighbouring frames, on the flow grid."""
        residuals = []
        for t, flow in enumerate(chunk.forward):
            if self.metric:
                b_from_a = chunk.poses[t + 1] @ invert_rigid(chunk.poses[t])
                moving = np.abs(b_from_a - np.eye(4)).max() > 1e-9
                of_camera = camera_flow(chunk.depth[t], self.K, b_from_a, flow) if moving else None
            else:
                mask = textured(chunk.small[t])
                of_camera = None if static_share(flow, mask) > 0.5 else homography_flow(flow, mask)
            residuals.append(residual_motion(flow, of_camera))
        return residuals or [np.zeros(chunk.small[0].shape, np.float32)]

    # ------------------------------------------------------------------ keypoints

    def _representatives(self, residual: list[np.ndarray], frames: int) -> list[int]:
        """Frames to find entities on: the activity peak of each of equal stretches of the chunk."""
        limit = MOVING_PX * self.px
        activity = np.array([float((r > limit).mean()) for r in residual])
        per_frame = np.zeros(frames)
        per_frame[: len(activity)] += activity[:frames]
        per_frame[1 : len(activity) + 1] += activity[: frames - 1]
        edges = np.linspace(0, frames, min(REPRESENTATIVES, frames) + 1).astype(int)
        return [int(a + per_frame[a:b].argmax()) for a, b in itertools.pairwise(edges) if b > a]

    def _choose(self, chunk: _Chunk, residual: list[np.ndarray], carried_xy: np.ndarray) -> Keypoints:
        frames = self._representatives(residual, len(chunk.grays))
        features, motion, displaced, reps = [], [], [], []
        limit = MOVING_PX * self.px
        for t in frames:
            around = residual[max(0, t - 1) : t + 1] or residual[-1:]
            moving = np.max(around, axis=0)
            features.append(self.features.describe(chunk.images[t], chunk.depth[t]))
            grid = features[-1].shape[1::-1]
            shifted = self._displaced(chunk, t)
            evidence = (moving > limit) if shifted is None else (moving > limit) | shifted
            motion.append(_cell_share(evidence, grid) > 0.4)
            displaced.append(_cell_share(shifted, grid) > 0.3 if shifted is not None else None)
            reps.append(
                Representative(
                    t,
                    chunk.grays[t],
                    self._usable(chunk.depth[t]),
                    cv2.resize(moving, (self.width, self.height), interpolation=cv2.INTER_LINEAR),
                    self._full_size(shifted) if shifted is not None else None,
                    self._changed(chunk, t),
                )
            )
        maps = self.entities.find(
            np.stack(features),
            np.stack(motion),
            np.stack([d for d in displaced if d is not None]) if self.metric else None,
        )
        self.moved |= bool(maps.moving)
        held_xy = dict.fromkeys(range(len(frames)), carried_xy)
        budget = self.config.num_keypoints
        room = min(int(self.tracking.max_total * budget), MAX_CELLS // len(self.times)) - len(self.part)
        side = self.config.grid
        keypoints = (
            grid_keypoints(maps, side, self.width, self.height, carried_xy)
            if side
            else choose_keypoints(maps, reps, budget, self._held_parts(), held_xy, limit)
        )
        self.textured_chunks += bool(len(keypoints))
        return (
            Keypoints(keypoints.frame[:room], keypoints.xy_px[:room], keypoints.part_id[:room])
            if room > 0
            else Keypoints(keypoints.frame[:0], keypoints.xy_px[:0], keypoints.part_id[:0])
        )

    def _displaced(self, chunk: _Chunk, t: int) -> np.ndarray | None:
        """Where the surface of frame t is elsewhere in a frame nearby, on the flow grid; None without depth."""
        if not self.metric:
            return None
        h, w = chunk.small[t].shape
        changed = np.zeros((h, w), bool)
        for other in sorted(
            {max(0, t - 8), max(0, t - 3), min(len(chunk.grays) - 1, t + 3), min(len(chunk.grays) - 1, t + 8)} - {t}
        ):
            b_from_a = chunk.poses[other] @ invert_rigid(chunk.poses[t])
            changed |= depth_change(chunk.depth[t], chunk.depth[other], self.K, b_from_a, (w, h))
        # Single cells are noise of the sensor or slivers along silhouettes.
        return cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0

    def _changed(self, chunk: _Chunk, t: int) -> np.ndarray | None:
        """Where the picture of frame t differs from the frames nearby, for a camera at rest."""
        nearby = [other for other in (t - 2, t + 2) if 0 <= other < len(chunk.grays)]
        if not nearby or np.abs(np.stack([chunk.poses[i] for i in nearby]) - chunk.poses[t]).max() > 1e-9:
            return None
        if not self.metric and not self.camera_rests:
            return None
        difference = np.max([cv2.absdiff(chunk.grays[t], chunk.grays[i]) for i in nearby], axis=0)
        return cv2.blur(difference, (5, 5)) > CHANGED_LEVEL

    def _full_size(self, mask: np.ndarray) -> np.ndarray:
        return cv2.resize(mask.astype(np.uint8), (self.width, self.height), interpolation=cv2.INTER_NEAREST) > 0

    def _usable(self, depth_m: np.ndarray | None) -> np.ndarray:
        border = max(2, round(6 * self.px))
        usable = np.zeros((self.height, self.width), bool)
        usable[border : self.height - border, border : self.width - border] = True
        if depth_m is not None:
            usable &= np.isfinite(depth_m) & ~depth_edges(depth_m, max(1, round(5 * self.px)))
        return usable

    def _held_parts(self) -> np.ndarray:
        return np.asarray(self.part, np.int32)[self.carried_ids]

    def _where_carried(self, chunk: _Chunk) -> np.ndarray:
        if self.carried is None or not len(self.carried_ids):
            return np.zeros((0, 2))
        return project(self.carried.xyz_world, self.K, chunk.poses[0])[..., :2]

    def _lift_queries(self, chunk: _Chunk, keypoints: Keypoints) -> Queries:
        xyz = np.full((len(keypoints), 3), np.nan)
        for t in np.unique(keypoints.frame):
            rows = np.flatnonzero(keypoints.frame == t)
            xy = keypoints.xy_px[rows]
            depth = chunk.depth[t]
            z = sample_depth(depth, xy)[0] if depth is not None else np.full(len(rows), PSEUDO_DEPTH_M)
            xyz[rows] = unproject(xy, z.astype(np.float64), self.K, chunk.poses[t])
        keep = np.isfinite(xyz).all(1)
        return Queries(keypoints.frame[keep], xyz[keep], keypoints.part_id[keep])

    # ------------------------------------------------------------------ result

    def _assemble(self) -> TrackResult:
        frames, count = len(self.times), len(self.part)
        xyz = np.full((frames, count, 3), np.nan, np.float32)
        visible, valid = np.zeros((frames, count), bool), np.zeros((frames, count), bool)
        while self.pieces:  # a long film is not held twice
            piece = self.pieces.pop()
            span = slice(piece.start, piece.start + len(piece.xyz))
            xyz[span, piece.ids], visible[span, piece.ids], valid[span, piece.ids] = (
                piece.xyz,
                piece.visible,
                piece.valid,
            )
        for some in point_blocks(frames, np.arange(count)):
            xyz[:, some], valid[:, some] = fill_gaps(xyz[:, some], valid[:, some], MAX_GAP)
        poses = np.stack(self.poses)
        cameras = Cameras(np.repeat(self.K[None], frames, 0), poses, self.width, self.height)
        diameter = self._diameters(xyz, visible, poses)
        moving = diameter > self.config.tau_moving_px * self.px
        traces = Traces(
            xyz, visible, valid, np.asarray(self.part, np.int32), moving, np.asarray(self.query_frame, np.int64)
        )
        status = "no_texture" if count == 0 else "ok" if self.moved else "static_clip"
        still = diameter[np.asarray(self.part, np.int32) < 0] if count else np.zeros(0)
        self.quality |= {
            "background_wander_px": float(np.median(still)) if len(still) else None,
            "entities": len({p for p in self.part if p >= 0}),
        }
        return TrackResult(traces, cameras, np.asarray(self.times), bool(self.metric), dict(self.quality), status)

    def _diameters(self, xyz_world: np.ndarray, visible: np.ndarray, poses: np.ndarray) -> np.ndarray:
        """[N] trace diameters in pixels, each seen by the camera of the frame in which the point was chosen.

        The clip's first camera would do for one that hardly turns; a head that looks round leaves points behind it.
        """
        views, view_of_frame = np.unique(poses, axis=0, return_inverse=True)
        view_of_point = view_of_frame.reshape(-1)[np.asarray(self.query_frame, np.int64)]
        diameter = np.zeros(xyz_world.shape[1])
        for view in np.unique(view_of_point):
            for mine in point_blocks(len(xyz_world), np.flatnonzero(view_of_point == view)):
                seen = project(xyz_world[:, mine].astype(np.float64), self.K, views[view])
                diameter[mine] = trace_diameter(seen, visible[:, mine], self.config.lambda_z)
        return diameter


def point_blocks(frames: int, points: Int[np.ndarray, " M"]) -> Iterator[Int[np.ndarray, " m"]]:
    """The points in blocks whose paths over `frames` are at most `BLOCK_CELLS` positions, so that what is computed from them
    takes little memory however long the film."""
    size = max(1, BLOCK_CELLS // max(1, frames))
    for start in range(0, len(points), size):
        yield points[start : start + size]


def _cell_share(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Share of each cell that the mask covers."""
    return cv2.resize(mask.astype(np.float32), grid, interpolation=cv2.INTER_AREA)
