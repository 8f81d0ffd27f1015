"""Numbers in answers: their units, their ranges, how points are written."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Num

from traceworld.errors import InvalidInputError

SCALE = 1000.0
"""u and v run from 0 to this over the picture's width and height."""
MAX_UV = 10 * SCALE
"""Ten pictures beside the picture: a trace may leave it, but not the neighbourhood."""
MAX_DEPTH_M = 1000.0
MAX_CHARACTERS = 4 * 2**20
"""Of one answer."""
NUMBER = r"[-+]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][-+]?\d{1,4})?"
"""Digits are bounded, so that a book of digits takes linear time; a number cut short by that fails to match."""
METRES_PER_UNIT = {
    "mm": 0.001, "millimeter": 0.001, "millimetre": 0.001,
    "cm": 0.01, "centimeter": 0.01, "centimetre": 0.01,
    "m": 1.0, "meter": 1.0, "metre": 1.0,
    "in": 0.0254, "inch": 0.0254, "inches": 0.0254,
    "ft": 0.3048, "foot": 0.3048, "feet": 0.3048,
}  # fmt: skip


def metres_per(unit: str) -> float | None:
    """Metres of a unit of length as written (`cm`, `Meters`, `feet`), None if it is none."""
    unit = unit.lower().rstrip(".")
    return METRES_PER_UNIT.get(unit, METRES_PER_UNIT.get(unit.removesuffix("s")))


def format_point(point: Num[np.ndarray, " D"]) -> str:
    """`(u, v)` or `(u, v, d)`: whole thousandths and metres with three decimals.

    Raises:
        InvalidInputError: not finite, or neither two nor three numbers.
    """
    if len(point) not in (2, 3) or not np.isfinite(point).all():
        raise InvalidInputError(f"{point.tolist()} is no point", where="format_point", mend="give finite (u, v[, d])")
    u, v = (math.floor(float(value) + 0.5) for value in point[:2])
    return f"({u}, {v})" if len(point) == 2 else f"({u}, {v}, {float(point[2]):.3f})"


def format_trace(points: Num[np.ndarray, "P D"]) -> str:
    """`[(u, v, d), …]` of points in thousandths of the picture and metres ([P,2]: without depth).

    Raises:
        InvalidInputError: a point is not finite or has neither two nor three numbers.
    """
    return "[" + ", ".join(format_point(point) for point in points) + "]"


def to_thousandths(uvd_px: Num[np.ndarray, "P D"], width: int, height: int) -> Num[np.ndarray, "P D"]:
    """Pixels to thousandths as the benchmark counts them (u / width · 1000, without half a pixel); depth stays."""
    return uvd_px * _factors(uvd_px.shape[1], SCALE / width, SCALE / height)


def to_pixels(points: Num[np.ndarray, "P D"], width: int, height: int) -> Num[np.ndarray, "P D"]:
    """Inverse of `to_thousandths`."""
    return points * _factors(points.shape[1], width / SCALE, height / SCALE)


def _factors(dims: int, across: float, down: float) -> np.ndarray:
    return np.array([across, down, 1.0])[:dims]
