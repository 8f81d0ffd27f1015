"""The pictures of a stored clip: read one frame's colour or depth, know which frames have any, and store pictures.

Pictures come as they are on disk: they may be smaller than the clip's cameras say. uv and K in uv units do not care.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageOps

from traceworld.errors import DepthError, InvalidInputError, MediaError
from traceworld.traces.atomic import write_atomically
from traceworld.traces.picture_size import check_picture_size
from traceworld.traces.types import Clip, Media

_BAD_PICTURE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
PICTURES = (".jpg", ".jpeg", ".png")


@runtime_checkable
class MediaReader(Protocol):
    """How the pictures of one kind of `Media` are read."""

    def frames(self, clip: Clip) -> list[int]:
        """Clip frames that have a picture, ascending."""
        ...

    def image(self, clip: Clip, frame: int) -> UInt8[np.ndarray, "H W 3"]:
        """RGB of a frame that has a picture."""
        ...

    def depth(self, clip: Clip, frame: int) -> Float32[np.ndarray, "Hd Wd"] | None:
        """Metres with NaN where unknown, pixel for pixel with the image (at its own resolution), or None."""
        ...


_READERS: dict[str, MediaReader] = {}


def register_media_reader(kind: str, reader: MediaReader) -> None:
    """Read media of `kind` with `reader` from now on (one that registers depth to the colour camera, for example)."""
    _READERS[kind] = reader


def media_path(clip: Clip) -> Path:
    """Where the clip's pictures are: `media.path`, relative to the dataset folder unless absolute."""
    path = Path(clip.media.path)
    return path if path.is_absolute() or clip.root is None else clip.root / path


def frames_with_pictures(clip: Clip) -> list[int]:
    """Clip frames whose picture is stored, ascending; empty for a clip without pictures."""
    return [] if clip.media.kind == "none" else _READERS[clip.media.kind].frames(clip)


def read_frame(clip: Clip, frame: int) -> UInt8[np.ndarray, "H W 3"]:
    """The picture of a clip frame, RGB.

    Raises:
        InvalidInputError: no such frame, or no picture is stored of it.
        MediaError: the file is missing or damaged (named in the message).
    """
    return _reader(clip, frame).image(clip, frame)


def read_depth(clip: Clip, frame: int) -> Float32[np.ndarray, "H W"] | None:
    """The depth of a clip frame in metres along the camera axis, NaN where unknown; None if none is stored.

    Raises:
        InvalidInputError: no such frame, or nothing is stored of it.
        DepthError: the file is missing, damaged or no depth image.
    """
    return _reader(clip, frame).depth(clip, frame)


def _reader(clip: Clip, frame: int) -> MediaReader:
    where = f"clip {clip.clip_id}, frame {frame}"
    if not 0 <= frame < clip.num_frames:
        raise InvalidInputError(f"the clip has {clip.num_frames} frames", where=where)
    if clip.media.kind == "none":
        raise InvalidInputError("the clip was stored without pictures", where=where, mend="extract it with its media")
    return _READERS[clip.media.kind]


def source_frame(clip: Clip, frame: int, num_source_frames: int) -> int:
    """Number of the frame of the video or folder that clip frame `frame` shows.

    That is `provenance["source_frames"][frame]` where a clip has that list (it was resampled), else `frame` itself.

    Raises:
        MediaError: the source has no such frame.
    """
    listed = clip.provenance.get("source_frames")
    number = frame if listed is None else int(listed[frame])
    if not 0 <= number < num_source_frames:
        raise MediaError(
            f"has {num_source_frames} frames; the clip needs frame {number}",
            where=str(media_path(clip)),
            mend="restore the file that the clip was extracted from",
        )
    return number


# --- pictures in files ------------------------------------------------------------------------------------------------


def open_picture(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """An image file as upright RGB.

    Raises:
        MediaError: missing, damaged, no picture, or one of more than `MAX_PIXELS`.
    """
    try:
        with Image.open(path) as picture:
            check_picture_size(*picture.size, str(path))
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except _BAD_PICTURE as error:
        raise MediaError(f"cannot be read as a picture: {error}", where=str(path), mend="restore the file") from error


def open_depth(path: Path, unit_m: float, invalid: float = 0) -> Float32[np.ndarray, "H W"]:
    """A 16-bit PNG of depth as metres; 0, 65535 (saturated) and `invalid` become NaN.

    Raises:
        DepthError: missing, damaged or not a single-channel image of integers.
        MediaError: of more than `MAX_PIXELS`.
    """
    try:
        with Image.open(path) as picture:
            check_picture_size(*picture.size, str(path))
            values = np.asarray(picture)
    except _BAD_PICTURE as error:
        raise DepthError(f"cannot be read as depth: {error}", where=str(path), mend="restore the file") from error
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise DepthError(
            f"is no depth image ({values.dtype}, shape {values.shape})", where=str(path), mend="give a 16-bit grey PNG"
        )
    known = (values > 0) & (values != 65535) & (values != invalid)
    return np.where(known, values.astype(np.float32) * np.float32(unit_m), np.float32(np.nan))


class FramesReader:
    """`frames`: an image file (and a depth file) per stored clip frame."""

    def frames(self, clip: Clip) -> list[int]:
        return sorted(clip.media.frame_index)

    def _place(self, clip: Clip, frame: int) -> int:
        if frame not in clip.media.frame_index:
            raise InvalidInputError(
                "no picture of this frame is stored",
                where=f"clip {clip.clip_id}, frame {frame}",
                mend="choose one of frames_with_pictures(clip)",
            )
        return clip.media.frame_index.index(frame)

    def image(self, clip: Clip, frame: int) -> UInt8[np.ndarray, "H W 3"]:
        return open_picture(media_path(clip) / clip.media.files[self._place(clip, frame)])

    def depth(self, clip: Clip, frame: int) -> Float32[np.ndarray, "Hd Wd"] | None:
        place = self._place(clip, frame)
        if not clip.media.depth_files:
            return None
        return open_depth(media_path(clip) / clip.media.depth_files[place], clip.media.depth_unit_m)


class RgbdReader:
    """`rgbd`: a folder with `clip.json`, `color/NNNN.*` and `depth/NNNN.png` (docs/format.md).

    Depth of another camera (`depth_registered` false) is not mapped to the colour camera here: None.
    """

    def frames(self, clip: Clip) -> list[int]:
        return list(range(clip.num_frames))

    def _files(self, clip: Clip, frame: int) -> tuple[Path, Path, Mapping[str, Any]]:
        folder = media_path(clip)
        about, colours = _rgbd_listing(folder, _changed(folder / "clip.json"))
        colour = colours[source_frame(clip, frame, len(colours))]
        return folder / "color" / colour, folder / "depth" / f"{Path(colour).stem}.png", about

    def image(self, clip: Clip, frame: int) -> UInt8[np.ndarray, "H W 3"]:
        return open_picture(self._files(clip, frame)[0])

    def depth(self, clip: Clip, frame: int) -> Float32[np.ndarray, "Hd Wd"] | None:
        _, path, about = self._files(clip, frame)
        if not about.get("depth_registered", True) or not path.exists():
            return None
        return open_depth(path, float(about.get("depth_unit_m") or 0.001), float(about.get("depth_invalid") or 0))


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise MediaError(f"cannot be read: {error.strerror}", where=str(path), mend="restore the file") from error


def _by_number(name: str) -> tuple[tuple[int, str], ...]:
    """Sort key under which frame 10000 comes after frame 9999."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name))


@functools.lru_cache(maxsize=64)
def _rgbd_listing(folder: Path, _changed_ns: int) -> tuple[dict[str, Any], list[str]]:
    try:
        about = json.loads((folder / "clip.json").read_text(encoding="utf-8"))
        found = (path.name for path in (folder / "color").iterdir() if path.suffix.lower() in PICTURES)
        names = sorted((name for name in found if not name.startswith(".")), key=_by_number)
    except (OSError, ValueError) as error:
        raise MediaError(
            f"is not an RGB-D folder: {error}", where=str(folder), mend="restore clip.json and color/"
        ) from error
    if not names:
        raise MediaError("holds no colour pictures", where=str(folder / "color"), mend="restore them")
    return about, names


class VideoReader:
    """`video`: one file, decoded where a frame is asked for (traces/video_frames.py)."""

    def frames(self, clip: Clip) -> list[int]:
        return list(range(clip.num_frames))

    def image(self, clip: Clip, frame: int) -> UInt8[np.ndarray, "H W 3"]:
        from traceworld.traces.video_frames import video_frames

        video = video_frames(media_path(clip))
        return video.read(source_frame(clip, frame, len(video)))

    def depth(self, clip: Clip, frame: int) -> Float32[np.ndarray, "Hd Wd"] | None:
        return None


register_media_reader("frames", FramesReader())
register_media_reader("rgbd", RgbdReader())
register_media_reader("video", VideoReader())


# --- storing ----------------------------------------------------------------------------------------------------------


def write_pictures(
    folder: str | Path,
    images: Mapping[int, UInt8[np.ndarray, "H W 3"]],
    depths_m: Mapping[int, Float[np.ndarray, "H W"]] | None = None,
    *,
    relative_to: str | Path | None = None,
    quality: int = 92,
    depth_unit_m: float = 0.001,
) -> Media:
    """Store pictures of some frames of a clip: JPEG, and 16-bit PNG for depth. Equal pictures give equal files.

    Args:
        folder: where to; usually `writer.media_folder(item_id)`.
        images: clip frame → RGB.
        depths_m: clip frame → metres, NaN where unknown, for the same frames; None without depth.
        relative_to: the dataset folder, so that `Media.path` comes out relative to it; None: an absolute path.
        quality: of the JPEG files.
        depth_unit_m: metres per unit of the PNG files; values beyond 65535 units become invalid.

    Returns:
        The `Media` to put into the clip.

    Raises:
        InvalidInputError: depth is given for other frames than images.
        DatasetError: the folder cannot be written.
    """
    folder, frames = Path(folder), sorted(images)
    if depths_m is not None and sorted(depths_m) != frames:
        raise InvalidInputError("is given for other frames than images", where="write_pictures.depths_m")
    files, depth_files = [], []
    for frame in frames:
        picture = Image.fromarray(images[frame])
        files.append(f"{frame:06d}.jpg")
        write_atomically(folder / files[-1], functools.partial(picture.save, format="JPEG", quality=quality))
        if depths_m is not None:
            depth_files.append(f"{frame:06d}.png")
            stored = Image.fromarray(_depth_units(depths_m[frame], depth_unit_m))
            write_atomically(folder / depth_files[-1], functools.partial(stored.save, format="PNG", compress_level=4))
    path = folder.resolve()
    if relative_to is not None:
        path = path.relative_to(Path(relative_to).resolve())
    return Media("frames", path.as_posix(), tuple(frames), tuple(files), tuple(depth_files), depth_unit_m)


def _depth_units(depth_m: np.ndarray, unit_m: float) -> np.ndarray:
    units = np.nan_to_num(np.rint(depth_m / unit_m), nan=0, posinf=0, neginf=0)
    return np.where((units > 0) & (units <= 65535), units, 0).astype(np.uint16)
