"""A PNG of an array with the standard library alone."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of uint8 [H,W,3] (RGB) or uint16 [H,W] (grey).

    Raises:
        ValueError: another shape or type.
    """
    if image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8:
        depth, colour = 8, 2
    elif image.ndim == 2 and image.dtype == np.uint16:
        depth, colour = 16, 0
    else:
        raise ValueError(f"a picture is uint8 [H,W,3] or uint16 [H,W], not {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    rows = np.ascontiguousarray(image, image.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()  # each row: no filter
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_part(kind, data) for kind, data in parts)


def _part(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
