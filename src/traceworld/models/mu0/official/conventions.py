"""How the released μ0 looks at an observation (dossier §1.4, §1.5, §2.4), its weak points included."""

from __future__ import annotations

import functools

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor
from torch.nn import functional as F

from traceworld.models.blocks.turbo import NEAREST_VALID_M
from traceworld.models.mu0.conventions import Conventions
from traceworld.traces.batching import NO_INSTRUCTION

_TURBO_POLYNOMIAL = (
    (0.13572138, 4.61539260, -42.66032258, 132.13108234, -152.94239396, 59.28637943),
    (0.09140261, 2.19418839, 4.84296658, -14.18503333, 4.27729857, 2.82956604),
    (0.10667330, 12.64194608, -60.58204836, 110.36276771, -89.90310912, 27.34824973),
)
"""Red, green, blue as polynomials of degree 5 in x = index / 255 (A. Mikhailov's approximation of his own colormap, 2019)."""


@functools.cache
def polynomial_turbo_table() -> Float[Tensor, "256 3"]:
    """256 colours, RGB clipped to [0, 1]. Up to 0.13 away from the real table (`blocks.turbo`) at the dark ends."""
    x = np.linspace(0.0, 1.0, 256)
    table = np.stack([np.polynomial.polynomial.polyval(x, c) for c in _TURBO_POLYNOMIAL], axis=-1)
    return torch.from_numpy(table.clip(0, 1).astype(np.float32))


class OfficialConventions(Conventions):
    """Plain bilinear squares, depth resized as colours, zeros for an unknown past, no stop at the predicted end.

    Args:
        image_size: (width, height) in px of the prefix's pictures. DINOv2 is shown these, resized once more.
    """

    freezes_past_end = False

    def __init__(self, image_size: tuple[int, int]):
        self.width, self.height = image_size

    def observed_picture(
        self, image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "_h _w 3"]:
        return image  # resized only once, by `rgb`

    def observed_depth(
        self, depth_m: Float32[np.ndarray, "H W"], size: tuple[int, int]
    ) -> Float32[np.ndarray, "_h _w"]:
        return depth_m  # becomes colours first

    def rgb(self, image: UInt8[Tensor, "B H W 3"], height: int, width: int) -> Float[Tensor, "B 3 height width"]:
        return _bilinear(image.movedim(-1, 1).float() / 255, height, width)

    def dino_rgb(self, image: UInt8[Tensor, "B H W 3"], side: int) -> Float[Tensor, "B 3 side side"]:
        return _bilinear(self.rgb(image, self.height, self.width), side, side)

    def depth_picture(
        self, depth_m: Float[Tensor, "B H W"], log_range: Float[Tensor, " 2"], height: int, width: int
    ) -> Float[Tensor, "B 3 height width"]:
        known = torch.isfinite(depth_m) & (depth_m > NEAREST_VALID_M)
        low, high = log_range
        log_depth = torch.where(known, depth_m, low.exp()).float().clamp(low.exp(), high.exp()).log()
        near = 1 - (log_depth - low) / (high - low)
        index = (torch.where(known, near, 0) * 255).long().clamp(0, 255)
        colours = polynomial_turbo_table().to(depth_m.device)[index].movedim(-1, 1)
        return _bilinear(colours, height, width)

    def instruction(self, text: str) -> str:
        return text.strip() or NO_INSTRUCTION

    def history_shown(self, valid: Bool[np.ndarray, "N h"], given: bool) -> Bool[np.ndarray, "N h"]:
        """Unknown steps of a history that is given are shown as zeros, "has not moved"."""
        return np.full_like(valid, given)


def _bilinear(picture: Float[Tensor, "B 3 H W"], height: int, width: int) -> Float[Tensor, "B 3 height width"]:
    if picture.shape[-2:] == (height, width):
        return picture
    return F.interpolate(picture, (height, width), mode="bilinear", align_corners=False)
