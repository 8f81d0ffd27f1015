"""The baseline that every ratio is against: nothing moves."""

from __future__ import annotations

import numpy as np

from traceworld.models.baselines.anchors import anchor_uvz
from traceworld.traces.types import Observation, TracePrediction


class NothingMoves:
    """Every keypoint stays where it is, for all steps, in every sample."""

    name = "nothing-moves"
    num_parameters = 0
    takes = ()

    def __init__(self, horizon: int = 32):
        self.horizon = horizon

    def predict(self, observation: Observation, num_samples: int = 1, seed: int = 0) -> TracePrediction:
        """[S,N,H,3] copies of the anchors, all valid. Raises InvalidInputError without keypoints."""
        anchor = anchor_uvz(observation)
        shape = (num_samples, len(anchor), self.horizon)
        return TracePrediction(
            uvz=np.broadcast_to(anchor[None, :, None], (*shape, 3)).copy(),
            valid=np.ones(shape, bool),
            valid_prob=np.ones(shape, np.float32),
            clock=observation.clock,
            step=observation.step,
        )
