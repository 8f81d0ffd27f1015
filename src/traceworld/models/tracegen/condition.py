"""What the decoder is conditioned on: picture, depth and words as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Bool, Float
from torch import Tensor

FROZEN_ENCODERS = ("dino", "siglip", "depth_siglip", "t5")
"""Parts of the hub encoder with published weights."""


@dataclass(frozen=True)
class Condition:
    """
    Attributes:
        tokens: [B,L,C] image tokens row by row, then words.
        mask: [B,L] True where there is a token (padded words are False).
    """

    tokens: Float[Tensor, "B L C"]
    mask: Bool[Tensor, "B L"]


class ConditionEncoder(Protocol):
    """A module that turns the observation part of a batch into a `Condition`.

    Attributes:
        width: channels of a token. image_grid: (rows, columns) of image tokens. max_tokens: longest condition.
    """

    width: int
    image_grid: tuple[int, int]
    max_tokens: int

    def __call__(self, batch: Mapping[str, Any], depth_log_range: Float[Tensor, " 2"]) -> Condition: ...
