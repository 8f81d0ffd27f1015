"""Depth images on disk → metres with NaN for "no measurement": formats, sentinels, units."""

from __future__ import annotations

import tokenize
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32
from PIL import Image, UnidentifiedImageError

from traceworld.errors import DepthError, MediaError
from traceworld.traces.picture_size import check_picture_size

DEPTH_SUFFIXES = (".png", ".tif", ".tiff", ".npy")
PLAUSIBLE_M = (0.05, 50.0)
"""Median depth of a scene that anything is manipulated in; outside it, the unit must be wrong."""
_COMMON_UNITS_M = (0.001, 1.0, 0.01, 0.0001)
_UINT16_TOP = 65535
_BAD_FILE = (
    OSError, ValueError, SyntaxError, EOFError, OverflowError, tokenize.TokenError, UnidentifiedImageError,
    Image.DecompressionBombError,
)  # fmt: skip


def read_depth_file(path: Path) -> np.ndarray:
    """Stored values of a depth image: uint16 (PNG, TIFF) or float (TIFF, NPY), [H,W].

    Raises:
        DepthError: missing, damaged, or not a one-channel image of at least 16 bits.
    """
    try:
        if path.suffix.lower() == ".npy":
            raw = _mapped(path)
        else:
            with Image.open(path) as picture:
                check_picture_size(*picture.size, str(path))
                raw = np.asarray(picture)
    except MediaError as error:
        raise DepthError(error.message, where=error.where, mend=error.mend) from error
    except _BAD_FILE as error:
        raise DepthError(f"cannot be read as a depth image: {error}", where=str(path), mend="replace it") from error
    if raw.ndim != 2:
        raise DepthError(
            f"has shape {raw.shape}; depth is one channel", where=str(path), mend="store it as 16-bit grey"
        )
    if raw.dtype.kind not in "buif":
        raise DepthError(f"holds {raw.dtype}, no numbers", where=str(path), mend="store float32 metres")
    if raw.dtype == np.uint8 or raw.dtype == np.bool_:
        raise DepthError(
            "has 8 bits per pixel, too few for metric depth",
            where=str(path),
            mend="store it as 16-bit PNG (millimetres)",
        )
    return raw


def _mapped(path: Path) -> np.ndarray:
    """An NPY array; its header may claim any size, so it is mapped first: what is not in the file cannot be asked for."""
    mapped = np.lib.format.open_memmap(path, mode="r")
    if mapped.ndim != 2:
        return mapped
    check_picture_size(mapped.shape[1], mapped.shape[0], str(path))
    return np.array(mapped)


def to_metres(raw: np.ndarray, unit_m: float, invalid: float | None = None) -> Float32[np.ndarray, "H W"]:
    """Stored values → metres. 0, negative, non-finite, 65535 in integer images, and `invalid` become NaN."""
    with np.errstate(invalid="ignore", over="ignore"):  # values that are no depth end as NaN below
        depth_m = raw.astype(np.float32) * np.float32(unit_m)
    usable = np.isfinite(depth_m) & (raw > 0)
    if np.issubdtype(raw.dtype, np.integer):
        usable &= raw != _UINT16_TOP
    if invalid is not None and np.isfinite(invalid):
        usable &= raw != invalid
    return np.where(usable, depth_m, np.float32(np.nan)).astype(np.float32)


def median_depth(images_m: Sequence[Float32[np.ndarray, "H W"]]) -> float:
    """Median over all measured pixels; NaN if there is none."""
    measured = [image[np.isfinite(image)] for image in images_m]
    values = np.concatenate(measured) if measured else np.zeros(0, np.float32)
    return float(np.median(values)) if len(values) else float("nan")


def settle_unit(
    raws: Sequence[np.ndarray], declared_m: float | None, invalid: float | None, where: str
) -> tuple[float, str | None]:
    """Metres per stored unit, judged by whether the scene's median depth is between 5 cm and 50 m.

    Args:
        raws: stored values of a few frames, at least one with a measurement.
        declared_m: what the folder says; believed if plausible. None: not stated.
        where: named in errors.

    Returns:
        (unit in metres, warning or None).

    Raises:
        DepthError: neither the declared unit nor any common one is plausible, or the declared one is not a positive number.
    """
    if declared_m is not None and not (np.isfinite(declared_m) and declared_m > 0):
        raise DepthError(f"{declared_m} is no unit", where=f"{where}: depth_unit_m", mend="0.001 for millimetres")
    median = median_depth([to_metres(raw, 1.0, invalid) for raw in raws])
    integer = np.issubdtype(raws[0].dtype, np.integer)
    usual = 0.001 if integer else 1.0
    candidates = [declared_m if declared_m is not None else usual, usual, *_COMMON_UNITS_M]
    for unit_m in candidates:
        if PLAUSIBLE_M[0] <= median * unit_m <= PLAUSIBLE_M[1]:
            if declared_m is None:
                return unit_m, f"depth_unit_m is not stated; {unit_m} is assumed (median depth {median * unit_m:.2f} m)"
            if unit_m != declared_m:
                return unit_m, (
                    f"depth_unit_m = {declared_m} would put the scene at {median * declared_m:.3g} m; "
                    f"{unit_m} is used instead (median depth {median * unit_m:.2f} m)"
                )
            return unit_m, None
    stated = f"with depth_unit_m = {declared_m} " if declared_m is not None else ""
    raise DepthError(
        f"the median stored depth is {median:.3g}, {stated}in no common unit between 5 cm and 50 m",
        where=where,
        mend="state the right depth_unit_m (metres per stored unit) in clip.json",
    )


def resize_nearest(depth_m: Float32[np.ndarray, "H W"], width: int, height: int) -> Float32[np.ndarray, "Hr Wr"]:
    """Depth at another size without mixing surfaces."""
    if depth_m.shape == (height, width):
        return depth_m
    return np.asarray(cv2.resize(depth_m, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.float32)


def valid_fraction(depth_m: Float32[np.ndarray, "H W"]) -> float:
    """Share of pixels with a measurement."""
    return float(np.isfinite(depth_m).mean())
