"""Messages of openpi's protocol: msgpack with numpy arrays. Nothing that is read can run code."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np

_KINDS = "biufU"


def pack(value: Any) -> bytes:
    """A message as bytes. Raises TypeError for what does not travel (objects, complex numbers, dates)."""
    return msgpack.packb(value, default=_as_map)


def unpack(data: bytes) -> Any:
    """A message from bytes; arrays are read-only. Raises ValueError for what is no message."""
    return msgpack.unpackb(data, object_hook=_from_map)


def _as_map(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in _KINDS:
        if isinstance(value, np.generic):
            return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    raise TypeError("cannot send a {}".format(getattr(value, "dtype", type(value).__name__)))


def _from_map(value: dict) -> Any:
    if b"__ndarray__" in value:
        dtype = _dtype(value)
        return np.frombuffer(value[b"data"], dtype).reshape(value[b"shape"])
    if b"__npgeneric__" in value:
        return _dtype(value).type(value[b"data"])
    return value


def _dtype(value: dict) -> np.dtype:
    dtype = np.dtype(value[b"dtype"])
    if dtype.kind not in _KINDS:
        raise ValueError(f"an array of {dtype}")
    return dtype
