"""Numbers as words: units drawn as in §5.2 (below 1 m centimetres, sometimes inches; from 1 m metres, sometimes feet), points."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from traceworld.tracespatial.answers import SCALE, format_point

METRES_PER = {"m": 1.0, "cm": 0.01, "inches": 0.0254, "feet": 0.3048}
DECIMALS = {"m": 2, "cm": 1, "inches": 1, "feet": 1}
INCH_SHARE = 0.2
"""Of lengths below 1 m."""
FOOT_SHARE = 0.2
"""Of lengths from 1 m on."""


def draw_unit(length_m: float, rng: np.random.Generator) -> str:
    """A unit for a length: the paper says which, not how often."""
    if length_m < 1:
        return "inches" if rng.random() < INCH_SHARE else "cm"
    return "feet" if rng.random() < FOOT_SHARE else "m"


def length_words(length_m: float, unit: str) -> str:
    """`0.1234, cm` → `12.3 cm`."""
    return f"{length_m / METRES_PER[unit]:.{DECIMALS[unit]}f} {unit}"


def says_enough(length_m: float, unit: str) -> bool:
    """Whether rounding to the unit's last digit keeps the length to 2 %."""
    return 0.5 * 10.0 ** -DECIMALS[unit] * METRES_PER[unit] <= 0.02 * length_m


def thousandths(xy_px: Float[np.ndarray, "*points 2"], width: int, height: int) -> Int[np.ndarray, "*points 2"]:
    """Pixels → whole thousandths of the picture's width and height, as answers write them."""
    return np.floor(np.asarray(xy_px, np.float64) * [SCALE / width, SCALE / height] + 0.5).astype(np.int64)


def pixel_of(uv: Int[np.ndarray, 2], width: int, height: int) -> tuple[int, int]:
    """The pixel (column, row) that thousandths name."""
    x, y = np.floor(np.asarray(uv, np.float64) * [width / SCALE, height / SCALE] + 0.5).astype(int)
    return min(int(x), width - 1), min(int(y), height - 1)


def point_words(uv: Int[np.ndarray, 2], depth_m: float | None = None) -> str:
    """`(412, 377)` or, with a depth, `(412, 377, 1.204)`."""
    return format_point(np.array([*uv] if depth_m is None else [*uv, depth_m], np.float64))
