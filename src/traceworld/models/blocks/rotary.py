"""Rotary position embedding, half-split layout (the one of Llama and of SmolVLM's text model)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotary_angles(
    positions: Int[Tensor, "*batch L"], head_dim: int, base: float
) -> tuple[Float[Tensor, "*batch L half"], Float[Tensor, "*batch L half"]]:
    """Cosine and sine of position · base^(-2i/head_dim), float32."""
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angle = positions[..., None].float() * base**-exponent
    return angle.cos(), angle.sin()


def rotate(
    x: Float[Tensor, "B heads L D"], cos: Float[Tensor, " B #L half"], sin: Float[Tensor, " B #L half"]
) -> Float[Tensor, "B heads L D"]:
    """Turn the pairs (x_i, x_{i+D/2}) by their angle, in the dtype of `x`."""
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
