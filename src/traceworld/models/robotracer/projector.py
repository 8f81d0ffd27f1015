"""From the spatial encoder's tokens to the language model's."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class SpatialProjector(nn.Module):
    """LayerNorm, then two linear layers with GELU between them (the connector of the base's pictures, for spatial tokens)."""

    def __init__(self, dim_in: int, hidden: int, dim_out: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim_in)
        self.mlp = nn.Sequential(nn.Linear(dim_in, hidden), nn.GELU(), nn.Linear(hidden, dim_out))

    def forward(self, tokens: Float[Tensor, "B L C"]) -> Float[Tensor, "B L D"]:
        return self.mlp(self.norm(tokens))
