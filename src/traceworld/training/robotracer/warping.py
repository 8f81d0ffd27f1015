"""Dynamic time warping of two traces, with its cost normalised by the length of the warping path (for R_T)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from traceworld.errors import InvalidInputError


def warping_cost(a: Float[np.ndarray, "A da"], b: Float[np.ndarray, "B db"]) -> tuple[float, int]:
    """Cost and number of pairs of the cheapest warping path between two traces.

    A path goes from the pair of first points to the pair of last points; each step advances one trace or both. Its cost is the
    sum of the Euclidean distances of its pairs. Of paths that cost the same, the one with the fewest pairs counts, so
    that the number does not depend on which trace is named first.

    Raises:
        InvalidInputError: a trace is empty, the two have different dimensions, or a number is not finite.
    """
    if len(a) == 0 or len(b) == 0 or a.shape[1] != b.shape[1]:
        raise InvalidInputError(f"shapes {a.shape} and {b.shape} cannot be aligned", where="warping_cost")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InvalidInputError("holds NaN or infinity", where="warping_cost")
    distance = np.linalg.norm(a[:, None].astype(float) - b[None].astype(float), axis=-1).tolist()
    above: list[tuple[float, int]] = []
    for i, costs in enumerate(distance):
        row: list[tuple[float, int]] = []
        for j, cost in enumerate(costs):
            before = [cell for cell in (row[j - 1] if j else None, above[j] if i else None) if cell is not None]
            if i and j:
                before.append(above[j - 1])
            total, pairs = min(before, default=(0.0, 0))
            row.append((total + cost, pairs + 1))
        above = row
    return above[-1]


def warping_distance(a: Float[np.ndarray, "A da"], b: Float[np.ndarray, "B db"], *, normalise: bool = True) -> float:
    """`warping_cost` per pair of the path (the mean distance along it), or in all.

    Raises:
        InvalidInputError: see `warping_cost`.
    """
    total, pairs = warping_cost(a, b)
    return total / pairs if normalise else total
