"""Where the gripper's points have been: proprioception gives the past of what rides on the tool, exactly and without tracking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32
from scipy.spatial.transform import Rotation, Slerp

from traceworld.geometry.cameras import invert_rigid, transform, world_to_uvz
from traceworld.policies.follower.effectors import Effector
from traceworld.policies.follower.gripper import ToolState
from traceworld.policies.follower.keypoints import Keypoints, Role
from traceworld.traces.types import Camera


def gripper_history(
    keypoints: Keypoints,
    past: Sequence[tuple[int, ToolState]],
    effector: Effector,
    camera: Camera,
    step_s: float,
    count: int,
) -> Float32[np.ndarray, "N h 3"]:
    """The last `count` positions (u, v, z) of each point, oldest first, not including the present one.

    Args:
        past: control step and tool, oldest first, the present one last; between two of them the tool moved evenly.
        step_s: seconds between positions.

    Returns:
        NaN for the scene's points, and for times before the first tool state.
    """
    steps = np.array([step for step, _ in past], np.float64)
    poses = np.array([tool.world_from_tool for _, tool in past])
    opening = np.array([tool.opening for _, tool in past])
    wanted = steps[-1] - np.arange(count, 0, -1) * step_s * effector.spec.control_hz
    known = wanted >= steps[0] - 1e-9
    history = np.full((len(keypoints), count, 3), np.nan, np.float32)
    if not known.any() or len(past) < 2:
        return history
    times = np.clip(wanted[known], steps[0], steps[-1])
    then = np.tile(np.eye(4), (len(times), 1, 1))
    then[:, :3, :3] = Slerp(steps, Rotation.from_matrix(poses[:, :3, :3]))(times).as_matrix()
    for axis in range(3):
        then[:, axis, 3] = np.interp(times, steps, poses[:, axis, 3])
    opened = np.interp(times, steps, opening) - opening[-1]
    in_tool = transform(invert_rigid(poses[-1]), keypoints.xyz_world)
    side = np.select([keypoints.of(Role.FINGER_PLUS), keypoints.of(Role.FINGER_MINUS)], [1.0, -1.0], 0.0)
    axis_in_tool = np.array(effector.gripper.closing_axis) * effector.gripper.stroke_m / 2
    local = in_tool + opened[:, None, None] * side[:, None] * axis_in_tool
    uvz = world_to_uvz(transform(then, local), camera.K, camera.cam_from_world, camera.width, camera.height)
    robot = ~keypoints.of(Role.SCENE)
    history[np.ix_(robot, known)] = uvz.transpose(1, 0, 2)[robot]
    return history
