"""Which points to ask a predictor about: on the gripper (found by proprioception and a calibrated camera) and around it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from traceworld.errors import DepthError
from traceworld.geometry.cameras import px_to_uv, unproject
from traceworld.geometry.sampling import farthest_point_sampling
from traceworld.policies.follower.gripper import Gripper, ToolState
from traceworld.traces.types import Camera

MAX_CANDIDATES = 4000
BODY_MARGIN_M = 0.012
"""What is so near to the palm's box is the gripper's own: an edge of it, a flange. Taken for the scene, such a sliver would be
its farthest point from everything else, so it would be asked about first, move with the tool and pass for the part that is handled."""
_PLANE_TRIALS, _PLANE_SLACK_M, _PLANE_SHARE = 60, 0.008, 0.3


class Role(IntEnum):
    """What a keypoint is part of; also its `part_id` (−1, none, for the scene: its parts are found by how they move)."""

    SCENE = -1
    PALM = 0
    FINGER_PLUS = 1
    FINGER_MINUS = 2


@dataclass(frozen=True)
class KeypointBudget:
    """How many points of each kind to ask for, and from where (metres from the grasp point)."""

    palm: int = 8
    each_finger: int = 4
    scene: int = 24
    scene_reach_m: float = 0.45
    focus_reach_m: float = 0.1


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Chosen points: `uv` [N,2], `z_m` [N] along the camera axis, `xyz_world` [N,3], `role` [N]."""

    uv: Float64[np.ndarray, "N 2"]
    z_m: Float64[np.ndarray, " N"]
    xyz_world: Float64[np.ndarray, "N 3"]
    role: Int[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.role)

    def of(self, *roles: Role) -> Bool[np.ndarray, " N"]:
        """Which points have one of these roles."""
        return np.isin(self.role, roles)


def choose_keypoints(
    depth_m: Float[np.ndarray, "H W"],
    camera: Camera,
    gripper: Gripper,
    tool: ToolState,
    budget: KeypointBudget,
    rng: np.random.Generator,
    focus: Float[np.ndarray, " 3"] | None = None,
) -> Keypoints:
    """Points of the picture with known depth, by where they lie in the tool frame.

    Scene points are spread over what is near the gripper, in front of its palm and not on the largest plane (the table);
    half of them near `focus`, if given (where something was last seen to move). When the scene is all plane, its points are
    taken from the plane.

    Args:
        depth_m: [H,W] of the camera's picture, NaN unknown.
        rng: decides which pixels are looked at when there are more than `MAX_CANDIDATES`.

    Raises:
        DepthError: no pixel has depth.
    """
    y, x = np.nonzero(np.isfinite(depth_m) & (depth_m > 0))
    if not len(x):
        raise DepthError("no pixel has depth", where="choose_keypoints", mend="give metric depth of the scene camera")
    xy_px, z_m = np.stack([x, y], 1).astype(np.float64), depth_m[y, x].astype(np.float64)
    xyz = unproject(xy_px, z_m, camera.K, camera.cam_from_world)
    xyz_tool = tool.to_tool(xyz)
    fingers = {
        Role.FINGER_PLUS: gripper.finger(xyz_tool, tool.opening, 1),
        Role.FINGER_MINUS: gripper.finger(xyz_tool, tool.opening, -1),
    }
    palm = gripper.palm(xyz_tool)
    reach = np.linalg.norm(xyz_tool - gripper.grasp_point, axis=1)
    own = gripper.palm(xyz_tool, BODY_MARGIN_M) | gripper.behind(xyz_tool)
    scene = (reach < budget.scene_reach_m) & ~own
    for mask in fingers.values():
        scene &= ~mask
    chosen = [(Role.PALM, _spread(np.flatnonzero(palm), xyz, budget.palm, rng))]
    chosen += [(role, _spread(np.flatnonzero(mask), xyz, budget.each_finger, rng)) for role, mask in fingers.items()]
    chosen.append((Role.SCENE, _scene_points(np.flatnonzero(scene), xyz, budget, rng, focus)))
    index = np.concatenate([points for _, points in chosen]).astype(np.int64)
    role = np.concatenate([np.full(len(points), int(role)) for role, points in chosen])
    return Keypoints(px_to_uv(xy_px[index], camera.width, camera.height), z_m[index], xyz[index], role)


def _scene_points(
    index: np.ndarray, xyz: np.ndarray, budget: KeypointBudget, rng: np.random.Generator, focus: np.ndarray | None
) -> np.ndarray:
    index = _at_most(index, MAX_CANDIDATES, rng)
    off_plane = index[~on_plane(xyz[index], rng)]
    index = off_plane if len(off_plane) else index
    near = index[:0]
    if focus is not None:
        close = index[np.linalg.norm(xyz[index] - focus, axis=1) < budget.focus_reach_m]
        near = _spread(close, xyz, budget.scene // 2, rng)
    rest = np.setdiff1d(index, near)
    spread = farthest_point_sampling(xyz[rest], budget.scene - len(near), seeds=xyz[near] if len(near) else None)
    return np.concatenate([near, rest[spread]])


def _spread(index: np.ndarray, xyz: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    index = _at_most(index, MAX_CANDIDATES, rng)
    return index[farthest_point_sampling(xyz[index], count)] if len(index) else index


def _at_most(index: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return index if len(index) <= count else np.sort(rng.choice(index, count, replace=False))


def on_plane(xyz: Float[np.ndarray, "N 3"], rng: np.random.Generator) -> Bool[np.ndarray, " N"]:
    """Points of the largest plane, if it holds a good share of all (random sample consensus)."""
    best = np.zeros(len(xyz), bool)
    if len(xyz) < 3:
        return best
    for _ in range(_PLANE_TRIALS):
        a, b, c = xyz[rng.choice(len(xyz), 3, replace=False)]
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal)
        if length < 1e-9:
            continue
        on = np.abs((xyz - a) @ (normal / length)) < _PLANE_SLACK_M
        if on.sum() > best.sum():
            best = on
    return best if best.mean() >= _PLANE_SHARE else np.zeros(len(xyz), bool)
