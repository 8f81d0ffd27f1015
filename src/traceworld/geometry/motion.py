"""How far a point travels: the trace diameter of the movement filter (mu0-paper A.2)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

EXACT_UP_TO = 1024
"""Frames up to which every pair of positions is compared."""
_DIRECTIONS = 256
SHORTFALL = 0.01
"""Longer traces: the diameter is at most this share too small."""


def trace_diameter(
    xyz_px_z: Float[np.ndarray, "T N 3"], visible: Bool[np.ndarray, "T N"], lambda_z: float | int = 0.1
) -> Float[np.ndarray, " N"]:
    """Largest distance between any two visible positions of each point (mu0-paper A.2).

    All pairs are compared up to `EXACT_UP_TO` frames. In longer traces those are that lie outermost in one of many
    directions: the work grows with T instead of T², and the result is at most `SHORTFALL` too small, never too large.

    Args:
        xyz_px_z: (x_px, y_px, z_m) in the reference camera.
        visible: frames that count; a position that is not finite never counts.
        lambda_z: weight of depth (pixels per metre); the paper's 0.1 lets pixel motion dominate.

    Returns:
        [N] diameters in pixels; 0 for a point with fewer than two visible positions.
    """
    T, N, _ = xyz_px_z.shape
    counts = visible & np.isfinite(xyz_px_z).all(-1)
    diameter = np.zeros(N)
    seen = np.flatnonzero(counts.any(0))
    if T < 2 or len(seen) == 0:
        return diameter
    counts = counts[:, seen]
    scaled = xyz_px_z[:, seen].astype(np.float64) * np.array([1.0, 1.0, lambda_z])
    # A position that does not count is replaced by one that does: a repeated position adds nothing to a diameter.
    first = scaled[counts.argmax(0), np.arange(len(seen))]
    path = np.where(counts[..., None], scaled, first)
    diameter[seen] = _largest_distance(path if T <= EXACT_UP_TO else _outermost(path))
    return diameter


def _largest_distance(path: np.ndarray) -> np.ndarray:
    x, y, z = np.ascontiguousarray(path.transpose(2, 0, 1))
    largest = np.zeros(path.shape[1])
    for lag in range(1, len(path)):  # memory stays T·N whatever T is
        squared = (x[lag:] - x[:-lag]) ** 2
        squared += (y[lag:] - y[:-lag]) ** 2
        squared += (z[lag:] - z[:-lag]) ** 2
        np.maximum(largest, squared.max(0), out=largest)
    return np.sqrt(largest)


def _outermost(path: np.ndarray) -> np.ndarray:
    """[2·directions,N,3] of [T,N,3]: the positions that reach farthest along evenly spread directions, both ways."""
    number = np.arange(_DIRECTIONS)
    z = (number + 0.5) / _DIRECTIONS  # a half sphere: the other half are the same lines
    turn = number * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - z**2)
    directions = np.stack([ring * np.cos(turn), ring * np.sin(turn), z], -1)
    picked = np.empty((2 * _DIRECTIONS, *path.shape[1:]))
    for point in range(path.shape[1]):  # one point at a time: T × directions numbers are held, not T × N × directions
        reach = path[:, point] @ directions.T
        rows = np.concatenate([reach.argmax(0), reach.argmin(0)])
        picked[:, point] = path[rows, point]
    return picked
