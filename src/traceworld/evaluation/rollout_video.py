"""Films of episodes: the scene camera as H.264, there whole or not there."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from traceworld.errors import DatasetError
from traceworld.sim.control import ControlEnv
from traceworld.traces.atomic import TEMP_SUFFIX

FILM_HZ = 20.0
"""About so many pictures are taken per second of the robot's time; films play at the robot's own speed."""


class VideoSink:
    """Called before every step, films one episode.

    Args:
        folder, name: `folder / name` is the file.
        control_hz: steps per second.

    Raises:
        DatasetError: the file cannot be written.
    """

    def __init__(self, folder: Path, name: str, control_hz: float):
        self._path, self._name = folder / name, name
        self._stride = max(1, round(control_hz / FILM_HZ))
        self._rate = Fraction(control_hz / self._stride).limit_denominator(1000)
        self._temporary = self._path.with_name(f".{self._path.stem}.{os.getpid()}{TEMP_SUFFIX}.mp4")
        self._calls = 0
        self._container: Any = None
        self._stream: Any = None

    def __call__(self, env: ControlEnv) -> None:
        if self._calls % self._stride == 0:
            seen = env.observe()
            self._write(seen.images[seen.scene_camera])
        self._calls += 1

    def _write(self, picture: Any) -> None:
        height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2  # H.264 wants even sizes
        if self._container is None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._container = av.open(str(self._temporary), "w")
            except OSError as error:
                raise DatasetError(f"cannot be written: {error}", where=str(self._path)) from error
            self._stream = self._container.add_stream("libx264", rate=self._rate)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
            self._stream.options = {"crf": "23", "preset": "veryfast"}
        frame = av.VideoFrame.from_ndarray(picture[:height, :width], format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def close(self) -> str | None:
        """Finish the file; returns its name, None if nothing was filmed."""
        if self._container is None:
            return None
        self._container.mux(self._stream.encode())
        self._container.close()
        self._container = None
        os.replace(self._temporary, self._path)
        return self._name
