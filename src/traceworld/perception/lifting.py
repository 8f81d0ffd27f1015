"""From pixels to 3D: reading depth maps at points without falling over their edges and holes."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float

PSEUDO_DEPTH_M = 1.0
"""Depth given to every pixel of a source that has none: traces are then exact in the image and meaningless along z."""


def jump_gate(z_m: np.ndarray | float, relative: float = 0.02, floor_m: float = 0.012) -> np.ndarray:
    """How far two depths of one surface may be apart: sensor noise grows with distance, and there is a floor."""
    return np.maximum(relative * np.asarray(z_m), floor_m)


def depth_windows(
    depth_m: Float[np.ndarray, "H W"], xy_px: Float[np.ndarray, "N 2"], half: int
) -> Float[np.ndarray, "N p p"]:
    """Depth around the nearest pixel of each point; NaN outside the image."""
    height, width = depth_m.shape
    centre = np.rint(np.nan_to_num(xy_px, nan=-1e6)).astype(np.int64)
    offset = np.arange(-half, half + 1)
    x = centre[:, None, None, 0] + offset[None, None, :]
    y = centre[:, None, None, 1] + offset[None, :, None]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    values = depth_m[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)].astype(np.float32)
    return np.where(inside, values, np.nan)


def sample_depth(
    depth_m: Float[np.ndarray, "H W"],
    xy_px: Float[np.ndarray, "N 2"],
    z_expected_m: Float[np.ndarray, " N"] | None = None,
) -> tuple[Float[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """Depth at sub-pixel positions, robust at edges and holes.

    On one surface (3×3 spread below the jump gate): the median of the window, moved to the sub-pixel position along the
    window's own slope. Across an edge: the measurement nearest to `z_expected_m` if it is within the gate, else the near
    quartile (a keypoint on a silhouette belongs to the near side). Holes are bridged from a 5×5 window.

    Returns:
        z_m [N] (NaN where nothing was measured) and edge [N]: True where the window spans two surfaces.
    """
    if len(xy_px) == 0:
        return np.zeros(0, np.float32), np.zeros(0, bool)
    wide = depth_windows(depth_m, xy_px, 2)
    small = wide[:, 1:4, 1:4].reshape(-1, 9)
    few = np.isfinite(small).sum(1) < 3
    window = np.where(few[:, None], np.nan, small)
    ordered_small = np.sort(window, axis=1)  # NaN goes last
    ordered_wide = np.sort(wide.reshape(-1, 25), axis=1)
    use_wide = few & (np.isfinite(ordered_wide).sum(1) >= 3)
    count = np.isfinite(ordered_small).sum(1)
    rows = np.arange(len(xy_px))
    median = ordered_small[rows, np.maximum(count - 1, 0) // 2]
    near = ordered_small[rows, np.maximum(count - 1, 0) // 4]
    spread = ordered_small[rows, np.maximum(count - 1, 0)] - ordered_small[:, 0]

    grid = wide[:, 1:4, 1:4]
    frac = xy_px - np.rint(xy_px)
    slope_x = (grid[:, 1, 2] - grid[:, 1, 0]) / 2
    slope_y = (grid[:, 2, 1] - grid[:, 0, 1]) / 2
    sloped = median + frac[:, 0] * slope_x + frac[:, 1] * slope_y
    z = np.where(np.isfinite(sloped), sloped, median)

    edge = spread > jump_gate(median)
    if z_expected_m is not None:
        off = np.abs(window - z_expected_m[:, None])
        off = np.where(np.isfinite(off), off, np.inf)
        best = off.argmin(1)
        nearest = np.where(off[rows, best] < jump_gate(z_expected_m), window[rows, best], near)
    else:
        nearest = near
    z = np.where(edge, nearest, z)
    if use_wide.any():
        wide_count = np.isfinite(ordered_wide).sum(1)
        z = np.where(use_wide, ordered_wide[rows, np.maximum(wide_count - 1, 0) // 2], z)
        wide_spread = ordered_wide[rows, np.maximum(wide_count - 1, 0)] - ordered_wide[:, 0]
        edge = np.where(use_wide, wide_spread > jump_gate(z), edge)
    z = np.where(z > 0, z, np.nan)
    return z.astype(np.float32), edge & np.isfinite(z)


def depth_edges(
    depth_m: Float[np.ndarray, "H W"], reach_px: int = 4, relative: float = 0.03
) -> Bool[np.ndarray, "H W"]:
    """Pixels within `reach_px` of a depth jump or of a hole: bad places for keypoints, whose patch would span two surfaces."""
    hole = ~np.isfinite(depth_m)
    filled = np.where(hole, 0.0, depth_m).astype(np.float32)
    kernel = np.ones((3, 3), np.uint8)
    top = cv2.dilate(filled, kernel)
    bottom = cv2.erode(filled, kernel)
    edge = (top - bottom) > np.maximum(relative * bottom, 0.02)
    # Single missing pixels (sensor speckle) are no edges; larger holes are.
    hole = cv2.morphologyEx(hole.astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0
    near_hole = cv2.dilate(hole.astype(np.uint8), kernel) > 0
    speckle = (~hole) & (cv2.dilate((~np.isfinite(depth_m)).astype(np.uint8), kernel) > 0)
    marked = (edge & ~speckle) | near_hole
    side = 2 * reach_px + 1
    return cv2.dilate(marked.astype(np.uint8), np.ones((side, side), np.uint8)) > 0


def fill_gaps(
    xyz_world: Float[np.ndarray, "T N 3"], valid: Bool[np.ndarray, "T N"], max_gap: int
) -> tuple[Float[np.ndarray, "T N 3"], Bool[np.ndarray, "T N"]]:
    """Bridge holes of at most `max_gap` frames between two valid positions by straight lines.

    Returns:
        new positions and the new `valid`; longer holes and both ends stay as they are.
    """
    frames, count = valid.shape
    filled, ok = xyz_world.copy(), valid.copy()
    if frames < 3 or count == 0 or max_gap < 1:
        return filled, ok
    index = np.arange(frames)[:, None]
    before = np.maximum.accumulate(np.where(valid, index, -1), axis=0)
    after = np.minimum.accumulate(np.where(valid, index, frames)[::-1], axis=0)[::-1]
    hole = ~valid & (before >= 0) & (after < frames) & (after - before - 1 <= max_gap)
    t, n = np.nonzero(hole)
    a, b = before[t, n], after[t, n]
    weight = ((t - a) / (b - a))[:, None]
    filled[t, n] = (1 - weight) * xyz_world[a, n] + weight * xyz_world[b, n]
    ok[t, n] = True
    return filled, ok
