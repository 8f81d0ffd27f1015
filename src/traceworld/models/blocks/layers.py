"""Normalisation, the gated MLP, and adaLN-Zero."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis, computed in float32 whatever the autocast dtype."""

    def __init__(self, dim: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps).to(x.dtype)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class AdaLNZero(nn.Module):
    """Shift, scale and gate of the two branches of one block, from a condition vector (mu0-paper B.3).

    The output layer is zero at the start, so every gate is zero and the block is exactly the identity.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Linear(dim, 6 * dim)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, condition: Float[Tensor, "*batch C"]) -> tuple[Tensor, ...]:
        """(shift, scale, gate) of attention, then of the MLP; each [*batch, C]."""
        return self.proj(F.silu(condition)).chunk(6, dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x · (1 + scale) + shift."""
    return torch.addcmul(shift, x, 1 + scale)
