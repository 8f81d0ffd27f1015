"""The one data type every room speaks: cameras, traces, events, clips, observations, predictions.

Conventions (the whole library): OpenCV camera axes (x right, y down, z forward), metres, seconds. Pixel centres are at
integers. `uv` without a suffix is normalised to [-1, 1] with the image's outer edges at ±1; `uvz` adds metres along the
camera axis. Axis letters: T frames, N keypoints, S samples, h history, H horizon.

All invariants are checked when an object is made, so a function that receives one need not check again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from traceworld.errors import InvalidInputError

Clock = Literal["time", "arc"]
"""What one step of a horizon means: a fixed time (`time`) or a fixed length of path (`arc`, mu0-paper §2.2)."""


def _refuse(condition: bool | np.bool_, where: str, message: str, mend: str | None = None) -> None:
    if condition:
        raise InvalidInputError(message, where=where, mend=mend)


def _check_rigid(cam_from_world: np.ndarray, where: str) -> None:
    rotation = cam_from_world[..., :3, :3]
    error = np.abs(rotation @ np.swapaxes(rotation, -1, -2) - np.eye(3)).max(initial=0.0)
    _refuse(not np.isfinite(cam_from_world).all(), where, "holds NaN or infinity")
    _refuse(
        error > 1e-3, where, f"is not rigid (rotation off orthonormal by {error:.2g})", "give metric [R|t], R in SO(3)"
    )
    _refuse(
        (np.linalg.det(rotation) < 0).any(), where, "is a reflection", "use OpenCV axes: x right, y down, z forward"
    )


def _check_K(K: np.ndarray, where: str) -> None:
    _refuse(not np.isfinite(K).all(), where, "holds NaN or infinity")
    _refuse(
        bool((K[..., 0, 0] <= 0).any() or (K[..., 1, 1] <= 0).any()), where, "focal lengths must be positive (pixels)"
    )


@dataclass(frozen=True, eq=False)
class Camera:
    """One pinhole camera. `K` [3,3] in pixels; `cam_from_world` [4,4] maps world metres to camera metres."""

    K: Float[np.ndarray, "3 3"]
    cam_from_world: Float[np.ndarray, "4 4"]
    width: int
    height: int

    def __post_init__(self):
        _check_K(self.K, "Camera.K")
        _check_rigid(self.cam_from_world, "Camera.cam_from_world")
        _refuse(self.width < 1 or self.height < 1, "Camera", f"size {self.width}×{self.height} is empty")


@dataclass(frozen=True, eq=False)
class Cameras:
    """One camera per frame: `K` [T,3,3], `cam_from_world` [T,4,4], one image size. Index it to get a `Camera`."""

    K: Float[np.ndarray, "T 3 3"]
    cam_from_world: Float[np.ndarray, "T 4 4"]
    width: int
    height: int

    def __post_init__(self):
        _check_K(self.K, "Cameras.K")
        _check_rigid(self.cam_from_world, "Cameras.cam_from_world")
        _refuse(self.width < 1 or self.height < 1, "Cameras", f"size {self.width}×{self.height} is empty")

    def __len__(self) -> int:
        return len(self.K)

    def __getitem__(self, frame: int) -> Camera:
        return Camera(self.K[frame], self.cam_from_world[frame], self.width, self.height)

    @property
    def static(self) -> bool:
        """True when no pose differs from the first by more than numerical noise."""
        return bool(np.abs(self.cam_from_world - self.cam_from_world[:1]).max(initial=0.0) < 1e-9)

    @staticmethod
    def still(K: Float[np.ndarray, "3 3"], width: int, height: int, num_frames: int) -> Cameras:
        """A camera that does not move and is itself the world frame."""
        return Cameras(
            np.repeat(np.asarray(K, np.float64)[None], num_frames, 0),
            np.repeat(np.eye(4)[None], num_frames, 0),
            width,
            height,
        )


@dataclass(frozen=True, eq=False)
class Traces:
    """Paths of N points over T frames.

    Attributes:
        xyz_world: [T,N,3] metres, float32. NaN where unknown; a NaN is never valid.
        visible: [T,N] seen in that frame.
        valid: [T,N] the position may be used (a known position of an occluded point is valid but not visible).
        part_id: [N] entity cluster, −1 background or none.
        moving: [N] passes the movement filter (mu0-paper A.2).
        query_frame: [N] frame in which the point was chosen.
    """

    xyz_world: Float32[np.ndarray, "T N 3"]
    visible: Bool[np.ndarray, "T N"]
    valid: Bool[np.ndarray, "T N"]
    part_id: Int[np.ndarray, " N"]
    moving: Bool[np.ndarray, " N"]
    query_frame: Int[np.ndarray, " N"]

    def __post_init__(self):
        T, N, _ = self.xyz_world.shape
        for name in ("visible", "valid"):
            _refuse(getattr(self, name).shape != (T, N), f"Traces.{name}", f"shape is not {(T, N)}")
        for name in ("part_id", "moving", "query_frame"):
            _refuse(getattr(self, name).shape != (N,), f"Traces.{name}", f"shape is not {(N,)}")
        bad = self.valid & ~np.isfinite(self.xyz_world).all(-1)
        if bad.any():
            t, n = np.argwhere(bad)[0]
            _refuse(True, f"Traces.xyz_world[{t},{n}]", "is NaN or infinite but marked valid", "mark it invalid")
        _refuse(bool((self.visible & ~self.valid).any()), "Traces.visible", "a visible point must be valid")
        outside = (self.query_frame < 0) | (self.query_frame >= max(T, 1))
        _refuse(bool(outside.any()), "Traces.query_frame", f"outside the {T} frames")

    @property
    def num_frames(self) -> int:
        return self.xyz_world.shape[0]

    @property
    def num_keypoints(self) -> int:
        return self.xyz_world.shape[1]

    def select(self, keep: Bool[np.ndarray, " N"] | Int[np.ndarray, " M"]) -> Traces:
        """The same traces for a subset (or a new order) of the points."""
        return Traces(
            self.xyz_world[:, keep],
            self.visible[:, keep],
            self.valid[:, keep],
            self.part_id[keep],
            self.moving[keep],
            self.query_frame[keep],
        )

    @staticmethod
    def empty(num_frames: int) -> Traces:
        """Traces of no point: what a clip without texture or depth yields."""
        return Traces(
            np.zeros((num_frames, 0, 3), np.float32),
            np.zeros((num_frames, 0), bool),
            np.zeros((num_frames, 0), bool),
            np.zeros(0, np.int32),
            np.zeros(0, bool),
            np.zeros(0, np.int32),
        )


@dataclass(frozen=True)
class Event:
    """A span of a clip and what happens in it (mu0-paper §2.3). Frames are half-open: `start <= frame < end`."""

    start: int
    end: int
    caption: str
    level: int = 0
    before: str = ""
    interaction: str = ""
    change: str = ""

    def __post_init__(self):
        _refuse(self.start < 0 or self.end <= self.start, "Event", f"[{self.start}, {self.end}) is not a span")
        _refuse(self.level < 0, "Event.level", "must be ≥ 0")


@dataclass(frozen=True)
class Media:
    """Where a clip's pictures are.

    Attributes:
        kind: `video` (one file), `frames` (an image file per frame), `rgbd` (an RGB-D folder), `none`.
        path: the file or folder. Relative paths are relative to the dataset folder.
        frame_index: for `frames`: which clip frame each file shows (a clip may keep pictures of some frames only).
        files: for `frames`: image file names, relative to `path`, in the order of `frame_index`.
        depth_files: for `frames`: 16-bit PNG depth beside each image, or empty.
        depth_unit_m: metres per unit of the depth files (0 = invalid pixel).
    """

    kind: Literal["video", "frames", "rgbd", "none"] = "none"
    path: str = ""
    frame_index: tuple[int, ...] = ()
    files: tuple[str, ...] = ()
    depth_files: tuple[str, ...] = ()
    depth_unit_m: float = 0.001

    def __post_init__(self):
        _refuse(len(self.files) != len(self.frame_index), "Media.files", "needs one entry per frame_index")
        _refuse(
            len(self.depth_files) not in (0, len(self.files)), "Media.depth_files", "needs one entry per file or none"
        )


@dataclass(frozen=True, eq=False)
class Clip:
    """One stretch of video with everything known about it.

    Attributes:
        clip_id: unique within a dataset.
        time_s: [T] seconds, strictly increasing.
        cameras: one per frame.
        traces: paths of the keypoints.
        media: where the pictures are.
        events: captioned spans.
        task: what the whole clip is about, in words ("" if unknown).
        metric: False when depth, and so every z, is only up to scale.
        provenance: source, backends with versions, config hash, seed, quality figures (JSON-able).
        root: folder that relative media paths start from (set by the reader; not stored).
    """

    clip_id: str
    time_s: Float[np.ndarray, " T"]
    cameras: Cameras
    traces: Traces
    media: Media = Media()
    events: tuple[Event, ...] = ()
    task: str = ""
    metric: bool = True
    provenance: Mapping[str, Any] = field(default_factory=dict)
    root: Path | None = None

    def __post_init__(self):
        T = len(self.time_s)
        _refuse(not self.clip_id, "Clip.clip_id", "is empty")
        _refuse(T < 1, f"Clip {self.clip_id}", "has no frames")
        _refuse(len(self.cameras) != T, f"Clip {self.clip_id}", f"{len(self.cameras)} cameras for {T} frames")
        _refuse(
            self.traces.num_frames != T, f"Clip {self.clip_id}", f"traces of {self.traces.num_frames} frames for {T}"
        )
        _refuse(not np.isfinite(self.time_s).all(), f"Clip {self.clip_id}.time_s", "holds NaN or infinity")
        _refuse(bool((np.diff(self.time_s) <= 0).any()), f"Clip {self.clip_id}.time_s", "must increase strictly")
        _refuse(any(e.end > T for e in self.events), f"Clip {self.clip_id}", f"an event ends after frame {T}")

    @property
    def num_frames(self) -> int:
        return len(self.time_s)


@dataclass(frozen=True, eq=False)
class Observation:
    """What any predictor is given.

    Attributes:
        image: [H,W,3] uint8 RGB.
        instruction: what is to happen, in words.
        depth_m: [H,W] metres, NaN where unknown; None without depth.
        K: [3,3] pixels of `image`; None if unknown.
        keypoints_uv: [N,2] in [-1,1]: the points whose future is asked for.
        keypoints_z_m: [N] metres along the camera axis; NaN where unknown. None without depth.
        history_uvz: [N,h,3] absolute, oldest first, not including the current point; NaN where unknown. None: no history.
            Without depth (neither `depth_m` nor `keypoints_z_m`) the z of a point counts from where the point is now, here
            and in the prediction (`relative_z` makes it so); NaN z beside a known (u, v) then means no motion along z.
        part_id: [N] entity of each point.
        clock: what one step of the horizon means.
        step: seconds per step (clock `time`) or image widths of path per step (clock `arc`).
    """

    image: UInt8[np.ndarray, "Himg Wimg 3"]
    instruction: str
    depth_m: Float[np.ndarray, "Himg Wimg"] | None = None
    K: Float[np.ndarray, "3 3"] | None = None
    keypoints_uv: Float[np.ndarray, "N 2"] | None = None
    keypoints_z_m: Float[np.ndarray, " N"] | None = None
    history_uvz: Float[np.ndarray, "N h 3"] | None = None
    part_id: Int[np.ndarray, " N"] | None = None
    clock: Clock = "time"
    step: float = 0.025

    def __post_init__(self):
        _refuse(
            not self.instruction.strip(),
            "Observation.instruction",
            "is empty",
            "say what is to happen, e.g. 'open the drawer'",
        )
        if self.keypoints_uv is not None:
            N = len(self.keypoints_uv)
            _refuse(N == 0, "Observation.keypoints_uv", "no keypoints", "give at least one point of the image")
            _refuse(not np.isfinite(self.keypoints_uv).all(), "Observation.keypoints_uv", "holds NaN or infinity")
            for name in ("keypoints_z_m", "history_uvz", "part_id"):
                value = getattr(self, name)
                _refuse(value is not None and len(value) != N, f"Observation.{name}", f"is not of {N} keypoints")
        if self.depth_m is not None:
            _refuse(
                self.depth_m.shape != self.image.shape[:2], "Observation.depth_m", "has another size than the image"
            )
        _refuse(self.step <= 0, "Observation.step", "must be positive")


@dataclass(frozen=True, eq=False)
class TracePrediction:
    """What any predictor returns.

    Attributes:
        uvz: [S,N,H,3] absolute: u, v in [-1,1], z in metres along the camera axis of the observation.
        valid: [S,N,H] False from the step where the model says that the trace has ended (positions are frozen there).
        valid_prob: [S,N,H] the probability behind `valid`.
        clock, step: as asked for in the observation.
        text: the model's words, if it has any.
        timing: seconds per stage.
    """

    uvz: Float32[np.ndarray, "S N H 3"]
    valid: Bool[np.ndarray, "S N H"]
    valid_prob: Float32[np.ndarray, "S N H"] | None = None
    clock: Clock = "time"
    step: float = 0.025
    text: str | None = None
    timing: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        _refuse(self.valid.shape != self.uvz.shape[:3], "TracePrediction.valid", f"shape is not {self.uvz.shape[:3]}")
        _refuse(not np.isfinite(self.uvz).all(), "TracePrediction.uvz", "holds NaN or infinity")
