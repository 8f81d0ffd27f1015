"""Open whatever a user points at as a stream of frames: a video file, an RGB-D folder or a folder of pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from traceworld.errors import ConfigError, MediaError
from traceworld.perception import clip_media
from traceworld.perception.frame_folder import IMAGE_SUFFIXES, FrameFolderSource, image_files
from traceworld.perception.rgbd_folder import CLIP_FILE, RgbdFolderSource
from traceworld.perception.source_base import SourceBase, SourceOptions
from traceworld.perception.video import VIDEO_SUFFIXES, VideoSource

clip_media.install()

TRUTH_SUFFIX = ".truth"
"""Folders with this suffix hold a simulator's exact answers; they are never an input."""


def is_truth(path: Path) -> bool:
    """True for a folder of exact answers, and for everything inside one."""
    return any(part.endswith(TRUTH_SUFFIX) for part in path.parts)


def clip_kind(path: Path) -> str | None:
    """`rgbd`, `frames` or `video` if the path is one clip (judged by names alone); None if it is not."""
    if is_truth(path):
        return None
    if path.is_dir():
        # Without its description, pictures with depth must not pass for plain pictures: that is said when it is opened.
        if (path / CLIP_FILE).is_file() or all((path / part).is_dir() for part in ("color", "depth")):
            return "rgbd"
        holds_videos = any(
            child.suffix.lower() in VIDEO_SUFFIXES for child in path.iterdir()
        )  # pictures beside are covers
        return "frames" if image_files(path) and not holds_videos else None
    return "video" if path.suffix.lower() in VIDEO_SUFFIXES else None


def open_source(path: str | Path, max_side: int = 960, **options: Any) -> SourceBase:
    """Open a clip for streaming.

    Args:
        path: a video file, an RGB-D folder (`clip.json`, `color/`, `depth/`; see docs/format.md) or a folder of pictures.
        max_side: longer image side is scaled down to this many pixels.
        options: further fields of `SourceOptions`.

    Returns:
        A `FrameSource`; iterate it as often as you like, each time from the first frame.

    Raises:
        MediaError: missing, empty, not a video, a single frame, damaged, frames of two sizes.
        DepthError: the depth of an RGB-D folder is in no plausible unit, of a size that fits nothing, or unreadable.
        ConfigError: an unknown or impossible option.
    """
    known = {field.name for field in dataclasses.fields(SourceOptions)}
    unknown = set(options) - known
    if unknown:
        raise ConfigError(f"unknown option '{min(unknown)}'", where="open_source", mend=f"one of {sorted(known)}")
    settings = SourceOptions(max_side=max_side, **options)
    path = Path(path).expanduser().absolute()
    if is_truth(path):
        raise MediaError(
            "holds a simulator's exact answers, which extraction must not see",
            where=str(path),
            mend=f"give the episode's folder, without '{TRUTH_SUFFIX}'",
        )
    if not path.exists():
        raise MediaError("does not exist", where=str(path), mend="check the path")
    if path.is_dir():
        return _open_folder(path, settings)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise MediaError(
            "is a single picture", where=str(path), mend="give its folder; for one picture use `traceworld predict`"
        )
    return VideoSource(path, settings)


def _open_folder(path: Path, settings: SourceOptions) -> SourceBase:
    kind = clip_kind(path)
    if kind == "rgbd":
        return RgbdFolderSource(path, settings)
    if kind == "frames":
        return FrameFolderSource(path, settings)
    if any(clip_kind(child) for child in path.iterdir()):
        raise MediaError("holds several clips, not one", where=str(path), mend="give them one by one, or use `extract`")
    raise MediaError(
        f"holds neither pictures nor a {CLIP_FILE}", where=str(path), mend="give a video, frame folder or RGB-D folder"
    )
