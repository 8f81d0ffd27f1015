"""Camera intrinsics when the source gives none."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64

from traceworld.errors import ConfigError

ASSUMED_FOV_DEG = 60.0
"""Horizontal field of view assumed for plain video: between a phone's main camera (~65°) and a webcam (~55°)."""


def assumed_K(
    width: int, height: int, fov_deg: float = ASSUMED_FOV_DEG, pixel_aspect: float = 1.0
) -> Float64[np.ndarray, "3 3"]:
    """Pinhole intrinsics from a field of view across the longer image side (so a rotated video gets the same focal length).

    Args:
        width, height: pixels.
        fov_deg: field of view across the longer side, degrees.
        pixel_aspect: width of a pixel divided by its height, as containers state it (1 = square).

    Raises:
        ConfigError: the field of view is not between 1 and 179 degrees.
    """
    if not 1.0 <= fov_deg <= 179.0:
        raise ConfigError(f"{fov_deg}° is no field of view", where="fov_deg", mend="between 1 and 179 degrees")
    # A focal length counted in pixels is shorter where pixels are larger: fy = fx · pixel_aspect.
    half_side = max(width * pixel_aspect, height) / 2
    fy = half_side / math.tan(math.radians(fov_deg) / 2)
    fx = fy / pixel_aspect
    return np.array([[fx, 0, (width - 1) / 2], [0, fy, (height - 1) / 2], [0, 0, 1]], np.float64)
