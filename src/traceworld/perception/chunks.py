"""A run of frames as trackers and entity finders get it, and what they give back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from traceworld.errors import InvalidInputError
from traceworld.perception.entities import EntityMaps
from traceworld.perception.interfaces import BackendInfo


@dataclass(frozen=True, eq=False)
class FrameChunk:
    """T consecutive frames of known cameras.

    Attributes:
        images: RGB. depth_m: NaN unknown; None for a source without depth.
        K: [3,3] pixels of these images, one camera for all. cam_from_world: [T,4,4].
    """

    images: UInt8[np.ndarray, "T H W 3"]
    depth_m: Float32[np.ndarray, "T H W"] | None
    K: Float[np.ndarray, "3 3"]
    cam_from_world: Float[np.ndarray, "T 4 4"]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.images.shape[2], self.images.shape[1]


@dataclass(frozen=True, eq=False)
class PointQueries:
    """Points to follow: `frame` within the chunk, and where they are in it, in the image and in the world.

    Raises:
        InvalidInputError: lengths differ, NaN positions, or a frame outside of any chunk.
    """

    frame: Int[np.ndarray, " M"]
    xy_px: Float[np.ndarray, "M 2"]
    xyz_world: Float[np.ndarray, "M 3"]

    def __post_init__(self):
        if not len(self.frame) == len(self.xy_px) == len(self.xyz_world):
            raise InvalidInputError("frame, xy_px and xyz_world differ in length", where="PointQueries")
        if not (np.isfinite(self.xy_px).all() and np.isfinite(self.xyz_world).all()):
            raise InvalidInputError(
                "a query position is not finite", where="PointQueries", mend="leave points without depth out"
            )
        if len(self.frame) and self.frame.min() < 0:
            raise InvalidInputError("a query frame is negative", where="PointQueries.frame")

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: np.ndarray) -> PointQueries:
        """Some of the queries, in this order."""
        return PointQueries(self.frame[rows], self.xy_px[rows], self.xyz_world[rows])


@dataclass(frozen=True, eq=False)
class PointTracks:
    """Paths of M points over T frames, rows as the queries.

    Attributes:
        xyz_world: NaN where unknown. xy_px: the same in each frame's image; where `xyz_world` is known, its projection.
        visible: seen in that frame. valid: `xyz_world` may be used (also of a hidden point, if the backend follows it).
        confidence: in [0,1].
    """

    xyz_world: Float32[np.ndarray, "T M 3"]
    xy_px: Float32[np.ndarray, "T M 2"]
    visible: Bool[np.ndarray, "T M"]
    valid: Bool[np.ndarray, "T M"]
    confidence: Float32[np.ndarray, "T M"]

    def take(self, rows: np.ndarray) -> PointTracks:
        """Some of the points, in this order."""
        return PointTracks(
            self.xyz_world[:, rows],
            self.xy_px[:, rows],
            self.visible[:, rows],
            self.valid[:, rows],
            self.confidence[:, rows],
        )


@runtime_checkable
class PointTracker(Protocol):
    """Follows points through a chunk, forward and backward from the frames they are given in (mu0-paper A.4).

    Permuting the queries permutes the rows of the answer; no queries, one frame and chunks of any length are fine.
    """

    info: BackendInfo

    def track(self, chunk: FrameChunk, queries: PointQueries) -> PointTracks: ...


@runtime_checkable
class EntityBackend(Protocol):
    """Things in the image with one identity through the clip (mu0-paper A.1); called chunk by chunk, in order."""

    info: BackendInfo

    def start(self) -> None:
        """A new clip begins: forget the identities of the last one."""
        ...

    def find(
        self,
        images: UInt8[np.ndarray, "R H W 3"],
        features: Float[np.ndarray, "R h w C"],
        motion: Bool[np.ndarray, "R h w"],
        displaced: Bool[np.ndarray, "R h w"] | None = None,
    ) -> EntityMaps:
        """Entities on the representative frames of one chunk; the grid is that of the features."""
        ...


def check_queries(chunk: FrameChunk, queries: PointQueries) -> None:
    """Refuse queries for frames that the chunk does not have.

    Raises:
        InvalidInputError: named with the frame.
    """
    if len(queries) and int(queries.frame.max()) >= len(chunk):
        raise InvalidInputError(
            f"frame {int(queries.frame.max())} of a chunk of {len(chunk)}", where="PointQueries.frame"
        )
