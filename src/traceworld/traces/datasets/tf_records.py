"""TFRecord files of `tf.train.Example`, read without TensorFlow: where the records are, and their features.

A record is its length (8 bytes, little endian), a masked CRC-32C of these bytes, the data, and a CRC of the data. An Example
is a protocol buffer: a map from names to lists of bytes, floats or integers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from traceworld.errors import DatasetError

_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4
_MEND = "download the file again"


def record_places(path: Path) -> Iterator[tuple[int, int]]:
    """(offset, length) of every record's data, found by jumping from header to header.

    Raises:
        DatasetError: the file cannot be read, is cut, or a header is damaged (what comes after it cannot be found).
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            at, number = 0, 0
            while at < size:
                file.seek(at)
                header = file.read(_HEADER.size)
                where = f"{path}, record {number}"
                if len(header) < _HEADER.size:
                    raise DatasetError("is cut off", where=where, mend=_MEND)
                length, checksum = _HEADER.unpack(header)
                if checksum != _masked(crc32c(header[:8])):
                    raise DatasetError("has a damaged header", where=where, mend=_MEND)
                if at + _HEADER.size + length + _FOOTER_BYTES > size:
                    raise DatasetError("is cut off", where=where, mend=_MEND)
                yield at + _HEADER.size, length
                at, number = at + _HEADER.size + length + _FOOTER_BYTES, number + 1
    except OSError as error:
        raise DatasetError(f"cannot be read: {error}", where=str(path), mend=_MEND) from error


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli). Bit by bit: for headers, not for pictures."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_example(path: Path, offset: int, length: int) -> dict[str, list[bytes] | np.ndarray]:
    """The features of a record: lists of bytes, float32 arrays, int64 arrays.

    Raises:
        DatasetError: it is no Example.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(length)
        found: dict[str, list[bytes] | np.ndarray] = {}
        for _, features in _fields(memoryview(data), 1):
            for _, entry in _fields(features, 1):
                parts = dict(_fields(entry))
                found[bytes(parts[1]).decode("utf-8")] = _values(parts[2])
        return found
    except (OSError, IndexError, KeyError, ValueError, struct.error) as error:
        raise DatasetError(
            f"holds no readable Example: {error!r}", where=f"{path} at byte {offset}", mend=_MEND
        ) from error


def _values(feature: memoryview) -> list[bytes] | np.ndarray:
    for kind, values in _fields(feature):
        if kind == 1:
            return [bytes(value) for _, value in _fields(values, 1)]
        if kind == 2:  # packed, or one by one
            return np.concatenate(
                [np.frombuffer(part, "<f4") for _, part in _fields(values, 1)] or [np.zeros(0, "<f4")]
            )
        if kind == 3:
            return np.array([number for _, part in _fields(values, 1) for number in _varints(part)], np.int64)
    return []


def _fields(data: memoryview, only: int | None = None) -> Iterator[tuple[int, memoryview]]:
    """(number, content) of a message's fields; a number that stands alone comes as its bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind, number = tag & 7, tag >> 3
        if kind == 0:
            end = _varint(data, at)[1]
        elif kind == 2:
            size, at = _varint(data, at)
            end = at + size
        elif kind in (1, 5):
            end = at + (8 if kind == 1 else 4)
        else:
            raise ValueError(f"field of kind {kind}")
        if end > len(data):
            raise ValueError("a field goes beyond the end")
        if only is None or number == only:
            yield number, data[at:end]
        at = end


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            return value, at
    raise ValueError("a number without end")


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value - (1 << 64) if value >= 1 << 63 else value
