"""A field of increments on the grid as tokens and back (dossier §2.2): 2 × 2 points over 2 steps for the released sizes."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def to_patches(field: Float[Tensor, "R H side side 3"], space: int, time: int) -> Float[Tensor, "R tokens features"]:
    """Tokens in the order (time, row, column); features in the order (coordinate, step, row, column) within the patch."""
    parts = field.unflatten(3, (-1, space)).unflatten(2, (-1, space)).unflatten(1, (-1, time))
    # [R, t, step, y, row, x, column, coordinate]
    return parts.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(4, 7).flatten(1, 3)


def from_patches(
    tokens: Float[Tensor, "R tokens features"], side: int, space: int, time: int
) -> Float[Tensor, "R H side side 3"]:
    """The inverse of `to_patches`."""
    across = side // space
    parts = tokens.unflatten(1, (-1, across, across)).unflatten(4, (3, time, space, space))
    # [R, t, y, x, coordinate, step, row, column]
    return parts.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(5, 6).flatten(3, 4).flatten(1, 2)
