"""What the expert sees of an observation: per-layer keys and values, computed once and never changed.

Anything that can fill a `Prefix` can carry a trace expert: a truncated VLM, or a small network trained from scratch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Prefix:
    """
    Attributes:
        keys: per layer [B,kv_heads,L,head_dim], already rotated.
        values: per layer [B,kv_heads,L,head_dim].
        mask: [B,L] True where there is a token (absent depth and padded words are False).
        end: [B] the rotary position just after the last token: where all suffix tokens are.
        maps: feature maps [B,C,Hf,Wf] for eq. 5, covering the whole picture; empty if the prefix has none of its own.
        summary: [B,C] pooled features, or None.
    """

    keys: tuple[Float[Tensor, "B kv_heads L D"], ...]
    values: tuple[Float[Tensor, "B kv_heads L D"], ...]
    mask: Bool[Tensor, "B L"]
    end: Int[Tensor, " B"]
    maps: tuple[Float[Tensor, "B _C _Hf _Wf"], ...] = ()
    summary: Float[Tensor, "B C"] | None = None


def depth_rows(batch: Mapping[str, Any]) -> Int[Tensor, " rows"]:
    """Which observations have depth. A batch may hold them as `depth_rows`: counting them stops a GPU and a compiler."""
    return batch["depth_rows"] if "depth_rows" in batch else batch["depth_present"].nonzero()[:, 0]


class PrefixEncoder(Protocol):
    """A module that turns the observation part of a batch into a `Prefix`.

    Attributes:
        num_layers: layers that it gives keys and values of.
        num_heads, num_kv_heads, head_dim: the attention shape the expert must follow.
        rope_base: base of the rotary angles that turned the keys.
        map_channels: channels of each of `Prefix.maps`.
        summary_width: channels of `Prefix.summary`, 0 if it is None.
    """

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_base: float
    map_channels: tuple[int, ...]
    summary_width: int

    def __call__(self, batch: Mapping[str, Any], depth_log_range: Float[Tensor, " 2"]) -> Prefix: ...
