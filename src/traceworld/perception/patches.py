"""Small square pieces of grey images around points: cut out, compared."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, UInt8

_ROWS_PER_CALL = 24_000  # cv2.remap refuses outputs with a side above 32767
_NOISE_LEVEL = 3.0  # grey levels; below this contrast two patches are called alike if their brightness agrees


def sample_patches(
    gray: UInt8[np.ndarray, "H W"], xy_px: Float[np.ndarray, "N 2"], half: int = 5
) -> Float[np.ndarray, "N p p"]:
    """Bilinear patches of side p = 2·half+1 around sub-pixel positions; outside the image the border is repeated."""
    side = 2 * half + 1
    count = len(xy_px)
    out = np.empty((count, side, side), np.float32)
    offset = np.arange(-half, half + 1, dtype=np.float32)
    step = max(1, _ROWS_PER_CALL // side)
    for start in range(0, count, step):
        xy = np.nan_to_num(xy_px[start : start + step], nan=-1e4).astype(np.float32)
        map_x = np.broadcast_to(xy[:, None, None, 0] + offset[None, None, :], (len(xy), side, side))
        map_y = np.broadcast_to(xy[:, None, None, 1] + offset[None, :, None], (len(xy), side, side))
        cut = cv2.remap(
            gray,
            np.ascontiguousarray(map_x).reshape(-1, side),
            np.ascontiguousarray(map_y).reshape(-1, side),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        out[start : start + step] = cut.reshape(len(xy), side, side)
    return out


def similarity(a: Float[np.ndarray, "N p p"], b: Float[np.ndarray, "N p p"]) -> Float[np.ndarray, " N"]:
    """Normalised cross-correlation in [-1,1] that does not fall apart where there is no texture.

    A floor of a few grey levels in the variances lets two plain patches of like brightness count as alike (≈ 1); a
    difference of mean brightness lowers the score, since plain patches could not be told apart otherwise.
    """
    mean_a, mean_b = a.mean((1, 2)), b.mean((1, 2))
    da, db = a - mean_a[:, None, None], b - mean_b[:, None, None]
    floor = _NOISE_LEVEL**2
    covariance = (da * db).mean((1, 2)) + floor
    score = covariance / np.sqrt(((da**2).mean((1, 2)) + floor) * ((db**2).mean((1, 2)) + floor))
    brightness = np.exp(-(((mean_a - mean_b) / 40.0) ** 2))
    return (score * brightness).astype(np.float32)


def texture(patches: Float[np.ndarray, "N p p"]) -> Float[np.ndarray, " N"]:
    """Smaller eigenvalue of the gradient's structure tensor, as a standard deviation (grey levels per pixel)."""
    gx = (patches[:, 1:-1, 2:] - patches[:, 1:-1, :-2]) / 2
    gy = (patches[:, 2:, 1:-1] - patches[:, :-2, 1:-1]) / 2
    xx, yy, xy = (gx * gx).mean((1, 2)), (gy * gy).mean((1, 2)), (gx * gy).mean((1, 2))
    smaller = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    return np.sqrt(np.maximum(smaller, 0.0)).astype(np.float32)
