"""A film of any length in which every path is known: textured cards that go to and fro before a textured wall.

The motion repeats itself, so only one period is drawn and encoded (groups of pictures are closed); its packets are then
written as often as the film is long. A reader sees an ordinary film.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

# (left, top, width, height, reach) in 1/160 of the picture's width, and how often the card goes to and fro per period.
# Each has its own lane: no card ever hides another.
CARDS = (
    (8.0, 6.0, 30.0, 20.0, 22.0, 1),
    (88.0, 6.0, 26.0, 20.0, 34.0, 2),
    (10.0, 34.0, 34.0, 20.0, 24.0, 2),
    (92.0, 34.0, 28.0, 20.0, 30.0, 1),
    (12.0, 62.0, 30.0, 20.0, 50.0, 1),
)
WALL = -1


def grain(seed: int, height: int, width: int, cell: int) -> np.ndarray:
    """Random picture, uint8 [height, width, 3], with detail of about `cell` pixels."""
    coarse = np.random.default_rng(seed).integers(20, 236, (round(height / cell) + 2, round(width / cell) + 2, 3))
    return cv2.resize(coarse.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


@dataclass(frozen=True)
class Film:
    """What a film shows; `period` is in frames, `cell` the size of its texture in pixels."""

    width: int
    height: int
    rate: int
    period: int
    cell: int

    def _box(self, card: int) -> tuple[int, int, int, int]:
        return tuple(round(value * self.width / 160) for value in CARDS[card][:4])  # type: ignore[return-value]

    def shift(self, card: int, frame: np.ndarray | int) -> np.ndarray:
        """How far to the right of its first place a card is, whole pixels."""
        reach, times = CARDS[card][4] * self.width / 160, CARDS[card][5]
        return np.rint(reach * (1 - np.cos(2 * np.pi * times * np.asarray(frame) / self.period)) / 2)

    def pictures(self) -> Iterator[np.ndarray]:
        """One period."""
        wall = grain(0, self.height, self.width, self.cell)
        cards = [grain(1 + k, self._box(k)[3], self._box(k)[2], self.cell) for k in range(len(CARDS))]
        for frame in range(self.period):
            picture = wall.copy()
            for k, card in enumerate(cards):
                left, top, width, height = self._box(k)
                left += int(self.shift(k, frame))
                picture[top : top + height, left : left + width] = card
            yield picture

    def shown(self, xy: np.ndarray, frame: np.ndarray, margin: float) -> np.ndarray:
        """[N] number of the card that each position [N,2] is on in its frame [N], `WALL` where no card ever comes, −2 within
        `margin` pixels of an outline or where a card passes. Cards and `WALL` are in sight throughout the film."""
        x, y = xy[:, 0], xy[:, 1]
        found = np.full(len(xy), WALL)
        for k in range(len(CARDS)):
            left, top, width, height = self._box(k)
            now = left + self.shift(k, frame)
            inside = (x > now + margin) & (x < now + width - 1 - margin)
            inside &= (y > top + margin) & (y < top + height - 1 - margin)
            swept = (x > left - margin) & (x < left + self.shift(k, self._farthest(k)) + width - 1 + margin)
            swept &= (y > top - margin) & (y < top + height - 1 + margin)
            found[swept] = -2
            found[inside] = k
        return found

    def _farthest(self, card: int) -> int:
        return self.period // (2 * CARDS[card][5])


def write_film(path: Path, film: Film, repeats: int) -> Path:
    """Encode one period with x264 and write it `repeats` times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=film.rate)
        stream.width, stream.height, stream.pix_fmt = film.width, film.height, "yuv420p"
        stream.gop_size, stream.thread_count = film.period, 1
        stream.options = {"preset": "ultrafast", "crf": "23", "bf": "0"}
        stream.time_base = stream.codec_context.time_base = Fraction(1, film.rate)
        packets = [
            packet
            for picture in film.pictures()
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        ]
        packets += stream.encode()
        whole = [(bytes(packet), packet.is_keyframe) for packet in packets]
        assert len(whole) == film.period
        for number in range(repeats * film.period):
            data, is_keyframe = whole[number % film.period]
            packet = av.Packet(data)
            packet.stream, packet.is_keyframe = stream, is_keyframe
            packet.time_base, packet.pts, packet.dts = Fraction(1, film.rate), number, number
            container.mux(packet)
    return path
