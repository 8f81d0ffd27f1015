"""A prediction read as what the gripper and the parts of the scene will do, in the world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from traceworld.geometry.cameras import uvz_to_world
from traceworld.policies.follower.events import ContactEvents, contact_events, opening_trace
from traceworld.policies.follower.gripper import Gripper, ToolState
from traceworld.policies.follower.keypoints import Keypoints, Role
from traceworld.policies.follower.motion import RigidMotion, fit_motion, rigid_parts, travelled
from traceworld.traces.types import Camera, TracePrediction

MIN_PALM_POINTS = 3
MOVES_M = 0.02
"""A part of the scene that travels less than this is taken to stand."""


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the scene that moves.

    Attributes:
        points: [M] keypoints of it. motion: its rigid motion. events: what the gripper has to do with it.
    """

    points: Int[np.ndarray, " M"]
    motion: RigidMotion
    events: ContactEvents


@dataclass(frozen=True, eq=False)
class Reading:
    """What a predicted sample says.

    Attributes:
        xyz_world: [T,N,3] the keypoints now and at each valid step (T − 1 of them).
        tool: motion of the gripper; None when too little of it is seen.
        opening: [T] of the gripper, 0 to 1; None when no finger is seen.
        part: the part of the scene that the gripper moves, or, if there is none, the one that moves farthest.
    """

    xyz_world: Float64[np.ndarray, "T N 3"]
    tool: RigidMotion | None
    opening: Float64[np.ndarray, " T"] | None
    part: Part | None

    @property
    def ended(self) -> bool:
        """No step is left to make."""
        return len(self.xyz_world) < 2


def read_prediction(
    prediction: TracePrediction, sample: int, keypoints: Keypoints, camera: Camera, gripper: Gripper, tool: ToolState
) -> Reading:
    """Read one sample of a prediction.

    The trace ends where most of the gripper's points have ended (of all points, if none of the gripper is seen): steps that
    the predictor's validity head rejects are not followed.
    """
    path = world_paths(prediction, sample, keypoints, camera)
    path = path[: 1 + valid_steps(prediction.valid[sample], keypoints)]
    robot = keypoints.of(Role.PALM, Role.FINGER_PLUS, Role.FINGER_MINUS)
    palm = keypoints.of(Role.PALM)
    if palm.sum() < MIN_PALM_POINTS:
        palm = robot
    tool_motion = fit_motion(path[:, palm]) if palm.sum() >= MIN_PALM_POINTS else None
    opening = None
    if tool_motion is not None:
        axis = tool.world_from_tool[:3, :3] @ np.array(gripper.closing_axis)
        plus, minus = (path[:, keypoints.of(role)] for role in (Role.FINGER_PLUS, Role.FINGER_MINUS))
        opening = opening_trace(plus, minus, tool_motion.world_from_start, axis, tool.opening, gripper.stroke_m)
    still = np.tile(np.eye(4), (len(path), 1, 1))
    moved_by = still if tool_motion is None else tool_motion.world_from_start
    grip = tool.world_from_tool[:3, :3] @ np.array(gripper.grasp_point) + tool.world_from_tool[:3, 3]
    return Reading(path, tool_motion, opening, _moved_part(path, keypoints, moved_by, grip))


def world_paths(
    prediction: TracePrediction, sample: int, keypoints: Keypoints, camera: Camera
) -> Float64[np.ndarray, "T N 3"]:
    """Where the keypoints are now (as measured) and at each step of the horizon (as predicted)."""
    uvz = prediction.uvz[sample].astype(np.float64)
    future = uvz_to_world(uvz, camera.K, camera.cam_from_world, camera.width, camera.height)
    return np.concatenate([keypoints.xyz_world[:, None], future], axis=1).transpose(1, 0, 2)


def valid_steps(valid: Bool[np.ndarray, "N H"], keypoints: Keypoints) -> int:
    """How many steps most of the gripper's points are valid for (of all points, if none is on the gripper)."""
    robot = keypoints.of(Role.PALM, Role.FINGER_PLUS, Role.FINGER_MINUS)
    counts = np.logical_and.accumulate(valid, axis=1).sum(1)
    return int(np.median(counts[robot] if robot.any() else counts))


def _moved_part(path: np.ndarray, keypoints: Keypoints, tool_motion: np.ndarray, grip: np.ndarray) -> Part | None:
    scene = np.flatnonzero(keypoints.of(Role.SCENE))
    moving = scene[travelled(path[:, scene]) > MOVES_M]
    if not len(moving):
        return None
    label = rigid_parts(path[:, moving])
    parts = []
    for one in range(label.max() + 1):
        points = moving[label == one]
        events = contact_events(tool_motion, grip, path[:, points])
        parts.append(Part(points, fit_motion(path[:, points]), events))
    touched = [part for part in parts if part.events.contact is not None]
    travel = {id(part): float(np.median(travelled(path[:, part.points]))) for part in parts}
    return max(touched or parts, key=lambda part: (len(part.points) >= 2, travel[id(part)]))


def central_sample(prediction: TracePrediction, weight: Float[np.ndarray, " N"] | None = None) -> int:
    """The sample nearest to all others (a mean of different futures would be none of them).

    Args:
        weight: of the keypoints; None: all alike.
    """
    uvz = prediction.uvz.astype(np.float64)
    if len(uvz) < 3:
        return 0
    gap = np.linalg.norm(uvz[:, None] - uvz[None], axis=-1).mean(-1)  # [S,S,N]
    return int(np.average(gap, axis=-1, weights=weight).sum(1).argmin())
