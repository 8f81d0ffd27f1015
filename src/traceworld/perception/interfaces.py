"""One small interface per sense. Everything that looks at pictures sits behind one of these, chosen by name.

All are plain functions of arrays (numpy in, numpy out); what a backend needs on a GPU stays inside it. Conventions of the
whole library apply: OpenCV camera axes, metres, seconds, pixel centres at integers, invalid depth = NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from traceworld.errors import InvalidInputError


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source, ready to use.

    Attributes:
        index: position in the clip (0, 1, 2 … without holes, after any resampling).
        time_s: seconds from the first frame; strictly increasing within a source.
        image: [H,W,3] uint8 RGB, upright, at the source's `width` × `height`.
        depth_m: [H,W] metres along the axis of the colour camera, pixel for pixel with `image`; NaN = no measurement.
            None when the source has no depth.
        cam_from_world: [4,4] if the source knows where the camera was; else None.
        source_index: number of the frame in the file or folder (differs from `index` after resampling).
    """

    index: int
    time_s: float
    image: UInt8[np.ndarray, "H W 3"]
    depth_m: Float32[np.ndarray, "Hd Wd"] | None = None
    cam_from_world: Float[np.ndarray, "4 4"] | None = None
    source_index: int = -1

    def __post_init__(self):
        if self.depth_m is not None and self.depth_m.shape != self.image.shape[:2]:
            raise InvalidInputError(
                f"depth of size {self.depth_m.shape} for an image of {self.image.shape[:2]}",
                where=f"frame {self.index}",
                mend="register the depth to the colour camera first",
            )


@runtime_checkable
class FrameSource(Protocol):
    """Frames of one clip, streamed: no more than a few are ever in memory. Iterating again starts from the first frame.

    Attributes:
        uri: absolute path.
        kind: `video`, `frames` or `rgbd` (as in `traces.Media`).
        width, height: size of every frame's image, in pixels, after rotation and down-scaling.
        num_frames: exact number if it is known without decoding everything, else None.
        K: [3,3] pixels of the frames as they are yielded; `report["intrinsics"]` says `given` or `assumed`.
        task: what the clip is about, in words ("" if the source does not say).
        metric_depth: True when frames carry depth in metres.
        report: what was found out about the source: warnings, transforms applied, depth unit, registration (JSON-able).
            Complete once the source has been iterated to its end.
    """

    uri: str
    kind: str
    width: int
    height: int
    num_frames: int | None
    task: str
    metric_depth: bool
    report: dict[str, Any]

    @property
    def K(self) -> np.ndarray | None: ...

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, *exc: object) -> None: ...


@dataclass(frozen=True)
class BackendInfo:
    """What a backend says about itself; ends up in every clip's provenance.

    Attributes:
        kind: `features`, `geometry`, `tracking`, `entities` or `captions`.
        name: what users write in a config.
        version: of the backend's code.
        licence: of code and weights together, the stricter one.
        metric: True if its lengths are metres.
        licence_class: `permissive`, `non-commercial`, `gated` or `user` (see `perception.registry`).
        weights, revision: what it loaded; "" without weights.
    """

    kind: str
    name: str
    version: str
    licence: str
    metric: bool = False
    licence_class: str = "permissive"
    weights: str = ""
    revision: str = ""


@runtime_checkable
class FeatureBackend(Protocol):
    """Dense descriptors of an image, for grouping pixels into entities (mu0-paper A.1)."""

    info: BackendInfo

    def describe(
        self, image: UInt8[np.ndarray, "H W 3"], depth_m: Float32[np.ndarray, "H W"] | None = None
    ) -> Float32[np.ndarray, "h w C"]:
        """One C-vector per cell of a regular grid that covers the whole image."""
        ...


@dataclass(frozen=True, eq=False)
class Geometry:
    """Shape of the scene seen in S frames.

    Attributes:
        depth_m: [S,H,W], NaN invalid (in units of the reconstruction if `metric` is False).
        K: [S,3,3] pixels; cam_from_world: [S,4,4].
        metric: lengths are metres.
        status: per frame, "" or why the pose of that frame is only held over ("lost", "static" …).
    """

    depth_m: Float32[np.ndarray, "S H W"]
    K: Float[np.ndarray, "S 3 3"]
    cam_from_world: Float[np.ndarray, "S 4 4"]
    metric: bool
    status: tuple[str, ...] = ()


@runtime_checkable
class GeometryBackend(Protocol):
    """Depth and camera poses of a run of frames (mu0-paper A.3); knows no more than the frames tell it.

    `max_frames` is how many frames one call may be given (None: any number). `K` is None where nobody knows it: a backend
    that estimates intrinsics does so, others assume a usual field of view.
    """

    info: BackendInfo
    max_frames: int | None

    def reconstruct(self, frames: Sequence[Frame], K: Float[np.ndarray, "3 3"] | None) -> Geometry: ...


@dataclass(frozen=True, eq=False)
class Tracks2D:
    """Paths in the image: `xy_px` [T,N,2] (NaN unknown), `visible` [T,N], `confidence` [T,N] in [0,1]."""

    xy_px: Float32[np.ndarray, "T N 2"]
    visible: Bool[np.ndarray, "T N"]
    confidence: Float32[np.ndarray, "T N"]


@runtime_checkable
class TrackerBackend(Protocol):
    """Follows points through frames, one frame at a time, so that memory does not grow with the clip.

    `start` begins with the first frame; `add` gives points to follow from the current frame on; `step` moves on by one frame.
    """

    info: BackendInfo

    def start(self, frame: Frame) -> None: ...

    def add(self, xy_px: Float[np.ndarray, "M 2"]) -> None: ...

    def step(self, frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns xy_px [N,2] float, visible [N] bool and confidence [N] float of all points, in the order they were added."""
        ...


@dataclass(frozen=True)
class PartMotion:
    """What one moving part did during an event: medians over its points, as the camera of the clip's first frame sees them.

    Attributes:
        part_id: entity, −1 if the point set has no entities.
        num_points: moving points of the part whose position is known in two frames of the event at least.
        shift: (right, down, away) from a point's first to its last known position: metres if `metric`, else image widths
            (away = 0).
        path: length of the way between them, same unit.
        metric: True if `shift` and `path` are in metres.
        start_uv, end_uv: first and last known position in the image; [-1,1] is inside.
    """

    part_id: int
    num_points: int
    shift: tuple[float, float, float]
    path: float
    metric: bool
    start_uv: tuple[float, float]
    end_uv: tuple[float, float]


@dataclass(frozen=True, eq=False)
class CaptionRequest:
    """What a captioner is given about one event (mu0-paper A.5: start, midpoint and end frame, motion, optional task text).

    Attributes:
        images: start, midpoint and end frame, RGB; empty for captioners with `needs_images = False`.
        motion_mask: [H,W] where points of the start frame are that move during the event; None without images.
        parts: motion of every moving part, largest first.
        start_s, end_s: the event's time span in the clip.
        index, count: which event of how many.
        task: text about the whole clip ("" if unknown).
    """

    parts: tuple[PartMotion, ...]
    start_s: float
    end_s: float
    index: int
    count: int
    task: str = ""
    images: tuple[np.ndarray, ...] = ()
    motion_mask: np.ndarray | None = None


@dataclass(frozen=True)
class Caption:
    """Words for one event: one sentence, and state before, what happens, state after. `source` says who speaks."""

    caption: str
    before: str
    interaction: str
    change: str
    source: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class CaptionBackend(Protocol):
    """Words for events, and for runs of adjacent events (mu0-paper §2.3, A.5)."""

    info: BackendInfo
    needs_images: bool

    def caption(self, request: CaptionRequest) -> Caption: ...

    def merge(self, captions: Sequence[Caption], task: str = "") -> Caption:
        """One caption for adjacent events, given in order."""
        ...
