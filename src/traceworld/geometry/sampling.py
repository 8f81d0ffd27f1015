"""Farthest-point sampling: k points spread as evenly as a greedy choice allows (mu0-paper A.1)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from traceworld.errors import InvalidInputError


def farthest_point_sampling(
    points: Float[np.ndarray, "M d"],
    k: int,
    start: int | None = None,
    seeds: Float[np.ndarray, "P d"] | None = None,
) -> Int[np.ndarray, " chosen"]:
    """Greedy farthest-point sampling: each choice is the point farthest from all chosen before it.

    Deterministic: ties go to the lowest index.

    Args:
        points: candidates, in any unit; the distance is Euclidean.
        k: how many to choose; with fewer than k candidates all of them are returned.
        start: index of the first choice. Default: the farthest from `seeds` if there are any, else the point nearest to
            the centroid (so the choice does not depend on the order of the points, ties apart).
        seeds: coordinates of points already held elsewhere; choices keep away from them too.

    Returns:
        [min(k, M)] distinct indices in the order of choice.

    Raises:
        InvalidInputError: k < 0, `start` out of range, or NaN coordinates.
    """
    M = len(points)
    if k < 0:
        raise InvalidInputError(f"k = {k} is negative", where="farthest_point_sampling.k")
    if start is not None and not 0 <= start < M:
        raise InvalidInputError(f"{start} is not one of {M} points", where="farthest_point_sampling.start")
    if not np.isfinite(points).all() or (seeds is not None and not np.isfinite(seeds).all()):
        raise InvalidInputError(
            "points hold NaN or infinity", where="farthest_point_sampling", mend="drop unknown points first"
        )
    k = min(k, M)
    chosen = np.zeros(k, np.int64)
    if k == 0:
        return chosen
    columns = np.ascontiguousarray(
        points.T, np.float64
    )  # one contiguous row per axis: no [M,d] temporaries in the loop

    def squared_distance_to(point: np.ndarray) -> np.ndarray:
        total = np.zeros(M)
        for axis, value in zip(columns, point, strict=True):
            total += (axis - value) ** 2
        return total

    nearest = np.full(M, np.inf)
    for seed in () if seeds is None else seeds:
        np.minimum(nearest, squared_distance_to(seed), out=nearest)
    if start is not None:
        index = start
    elif seeds is not None and len(seeds):
        index = int(nearest.argmax())
    else:
        index = int(squared_distance_to(columns.mean(1)).argmin())
    for i in range(k):
        chosen[i] = index
        np.minimum(nearest, squared_distance_to(columns[:, index]), out=nearest)
        nearest[index] = -1.0  # never again, even among duplicates
        index = int(nearest.argmax())
    return chosen
