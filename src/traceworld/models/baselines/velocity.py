"""The baseline that has to be beaten when a history is given: points go on as they went, perhaps slowing down."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from traceworld.errors import ConfigError
from traceworld.models.baselines.anchors import anchor_uvz
from traceworld.traces.types import Observation, TracePrediction


class ConstantVelocity:
    """Each keypoint keeps the velocity that fits its history best; after every step it is multiplied by `damping`.

    Displacement after k steps = velocity × (1 + d + … + d^(k-1)). Without a valid history step a point does not move.

    Args:
        damping: d in [0, 1]; 1 = constant velocity.
        horizon: steps to predict.
    """

    num_parameters = 0
    takes = ("history",)

    def __init__(self, damping: float = 1.0, horizon: int = 32):
        if not 0 <= damping <= 1:
            raise ConfigError(f"is {damping}", where="ConstantVelocity.damping", mend="give a factor in [0, 1]")
        self.damping, self.horizon = damping, horizon
        self.name = "constant-velocity" if damping == 1 else "damped-velocity"

    def predict(self, observation: Observation, num_samples: int = 1, seed: int = 0) -> TracePrediction:
        """[S,N,H,3], the samples being equal, all valid. Raises InvalidInputError without keypoints."""
        anchor = anchor_uvz(observation)
        reach = np.cumsum(self.damping ** np.arange(self.horizon))
        path = anchor[:, None] + history_velocity(observation, anchor)[:, None] * reach[:, None]
        valid = np.ones((num_samples, len(anchor), self.horizon), bool)
        return TracePrediction(
            uvz=np.broadcast_to(path.astype(np.float32)[None], (*valid.shape, 3)).copy(),
            valid=valid,
            valid_prob=valid.astype(np.float32),
            clock=observation.clock,
            step=observation.step,
        )


def history_velocity(observation: Observation, anchor: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """Least-squares velocity per step of the line through the anchor and the history, per keypoint and axis.

    History step i of h (oldest first) lies h - i steps back. NaN steps do not count; an axis without any is still.
    """
    if observation.history_uvz is None:
        return np.zeros(anchor.shape)
    past = observation.history_uvz - anchor[:, None]
    time = np.arange(-past.shape[1], 0, dtype=float)[None, :, None]
    known = np.isfinite(past)
    weight = (known * time**2).sum(1)
    return np.where(weight > 0, (np.where(known, past, 0) * time).sum(1) / np.maximum(weight, 1), 0.0)


class DampedVelocity(ConstantVelocity):
    """Constant velocity that loses 15 % per step: the stronger of the two on motions that come to an end."""

    def __init__(self, horizon: int = 32):
        super().__init__(damping=0.85, horizon=horizon)
