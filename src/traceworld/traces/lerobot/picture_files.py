"""Pictures and depth of a LeRobot episode as files of our clip store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from traceworld.traces.atomic import write_atomically
from traceworld.traces.lerobot.data import EpisodePictures, depth_unit_m
from traceworld.traces.lerobot.encode import png_bytes
from traceworld.traces.types import Media

_FINE_UNIT_M = 0.0002  # of 16-bit PNGs made from metres as floats or from depth video: up to 13.1 m


def store_pictures(
    pictures: EpisodePictures, key: str, depth_key: str | None, frames: Sequence[int], folder: Path, root: Path
) -> Media:
    """Store some frames' pictures (bytes that are PNG or JPEG already as they are, else PNG) and depth (16-bit PNG).

    Raises:
        MediaError, DepthError: one cannot be read.
    """
    feature, unit = pictures.layout.features[key], 0.001
    if depth_key is not None:
        unit = _stored_unit(pictures, depth_key)
    files, depth_files = [], []
    for frame in frames:
        data = pictures.encoded(key, frame) if feature.dtype == "image" else png_bytes(pictures.image(key, frame))
        suffix = "jpg" if data[:2] == b"\xff\xd8" else "png"
        if suffix == "png" and data[:4] != b"\x89PNG":
            data = png_bytes(pictures.image(key, frame))
        files.append(f"{frame:06d}.{suffix}")
        _write(folder / files[-1], data)
        if depth_key is not None:
            levels = np.nan_to_num(np.rint(pictures.depth(depth_key, frame).astype(np.float64) / unit), nan=0.0)
            depth_files.append(f"{frame:06d}.depth.png")
            _write(folder / depth_files[-1], png_bytes(np.where(levels < 65535, levels, 0).astype(np.uint16)))
    path = folder.resolve().relative_to(root.resolve()).as_posix()
    return Media("frames", path, tuple(frames), tuple(files), tuple(depth_files), unit)


def _stored_unit(pictures: EpisodePictures, depth_key: str) -> float:
    feature = pictures.layout.features[depth_key]
    if feature.dtype == "video":
        return 0.001 if feature.info.get("video.depth_max", 10.0) > 13.0 else _FINE_UNIT_M
    unit = depth_unit_m(feature, pictures.stored_depth(depth_key, 0).dtype)
    return 0.001 if unit == 0.001 else _FINE_UNIT_M


def _write(path: Path, data: bytes) -> None:
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
