"""Pictures and depth maps as they come over HTTP: encoded, of unknown origin, bounded before they are decoded."""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from traceworld.errors import InvalidInputError

MAX_SIDE = 4096
_COLOUR_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def from_base64(text: str, where: str) -> bytes:
    """Bytes from base64, with or without a `data:image/png;base64,` before it.

    Raises:
        InvalidInputError: it is not base64.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError(f"is not base64: {error}", where=where) from error


def decode_picture(data: bytes, where: str = "image") -> UInt8[np.ndarray, "H W 3"]:
    """A PNG or JPEG as RGB, turned as its EXIF orientation says. Transparency is dropped.

    Raises:
        InvalidInputError: neither, damaged, or larger than `MAX_SIDE` pixels a side.
    """
    picture = _opened(data, where)
    if picture.mode not in _COLOUR_MODES:
        raise InvalidInputError(f"has pixels of mode {picture.mode}", where=where, mend="send 8 bits per colour")
    try:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidInputError(f"is damaged: {error}", where=where) from error


def decode_depth_png(data: bytes, where: str = "depth") -> Float32[np.ndarray, "H W"]:
    """Metres from a 16-bit grey PNG of millimetres; 0 (unknown) becomes NaN.

    Raises:
        InvalidInputError: not such a file, damaged or too large.
    """
    picture = _opened(data, where)
    if picture.format != "PNG" or not picture.mode.startswith("I"):
        raise InvalidInputError(
            f"is a {picture.format} of mode {picture.mode}", where=where, mend="send a grey PNG of 16 bits, millimetres"
        )
    try:
        millimetres = np.asarray(picture).astype(np.float32)
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidInputError(f"is damaged: {error}", where=where) from error
    return np.where(millimetres > 0, millimetres / np.float32(1000), np.float32(np.nan))


def decode_depth_float32(data: bytes, shape: tuple[int, int], where: str = "depth") -> Float32[np.ndarray, "H W"]:
    """Metres from little-endian float32 in C order; 0, NaN and infinity are unknown.

    Raises:
        InvalidInputError: another number of bytes than the shape says, or negative depth.
    """
    height, width = shape
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE) or len(data) != 4 * height * width:
        raise InvalidInputError(
            f"{len(data)} bytes are no float32 of shape {[height, width]}", where=where, mend="send 4·H·W bytes"
        )
    depth = np.frombuffer(data, "<f4").reshape(height, width).astype(np.float32)
    if (depth < 0).any():
        raise InvalidInputError("is negative somewhere", where=where, mend="send metres, NaN or 0 for unknown")
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))


def _opened(data: bytes, where: str) -> Image.Image:
    """The file with its header read and its size checked; pixels are not decoded yet."""
    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidInputError("is neither PNG nor JPEG", where=where, mend="send the bytes of such a file") from error
    if max(picture.size) > MAX_SIDE:
        raise InvalidInputError(
            f"is {picture.width}×{picture.height} pixels", where=where, mend=f"send at most {MAX_SIDE} a side"
        )
    return picture
