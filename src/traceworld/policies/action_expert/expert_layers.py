"""Layers of π0.5's action expert: Gemma's transformer with norms that the flow time modulates (adaRMS)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from traceworld.models.blocks.attention import attend, merge_heads, split_heads
from traceworld.models.blocks.rotary import rotate

KeyValue = tuple[Tensor, Tensor]


class AdaRMSNorm(nn.Module):
    """RMS norm without a weight of its own, scaled and shifted by a condition, which also gates the branch that follows.

    Zero at the start: then it is a plain RMS norm, and every branch is shut.
    """

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.width, self.eps = width, eps
        self.modulation = nn.Linear(width, 3 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Float[Tensor, "*B L W"], condition: Float[Tensor, "*B W"] | None) -> tuple[Tensor, Tensor]:
        """(normed x, gate); without a condition: that of a zero one."""
        if condition is None:
            modulation = self.modulation.bias
        else:
            modulation = self.modulation(condition)[..., None, :]
        scale, shift, gate = modulation.float().chunk(3, dim=-1)
        normed = F.rms_norm(x.float(), (self.width,), None, self.eps) * (1 + scale) + shift
        return normed.to(x.dtype), gate.to(x.dtype)


class GeGLU(nn.Module):
    """down(gelu(gate(x)) · up(x)), the tanh form, without biases."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "*B W"]) -> Float[Tensor, "*B W"]:
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class ExpertLayer(nn.Module):
    """Self-attention, then the gated MLP; the tokens may be [B,L,W], or [B,R,K,W]: R chunks of each observation."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int, mlp_hidden: int):
        super().__init__()
        self.head_dim = head_dim
        self.norm_attention = AdaRMSNorm(width)
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)
        self.norm_mlp = AdaRMSNorm(width)
        self.mlp = GeGLU(width, mlp_hidden)

    def keys_values(self, x: Tensor, condition: Tensor | None, angles: KeyValue) -> KeyValue:
        """Keys (rotated) and values of tokens that this layer leaves as they are."""
        return self._keys_values(self.norm_attention(x, condition)[0], angles)

    def forward(
        self,
        x: Float[Tensor, "B *R L W"],
        condition: Tensor | None,
        angles: KeyValue,
        mask: Bool[Tensor, " B #Lq Lk"],
        earlier: KeyValue | None = None,
    ) -> tuple[Float[Tensor, "B *R L W"], KeyValue]:
        """
        Args:
            condition: [B,*R,W] of the flow time, or None.
            angles: cosine and sine [B,*,head_dim/2] of the positions of all tokens of x.
            mask: which keys (`earlier` ones, then x's own) each token sees.
            earlier: keys and values [B,kv_heads,L',head_dim] of tokens that do not change any more.

        Returns:
            (x, own): own are x's keys and values.
        """
        normed, gate = self.norm_attention(x, condition)
        own = self._keys_values(normed, angles)
        key, value = own if earlier is None else (torch.cat([e, o], dim=2) for e, o in zip(earlier, own, strict=True))
        query = rotate(split_heads(self.q_proj(normed.flatten(1, -2)), self.head_dim), *angles)
        found = self.o_proj(merge_heads(attend(query, key, value, mask)))
        x = x + found.view(x.shape) * gate
        normed, gate = self.norm_mlp(x, condition)
        return x + self.mlp(normed) * gate, own

    def _keys_values(self, normed: Tensor, angles: KeyValue) -> KeyValue:
        flat = normed.flatten(1, -2)
        key = rotate(split_heads(self.k_proj(flat), self.head_dim), *angles)
        return key, split_heads(self.v_proj(flat), self.head_dim)
