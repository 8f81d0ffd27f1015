"""Fixed and learned embeddings of numbers: Fourier features, sinusoids of the flow time."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def fourier_features(x: Float[Tensor, "*batch C"], num_freqs: int) -> Float[Tensor, "*batch F"]:
    """[sin(2^k π x), cos(2^k π x)], k = 0..num_freqs−1, coordinate after coordinate: F = 2 · C · num_freqs."""
    freqs = math.pi * 2.0 ** torch.arange(num_freqs, device=x.device, dtype=torch.float32)
    angle = x.float()[..., None] * freqs
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)


def time_sinusoid(
    tau: Float[Tensor, "*batch"], dim: int = 256, min_period: float = 4e-3, max_period: float = 4.0
) -> Float[Tensor, "*batch dim"]:
    """[sin, cos] of 2π τ / period over dim/2 periods in geometric progression."""
    fraction = torch.linspace(0, 1, dim // 2, device=tau.device, dtype=torch.float32)
    period = min_period * (max_period / min_period) ** fraction
    angle = 2 * math.pi * tau.float()[..., None] / period
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class TimeEmbedding(nn.Module):
    """Flow time τ in [0, 1] → condition vector: sinusoid, then a two-layer MLP."""

    def __init__(self, dim: int, sinusoid_dim: int = 256):
        super().__init__()
        self.sinusoid_dim = sinusoid_dim
        self.mlp = nn.Sequential(nn.Linear(sinusoid_dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, tau: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch C"]:
        return self.mlp(time_sinusoid(tau, self.sinusoid_dim))
