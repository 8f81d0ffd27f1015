"""Single frames out of a video file: seek to the key frame before, decode up to the one that is wanted (PyAV)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from traceworld.errors import MediaError
from traceworld.traces.picture_size import DECODING, check_picture_size

_OPENING = {"protocol_whitelist": "file", **DECODING}  # a crafted playlist must not make the reader fetch anything
_READ_ON = 48  # frames that are rather decoded through than jumped over, when reading forward


class VideoFrames:
    """A video file as an array of frames, numbered from 0 in the order of presentation.

    Raises:
        MediaError: the file is missing, damaged or no video.
    """

    def __init__(self, path: Path):
        self.path = path
        self._counted = False  # True: the file has no usable time stamps and frames can only be counted from the start
        self._stamps = self._list_frames()
        self._container: Any = None
        self._decoder: Iterator[tuple[int | None, Any]] = iter(())
        self._last = -1  # number of the frame that the decoder gave last

    def __len__(self) -> int:
        return len(self._stamps)

    def read(self, number: int) -> UInt8[np.ndarray, "H W 3"]:
        """RGB of frame `number`, upright.

        Raises:
            MediaError: no such frame, or it cannot be decoded.
        """
        if not 0 <= number < len(self):
            raise self._error(f"has {len(self)} frames, not frame {number}")
        wanted = int(self._stamps[number])
        try:
            frame = self._next_at(wanted) if 0 <= number - self._last - 1 < _READ_ON and self._container else None
            if frame is None:
                self._seek(wanted)
                frame = self._next_at(wanted)
            if frame is None:  # a seek that landed too late (broken index): from the start
                self._seek(None)
                frame = self._next_at(wanted)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self.close()
            raise self._error(f"frame {number} cannot be decoded: {error}") from error
        if frame is None:
            self.close()
            raise self._error(f"frame {number} is not there")
        self._last = number
        quarter_turns = round(float(getattr(frame, "rotation", 0) or 0) / 90) % 4
        return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns))

    def close(self) -> None:
        """Close the file; reading again opens it again."""
        if self._container is not None:
            self._container.close()
        self._container, self._last = None, -1

    def _open(self) -> Any:
        try:
            container = av.open(str(self.path), options=_OPENING)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._error(f"cannot be opened as a video: {error}") from error
        if not container.streams.video:
            container.close()
            raise self._error("holds no video")
        codec = container.streams.video[0].codec_context
        codec.options = dict(DECODING)  # those of the container hold for looking into it, not for decoding
        try:
            check_picture_size(codec.width, codec.height, str(self.path))
        except MediaError:
            container.close()
            raise
        codec.thread_count = 1
        return container

    def _list_frames(self) -> np.ndarray:
        """Presentation stamps of all frames, ascending."""
        container = self._open()
        try:
            stream = container.streams.video[0]
            # Packets alone (no decoding) say when each frame is shown, unless the container keeps no such stamps.
            packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
            stamps = [packet.pts for packet in packets]
            if any(stamp is None for stamp in stamps) or len(set(stamps)) < len(stamps):
                self._counted = True
                stamps = self._count_frames()
            elif stamps:  # what comes before the first key frame (a stream cut in the middle) cannot be decoded
                first = next((packet.pts for packet in packets if packet.is_keyframe), min(stamps))
                stamps = [stamp for stamp in stamps if stamp >= first]
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._error(f"cannot be read: {error}") from error
        finally:
            container.close()
        if not stamps:
            raise self._error("holds no frames")
        return np.unique(np.asarray(stamps, np.int64))

    def _count_frames(self) -> list[int]:
        container = self._open()
        try:
            return [number for number, _ in enumerate(container.decode(video=0))]
        finally:
            container.close()

    def _seek(self, stamp: int | None) -> None:
        if stamp is None or self._container is None or self._counted:
            self.close()
            self._container = self._open()
        stream = self._container.streams.video[0]
        if stamp is not None and not self._counted:
            self._container.seek(stamp, stream=stream, backward=True)
        frames = self._container.decode(stream)
        self._decoder = enumerate(frames) if self._counted else ((frame.pts, frame) for frame in frames)

    def _next_at(self, wanted: int) -> Any:
        """The frame with this time stamp, or None if the decoder is past it or at the end."""
        for stamp, frame in self._decoder:
            if stamp is None or stamp < wanted:
                continue
            return frame if stamp == wanted else None
        return None

    def _error(self, message: str) -> MediaError:
        return MediaError(message, where=str(self.path), mend="restore the file that the clip was extracted from")


def video_frames(path: Path) -> VideoFrames:
    """The file at `path`, kept open for the next call (a few files per process)."""
    try:
        state = path.stat()
    except OSError as error:
        raise MediaError(f"cannot be read: {error.strerror}", where=str(path), mend="restore the file") from error
    kept = _KEPT.setdefault(os.getpid(), {})
    key = (path, state.st_size, state.st_mtime_ns)
    frames = kept.pop(key, None) or VideoFrames(path)
    kept[key] = frames  # the last one used is the last one in the dict
    if len(kept) > _MOST_OPEN:
        kept.pop(next(iter(kept))).close()
    return frames


_MOST_OPEN = 4
_KEPT: dict[int, dict[tuple[Path, int, int], VideoFrames]] = {}
"""By process: a decoder must not be shared with a forked reader. Nor may the reader free what it got from its parent, which
is why that stays here: the decoder's threads are in the parent only, and freeing it would wait for them for ever."""
