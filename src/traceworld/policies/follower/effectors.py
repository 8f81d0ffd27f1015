"""From the tool's path to actions: the one interface between the follower and a robot, and the back end for Cartesian robots.

The other back end, for arms that take joint positions, is `policies.kinematics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.policies.follower.gripper import METAWORLD_GRIPPER, Gripper, ToolState
from traceworld.traces.robot import ActionSpec


@runtime_checkable
class Effector(Protocol):
    """A robot as the follower knows it.

    Attributes:
        spec: its actions and states. gripper: the shape of its gripper.
        max_speed_mps, max_turn_radps: how fast its tool may go.
        grip_s: how long its fingers take to close.
        response: control steps by which the tool comes after what it is told; paths are sent that much ahead.
    """

    @property
    def spec(self) -> ActionSpec: ...

    @property
    def gripper(self) -> Gripper: ...

    @property
    def max_speed_mps(self) -> float: ...

    @property
    def max_turn_radps(self) -> float: ...

    @property
    def grip_s(self) -> float: ...

    @property
    def response(self) -> int: ...

    def tool(self, state: Float[np.ndarray, " P"]) -> ToolState:
        """Where the tool is, by proprioception."""
        ...

    def actions(
        self, state: Float[np.ndarray, " P"], poses: Float64[np.ndarray, "_n 4 4"], closing: Bool[np.ndarray, " K"]
    ) -> Float32[np.ndarray, "K A"]:
        """The K actions that bring the tool along K + 1 + `response` poses, of which the first is meant for now."""
        ...

    def after(self, state: Float[np.ndarray, " P"], actions: Float32[np.ndarray, "J A"]) -> Float32[np.ndarray, " P"]:
        """The state that these actions lead to if the robot does as it is told."""
        ...


def check_path(poses: Float64[np.ndarray, "_n 4 4"], closing: Bool[np.ndarray, " K"], response: int) -> None:
    """Raises InvalidInputError unless there is a pose for now, one for each grip, and `response` more."""
    if not len(closing) or len(poses) != len(closing) + 1 + response:
        raise InvalidInputError(
            f"{len(poses)} poses for {len(closing)} actions and a response of {response} steps",
            where="Effector.actions",
        )


@dataclass(frozen=True)
class CartesianEffector:
    """A robot whose action is a displacement of its tool and a gripper effort; it turns nothing.

    The displacements of the path are sent as they are, ahead by the robot's response time (the inverse of a first-order lag,
    which is what a soft servo is); by what the tool is off the path is added by and by. A robot that integrates its
    commands, as Meta-World's does, then pushes harder the longer it is held up.

    Attributes:
        spec: the first three actions are x, y, z, the last one the gripper; state: x, y, z, opening.
        gripper: its shape.
        unit_m: metres of displacement per unit of action.
        gain: share of the lag that is made up for in one step.
        closing_effort, opening_effort: actions of the gripper.
        response: Meta-World's tool follows at constant speed 3.2 steps behind.
    """

    spec: ActionSpec
    gripper: Gripper = METAWORLD_GRIPPER
    unit_m: float = 0.01
    gain: float = 0.15
    closing_effort: float = 1.0
    opening_effort: float = -1.0
    grip_s: float = 0.2
    max_turn_radps: float = 1.0
    response: int = 3

    def __post_init__(self):
        if self.spec.dim != 4 or len(self.spec.state_names) < 4:
            raise ConfigError(
                f"actions {self.spec.names}, states {self.spec.state_names}",
                where="CartesianEffector.spec",
                mend="give a robot of actions dx, dy, dz, gripper and states x, y, z, opening",
            )

    @property
    def max_speed_mps(self) -> float:
        """The largest displacement, as often as one can be sent."""
        return min(self.spec.high[:3]) * self.unit_m * self.spec.control_hz

    def tool(self, state: Float[np.ndarray, " P"]) -> ToolState:
        """The state's first numbers: x, y, z in metres and the opening."""
        pose = np.eye(4)
        pose[:3, 3] = state[:3]
        return ToolState(pose, float(np.clip(state[3], 0, 1)))

    def actions(
        self, state: Float[np.ndarray, " P"], poses: Float64[np.ndarray, "_n 4 4"], closing: Bool[np.ndarray, " K"]
    ) -> Float32[np.ndarray, "K 4"]:
        """Displacements in units of action, clipped to the bounds, and efforts.

        Raises:
            InvalidInputError: not K + 1 + `response` poses.
        """
        check_path(poses, closing, self.response)
        place = poses[:, :3, 3]
        off = place[0] - state[:3].astype(np.float64)
        steps = np.arange(len(closing))[:, None]
        move = np.diff(place, axis=0)[self.response :] + self.gain * (1 - self.gain) ** steps * off
        effort = np.where(closing, self.closing_effort, self.opening_effort)
        actions = np.concatenate([move / self.unit_m, effort[:, None]], axis=1)
        return np.clip(actions, self.spec.low, self.spec.high).astype(np.float32)

    def after(self, state: Float[np.ndarray, " P"], actions: Float32[np.ndarray, "J 4"]) -> Float32[np.ndarray, " P"]:
        """The tool displaced by all of them; the opening as it is."""
        there = state.astype(np.float32)
        there[:3] += self.unit_m * actions[:, :3].sum(0)
        return there
