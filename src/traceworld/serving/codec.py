"""What travels on the policy socket: msgpack with numpy arrays, as openpi's client writes and reads it.

An array is a map with byte keys: `__ndarray__` True, `data` (bytes in C order), `dtype` (numpy's text, e.g. `<f4`), `shape`.
A numpy scalar: `__npgeneric__` True, `data` (a number), `dtype`. Objects, structures and complex numbers do not travel, so
nothing that is read can run code. Whatever is read is bounded before it takes memory: bytes, entries, depth, texts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from traceworld.errors import InvalidInputError
from traceworld.extras import require

_NUMBERS = {
    text: np.dtype(text)
    for text in (
        "|b1",
        "|i1",
        "|u1",
        *(f"{order}{kind}{size}" for order in "<>" for kind in "iu" for size in (2, 4, 8)),
    )
} | {f"{order}f{size}": np.dtype(f"{order}f{size}") for order in "<>" for size in (2, 4, 8)}
_TEXT = re.compile(r"[<>]U([0-9]{1,5})")
_MAX_DIMS = 8


@dataclass(frozen=True)
class CodecLimits:
    """What a message may cost.

    Attributes:
        max_bytes: of the whole message.
        max_entries: of all maps and lists together (an array is one entry, however long).
        max_depth: of maps and lists within each other.
        max_text: characters of one text.
    """

    max_bytes: int = 16 * 2**20
    max_entries: int = 4096
    max_depth: int = 12
    max_text: int = 16384


def pack(value: Any) -> bytes:
    """A message as bytes.

    Raises:
        InvalidInputError: it holds something that does not travel (an object or complex array, a Python object).
    """
    msgpack = require("msgpack")
    try:
        return msgpack.packb(value, default=_as_map)
    except InvalidInputError:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInputError(f"cannot be sent: {error}", where="message") from error


def unpack(data: bytes, limits: CodecLimits | None = None) -> Any:
    """A message from bytes; arrays are read-only views of them.

    Raises:
        InvalidInputError: not msgpack, over a limit, or an array that does not hold what it says.
    """
    msgpack = require("msgpack")
    limits = limits or CodecLimits()
    if len(data) > limits.max_bytes:
        raise InvalidInputError(f"{len(data)} bytes", where="message", mend=f"send at most {limits.max_bytes}")
    reader = _Reader(limits)
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=reader.mapping,
            list_hook=reader.sequence,
            max_str_len=4 * limits.max_text,
            max_bin_len=limits.max_bytes,
            max_array_len=limits.max_entries,
            max_map_len=limits.max_entries,
            max_ext_len=0,
        )
    except InvalidInputError:
        raise
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise InvalidInputError(
            f"is not readable: {_words(error)}", where="message", mend="send one msgpack map in a binary message"
        ) from error
    _check_depth(value, limits.max_depth)
    return value


class _Reader:
    """Counts what msgpack has read so far and turns maps of arrays into arrays."""

    def __init__(self, limits: CodecLimits):
        self._limits, self._entries = limits, 0

    def sequence(self, items: list) -> list:
        self._count(len(items))
        return items

    def mapping(self, pairs: Sequence[tuple[Any, Any]]) -> Any:
        self._count(len(pairs))
        value = dict(pairs)
        if len(value) != len(pairs):
            raise InvalidInputError("a key stands twice in a map", where="message")
        if b"__ndarray__" in value:
            return _array(value, self._limits)
        if b"__npgeneric__" in value:
            return _scalar(value, self._limits)
        return value

    def _count(self, entries: int) -> None:
        self._entries += 1 + entries
        if self._entries > self._limits.max_entries:
            raise InvalidInputError(
                "has too many entries",
                where="message",
                mend=f"send arrays; lists and maps hold {self._limits.max_entries}",
            )


def _as_map(value: Any) -> Any:
    if not isinstance(value, np.ndarray | np.generic):
        raise InvalidInputError(
            f"a {type(value).__name__} cannot be sent", where="message", mend="send arrays and texts"
        )
    text = value.dtype.str
    if text not in _NUMBERS and not _TEXT.fullmatch(text):
        raise InvalidInputError(
            f"arrays of {value.dtype} cannot be sent", where="message", mend="send numbers or texts"
        )
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": text, b"shape": value.shape}
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": text}


def _dtype(text: Any, limits: CodecLimits) -> np.dtype:
    if isinstance(text, str) and text in _NUMBERS:
        return _NUMBERS[text]
    found = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if found is None or not 0 < int(found[1]) <= limits.max_text:
        shown = repr(text)[:40]
        raise InvalidInputError(f"arrays of {shown} are not read", where="message", mend=f"send {', '.join(_NUMBERS)}")
    return np.dtype(text)


def _array(value: dict[Any, Any], limits: CodecLimits) -> np.ndarray:
    data, shape = value.get(b"data"), value.get(b"shape")
    dtype = _dtype(value.get(b"dtype"), limits)
    if not isinstance(data, bytes) or not isinstance(shape, list):
        raise InvalidInputError("an array lacks its data or shape", where="message")
    if len(shape) > _MAX_DIMS or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise InvalidInputError(
            f"an array of shape {str(shape)[:80]}", where="message", mend=f"at most {_MAX_DIMS} axes"
        )
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != len(data):
        raise InvalidInputError(
            f"an array of shape {shape} and {dtype} takes {wanted} bytes, {len(data)} were sent", where="message"
        )
    if dtype.kind == "U":
        _check_letters(np.frombuffer(data, f"{dtype.str[0]}u4"))
    try:
        return np.ndarray(buffer=data, dtype=dtype, shape=tuple(shape))
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"an array of shape {shape}: {error}", where="message") from error


def _check_letters(codes: np.ndarray) -> None:
    """numpy would make broken Python texts of numbers that are no letters."""
    if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any():
        raise InvalidInputError("a text array holds what is no letter", where="message")


def _scalar(value: dict[Any, Any], limits: CodecLimits) -> np.generic:
    data, dtype = value.get(b"data"), _dtype(value.get(b"dtype"), limits)
    fits = isinstance(data, str) if dtype.kind == "U" else isinstance(data, bool | int | float)
    if not fits:
        raise InvalidInputError(f"a number of {dtype} is {type(data).__name__}", where="message")
    try:
        return dtype.type(data)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInputError(f"{str(data)[:40]} is no {dtype}", where="message") from error


def _check_depth(value: Any, most: int) -> None:
    level, depth = [value], 0
    while level:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        depth += any(isinstance(item, dict | list) for item in level)
        if depth > most:
            raise InvalidInputError("is nested too deeply", where="message", mend=f"at most {most} levels")
        level = inner


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]
