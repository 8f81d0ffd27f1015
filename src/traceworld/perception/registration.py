"""Depth → colour registration, and the check whether it is needed.

Many RGB-D recordings hold depth in the depth camera's own frame although their readers treat it as aligned. One number
tells: near-side depth edges are silhouettes, and silhouettes are where the picture changes. The score is the mean blurred
gradient magnitude of the picture at those edges, divided by its mean over the image: about 1 is chance, aligned data
reach 2 and more.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from traceworld.errors import DepthError
from traceworld.geometry.cameras import invert_rigid, project_cam, resize_K, transform, unproject_cam

GAIN_TO_ACT = 1.20
"""A search must beat the recording as it is by this factor before its alignment is doubted."""
MIN_SHIFT_PX = 1.5
"""… and must move the edges by at least this much (median): below, tracking does not notice."""


_NEAREST_M = 1e-3
_MAX_FOOTPRINT_PX = 8.0
_OVERLAP = 0.002
_EDGE_WINDOW = 5
_EDGE_JUMP = 0.05
_BLUR_PX = 1.5
_MAX_EDGES = 2000
_MIN_EDGES = 100


@dataclass(frozen=True, eq=False)
class DepthRig:
    """A depth camera beside a colour camera: intrinsics [3,3] in px, `color_from_depth` [4,4] metres, sizes (width, height)."""

    K_depth: Float[np.ndarray, "3 3"]
    K_color: Float[np.ndarray, "3 3"]
    color_from_depth: Float[np.ndarray, "4 4"]
    color_size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class RegistrationCheck:
    """Result of looking at a few frames.

    Attributes:
        score_as_is: edge score when depth pixels are taken as colour pixels.
        score_given: with the folder's own calibration (equals `score_as_is` without one).
        score_best: with the refined calibration.
        rig: the refined calibration.
        calibration: which story about the stated calibration fits: `as stated`, or how it was misstated.
        shift_px: median distance, in colour pixels, between as-is and refined positions of the edges.
        num_edges: edge points looked at; below 100 the check says nothing and `rig` is as given.
    """

    score_as_is: float
    score_given: float
    score_best: float
    rig: DepthRig
    calibration: str
    shift_px: float
    num_edges: int

    @property
    def conclusive(self) -> bool:
        """Enough edges to judge by."""
        return self.num_edges >= _MIN_EDGES

    @property
    def looks_unregistered(self) -> bool:
        """The search found a clearly better and clearly different alignment than the recording as it is."""
        better = self.score_best > GAIN_TO_ACT * self.score_as_is
        return self.conclusive and better and self.shift_px >= MIN_SHIFT_PX

    @property
    def looks_registered(self) -> bool:
        """The recording as it is fits clearly better than any calibration."""
        return self.conclusive and self.score_as_is > GAIN_TO_ACT * self.score_best


def register_depth(depth_m: Float32[np.ndarray, "Hd Wd"], rig: DepthRig) -> Float32[np.ndarray, "Hc Wc"]:
    """Depth as the colour camera would have measured it, at the colour image's size; NaN where nothing projects.

    Each depth pixel fills the colour pixels whose centres its (upright) footprint covers, at least one; the nearest surface
    wins. (`cv2.registerDepth` does the same at the same speed, but OpenCV 5.0.0 ends the process with a segmentation fault
    when the colour image is smaller than the depth image.)
    """
    width, height = rig.color_size
    rows, cols = np.nonzero(depth_m > 0)
    z = depth_m[rows, cols]
    focal_depth, focal_color = rig.K_depth[[0, 1], [0, 1]], rig.K_color[[0, 1], [0, 1]]
    x_ray = ((cols - rig.K_depth[0, 2]) / focal_depth[0]).astype(np.float32)
    y_ray = ((rows - rig.K_depth[1, 2]) / focal_depth[1]).astype(np.float32)
    turn, shift = rig.color_from_depth[:3, :3].astype(np.float32), rig.color_from_depth[:3, 3].astype(np.float32)
    x, y, z_color = (z * (turn[k, 0] * x_ray + turn[k, 1] * y_ray + turn[k, 2]) + shift[k] for k in range(3))
    front = z_color > _NEAREST_M
    x, y, z, z_color = x[front], y[front], z[front], z_color[front]
    grow = (0.5 + _OVERLAP) * z / z_color  # neighbours overlap a little, so that rounding opens no gap between them
    bounds = []
    for axis, (ray, size) in enumerate(((x, width), (y, height))):
        centre = ray / z_color * np.float32(focal_color[axis]) + np.float32(rig.K_color[axis, 2])
        centre = np.clip(centre, -size, 2 * size)  # far outside stays outside, and fits an integer
        half = np.minimum(grow * np.float32(focal_color[axis] / focal_depth[axis]), _MAX_FOOTPRINT_PX / 2)
        low, high = np.ceil(centre - half), np.ceil(centre + half) - 1
        slim = high < low
        low[slim] = high[slim] = np.rint(centre[slim])
        bounds.append((low.astype(np.int32), high.astype(np.int32)))
    (left, right), (top, bottom) = bounds
    out = np.full(height * width, np.inf, np.float32)
    for dy in range(int((bottom - top).max(initial=-1)) + 1):
        for dx in range(int((right - left).max(initial=-1)) + 1):
            col, row = left + dx, top + dy
            hit = (col <= right) & (row <= bottom) & (col >= 0) & (col < width) & (row >= 0) & (row < height)
            np.minimum.at(out, row[hit] * width + col[hit], z_color[hit])
    return np.where(np.isfinite(out), out, np.float32(np.nan)).reshape(height, width)


def project_rig(
    xy_px: Float[np.ndarray, "M 2"], z_m: Float[np.ndarray, " M"], rig: DepthRig
) -> Float[np.ndarray, "M 3"]:
    """Depth-camera pixels with depth → (x_px, y_px, z_m) in the colour camera; NaN pixels behind it."""
    return project_cam(transform(rig.color_from_depth, unproject_cam(xy_px, z_m, rig.K_depth)), rig.K_color)


def near_edges(depth_m: Float32[np.ndarray, "H W"]) -> tuple[Float[np.ndarray, "M 2"], Float[np.ndarray, " M"]]:
    """Pixels (x, y) and depth of surfaces that end in front of something at least 5 % further away, within 2 px."""
    near = np.where(depth_m > 0, depth_m, np.float32(0))
    furthest = cv2.dilate(near, np.ones((_EDGE_WINDOW, _EDGE_WINDOW), np.uint8))
    rows, cols = np.nonzero((near > 0) & (furthest > near * (1 + _EDGE_JUMP)))
    if len(rows) > _MAX_EDGES:  # evenly thinned: deterministic, and still all over the image
        pick = np.linspace(0, len(rows) - 1, _MAX_EDGES).astype(np.int64)
        rows, cols = rows[pick], cols[pick]
    return np.stack([cols, rows], -1).astype(np.float64), near[rows, cols].astype(np.float64)


def gradient_map(image: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "H W"]:
    """Blurred gradient magnitude of the picture, mean 1 (all ones for a picture without any gradient)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    slope = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    slope = np.asarray(cv2.GaussianBlur(slope, (0, 0), _BLUR_PX), np.float32)
    mean = slope.mean()
    return slope / mean if mean > 0 else np.ones_like(slope)


class EdgeEvidence:
    """Edges and gradient maps of a few frames, laid out so that scoring a calibration takes about a millisecond.

    Args:
        samples: (image, depth in metres as stored, NaN invalid) of each frame, all of one size.
    """

    def __init__(self, samples: Sequence[tuple[UInt8[np.ndarray, "H W 3"], Float32[np.ndarray, "Hd Wd"]]]):
        edges = [near_edges(depth_m) for _, depth_m in samples]
        self.height, self.width = samples[0][0].shape[:2]
        self.gradients = np.concatenate([gradient_map(image) for image, _ in samples])  # one map below the other
        self.xy_px = np.concatenate([xy_px for xy_px, _ in edges])
        self.z_m = np.concatenate([z_m for _, z_m in edges])
        self.frame = np.repeat(np.arange(len(samples)), [len(z_m) for _, z_m in edges])

    @property
    def num_edges(self) -> int:
        """Edge points of all frames."""
        return len(self.z_m)

    def every_other(self, first: int) -> EdgeEvidence:
        """The same for the edges of every other frame, beginning with frame `first`."""
        part = copy.copy(self)
        keep = self.frame % 2 == first
        part.xy_px, part.z_m, part.frame = self.xy_px[keep], self.z_m[keep], self.frame[keep]
        return part

    def score(self, rig: DepthRig) -> float:
        """Mean of the gradient maps where the rig puts the edges: 1 is chance. 0 if most edges fall outside the picture."""
        xy_px = project_rig(self.xy_px, self.z_m, rig)[:, :2]
        inside = ((xy_px >= 0) & (xy_px <= [self.width - 1, self.height - 1])).all(-1)
        # Calibrations that push the edges out of the picture must not win by the few that remain.
        if inside.sum() <= 0.4 * self.num_edges:
            return 0.0
        x = xy_px[inside, 0].astype(np.float32)
        y = (xy_px[inside, 1] + self.height * self.frame[inside]).astype(np.float32)
        return float(cv2.remap(self.gradients, x[None], y[None], cv2.INTER_LINEAR).mean(dtype=np.float64))

    def shift_px(self, rig_a: DepthRig, rig_b: DepthRig) -> float:
        """Median distance, in colour pixels, between where two calibrations put the edges; 0 without edges."""
        apart = project_rig(self.xy_px, self.z_m, rig_a) - project_rig(self.xy_px, self.z_m, rig_b)
        distance = np.linalg.norm(apart[:, :2], axis=-1)
        return float(np.median(distance[np.isfinite(distance)])) if np.isfinite(distance).any() else 0.0


def as_is_rig(depth_size: tuple[int, int], K_color: Float[np.ndarray, "3 3"], color_size: tuple[int, int]) -> DepthRig:
    """The calibration under which depth pixels are colour pixels (of a depth image that may have another resolution)."""
    return DepthRig(resize_K(K_color, color_size, depth_size), K_color, np.eye(4), color_size)


def _moved(rig: DepthRig, step: np.ndarray) -> DepthRig:
    """`rig` turned by step[3:6] (rad), shifted by step[:3] (m); step[6], if there, is the log of a focal-length factor."""
    color_from_depth = rig.color_from_depth.copy()
    color_from_depth[:3, :3] = Rotation.from_rotvec(step[3:6]).as_matrix() @ color_from_depth[:3, :3]
    color_from_depth[:3, 3] += step[:3]
    K_depth = rig.K_depth
    if len(step) > 6:
        K_depth = K_depth.copy()
        K_depth[[0, 1], [0, 1]] *= np.exp(step[6])
    return replace(rig, color_from_depth=color_from_depth, K_depth=K_depth)


def refine_rig(evidence: EdgeEvidence, start: DepthRig, free_focal: bool, reach_m: float = 0.02) -> DepthRig:
    """Local search for the calibration with the best edge score: coarse sideways grid, then Nelder-Mead over all.

    Args:
        evidence: what to score by.
        start: calibration to start from.
        free_focal: also search the depth camera's focal length (±25 %), for recordings without its intrinsics.
        reach_m: how far sideways the depth camera may sit from where `start` has it, metres.
    """
    size = 7 if free_focal else 6
    grid = []
    for focal in np.log([1.0, 0.8, 0.87, 0.93, 1.07, 1.15, 1.25]) if free_focal else (0.0,):
        for tx in np.linspace(-reach_m, reach_m, 9):
            step = np.zeros(size)
            step[0] = tx
            if free_focal:
                step[6] = focal
            grid.append(step)
    # A small cost for distance keeps directions that the edges do not determine where they were.
    unit = np.array([0.02, 0.02, 0.01, 0.015, 0.015, 0.015, 0.2][:size])

    def cost(step: np.ndarray) -> float:
        return -evidence.score(_moved(start, step)) + 0.02 * float(((step / unit) ** 2).sum())

    best = min(grid, key=cost)
    simplex = np.concatenate([best[None], best[None] + np.diag(unit * 0.25)])
    found = minimize(
        cost,
        best,
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "maxfev": 300, "xatol": 1e-4, "fatol": 1e-4},
    )
    return _moved(start, found.x)


def hypotheses(given: DepthRig | None, as_is: DepthRig, depth_size: tuple[int, int]) -> dict[str, DepthRig]:
    """Calibrations worth searching around, the plainest first.

    Recordings err in ways that repeat: the transform is stated in the wrong direction, or camera and pictures were turned
    upside down but the calibration was not (its baseline and principal point are then mirrored).
    """
    if given is None:
        return {"as stored": as_is}
    inverse = replace(given, color_from_depth=invert_rigid(given.color_from_depth))
    half_turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    K_turned = given.K_depth.copy()
    K_turned[:2, 2] = np.array(depth_size) - 1 - K_turned[:2, 2]
    turned = replace(given, K_depth=K_turned, color_from_depth=half_turn @ given.color_from_depth @ half_turn)
    return {"as stated": given, "stated in the other direction": inverse, "stated for a camera upside down": turned}


def _clearly_better(rig: DepthRig, than: DepthRig, evidence: EdgeEvidence, judges: EdgeEvidence) -> bool:
    """On all frames, and on those that nothing was fitted to."""
    return all(frames.score(rig) > GAIN_TO_ACT * frames.score(than) for frames in (evidence, judges))


def check_registration(
    samples: Sequence[tuple[UInt8[np.ndarray, "H W 3"], Float32[np.ndarray, "Hd Wd"]]],
    K_color: Float[np.ndarray, "3 3"],
    given: DepthRig | None,
) -> RegistrationCheck:
    """Judge the alignment of a recording from a few of its frames, and find a better one if there is.

    Every other frame is searched on; the rest judge. The stated calibration is kept, to the letter, unless another is clearly
    better.

    Args:
        samples: (image, depth in metres as stored, NaN invalid), 4 to 8 frames spread over the clip.
        K_color: [3,3] px of the images.
        given: calibration that the recording states, None if it states none.

    Raises:
        DepthError: no samples.
    """
    if not samples:
        raise DepthError("no frame with depth to check the registration on")
    image, depth_m = samples[0]
    color_size = (image.shape[1], image.shape[0])
    depth_size = (depth_m.shape[1], depth_m.shape[0])
    as_is = as_is_rig(depth_size, K_color, color_size)
    start = given if given is not None else as_is
    evidence = EdgeEvidence(samples)
    fits = evidence.every_other(0)
    judges = evidence.every_other(1) if len(samples) > 1 else evidence
    best, calibration = start, "as stated"
    if evidence.num_edges >= _MIN_EDGES:
        # Edges fix a calibration to about a pixel: a plainer story is believed unless a stranger one is clearly better.
        for name, story in hypotheses(given, as_is, depth_size).items():
            if _clearly_better(story, best, evidence, judges):
                best, calibration = story, name
        refined = refine_rig(fits, best, free_focal=given is None)
        if _clearly_better(refined, best, evidence, judges):
            best, calibration = refined, f"{calibration}, refined"
    return RegistrationCheck(
        score_as_is=evidence.score(as_is),
        score_given=evidence.score(start),
        score_best=evidence.score(best),
        rig=best,
        calibration=calibration,
        shift_px=evidence.shift_px(as_is, best),
        num_edges=evidence.num_edges,
    )
