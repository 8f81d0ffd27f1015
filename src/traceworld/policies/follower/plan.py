"""What the tool is to do in the next control steps, and how one plan passes into the next without a jump."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.spatial.transform import Rotation

from traceworld.errors import InvalidInputError


@dataclass(frozen=True, eq=False)
class Plan:
    """Poses and grip of the tool from a control step on.

    Attributes:
        start: control step of the first pose.
        poses: [K,4,4] world_from_tool at start, start + 1, …
        closing: [K] whether the fingers are to be closing.
        ended: the predictor says that nothing is left to do.
    """

    start: int
    poses: Float64[np.ndarray, "K 4 4"]
    closing: Bool[np.ndarray, " K"]
    ended: bool = False

    def __post_init__(self):
        if len(self.poses) != len(self.closing) or not len(self.poses):
            raise InvalidInputError(f"{len(self.poses)} poses, {len(self.closing)} grips", where="Plan")

    @property
    def end(self) -> int:
        """Control step of the last pose; after it the tool stays there."""
        return self.start + len(self.poses) - 1

    def window(self, step: int, count: int) -> tuple[Float64[np.ndarray, "_n 4 4"], Bool[np.ndarray, " _n"]]:
        """The `count` + 1 poses and grips from control step `step` on."""
        index = np.clip(np.arange(step, step + count + 1) - self.start, 0, len(self.poses) - 1)
        return self.poses[index], self.closing[index]


def blend(old: Plan, new: Plan, over: int, limit_m: float = 0.05) -> Plan:
    """`new`, entered from where `old` is at its start: the difference between the two fades out in `over` control steps.

    The difference is what the robot has not yet caught up with, plus the predictor's change of mind. More than `limit_m` of
    it is not carried over: a plan that far from where the robot is has failed, and pulling towards it would do harm.
    """
    if over < 1:
        return new
    count = min(over, len(new.poses))
    before, _ = old.window(new.start, count - 1)
    after = new.poses[:count]
    fade = np.arange(count) / over
    keep = 1 - fade * fade * (3 - 2 * fade)
    gap = before[:, :3, 3] - after[:, :3, 3]
    size = np.linalg.norm(gap, axis=1, keepdims=True)
    gap *= np.minimum(1.0, limit_m / np.maximum(size, 1e-12))
    poses = new.poses.copy()
    poses[:count, :3, 3] += keep[:, None] * gap
    turned = Rotation.from_matrix(before[:, :3, :3]) * Rotation.from_matrix(after[:, :3, :3]).inv()
    part = Rotation.from_rotvec(keep[:, None] * turned.as_rotvec())
    poses[:count, :3, :3] = (part * Rotation.from_matrix(after[:, :3, :3])).as_matrix()
    return Plan(new.start, poses, new.closing, new.ended)
