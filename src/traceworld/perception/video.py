"""Video files through PyAV: true time stamps, rotation applied, any pixel format, never more than a frame in memory.

Containers lie about the number of frames and about their rate, so neither is used: frames are counted while decoding
and time is each frame's own presentation time stamp.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from traceworld.errors import MediaError
from traceworld.perception.intrinsics import assumed_K
from traceworld.perception.source_base import (
    RawFrame,
    SourceBase,
    SourceOptions,
    StrictClock,
    resize_image,
)
from traceworld.traces.picture_size import DECODING, MAX_PIXELS, check_picture_size

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".gif", ".wmv", ".flv")
_NOT_PICTURES = {"ansi", "bintext", "xbin", "idf"}  # FFmpeg "decodes" plain text as terminal art

_NO_TIMES = {"avi", "h264", "hevc", "m4v", "mjpeg"}


def _open_container(path: Path) -> Any:
    size = path.stat().st_size
    if size == 0:
        raise MediaError("the file is empty", where=str(path), mend="copy or record it again")
    try:
        # Only local files: a crafted playlist must not make the reader fetch anything.
        container = av.open(str(path), options={"protocol_whitelist": "file", **DECODING})
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"is not a video that can be read, or its header is missing or cut off: {_reason(error)}",
            where=str(path),
            mend="check it with `ffprobe`; re-encode it with `ffmpeg -i in out.mp4`",
        ) from error
    streams = container.streams.video
    if not streams or streams[0].codec_context is None or streams[0].codec_context.name in _NOT_PICTURES:
        container.close()
        raise MediaError("holds no video", where=str(path), mend="give a video file, a frame folder or an RGB-D folder")
    codec = streams[0].codec_context
    codec.options = dict(DECODING)  # those of the container hold for looking into it, not for decoding
    try:
        check_picture_size(codec.width, codec.height, str(path))
    except MediaError:
        container.close()
        raise
    return container


def _reason(error: BaseException) -> str:
    if isinstance(error, av.error.ArgumentError):
        return f"it is damaged, or states a size of more than {MAX_PIXELS / 1e6:.0f} million pixels"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _missing_frames(stream: Any, file_size: int) -> tuple[int, int] | None:
    """(frames whose data is in the file, frames the index lists) when the file is shorter than its index says."""
    entries = list(getattr(stream, "index_entries", None) or ())
    present = sum(entry.pos + entry.size <= file_size for entry in entries)
    return (present, len(entries)) if present < len(entries) else None


def _declared_seconds(container: Any) -> float | None:
    """Length that a Matroska header states; None where other streams may be longer, or for containers that only guess it."""
    alone = all(stream.type == "video" for stream in container.streams)
    if container.duration is None or not alone or "matroska" not in container.format.name:
        return None
    return float(container.duration) / 1e6


def upright(image: UInt8[np.ndarray, "H W 3"], rotation_deg: float) -> UInt8[np.ndarray, "Hr Wr 3"]:
    """Turn an image counter-clockwise by the container's rotation (to the nearest quarter turn)."""
    return np.rot90(image, round(rotation_deg / 90) % 4)


def _rgb(frame: Any, rotation_deg: float, width: int, height: int) -> tuple[np.ndarray, None, None]:
    return resize_image(upright(frame.to_ndarray(format="rgb24"), rotation_deg), width, height), None, None


class VideoSource(SourceBase):
    """A video file. Opening reads two frames, so that what cannot be used is refused at once."""

    kind = "video"

    def __init__(self, path: Path, options: SourceOptions):
        self.path = path
        container = _open_container(path)
        try:
            stream = container.streams.video[0]
            self._missing = _missing_frames(stream, os.path.getsize(path))
            # AVI has no presentation times (FFmpeg fills in decoding times), so frames are one nominal step apart there.
            self._has_times = container.format.name not in _NO_TIMES
            self._declared_s = _declared_seconds(container)
            rate = float(stream.average_rate or stream.guessed_rate or 0) or options.frame_rate
            aspect = float(stream.sample_aspect_ratio or 1) or 1.0
            header = {
                "codec": stream.codec_context.name,
                "pixel_format": stream.codec_context.pix_fmt,
                "header_frames": int(stream.frames) or None,
                "header_fps": rate,
            }
            first = self._probe(container, stream)
        finally:
            container.close()
        self._step_s = 1.0 / rate
        self._decoded_size = (first.width, first.height)
        self._rotation = float(getattr(first, "rotation", 0) or 0)
        width, height = first.width, first.height
        if round(self._rotation / 90) % 2:
            width, height, aspect = height, width, 1 / aspect
        super().__init__(str(path), (width, height), assumed_K(width, height, options.fov_deg, aspect), options)
        self.report |= header | {"rotation_deg": self._rotation, "pixel_aspect": aspect, "fov_deg": options.fov_deg}
        if self._missing is not None:
            present, listed = self._missing
            message = f"the file is cut off: data for {present} of {listed} frames, first lost frame {present}"
            if not options.allow_partial or present < 2:
                raise MediaError(
                    message,
                    where=f"{path}, frame {present}",
                    mend="copy it again, or set allow_partial to keep the rest",
                )
            self._partial(message)

    def _probe(self, container: Any, stream: Any) -> Any:
        """The first frame; refuses files that do not hold two."""
        frames = container.decode(stream)
        found: list[Any] = []
        try:
            for frame in frames:
                found.append(frame)
                if len(found) == 2:
                    break
        except (av.error.FFmpegError, ValueError) as error:
            if not found:
                raise MediaError(
                    f"cannot be decoded: {_reason(error)}",
                    where=f"{self.path}, frame 0",
                    mend="re-encode it with `ffmpeg -i in out.mp4`",
                ) from error
        if len(found) < 2:
            raise MediaError(
                f"holds {len(found)} readable frame{'s' * (len(found) != 1)}",
                where=str(self.path),
                mend="motion needs at least 2 frames; for a picture use `traceworld predict`",
            )
        return found[0]

    def _partial(self, message: str) -> None:
        self.report["partial"] = True
        self.warn(message)

    def _decoded(self, container: Any) -> Iterator[tuple[int, Any]]:
        """(number, frame) until the end or, with `allow_partial`, until the first damage."""
        number, skipped = 0, 0
        frames = container.decode(video=0)
        while True:
            try:
                frame = next(frames, None)
            except MemoryError:  # says nothing about the file
                raise
            except (av.error.FFmpegError, ValueError) as error:
                problem = f"cannot be decoded: {_reason(error)}"
            else:
                if frame is None:
                    break
                damaged = bool(getattr(frame, "is_corrupt", False))
                if damaged and number == skipped:  # a clip cut out of a stream may start before its first key frame
                    self.warn("frames before the first complete one were skipped")
                    number, skipped = number + 1, skipped + 1
                    continue
                if not damaged:
                    yield number, frame
                    number += 1
                    continue
                problem = "is damaged"
            if not self.options.allow_partial:
                raise MediaError(
                    problem,
                    where=f"{self.path}, frame {number}",
                    mend="re-encode or copy it again, or set allow_partial to keep the frames before",
                )
            self._partial(f"frame {number} {problem}; the {number} frames before it are used")
            break
        self._note_count(number)

    def _note_count(self, number: int) -> None:
        self.report["decoded_frames"] = number
        claimed = self.report["header_frames"]
        if claimed is not None and claimed != number and not self.report.get("partial"):
            self.warn(f"the header says {claimed} frames, the file holds {number}; the header is ignored")

    def _check_length(self, number: int, end_s: float) -> None:
        """A Matroska file cut off between two blocks ends without an error; its header still states the whole length."""
        if self._declared_s is None or self.report.get("partial"):
            return
        missing_s = self._declared_s - end_s
        if missing_s <= max(0.5, 0.1 * self._declared_s):
            return
        message = f"the file ends after {end_s:.2f} s and {number} frames, its header says {self._declared_s:.2f} s"
        if not self.options.allow_partial:
            raise MediaError(
                message,
                where=f"{self.path}, frame {number}",
                mend="copy it again, or set allow_partial to keep the rest",
            )
        self._partial(message)

    def _raw_frames(self) -> Generator[RawFrame, None, None]:
        clock = StrictClock(self._step_s)
        count, end_s = 0, 0.0
        container = _open_container(self.path)
        try:
            # One thread: results do not depend on the machine, and parallelism is across clips.
            container.streams.video[0].codec_context.thread_count = 1
            for number, frame in self._decoded(container):
                if (frame.width, frame.height) != self._decoded_size:
                    raise MediaError(
                        f"is {frame.width}×{frame.height}, the frames before {self._decoded_size[0]}×{self._decoded_size[1]}",
                        where=f"{self.path}, frame {number}",
                        mend="split the video where its size changes",
                    )
                load = partial(_rgb, frame, self._rotation, self.width, self.height)
                time_s = clock(float(frame.time) if self._has_times and frame.time is not None else None)
                end_s = time_s + max(float(frame.duration or 0) * float(frame.time_base or 0), self._step_s)
                count = number + 1
                yield RawFrame(number, time_s, load)
            self._check_length(count, end_s)
        finally:
            container.close()
        if clock.mended and self._has_times:
            self.report["mended_timestamps"] = clock.mended
            self.warn(f"{clock.mended} time stamps were missing or ran backwards and were replaced by the nominal step")
