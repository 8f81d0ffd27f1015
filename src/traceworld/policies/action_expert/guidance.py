"""Eq. 11 of the μ0 paper: motion into vision-language features through one gate."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from traceworld.errors import ConfigError
from traceworld.models.blocks.attention import attend, merge_heads, split_heads


class GatedCrossAttention(nn.Module):
    """z + σ(g) · CA(Q = LN(z), K = V = LN(W_proj z_trace)).

    The gate g is one number for all heads and places, 0 at the start: σ(0) = ½.

    Args:
        width: of z. trace_width: of z_trace. heads: of the cross-attention.
    """

    def __init__(self, width: int, trace_width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ConfigError(f"{heads} heads do not divide width {width}", where="mixer_heads")
        self.head_dim = width // heads
        self.trace_proj = nn.Linear(trace_width, width)
        self.norm_trace = nn.LayerNorm(width)
        self.norm_query = nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        z: Float[Tensor, "B L C"],
        trace: Float[Tensor, "B M E"],
        trace_seen: Bool[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B L C"]:
        """z_guided. `trace_seen`: which of the motion tokens are there; None: all."""
        motion = self.norm_trace(self.trace_proj(trace))
        query = split_heads(self.q_proj(self.norm_query(z)), self.head_dim)
        key, value = (split_heads(proj(motion), self.head_dim) for proj in (self.k_proj, self.v_proj))
        if trace_seen is None:
            trace_seen = torch.ones(trace.shape[:2], dtype=torch.bool, device=trace.device)
        found = self.o_proj(merge_heads(attend(query, key, value, trace_seen[:, None])))
        return z + self.gate.sigmoid() * found
