"""How far a point travels: the trace diameter of the movement filter (mu0-paper A.2)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float


def trace_diameter(
    xyz_px_z: Float[np.ndarray, "T N 3"], visible: Bool[np.ndarray, "T N"], lambda_z: float | int = 0.1
) -> Float[np.ndarray, " N"]:
    """Largest distance between any two visible positions of each point (mu0-paper A.2).

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
    x, y, z = np.ascontiguousarray(path.transpose(2, 0, 1))
    largest = np.zeros(len(seen))
    for lag in range(1, T):  # memory stays T·N whatever T is
        squared = (x[lag:] - x[:-lag]) ** 2
        squared += (y[lag:] - y[:-lag]) ** 2
        squared += (z[lag:] - z[:-lag]) ** 2
        np.maximum(largest, squared.max(0), out=largest)
    diameter[seen] = np.sqrt(largest)
    return diameter
