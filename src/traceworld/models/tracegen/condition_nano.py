"""The small condition encoder, trained from scratch: μ0-nano's stems, words and layers, read as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from traceworld.models.blocks.rotary import rotary_angles
from traceworld.models.mu0.config import NanoPrefixConfig
from traceworld.models.mu0.prefix_nano import NanoPrefix
from traceworld.models.tracegen.condition import Condition

_STRIDE = 16
"""Of the stems' last map."""


class NanoCondition(NanoPrefix):
    """`NanoPrefix` without the keys and values it makes for a trace expert: one layer fewer than `config.layers`."""

    def __init__(self, config: NanoPrefixConfig):
        super().__init__(config)
        del self.last
        self.width = config.width
        self.image_grid = (-(-config.image_height // _STRIDE), -(-config.image_width // _STRIDE))
        self.max_tokens = self.image_grid[0] * self.image_grid[1] + config.max_words

    def forward(  # type: ignore[override]
        self, batch: Mapping[str, Any], depth_log_range: Float[Tensor, " 2"]
    ) -> Condition:
        maps = self._maps(batch, depth_log_range)
        x, mask, positions, _ = self._tokens(maps[-1], batch["words"] if "words" in batch else batch["instruction"])
        cos, sin = rotary_angles(positions, self.head_dim, self.rope_base)
        for layer in self.layers:
            x, _, _ = layer(x, mask, cos, sin)
        return Condition(self.norm(x), mask)
