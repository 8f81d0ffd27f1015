"""Pictures out of LeRobot's video files, by time: many episodes share a file, so a frame is found by its time stamp."""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8, UInt16

from traceworld.errors import MediaError

_MOST_OPEN = 8  # files per process
_open_files: dict[int, OrderedDict[tuple[Path, int, int], TimedVideo]] = {}  # by process
_READ_ON_S = 2.0  # seconds that are rather decoded through than jumped over, when reading forward
_MEND = "restore the file from a copy of the dataset"

DEPTH_LEVELS = 4095  # 12 bits
DEPTH_DEFAULTS = {"depth_min": 0.01, "depth_max": 10.0, "shift": 3.5, "use_log": True}
"""How LeRobot packs depth into 12 bits: metres at level 0 and 4095, and log(depth + shift) in between."""


class TimedVideo:
    """A video file whose frames are asked for by time; reading forward goes on decoding, else it seeks.

    Raises:
        MediaError: the file is missing, damaged or no video.
    """

    def __init__(self, path: Path):
        self.path = path
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._last: Any = None  # the frame given last

    def frame_at(self, time_s: float, tolerance_s: float) -> Any:
        """The decoded frame (PyAV) nearest to `time_s`, no further from it than `tolerance_s`.

        Raises:
            MediaError: there is none, or it cannot be decoded.
        """
        if self._last is not None and abs(self._last.time - time_s) <= tolerance_s:
            return self._last
        try:
            frame = None
            if self._last is not None and 0 < time_s - self._last.time < _READ_ON_S:
                frame = self._next(time_s, tolerance_s)
            if frame is None:
                self._seek(time_s)
                frame = self._next(time_s, tolerance_s)
            if frame is None:  # the seek landed too late (a file whose index is wrong): from the start
                self.close()
                self._seek(None)
                frame = self._next(time_s, tolerance_s)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self.close()
            raise MediaError(
                f"the frame at {time_s:.4f} s cannot be decoded: {error}", where=str(self.path), mend=_MEND
            ) from error
        if frame is None:
            self.close()
            raise MediaError(f"has no frame at {time_s:.4f} s", where=str(self.path), mend=_MEND)
        return frame

    def close(self) -> None:
        """Close the file; reading again opens it again."""
        if self._container is not None:
            self._container.close()
        self._container, self._last = None, None

    def _seek(self, time_s: float | None) -> None:
        if self._container is None:
            self._container = open_video(self.path)
        stream = self._container.streams.video[0]
        if time_s is not None:
            self._container.seek(max(0, math.floor(time_s / stream.time_base) - 1), stream=stream, backward=True)
        self._last = None
        self._frames = self._container.decode(stream)

    def _next(self, time_s: float, tolerance_s: float) -> Any:
        """The frame that shows `time_s`, or None if the decoder is past it or at the end."""
        best = None
        for frame in self._frames:
            if frame.pts is None:
                continue
            self._last = frame
            if frame.time < time_s - tolerance_s:
                continue
            best = frame if frame.time <= time_s + tolerance_s else None
            break
        return best


def open_video(path: Path) -> Any:
    """A video file, open for decoding with one thread; only local files are read.

    Raises:
        MediaError: it cannot be opened as a video.
    """
    try:
        container = av.open(str(path), options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"cannot be opened as a video: {error}", where=str(path), mend=_MEND) from error
    if not container.streams.video:
        container.close()
        raise MediaError("holds no video", where=str(path), mend=_MEND)
    container.streams.video[0].codec_context.thread_count = 1
    return container


def timed_video(path: Path) -> TimedVideo:
    """The file at `path`, kept open for the next call (a few files per process)."""
    try:
        state = path.stat()
    except OSError as error:
        raise MediaError(f"cannot be read: {error.strerror}", where=str(path), mend=_MEND) from error
    # A decoder must not be shared by forked readers, nor may they free one that they inherited: it waits for threads that
    # only the parent has, for ever. So the parent's files stay listed under its number, untouched.
    files = _open_files.setdefault(os.getpid(), OrderedDict())
    key = (path, state.st_size, state.st_mtime_ns)
    if key not in files:
        files[key] = TimedVideo(path)
        if len(files) > _MOST_OPEN:
            files.popitem(last=False)[1].close()
    files.move_to_end(key)
    return files[key]


def read_colour(path: Path, time_s: float, tolerance_s: float) -> UInt8[np.ndarray, "H W 3"]:
    """RGB of the frame at `time_s` seconds.

    Raises:
        MediaError: the file or the frame cannot be read.
    """
    return timed_video(path).frame_at(time_s, tolerance_s).to_ndarray(format="rgb24")


def read_depth_levels(path: Path, time_s: float, tolerance_s: float) -> UInt16[np.ndarray, "H W"]:
    """The 12-bit levels of a depth video's frame at `time_s` seconds.

    Raises:
        MediaError: the file or the frame cannot be read.
    """
    return timed_video(path).frame_at(time_s, tolerance_s).to_ndarray(format="gray12le")


def frame_times(path: Path) -> Float64[np.ndarray, " F"]:
    """Seconds at which each frame of a file is shown, ascending; from the packets, without decoding.

    Raises:
        MediaError: the file is missing, damaged or no video.
    """
    container = open_video(path)
    try:
        stream = container.streams.video[0]
        stamps = sorted(packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None)
        return np.array([float(stamp * stream.time_base) for stamp in stamps])
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"cannot be read: {error}", where=str(path), mend=_MEND) from error
    finally:
        container.close()


# --- depth in 12 bits -------------------------------------------------------------------------------------------------


def depth_from_levels(levels: UInt16[np.ndarray, "*S"], info: Mapping[str, Any]) -> Float32[np.ndarray, "*S"]:
    """Metres from a depth video's levels; the lowest and the highest level (clipped or absent) become NaN."""
    low, high, shift = _depth_range(info)
    share = levels.astype(np.float64) / DEPTH_LEVELS
    if info.get("video.use_log", DEPTH_DEFAULTS["use_log"]):
        depth = np.exp(math.log(low + shift) + share * (math.log(high + shift) - math.log(low + shift))) - shift
    else:
        depth = low + share * (high - low)
    return np.where((levels > 0) & (levels < DEPTH_LEVELS), depth, np.nan).astype(np.float32)


def depth_to_levels(depth_m: Float[np.ndarray, "*S"], info: Mapping[str, Any]) -> UInt16[np.ndarray, "*S"]:
    """The levels of metres; NaN becomes level 0."""
    low, high, shift = _depth_range(info)
    known = np.isfinite(depth_m)
    depth = np.where(known, depth_m, low).astype(np.float64).clip(low, high)
    if info.get("video.use_log", DEPTH_DEFAULTS["use_log"]):
        share = (np.log(depth + shift) - math.log(low + shift)) / (math.log(high + shift) - math.log(low + shift))
    else:
        share = (depth - low) / (high - low)
    return np.where(known, np.rint(share * DEPTH_LEVELS), 0).astype(np.uint16)


def _depth_range(info: Mapping[str, Any]) -> tuple[float, float, float]:
    values = [float(info.get(f"video.{name}", DEPTH_DEFAULTS[name])) for name in ("depth_min", "depth_max", "shift")]
    return values[0], values[1], values[2]
