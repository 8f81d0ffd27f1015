"""What every frame source shares: time, resampling, down-scaling with the intrinsics, closing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from traceworld.errors import ConfigError, MediaError
from traceworld.geometry.cameras import resize_K
from traceworld.perception.interfaces import Frame
from traceworld.perception.intrinsics import ASSUMED_FOV_DEG
from traceworld.traces.picture_size import check_picture_size

MIN_SIDE = 16
"""Smallest image side, in pixels, in which motion can be followed."""


@dataclass(frozen=True)
class SourceOptions:
    """How a source is read.

    Attributes:
        max_side: the longer image side is scaled down to this many pixels (K with it); never up.
        fps: keep at most this many frames per second (None: all frames). The time stamps stay those of the kept frames.
        max_frames: stop after this many kept frames (None: no limit).
        allow_partial: on a damaged file keep the frames before the damage, and say so in the report, instead of raising.
        frame_rate: frames per second of folders that have no time stamps.
        fov_deg: field of view across the longer image side, assumed where the source has no intrinsics.
        registration: `auto` checks RGB-D alignment and registers where needed; `trust` believes the folder's word.
    """

    max_side: int = 960
    fps: float | None = None
    max_frames: int | None = None
    allow_partial: bool = False
    frame_rate: float = 30.0
    fov_deg: float = ASSUMED_FOV_DEG
    registration: Literal["auto", "trust"] = "auto"

    def __post_init__(self):
        if self.max_side < MIN_SIDE:
            raise ConfigError(f"{self.max_side} px is too small", where="max_side", mend=f"at least {MIN_SIDE}")
        if self.fps is not None and not self.fps > 0:
            raise ConfigError("must be positive", where="fps", mend="leave it out to keep every frame")
        if self.max_frames is not None and self.max_frames < 2:
            raise ConfigError("motion needs at least 2 frames", where="max_frames")
        if not self.frame_rate > 0:
            raise ConfigError("must be positive", where="frame_rate")
        if not 1 <= self.fov_deg <= 179:
            raise ConfigError(f"{self.fov_deg}° is no field of view", where="fov_deg", mend="between 1 and 179 degrees")
        if self.registration not in ("auto", "trust"):
            raise ConfigError(f"unknown mode '{self.registration}'", where="registration", mend="auto or trust")

    def as_dict(self) -> dict[str, Any]:
        """The options by name."""
        return dataclasses.asdict(self)


class RawFrame(NamedTuple):
    """A frame before it is read: `load` returns image, depth and pose at the source's final size."""

    source_index: int
    time_s: float
    load: Callable[[], tuple[UInt8[np.ndarray, "H W 3"], Float32[np.ndarray, "H W"] | None, np.ndarray | None]]


def capped_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """Size after scaling the longer side down to `max_side`; unchanged if it is not longer."""
    longest = max(width, height)
    if longest <= max_side:
        return width, height
    return max(1, round(width * max_side / longest)), max(1, round(height * max_side / longest))


def resize_image(image: UInt8[np.ndarray, "H W 3"], width: int, height: int) -> UInt8[np.ndarray, "Hr Wr 3"]:
    """Area-averaged down-scaling; the image itself if it has that size already."""
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


class SourceBase:
    """Base of the frame sources; a subclass provides `_raw_frames` and fills in what it knows."""

    kind = "none"

    def __init__(self, uri: str, native_size: tuple[int, int], K_native: np.ndarray, options: SourceOptions):
        native_width, native_height = native_size
        if min(native_size) < MIN_SIDE:
            raise MediaError(
                f"frames of {native_width}×{native_height} px are too small to follow anything",
                where=uri,
                mend=f"at least {MIN_SIDE} px a side",
            )
        check_picture_size(native_width, native_height, uri)
        self.uri = uri
        self.options = options
        self.width, self.height = capped_size(native_width, native_height, options.max_side)
        self.K: np.ndarray = resize_K(K_native, native_size, (self.width, self.height))
        self.num_frames: int | None = None
        self.task = ""
        self.metric_depth = False
        self.report: dict[str, Any] = {
            "kind": self.kind,
            "native_size": [native_width, native_height],
            "size": [self.width, self.height],
            "intrinsics": "assumed",
            "warnings": [],
        }

    def _raw_frames(self) -> Generator[RawFrame, None, None]:
        raise NotImplementedError

    def warn(self, message: str) -> None:
        """Note a warning once; it travels to the clip's provenance."""
        if message not in self.report["warnings"]:
            self.report["warnings"].append(message)

    def __iter__(self) -> Iterator[Frame]:
        """Frames in order, at the asked rate and size, time starting at 0.

        Raises:
            MediaError: a frame cannot be read (unless `allow_partial`), or fewer than two can.
            DepthError: the depth of a frame cannot be used.
        """
        count, first_s, due = 0, 0.0, 0
        source_frames: list[int] = []
        raw_frames = self._raw_frames()
        try:
            for raw in raw_frames:
                if count == 0:
                    first_s = raw.time_s
                time_s = raw.time_s - first_s
                if self.options.fps is not None:
                    if time_s * self.options.fps < due - 0.01:  # 1 % of a period for rounding of time stamps
                        continue
                    due = int(time_s * self.options.fps + 0.01) + 1
                image, depth_m, cam_from_world = raw.load()
                yield Frame(count, time_s, image, depth_m, cam_from_world, raw.source_index)
                source_frames.append(raw.source_index)
                count += 1
                if count == self.options.max_frames:
                    break
        finally:
            raw_frames.close()
        if count < 2:
            raise MediaError(
                f"only {count} frame{'s' * (count != 1)} can be used",
                where=self.uri,
                mend="motion needs at least 2; give a longer clip, or a higher fps",
            )
        self.num_frames = count
        if source_frames[-1] != count - 1:
            self.report["source_frames"] = source_frames

    def close(self) -> None:
        """Release what the source holds open; sources here open files only while iterating."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class StrictClock:
    """Turns a container's time stamps into strictly increasing seconds, counting the ones it had to mend."""

    def __init__(self, nominal_step_s: float):
        self.nominal_step_s = nominal_step_s
        self.last_s: float | None = None
        self.mended = 0

    def __call__(self, time_s: float | None) -> float:
        """The time to use for the next frame; a missing or backward stamp becomes one nominal step after the last."""
        if self.last_s is None:
            self.last_s = time_s if time_s is not None else 0.0
        elif time_s is None or time_s <= self.last_s:
            self.mended += 1
            self.last_s += self.nominal_step_s
        else:
            self.last_s = time_s
        return self.last_s
