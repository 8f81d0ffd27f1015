"""Encoded pictures that lie inside a dataset's own files, put into the clip store as they are."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from traceworld.errors import MediaError
from traceworld.traces.atomic import write_atomically
from traceworld.traces.types import Media
from traceworld.traces.writer import DatasetWriter


def store_jpegs(
    writer: DatasetWriter, item_id: str, pictures: Iterable[bytes], where: str
) -> tuple[Media, tuple[int, int]]:
    """Write one JPEG per frame into the item's media folder, after decoding each to its end.

    Returns:
        Where they are; width and height.

    Raises:
        MediaError: there is none, one cannot be decoded, or their sizes differ.
    """
    folder = writer.media_folder(item_id)
    sizes, names = set(), []
    for frame, data in enumerate(pictures):
        sizes.add(_size(data, f"{where}, frame {frame}"))
        names.append(f"{frame:06d}.jpg")
        write_atomically(folder / names[-1], functools.partial(_put, data))
    if len(sizes) != 1:
        raise MediaError(f"has pictures of {len(sizes)} sizes", where=where, mend="leave the episode out")
    inside = folder.resolve().relative_to(writer.path.resolve()).as_posix()
    return Media("frames", inside, tuple(range(len(names))), tuple(names)), sizes.pop()


def _put(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _size(data: bytes, where: str) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MediaError(
            f"cannot be read as a picture: {error}", where=where, mend="download the file again"
        ) from error
