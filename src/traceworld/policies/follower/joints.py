"""The follower's back end for arms that take joint positions: the tool's path by inverse kinematics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from traceworld.errors import ConfigError
from traceworld.policies.follower.effectors import check_path
from traceworld.policies.follower.gripper import Gripper, ToolState
from traceworld.policies.kinematics import ArmKinematics
from traceworld.traces.robot import ActionSpec


@dataclass(frozen=True, eq=False)
class JointEffector:
    """An arm whose action is a position for each joint and one number for the gripper.

    A pose that cannot be reached within the joint limits, that makes the arm touch something, or for which a joint would
    have to be faster than it is, is not sent: the arm stays at the last position before it for the rest of the chunk,
    and the next plan begins from there.

    Attributes:
        spec: actions: the arm's joints in order, then the gripper; states: joint positions, then the opening (0 to 1).
        arm: its kinematics; the frame is the tool of `gripper`.
        gripper: the shape of the gripper.
        max_joint_speed: radians (metres, for slides) per second of any joint.
        orientation: False: only the tool's place is followed.
        tolerance_m: how far from the path the tool may be for a pose to count as reached.
        clear_of_scene: refuse poses at which the arm touches something.
        closed, opened: actions of the gripper.
    """

    spec: ActionSpec
    arm: ArmKinematics
    gripper: Gripper
    max_speed_mps: float = 0.5
    max_turn_radps: float = 1.5
    max_joint_speed: float = 2.0
    orientation: bool = True
    tolerance_m: float = 2e-3
    tolerance_rad: float = 0.02
    clear_of_scene: bool = True
    closed: float = 0.0
    opened: float = 1.0
    grip_s: float = 0.3
    response: int = 0

    def __post_init__(self):
        joints = len(self.arm.joints)
        if self.spec.dim != joints + 1 or len(self.spec.state_names) != joints + 1:
            raise ConfigError(
                f"{self.spec.dim} actions and {len(self.spec.state_names)} states for {joints} joints and a gripper",
                where="JointEffector.spec",
            )

    def tool(self, state: Float[np.ndarray, " P"]) -> ToolState:
        """Where forward kinematics puts the tool."""
        return ToolState(self.arm.forward(state[:-1].astype(np.float64)), float(np.clip(state[-1], 0, 1)))

    def actions(
        self, state: Float[np.ndarray, " P"], poses: Float64[np.ndarray, "_n 4 4"], closing: Bool[np.ndarray, " K"]
    ) -> Float32[np.ndarray, "K A"]:
        """Joint positions for the poses after the first and the `response` skipped, within limits, and the gripper's command.

        Raises:
            InvalidInputError: not K + 1 + `response` poses.
        """
        check_path(poses, closing, self.response)
        joints = np.clip(state[:-1].astype(np.float64), self.arm.low, self.arm.high)
        furthest = self.max_joint_speed / self.spec.control_hz
        path, stopped = [], False
        for pose in poses[1 + self.response :]:
            if not stopped:
                found = self._reach(pose, joints, furthest)
                stopped = found is None
                joints = joints if found is None else found
            path.append(joints)
        grip = np.where(closing, self.closed, self.opened)[:, None]
        actions = np.concatenate([np.array(path), grip], axis=1)
        return np.clip(actions, self.spec.low, self.spec.high).astype(np.float32)

    def after(self, state: Float[np.ndarray, " P"], actions: Float32[np.ndarray, "J A"]) -> Float32[np.ndarray, " P"]:
        """The joints where the last of them sends them; the opening as it is."""
        there = state.astype(np.float32)
        if len(actions):
            there[:-1] = actions[-1, :-1]
        return there

    def _reach(self, pose: np.ndarray, joints: np.ndarray, furthest: float) -> np.ndarray | None:
        solution = self.arm.solve(
            pose,
            joints,
            orientation=self.orientation,
            tolerance_m=self.tolerance_m / 4,
            tolerance_rad=self.tolerance_rad / 4,
        )
        near = solution.position_error_m <= self.tolerance_m and solution.rotation_error_rad <= self.tolerance_rad
        if not near or (self.clear_of_scene and solution.collisions):
            return None
        move = solution.joints - joints
        largest = float(np.abs(move).max(initial=0.0))
        return joints + move * min(1.0, furthest / max(largest, 1e-12))  # at full speed, on the straight line there
