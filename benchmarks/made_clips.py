"""Videos for benchmarks of extraction: textured cards that go to and fro before a textured wall, filmed by a camera at rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np

RATE = 30
_CARDS = ((0.05, 0.07, 0.19, 0.17, 0.14, 1), (0.55, 0.07, 0.16, 0.17, 0.21, 2), (0.06, 0.36, 0.21, 0.17, 0.3, 1))
"""Left, top, width, height and reach in shares of the picture's width; times to and fro in four seconds."""


def _grain(seed: int, height: int, width: int, cell: float) -> np.ndarray:
    size = (round(height / cell) + 2, round(width / cell) + 2, 3)
    coarse = np.random.default_rng(seed).integers(20, 236, size).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def pictures(frames: int, width: int, height: int, seed: int) -> Iterator[np.ndarray]:
    """uint8 [height,width,3]."""
    wall = _grain(seed, height, width, width / 40)
    cards = [
        _grain(seed + 1 + k, round(card[3] * width), round(card[2] * width), width / 40)
        for k, card in enumerate(_CARDS)
    ]
    for frame in range(frames):
        picture = wall.copy()
        for (left, top, _, _, reach, times), card in zip(_CARDS, cards, strict=True):
            x = round(width * (left + reach * (1 - np.cos(2 * np.pi * times * frame / (4 * RATE))) / 2))
            y = round(width * top)
            picture[y : y + card.shape[0], x : x + card.shape[1]] = card[: height - y]
        yield picture


def write_clip(path: Path, frames: int, width: int = 640, height: int = 480, seed: int = 0) -> Path:
    """An H.264 video of 30 frames per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures(frames, width, height, seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path
