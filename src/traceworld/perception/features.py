"""The embedded features: what a cell of the image looks like, without weights (mu0-paper A.1 uses DINOv2 in this place)."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from traceworld.perception.interfaces import BackendInfo


class EmbeddedFeatures:
    """Colour (Lab), gradient energy and depth per cell; a cell is 8 px at 640 px width.

    Depth enters as logarithm, so that a difference means the same share of the distance everywhere. Channels are scaled so
    that a difference of one is a clear difference to the eye (about 12 Lab units, 15 % of depth).
    """

    info = BackendInfo("features", "embedded", "1", "Apache-2.0")

    def __init__(self, cells_across: int = 80):
        self.cells_across = cells_across

    def grid_size(self, width: int, height: int) -> tuple[int, int]:
        """(columns, rows) of the grid for an image of this size."""
        cell = max(1.0, width / self.cells_across)
        return max(1, round(width / cell)), max(1, round(height / cell))

    def describe(
        self, image: UInt8[np.ndarray, "H W 3"], depth_m: Float32[np.ndarray, "H W"] | None = None
    ) -> Float32[np.ndarray, "h w C"]:
        """[h,w,5]: L, a, b, gradient energy, log depth (0 without depth)."""
        height, width = image.shape[:2]
        size = self.grid_size(width, height)
        lab = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2LAB).astype(np.float32)
        gray = cv2.GaussianBlur(lab[..., 0], (3, 3), 0)
        energy = np.hypot(
            cv2.Sobel(gray, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(gray, cv2.CV_32F, 0, 1, scale=1 / 8)
        )
        cells = np.asarray(cv2.resize(lab, size, interpolation=cv2.INTER_AREA), np.float32) / 12.0
        cells[..., 0] *= 0.6  # shading changes brightness more readily than hue
        grain = np.log1p(cv2.resize(energy, size, interpolation=cv2.INTER_AREA))
        return np.concatenate([cells, grain[..., None], self._log_depth(depth_m, size)[..., None]], -1).astype(
            np.float32
        )

    def _log_depth(self, depth_m: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
        if depth_m is None:
            return np.zeros((size[1], size[0]), np.float32)
        known = np.isfinite(depth_m)
        weight = cv2.resize(known.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        total = cv2.resize(np.where(known, depth_m, 0).astype(np.float32), size, interpolation=cv2.INTER_AREA)
        mean = np.where(weight > 0.2, total / np.maximum(weight, 1e-6), np.nan)
        fallback = np.nanmedian(mean) if np.isfinite(mean).any() else 1.0
        return np.log(np.maximum(np.nan_to_num(mean, nan=float(fallback)), 1e-3)) / 0.15
