"""Manipulation video: is the calibration right, where is the grip point, which frames are a segment, can it be seen (§5.4).

Rules of the three sets, and where the paper is unclear what is done here: a frame is tested if the end effector projects into the
picture; without a depth there it counts as consistent for AgiBot (its camera is blind close by), for DROID it is not tested.
The stored text of the paper gives DROID's threshold as "13"; its figure accepts 36.4 % and rejects 30.2 %, so it is 1/3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.geometry.cameras import project
from traceworld.traces.types import Camera
from traceworld.tracespatial.refine import rdp

DEPTH_TOLERANCE_M = 0.05
"""A frame is consistent if |D(u) − z| is below this."""
BEFORE_FRAMES = 60
"""A trace is seen from frame Fb = max(0, Fs − 60)."""
OCCLUDED_PX, OCCLUDED_SHARE = 30, 0.60
"""AgiBot: the gripper is hidden if more than this share of the depths within so many pixels of it is zero."""
RDP_M = 0.01
MAX_KEYPOINTS = 12
"""A path that needs more key points than this is dropped."""
MIN_LENGTH_M = 0.05
"""A path shorter than this is no motion."""


@dataclass(frozen=True)
class VideoRules:
    """What holds for a data set.

    Attributes:
        name: of the set.
        consistent_share: an episode is kept if more than this share of its tested frames is consistent (None: not tested).
        blind_counts: a frame without depth at the effector counts as consistent.
        grip_axis, grip_offset_m: the grip point lies so far from the flange along this local axis (0 x, 1 y, 2 z).
        one_closure: exactly one interval with a closed gripper is asked for.
        check_hidden: drop traces that are hidden at the check frame.
    """

    name: str
    consistent_share: float | None
    blind_counts: bool
    grip_axis: int
    grip_offset_m: float
    one_closure: bool = True
    check_hidden: bool = False


RULES: Mapping[str, VideoRules] = MappingProxyType(
    {
        "droid": VideoRules("droid", 1 / 3, False, 2, 0.15),
        "agibot": VideoRules("agibot", 0.83, True, 2, 0.15, check_hidden=True),
        "robotwin": VideoRules("robotwin", None, False, 0, 0.14, one_closure=False),
    }
)


def rules_of(name: str) -> VideoRules:
    """Raises ConfigError for an unknown set."""
    if name not in RULES:
        raise ConfigError(f"no rules for {name!r}", where="rules", mend=f"one of {', '.join(RULES)}")
    return RULES[name]


def consistency(
    effector_xyz: Float[np.ndarray, "F 3"],
    depths_m: list[Float[np.ndarray, "H W"]],
    camera: Camera,
    blind_counts: bool,
) -> tuple[int, int]:
    """(consistent, tested) frames: u = K (R p + t), |D(u) − z| < 5 cm.

    Args:
        effector_xyz: [F,3] world metres. depths_m: one depth map per frame, 0 or NaN where unknown.
        blind_counts: see `VideoRules`.
    """
    if len(effector_xyz) != len(depths_m):
        raise InvalidInputError(f"{len(depths_m)} depth maps for {len(effector_xyz)} positions", where="consistency")
    consistent = tested = 0
    for (x, y, z), depth_m in zip(project(effector_xyz, camera.K, camera.cam_from_world), depths_m, strict=True):
        if not (z > 0 and -0.5 <= x < camera.width - 0.5 and -0.5 <= y < camera.height - 0.5):
            continue
        measured = float(depth_m[round(float(y)), round(float(x))])
        known = np.isfinite(measured) and measured > 0
        if not known and not blind_counts:
            continue
        tested += 1
        consistent += not known or abs(measured - float(z)) < DEPTH_TOLERANCE_M
    return consistent, tested


def calibration_holds(consistent: int, tested: int, rules: VideoRules) -> bool:
    """Whether the share of consistent frames is above the set's threshold; nothing tested does not hold."""
    if rules.consistent_share is None:
        return True
    return tested > 0 and consistent / tested > rules.consistent_share


def grip_points(
    position: Float[np.ndarray, "T 3"], rotation: Float[np.ndarray, "T 3 3"], rules: VideoRules
) -> Float[np.ndarray, "T 3"]:
    """Between the fingertips: the flange's position moved along its own axis."""
    return position + rules.grip_offset_m * rotation[:, :, rules.grip_axis]


def closures(closed: Bool[np.ndarray, " T"]) -> list[tuple[int, int]]:
    """Half-open intervals [Fs, Fe) in which the gripper is closed."""
    padded = np.concatenate([[False], closed, [False]]).astype(np.int8)
    edges = np.diff(padded)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [(int(start), int(end)) for start, end in zip(starts, ends, strict=True)]


@dataclass(frozen=True)
class Segment:
    """A motion with something in the gripper: closed in [start, end), seen from frame `base`."""

    start: int
    end: int

    @property
    def base(self) -> int:
        return max(0, self.start - BEFORE_FRAMES)


def segments(closed: Bool[np.ndarray, " T"], rules: VideoRules) -> list[Segment]:
    """The segments of an episode; none where the set asks for exactly one closure and there is another number."""
    found = [Segment(start, end) for start, end in closures(closed) if end - start >= 2]
    return found if len(found) == 1 or not rules.one_closure else []


def hidden(xyz_world: Float[np.ndarray, 3], depth_m: Float[np.ndarray, "H W"], camera: Camera) -> bool:
    """Whether most of the depth around a point's pixel is missing (AgiBot's occlusion filter)."""
    x, y, _ = project(xyz_world, camera.K, camera.cam_from_world)
    if not (np.isfinite(x) and np.isfinite(y)):
        return True
    rows, columns = np.ogrid[: depth_m.shape[0], : depth_m.shape[1]]
    near = (columns - x) ** 2 + (rows - y) ** 2 <= OCCLUDED_PX**2
    around = depth_m[near]
    unknown = ~np.isfinite(around) | (around <= 0)
    return len(around) == 0 or float(unknown.mean()) > OCCLUDED_SHARE


def key_points(path_xyz: Float[np.ndarray, "T 3"], camera: Camera) -> Float[np.ndarray, "K 3"] | str:
    """The path as key points, or why it is dropped: too short, out of the picture, too many points."""
    if len(path_xyz) < 2 or float(np.linalg.norm(np.diff(path_xyz, axis=0), axis=1).sum()) < MIN_LENGTH_M:
        return "too short"
    points = rdp(path_xyz, RDP_M)
    if len(points) > MAX_KEYPOINTS:
        return "too many points"
    px = project(points, camera.K, camera.cam_from_world)
    size = np.array([camera.width, camera.height])
    inside = (px[:, 2] > 0) & (px[:, :2] >= 0).all(1) & (px[:, :2] <= size - 1).all(1)
    return points if inside.all() else "out of the picture"
