"""What a vision-language model is shown: the picture with numbered rings on its keypoints, and depth as a second picture."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from traceworld.errors import InvalidInputError
from traceworld.geometry.cameras import uv_to_px

RING_RGB = (255, 0, 255)


def enlarged(image: UInt8[np.ndarray, "h w 3"], longer_side: int) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with its longer side of that many pixels, aspect kept (small pictures leave no room for numbers)."""
    height, width = image.shape[:2]
    factor = longer_side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def numbered(image: UInt8[np.ndarray, "H W 3"], uv: Float[np.ndarray, "N 2"]) -> UInt8[np.ndarray, "H W 3"]:
    """A copy with a magenta ring around each keypoint and its number beside it."""
    shown = np.ascontiguousarray(image).copy()
    height, width = shown.shape[:2]
    radius, scale = max(3, width // 120), max(0.35, width / 1800)
    for number, (x, y) in enumerate(np.round(uv_to_px(uv, width, height)).astype(int)):
        cv2.circle(shown, (int(x), int(y)), radius, RING_RGB, max(1, radius // 3), cv2.LINE_AA)
        corner = (int(min(x + radius + 1, width - 8 * radius)), int(np.clip(y - radius, 8, height - 1)))
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(shown, str(number), corner, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA)
    return shown


def depth_range(depth_m: Float[np.ndarray, "H W"]) -> tuple[float, float] | None:
    """2nd and 98th percentile of the known depths; None if there are none."""
    known = depth_m[np.isfinite(depth_m) & (depth_m > 0)]
    if not known.size:
        return None
    low, high = np.percentile(known, [2, 98])
    return float(low), float(max(high, low + 1e-3))


def coloured_depth(depth_m: Float[np.ndarray, "H W"], near_far: tuple[float, float]) -> UInt8[np.ndarray, "H W 3"]:
    """Turbo colours, red near to blue far; black where unknown."""
    grey = nearness(depth_m, near_far)
    colours = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    colours[~np.isfinite(depth_m)] = 0
    return colours.astype(np.uint8)


def nearness(depth_m: Float[np.ndarray, "H W"], near_far: tuple[float, float]) -> UInt8[np.ndarray, "H W"]:
    """255 near to 0 far or unknown: relative depth in eight bits."""
    near, far = near_far
    known = np.isfinite(depth_m)
    share = (far - np.where(known, depth_m, far)) / (far - near)
    return np.round(255 * np.clip(share, 0, 1)).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    """PNG bytes of an RGB, grey or 16-bit picture; equal pictures give equal bytes.

    Raises:
        InvalidInputError: it cannot be encoded.
    """
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, data = cv2.imencode(".png", pixels)
    if not done:
        raise InvalidInputError(f"cannot be encoded: {image.shape} {image.dtype}", where="picture")
    return data.tobytes()


def base64_text(data: bytes) -> str:
    """Base64 without line breaks."""
    return base64.b64encode(data).decode("ascii")
