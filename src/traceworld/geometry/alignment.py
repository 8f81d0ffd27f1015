"""Monotonic alignments of two paths: dynamic time warping and discrete Fréchet distance, many pairs at once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def prefix_alignments(
    a: Float[np.ndarray, "P T d"], b: Float[np.ndarray, "P T d"]
) -> tuple[Float[np.ndarray, "T P"], Float[np.ndarray, "T P"]]:
    """DTW cost (not divided) and Fréchet distance of every pair of equally long prefixes: two arrays [T,P] from [P,T,d].

    The tables are filled along anti-diagonals, all pairs at once; entry (i, i) is the answer for prefixes of i + 1 steps, so
    one pass serves every horizon.
    """
    P, T, d = a.shape
    cost = np.zeros((T, T, P))
    for axis in range(d):
        cost += (a[:, :, axis].T[:, None] - b[:, :, axis].T[None]) ** 2
    np.sqrt(cost, out=cost)
    cells = cost.reshape(T * T, P)
    dtw, frechet = np.empty((T, P)), np.empty((T, P))
    # Rows i + 1 of a diagonal hold cell (i, diagonal - i); row 0 and rows off the table stay infinite.
    tables = [[np.full((T + 1, P), np.inf) for _ in range(3)] for _ in range(2)]
    for diagonal in range(2 * T - 1):
        low, high = max(0, diagonal - T + 1), min(diagonal, T - 1)
        here = cells[low * T + diagonal - low : high * T + diagonal - high + 1 : max(T - 1, 1)]
        for (older, old, new), join, out in zip(tables, (np.add, np.maximum), (dtw, frechet), strict=True):
            before = np.minimum(old[low : high + 1], old[low + 1 : high + 2])  # from (i-1, j) and (i, j-1)
            np.minimum(before, older[low : high + 1], out=before)  # from (i-1, j-1)
            new.fill(np.inf)
            new[low + 1 : high + 2] = here if diagonal == 0 else join(before, here)
            if diagonal % 2 == 0:
                out[diagonal // 2] = new[diagonal // 2 + 1]
        tables = [[old, new, older] for older, old, new in tables]
    return dtw, frechet
