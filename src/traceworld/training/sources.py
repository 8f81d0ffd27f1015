"""From clip stores to the windows of a run: the split into training and validation clips, and one source per clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from traceworld.training.config import TrainConfig
from traceworld.training.data import WindowSource


@dataclass(frozen=True)
class TrainingData:
    """What a run reads.

    Attributes:
        train, weights: the sources and their shares of the draws.
        val: sources of the fixed validation windows (may be empty).
        normalisation: s_delta and depth range, stored inside every checkpoint.
    """

    train: Sequence[WindowSource]
    weights: Sequence[float]
    val: Sequence[WindowSource]
    normalisation: Mapping[str, Any]


def open_training_data(config: TrainConfig, image_size: int) -> TrainingData:
    raise NotImplementedError
