"""One training window: past, anchor and future of every point of a clip, seen from the camera of the anchor frame.

The traces of a window are reference-frame traces (mu0-paper §2.2): world positions projected into the camera of frame t,
so camera motion is taken out and the picture of frame t is the one that they fit. A step is a fixed time or a fixed length
of path; either way the real time of every step is kept.
"""

from __future__ import annotations

import weakref
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.geometry.cameras import world_to_uvz
from traceworld.geometry.retime import arc_length_clock, sample_at, steps_ahead, steps_back
from traceworld.traces.types import Clip, Clock

DEFAULT_STEP: dict[str, float] = {"time": 0.025, "arc": 0.01}
"""Seconds (0.8 s for 32 steps); image widths of path (0.32 widths for 32 steps)."""
CLOCK_INDEX: dict[str, int] = {"time": 0, "arc": 1}


@dataclass(frozen=True)
class WindowConfig:
    """What a window is and how it is sampled. JSON-able (`asdict`).

    Attributes:
        history: h, steps before the anchor.
        horizon: H, steps after it.
        clock: `time` or `arc` (mu0-paper §2.2).
        step: seconds (time) or image widths of path (arc) per step; None: 0.025 s or 0.01 widths.
        num_controls, knots, ridge, clip: the spline fit of eq. 4 (D, knot vector, λ, bound).
        min_keypoints, max_keypoints: N is uniform between them (App. B.1), up to the points there are.
        moving_share: chance of each keypoint to be drawn from the moving points, as far as there are enough of a kind.
        part_balanced: every part has the same chance, whatever its number of points; else every point has.
        min_valid_steps: future steps that a point must have to be drawn at all.
        history_drop_all, history_drop_each: App. C: no history for any keypoint, else for each keypoint on its own.
        depth_drop: App. C: chance to hide depth (the map and the z of the anchors).
    """

    history: int = 8
    horizon: int = 32
    clock: Clock = "time"
    step: float | None = None
    num_controls: int = 10
    knots: str = "uniform"
    ridge: float = 0.2
    clip: float = 1.5
    min_keypoints: int = 1
    max_keypoints: int = 256
    moving_share: float = 0.8
    part_balanced: bool = True
    min_valid_steps: int = 1
    history_drop_all: float = 0.2
    history_drop_each: float = 0.3
    depth_drop: float = 0.7

    def __post_init__(self):
        if self.clock not in DEFAULT_STEP:
            raise ConfigError(f"'{self.clock}' is unknown", where="WindowConfig.clock", mend="use 'time' or 'arc'")
        if self.step is None:
            object.__setattr__(self, "step", DEFAULT_STEP[self.clock])
        for name in ("moving_share", "history_drop_all", "history_drop_each", "depth_drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{getattr(self, name)} is no probability", where=f"WindowConfig.{name}")
        if not self.step_size > 0:
            raise ConfigError(f"{self.step} is not positive", where="WindowConfig.step")
        if self.history < 0 or self.horizon < 1:
            raise ConfigError(f"history {self.history}, horizon {self.horizon}", where="WindowConfig")
        if not 1 <= self.min_keypoints <= self.max_keypoints:
            raise ConfigError("needs 1 ≤ min_keypoints ≤ max_keypoints", where="WindowConfig.min_keypoints")
        if not 1 <= self.min_valid_steps <= self.horizon:
            raise ConfigError(f"must be between 1 and {self.horizon}", where="WindowConfig.min_valid_steps")

    @property
    def step_size(self) -> float:
        """`step` as a number (it is None only before the default is filled in)."""
        assert self.step is not None
        return self.step

    def shape(self) -> dict[str, Any]:
        """The fields that decide where a window's samples lie (statistics depend on these and on no other)."""
        fields = asdict(self)
        return {name: fields[name] for name in ("history", "horizon", "clock", "step")}


@dataclass(frozen=True, eq=False)
class TraceWindow:
    """All points of a clip around one frame, in the camera of that frame.

    Attributes:
        clip_id, frame: where it was cut.
        clock, step: what a step is.
        anchor_uvz: [N,3] at the frame itself; NaN where not known.
        eligible: [N] seen, valid, finite, in front of the camera and inside the image at the anchor.
        history_uvz: [N,h,3] absolute, oldest first, without the anchor; NaN where not valid.
        history_valid: [N,h].
        future_uvz: [N,H,3] absolute; NaN where not valid.
        future_valid: [N,H] the position is known (an occluded point's may be).
        history_time_s, step_time_s: [h], [H] seconds from the anchor; NaN where an arc clock has no such step.
        part_id, moving: [N] as in `Traces`.
    """

    clip_id: str
    frame: int
    clock: Clock
    step: float
    anchor_uvz: Float32[np.ndarray, "N 3"]
    eligible: Bool[np.ndarray, " N"]
    history_uvz: Float32[np.ndarray, "N h 3"]
    history_valid: Bool[np.ndarray, "N h"]
    future_uvz: Float32[np.ndarray, "N H 3"]
    future_valid: Bool[np.ndarray, "N H"]
    history_time_s: Float64[np.ndarray, " h"]
    step_time_s: Float64[np.ndarray, " H"]
    part_id: Int[np.ndarray, " N"]
    moving: Bool[np.ndarray, " N"]

    def usable(self, min_valid_steps: int = 1) -> Bool[np.ndarray, " N"]:
        """Points that may be asked about and whose future is known for at least so many steps."""
        return self.eligible & (self.future_valid.sum(1) >= min_valid_steps)


def cut_window(clip: Clip, frame: int, config: WindowConfig) -> TraceWindow:
    """Cut the window around `frame` out of a clip (or of a clip of the memory-mapped cache): all its points.

    Positions between frames are interpolated linearly in the world, and are valid where both neighbours are.

    Raises:
        InvalidInputError: no such frame.
    """
    if not 0 <= frame < clip.num_frames:
        raise InvalidInputError(f"the clip has {clip.num_frames} frames", where=f"clip {clip.clip_id}, frame {frame}")
    traces, cameras, h = clip.traces, clip.cameras, config.history
    at = _frame_times(clip, frame, config)
    times_s = np.interp(at, np.arange(clip.num_frames), clip.time_s) - clip.time_s[frame]
    # Steps beyond the ends of the clip still have a time on the plain clock.
    if config.clock == "time":
        times_s = _plain_steps(config)
    first, last = _span(at, frame)
    xyz, valid = sample_at(
        np.arange(first, last + 1, dtype=np.float64),
        traces.xyz_world[first : last + 1],
        traces.valid[first : last + 1],
        np.concatenate([at, [frame]]),
    )
    K, pose = np.asarray(cameras.K[frame], np.float64), np.asarray(cameras.cam_from_world[frame], np.float64)
    uvz = world_to_uvz(xyz.astype(np.float64), K, pose, cameras.width, cameras.height)
    uvz = np.ascontiguousarray(uvz.transpose(1, 0, 2), np.float32)
    valid = valid.T & np.isfinite(uvz).all(-1)
    uvz[~valid] = np.nan
    inside = (np.abs(np.nan_to_num(uvz[:, -1, :2], nan=2.0)) <= 1).all(-1)
    return TraceWindow(
        clip_id=clip.clip_id,
        frame=frame,
        clock=config.clock,
        step=config.step_size,
        anchor_uvz=uvz[:, -1],
        eligible=valid[:, -1] & inside & traces.visible[frame],
        history_uvz=uvz[:, :h],
        history_valid=valid[:, :h],
        future_uvz=uvz[:, h:-1],
        future_valid=valid[:, h:-1],
        history_time_s=times_s[:h],
        step_time_s=times_s[h:],
        part_id=traces.part_id,
        moving=traces.moving,
    )


def _plain_steps(config: WindowConfig) -> np.ndarray:
    steps = np.concatenate([np.arange(-config.history, 0), np.arange(1, config.horizon + 1)])
    return steps * config.step_size


def _span(at: np.ndarray, frame: int) -> tuple[int, int]:
    """First and last frame that the samples at fractional frames `at` (NaN: none) need."""
    first, last = np.fmin.reduce(at, initial=frame), np.fmax.reduce(at, initial=frame)
    return int(np.floor(first)), int(np.ceil(last))


def _frame_times(clip: Clip, frame: int, config: WindowConfig) -> np.ndarray:
    """[h+H] the window's steps as fractional frame numbers, history first (oldest first); NaN where there is none."""
    if config.clock == "arc":
        return _arc_frame_times(clip, frame, config)
    wanted = clip.time_s[frame] + _plain_steps(config)
    rounding = 1e-6 * config.step_size  # times are sums of steps: the clip's last frame must not be missed by an ulp
    inside = (wanted >= clip.time_s[0] - rounding) & (wanted <= clip.time_s[-1] + rounding)
    return np.where(inside, np.interp(wanted, clip.time_s, np.arange(clip.num_frames)), np.nan)


# The clock of a clip costs a pass over its frames. With a still camera it is the same for every window; with a moving one
# each frame has its own, and what is kept are the few times read off it.
_ARC: weakref.WeakKeyDictionary[Clip, dict[Any, np.ndarray]] = weakref.WeakKeyDictionary()


def _arc_frame_times(clip: Clip, frame: int, config: WindowConfig) -> np.ndarray:
    known = _ARC.setdefault(clip, {})
    key = (frame, config.history, config.horizon, config.step)
    if key not in known:
        static = clip.cameras.static and bool((clip.cameras.K[:1] == clip.cameras.K).all())
        if static and "clock" not in known:
            known["clock"] = arc_clock(clip, 0)
        s = known["clock"] if static else arc_clock(clip, frame)
        back = steps_back(s, frame, config.step_size, config.history)[::-1]
        known[key] = np.concatenate([back, steps_ahead(s, frame, config.step_size, config.horizon)])
    return known[key]


def arc_clock(clip: Clip, frame: int) -> Float64[np.ndarray, " T"]:
    """Cumulative path length of the clip's moving points in image widths, seen from the camera of `frame`."""
    traces, cameras = clip.traces, clip.cameras
    moving = traces.moving if traces.moving.any() else None
    return arc_length_clock(
        traces.xyz_world, traces.valid, cameras.K[frame], cameras.cam_from_world[frame], cameras.width, moving=moving
    ).astype(np.float64)
