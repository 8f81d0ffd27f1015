"""Frame-aligned 3D paths out of a TraceForge sample: its 2D paths by frame, and its 3D paths by length.

`traj_2d` has a place for every frame but no depth; `traj` has depth, but only where the scene had moved by another 0.05.
All points of a sample are retimed alike, so one frame time per step of `traj` explains every point's u and v there: found
by least squares, it says when each depth was, and depth in between is interpolated.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float


def step_times(
    uv_px: Float[np.ndarray, "N S 2"], traj: Float[np.ndarray, "N M 3"]
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """The frame time, fractional and never decreasing, of every step of `traj`; and the rms distance left, pixels.

    The released rule cuts u and v before it samples, our export does not: whichever explains `traj` better is taken.

    Args:
        uv_px: places by frame.
        traj: valid steps alone.
    """
    uv = uv_px.astype(np.float64)
    corner = np.where(np.abs(uv[-1, 0]) < 1e-12, 1.0, uv[-1, 0])
    cut = np.clip(uv / corner, 0, 1) * corner
    found = [_times_along(places, traj[..., :2].astype(np.float64)) for places in (uv, cut)]
    return min(found, key=lambda pair: float(pair[1].sum()))


def _times_along(uv: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times at which the places [N,S,2], joined by straight lines, are nearest to each of the wanted ones [N,M,2]."""
    S, M = uv.shape[1], wanted.shape[1]
    times, residual = np.zeros(M), np.zeros(M)
    if S == 1:
        return times, np.sqrt(((uv - wanted) ** 2).sum(-1).mean(0))
    start = uv[:, :-1].transpose(1, 0, 2).reshape(S - 1, -1)
    way = uv[:, 1:].transpose(1, 0, 2).reshape(S - 1, -1) - start
    square = (way**2).sum(1)
    low = 0
    for j in range(M):
        rest = wanted[:, j].reshape(-1)[None] - start[low:]
        share = np.clip((rest * way[low:]).sum(1) / np.where(square[low:] > 0, square[low:], 1.0), 0, 1)
        left = ((rest - share[:, None] * way[low:]) ** 2).sum(1)
        at = int(np.argmin(left))
        times[j] = max(low + at + share[at], times[j - 1] if j else 0.0)
        residual[j] = np.sqrt(left[at] / len(uv))
        low += at
    return times, residual


def depth_by_frame(
    times: Float[np.ndarray, " M"], z: Float[np.ndarray, "N M"], frames: int
) -> tuple[Float[np.ndarray, "N S"], Bool[np.ndarray, " S"]]:
    """Depth at frames 0 … frames − 1 by interpolation between the steps; which frames lie within them."""
    at = np.arange(frames, dtype=np.float64)
    inside = at <= times[-1] + 1e-6
    unique, first = np.unique(times, return_index=True)
    return np.stack([np.interp(at, unique, row[first]) for row in z.astype(np.float64)]), inside
