"""A folder of pictures, one per frame, in natural order of their names."""

from __future__ import annotations

import re
from collections.abc import Generator
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from traceworld.errors import MediaError
from traceworld.perception.intrinsics import assumed_K
from traceworld.perception.source_base import RawFrame, SourceBase, SourceOptions, resize_image
from traceworld.traces.picture_size import check_picture_size

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_BAD_IMAGE = (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which `frame_2` comes before `frame_10`."""
    parts = re.split(r"(\d+)", name.lower())
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part)


def image_files(folder: Path) -> list[Path]:
    """The pictures directly in a folder, in natural order; hidden files are passed over."""
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    return sorted(found, key=lambda path: (natural_key(path.name), path.name))


def read_image(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Read a picture as upright RGB, whatever its mode (grey, 16-bit, palette, alpha, CMYK).

    Raises:
        MediaError: missing, damaged, truncated, no picture, or one of more than `MAX_PIXELS`.
    """
    try:
        with Image.open(path) as picture:
            check_picture_size(*picture.size, str(path))
            picture.load()
            turned = ImageOps.exif_transpose(picture)
            if turned.mode.startswith(("I", "F")):  # 16-bit grey: PIL's own conversion would clip it
                grey = np.asarray(turned, np.float64)
                top = 65535.0 if grey.max(initial=0) > 255 else 255.0
                return np.repeat((grey / top * 255).clip(0, 255).astype(np.uint8)[..., None], 3, -1)
            return np.array(turned.convert("RGB"))
    except _BAD_IMAGE as error:
        raise MediaError(
            f"cannot be read as a picture: {error}", where=str(path), mend="replace or remove it"
        ) from error


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of an upright picture from its header alone.

    Raises:
        MediaError: it is no picture.
    """
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            sideways = picture.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5–8 swap the sides
    except _BAD_IMAGE as error:
        raise MediaError(
            f"cannot be read as a picture: {error}", where=str(path), mend="replace or remove it"
        ) from error
    return (height, width) if sideways else (width, height)


def same_size(files: list[Path]) -> tuple[int, int]:
    """(width, height) that all these pictures share.

    Raises:
        MediaError: one differs, or is no picture; names it.
    """
    size = picture_size(files[0])
    for path in files[1:]:
        other = picture_size(path)
        if other != size:
            raise MediaError(
                f"is {other[0]}×{other[1]}, {files[0].name} is {size[0]}×{size[1]}",
                where=str(path),
                mend="all frames of a clip need one size; resize it or move it to a folder of its own",
            )
    return size


class FrameFolderSource(SourceBase):
    """Pictures of one clip; the time between two is 1 / `options.frame_rate`."""

    kind = "frames"

    def __init__(self, path: Path, options: SourceOptions):
        self.files = image_files(path)
        if len(self.files) < 2:
            raise MediaError(
                f"holds {len(self.files)} picture{'s' * (len(self.files) != 1)}",
                where=str(path),
                mend="a clip needs at least 2 (.jpg, .png)",
            )
        width, height = same_size(self.files)
        super().__init__(str(path), (width, height), assumed_K(width, height, options.fov_deg), options)
        self.report |= {"frame_rate": options.frame_rate, "fov_deg": options.fov_deg}
        if options.fps is None:
            self.num_frames = min(len(self.files), options.max_frames or len(self.files))

    def _load(self, path: Path) -> tuple[np.ndarray, None, None]:
        return resize_image(read_image(path), self.width, self.height), None, None

    def _raw_frames(self) -> Generator[RawFrame, None, None]:
        for number, path in enumerate(self.files):
            yield RawFrame(number, number / self.options.frame_rate, partial(self._load, path))
