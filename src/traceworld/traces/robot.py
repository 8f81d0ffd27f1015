"""What a robot sees and what it is told to do: the two types between an environment and a policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, UInt8

from traceworld.errors import InvalidInputError
from traceworld.traces.types import Camera, TracePrediction


@dataclass(frozen=True, eq=False)
class RobotObservation:
    """One moment of one robot.

    Attributes:
        images: camera name → RGB [H,W,3]; the first one is the scene camera that traces are predicted in, one called
            `wrist` (if any) rides on the gripper.
        state: [P] proprioception, in the unit and order of the environment or dataset (`ActionSpec.state_names`).
        instruction: what is asked for.
        depth_m: camera name → metric depth [H,W] (NaN unknown), for cameras that have it.
        cameras: camera name → intrinsics and pose in the robot's world, for cameras that are calibrated.
        step: control steps since the episode began.
    """

    images: Mapping[str, UInt8[np.ndarray, "_h _w 3"]]
    state: Float32[np.ndarray, " P"]
    instruction: str
    depth_m: Mapping[str, Float32[np.ndarray, "_h _w"]] = field(default_factory=dict)
    cameras: Mapping[str, Camera] = field(default_factory=dict)
    step: int = 0

    def __post_init__(self):
        if not self.images:
            raise InvalidInputError(
                "shows no picture", where="RobotObservation.images", mend="give at least one camera"
            )
        if not np.isfinite(self.state).all():
            raise InvalidInputError("is not finite", where="RobotObservation.state")
        for given in ("depth_m", "cameras"):
            if unknown := sorted(set(getattr(self, given)) - set(self.images)):
                raise InvalidInputError(f"camera '{unknown[0]}' has no picture", where=f"RobotObservation.{given}")

    @property
    def scene_camera(self) -> str:
        """Name of the camera that traces are predicted in."""
        return next(iter(self.images))


@dataclass(frozen=True)
class ActionSpec:
    """What an environment or a dataset means by its actions and states.

    Attributes:
        names: of the action's numbers, e.g. ("dx", "dy", "dz", "gripper").
        low, high: bounds per number; what is sent is clipped to them.
        control_hz: actions per second.
        state_names: of the numbers of `RobotObservation.state`.
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    control_hz: float
    state_names: tuple[str, ...] = ()

    def __post_init__(self):
        if not len(self.names) == len(self.low) == len(self.high):
            raise InvalidInputError("names, low and high differ in length", where="ActionSpec")

    @property
    def dim(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class ActionChunk:
    """What to do next.

    Attributes:
        actions: [K,A] the next K actions, in the environment's own unit (`ActionSpec`), the first to be sent now.
        prediction: the traces behind them, if the policy predicts any and was asked to hand them out.
        timing: seconds by stage.
        done: the policy holds the task to be finished: what follows is to stay.
    """

    actions: Float32[np.ndarray, "K A"]
    prediction: TracePrediction | None = None
    timing: Mapping[str, float] = field(default_factory=dict)
    done: bool = False

    def __post_init__(self):
        if not len(self.actions):
            raise InvalidInputError("holds no action", where="ActionChunk.actions")
        if not np.isfinite(self.actions).all():
            raise InvalidInputError("is not finite", where="ActionChunk.actions")
