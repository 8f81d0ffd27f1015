"""Pictures and depth of a batch as tensors of a wanted size, in plain torch."""

from __future__ import annotations

from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F


def resize_rgb(image: UInt8[Tensor, "B H W 3"], height: int, width: int) -> Float[Tensor, "B 3 height width"]:
    """RGB in [0, 1], resized bilinearly (antialiased when it shrinks); the aspect ratio is not kept, so uv stays true."""
    pixels = image.movedim(-1, 1).float() / 255
    if pixels.shape[-2:] == (height, width):
        return pixels
    return F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False, antialias=True)


def resize_depth(depth_m: Float[Tensor, "B H W"], height: int, width: int) -> Float[Tensor, "B height width"]:
    """Metres, resized to the nearest pixel: a mean across an edge would be a surface that does not exist."""
    if depth_m.shape[-2:] == (height, width):
        return depth_m
    return F.interpolate(depth_m[:, None], (height, width), mode="nearest-exact")[:, 0]
