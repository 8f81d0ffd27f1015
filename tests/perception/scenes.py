"""Synthetic RGB-D scenes with exact motion: a textured background plane and a textured card that slides over it."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from traceworld.perception.interfaces import Frame

K = np.array([[250.0, 0, 159.5], [0, 250.0, 119.5], [0, 0, 1]])
WIDTH, HEIGHT = 320, 240
BACK_M, CARD_M = 1.5, 1.0


def texture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Smooth random picture, uint8 [H,W,3]."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = gaussian_filter(noise, (1.5, 1.5, 0))
    return np.clip(128 + 45 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def card_scene(
    frames: int, shift_px: tuple[float, float] = (3.0, 0.0), card: tuple[int, int, int, int] = (60, 80, 80, 70)
) -> tuple[list[Frame], np.ndarray]:
    """A card (x, y, w, h in frame 0) at 1 m slides by `shift_px` per frame before a wall at 1.5 m; the camera is still.

    Returns:
        frames and the card's offsets [T,2] in pixels.
    """
    back = texture(1)
    front = texture(2).astype(np.float64)
    x0, y0, w, h = card
    ys, xs = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    offsets = np.arange(frames)[:, None] * np.array(shift_px)[None]
    result = []
    for t, (dx, dy) in enumerate(offsets):
        u, v = xs - dx, ys - dy
        on_card = (u >= x0) & (u < x0 + w) & (v >= y0) & (v < y0 + h)
        image = back.copy()
        sampled = np.stack([map_coordinates(front[..., c], [v, u], order=1, mode="reflect") for c in range(3)], -1)
        image[on_card] = np.clip(sampled[on_card], 0, 255).astype(np.uint8)
        depth = np.where(on_card, CARD_M, BACK_M).astype(np.float32)
        result.append(Frame(t, t / 10, image, depth))
    return result, offsets


class ListSource:
    """A `FrameSource` over frames in memory."""

    def __init__(self, frames: list[Frame], intrinsics: np.ndarray | None = K):
        self.uri, self.kind, self.task = "memory", "frames", ""
        self.frames, self.K = frames, intrinsics
        self.num_frames = None
        self.height, self.width = frames[0].image.shape[:2] if frames else (HEIGHT, WIDTH)
        self.metric_depth = bool(frames) and frames[0].depth_m is not None
        self.report: dict = {}

    def __iter__(self):
        return iter(self.frames)

    def close(self) -> None: ...

    def __enter__(self):
        return self

    def __exit__(self, *exc) -> None: ...
