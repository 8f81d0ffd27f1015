"""Hybrid global–local reconstruction: a clip of any length through a backend that takes few frames (mu0-paper A.3).

One sparse pass over anchor frames of the whole clip sets the global frame and one shared K. Dense passes over chunks follow;
each is aligned straight to the anchors, so that errors do not add up from chunk to chunk. A backend whose lengths are metres
is aligned rigidly (eq. 1). One whose scale is free in every pass is aligned with a scale read from the ratio of depths on the
shared anchors: a rigid fit leaves the scale spread in the points, and poses of a still camera do not show it.

What the printed scheme leaves open is settled so: a chunk with fewer than `min_shared` anchors of its own is given the nearest
anchors as additional frames, so no chunk is ever left unaligned; out of memory halves the chunk, then the picture, and the
report says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Int

from traceworld.errors import ConfigError, ExtractionError
from traceworld.geometry.cameras import invert_rigid, resize_K
from traceworld.geometry.rigid import align_se3, align_sim3, alignment_residuals, scale_from_depths, transform_poses
from traceworld.perception.interfaces import Frame, Geometry, GeometryBackend

log = logging.getLogger(__name__)

SMALLEST_CHUNK = 2
SMALLEST_SIDE_PX = 112
TAIL_FRAMES = 2
"""A rest of fewer frames joins the chunk before it: one frame alone is no reconstruction."""


@dataclass(frozen=True)
class HybridConfig:
    """
    Attributes:
        chunk_frames: T_chunk of A.3, frames of one dense pass (fewer if the backend takes fewer).
        sparse_max: T_sparse of A.3, most anchors of the global pass (fewer if the backend takes fewer).
        min_shared: anchors that each dense pass sees at least; the clip's anchors permitting.
        outlier_factor: anchors whose eq. 1 term exceeds so many robust deviations are left out; None: keep all.
    """

    chunk_frames: int = 60
    sparse_max: int = 60
    min_shared: int = 3
    outlier_factor: float | None = 3.0

    def __post_init__(self):
        for name, least in (("chunk_frames", SMALLEST_CHUNK), ("sparse_max", 1), ("min_shared", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"is {getattr(self, name)}", where=name, mend=f"at least {least}")


@dataclass(frozen=True, eq=False)
class Anchors:
    """The sparse pass: `frames` and their `geometry` in the global frame; `K` [3,3] is shared by the whole clip."""

    frames: tuple[Frame, ...]
    geometry: Geometry
    K: Float[np.ndarray, "3 3"]

    @property
    def index(self) -> Int[np.ndarray, " A"]:
        """Which frames of the clip the anchors are."""
        return np.array([frame.index for frame in self.frames])


@dataclass(frozen=True, eq=False)
class AlignedChunk:
    """A dense pass in the global frame.

    Attributes:
        frames: of the chunk, in order.
        geometry: of these frames; K is the shared one.
        scale: what depths were multiplied by (1 for a metric backend).
        shared: anchors that it was aligned by.
        residual: root mean square of the terms of eq. 1 that are left.
    """

    frames: tuple[Frame, ...]
    geometry: Geometry
    scale: float
    shared: int
    residual: float


def anchor_frames(num_frames: int, most: int) -> Int[np.ndarray, " A"]:
    """Frames of the sparse pass: at most `most`, evenly from the first to the last (A.3)."""
    return np.unique(np.linspace(0, num_frames - 1, min(num_frames, most)).round().astype(int))


def chunks_of(num_frames: int, chunk_frames: int) -> list[tuple[int, int]]:
    """Non-overlapping [start, stop) of the dense passes; a tail of one frame joins the chunk before."""
    starts = list(range(0, num_frames, chunk_frames))
    if len(starts) > 1 and num_frames - starts[-1] < TAIL_FRAMES:
        starts.pop()
    return list(zip(starts, [*starts[1:], num_frames], strict=True))


@dataclass(eq=False)
class HybridReconstruction:
    """Runs the passes of one clip.

    Attributes:
        report: JSON-able: passes, scales, residuals, and what was made smaller for lack of memory.
    """

    backend: GeometryBackend
    config: HybridConfig = field(default_factory=HybridConfig)
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        most = self.backend.max_frames
        if most is not None and most < SMALLEST_CHUNK + self.config.min_shared:
            raise ConfigError(
                f"takes {most} frames at a time, {SMALLEST_CHUNK} and {self.config.min_shared} shared anchors are needed",
                where=f"geometry backend {self.backend.info.name}",
                mend="lower min_shared, or choose another backend",
            )
        self._dense = self.config.chunk_frames if most is None else min(self.config.chunk_frames, most)
        self._shrink = 1
        self.report.update(anchors=0, chunks=[], out_of_memory=[])

    def chunk_frames(self) -> int:
        """Frames of the chunks that `align` should be given: with room for shared anchors if the backend takes few."""
        most = self.backend.max_frames
        return self._dense if most is None else min(self._dense, most - self.config.min_shared)

    def sparse_frames(self, num_frames: int) -> Int[np.ndarray, " A"]:
        """Which frames of a clip `anchor` is to be given."""
        most = self.backend.max_frames
        return anchor_frames(num_frames, self.config.sparse_max if most is None else min(self.config.sparse_max, most))

    def anchor(self, frames: Sequence[Frame], K_px: Float[np.ndarray, "3 3"] | None) -> Anchors:
        """The global sparse pass.

        Args:
            frames: the anchors, in order.
            K_px: known intrinsics, kept as they are. None: the mean of those that the backend finds (A.3).

        Raises:
            ExtractionError: not even two small anchors fit into memory.
        """
        frames = tuple(frames)
        while True:
            try:
                geometry = self._reconstruct(frames, K_px)
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                # Fewer anchors first: chunks get additional ones where they have none of their own.
                fewer = frames[::2] if len(frames) > SMALLEST_CHUNK + self.config.min_shared else frames
                self._note_memory("anchors", len(frames), len(fewer), error)
                if len(fewer) == len(frames):
                    self._smaller_pictures(error)
                frames = fewer
        K = geometry.K.mean(0) if K_px is None else np.asarray(K_px, np.float64)
        self.report["anchors"] = len(frames)
        return Anchors(frames, replace(geometry, K=np.repeat(K[None], len(frames), 0)), K)

    def align(self, frames: Sequence[Frame], anchors: Anchors) -> Iterator[AlignedChunk]:
        """One dense pass over adjacent frames, in the global frame; more than one if memory does not hold it.

        Raises:
            ExtractionError: two small frames do not fit into memory.
        """
        frames = tuple(frames)
        known_to_fit = self._dense + TAIL_FRAMES - 1
        parts = [(0, len(frames))] if len(frames) <= known_to_fit else chunks_of(len(frames), self._dense)
        waiting = [frames[start:stop] for start, stop in parts]
        while waiting:
            part = waiting.pop(0)
            try:
                yield self._align(part, anchors)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                half = (len(part) + 1) // 2
                self._note_memory("chunk", len(part), half if half >= SMALLEST_CHUNK else len(part), error)
                if half >= SMALLEST_CHUNK and len(part) > half:
                    self._dense = min(self._dense, half)  # later chunks are not tried at the old size
                    waiting = [part[:half], part[half:], *waiting]
                else:
                    self._smaller_pictures(error)
                    waiting = [part, *waiting]

    def _align(self, frames: tuple[Frame, ...], anchors: Anchors) -> AlignedChunk:
        start, stop = frames[0].index, frames[-1].index + 1
        rows = shared_anchors(anchors.index, start, stop, self.config.min_shared)
        own = (anchors.index[rows] >= start) & (anchors.index[rows] < stop)
        asked = [*frames, *(anchors.frames[row] for row in rows[~own])]
        asked.sort(key=lambda frame: frame.index)  # reconstruction networks expect frames in order of time
        at = {frame.index: place for place, frame in enumerate(asked)}
        local = self._reconstruct(asked, anchors.K)
        seen = [at[int(index)] for index in anchors.index[rows]]
        local_poses, global_poses = invert_rigid(local.cam_from_world), invert_rigid(anchors.geometry.cam_from_world)
        A, scale = self._transform(local, local_poses, seen, anchors, global_poses, rows)
        mine = [at[frame.index] for frame in frames]
        world_from_cam = transform_poses(A, local_poses)
        left = alignment_residuals(np.eye(4), world_from_cam[seen], global_poses[rows])
        residual = float(np.sqrt((left**2).mean()))
        self.report["chunks"].append(
            {"start": start, "stop": stop, "scale": scale, "shared": len(rows), "residual": residual}
        )
        geometry = Geometry(
            depth_m=(local.depth_m[mine] * np.float32(scale)).astype(np.float32),
            K=np.repeat(anchors.K[None], len(frames), 0),
            cam_from_world=invert_rigid(world_from_cam[mine]),
            metric=anchors.geometry.metric,
            status=tuple(local.status[place] for place in mine) if local.status else (),
        )
        return AlignedChunk(frames, geometry, scale, len(rows), residual)

    def _transform(self, local, local_poses, seen, anchors, global_poses, rows) -> tuple[np.ndarray, float]:
        factor = self.config.outlier_factor
        if self.backend.info.metric:
            return align_se3(local_poses[seen], global_poses[rows], factor), 1.0
        scale = scale_from_depths(local.depth_m[seen], anchors.geometry.depth_m[rows])
        return align_sim3(local_poses[seen], global_poses[rows], scale, factor), scale

    def _reconstruct(self, frames: Sequence[Frame], K_px: np.ndarray | None) -> Geometry:
        height, width = frames[0].image.shape[:2]
        shrink = self._shrink
        if shrink == 1:
            return self.backend.reconstruct(frames, K_px)
        small = [_smaller(frame, shrink) for frame in frames]
        size, size_small = (width, height), small[0].image.shape[1::-1]
        found = self.backend.reconstruct(small, None if K_px is None else resize_K(K_px, size, size_small))
        depth = [cv2.resize(each, size, interpolation=cv2.INTER_NEAREST) for each in found.depth_m]
        return replace(found, depth_m=np.stack(depth), K=resize_K(found.K, size_small, size))

    def _note_memory(self, what: str, frames: int, next_frames: int, error: BaseException) -> None:
        log.warning("out of memory in a pass of %d frames: %s", frames, error)
        self.report["out_of_memory"].append(
            {"pass": what, "frames": frames, "next_frames": next_frames, "shrink": self._shrink}
        )

    def _smaller_pictures(self, error: BaseException) -> None:
        self._shrink *= 2
        if self._shrink > 8:
            raise ExtractionError(
                "out of memory even with the smallest chunk and pictures",
                where=f"geometry backend {self.backend.info.name}",
                mend="free memory, or choose a smaller backend",
            ) from error


def shared_anchors(index: Int[np.ndarray, " A"], start: int, stop: int, least: int) -> Int[np.ndarray, " S"]:
    """Rows of the anchors that the chunk [start, stop) is aligned by: all inside it, and the nearest until there are `least`."""
    distance = np.maximum(np.maximum(start - index, index - (stop - 1)), 0)
    number = max(least, int((distance == 0).sum()))
    return np.sort(np.argsort(distance, kind="stable")[:number])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full, on the host or on a device (torch's own class, or CUDA's words)."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()


def _smaller(frame: Frame, shrink: int) -> Frame:
    height, width = frame.image.shape[:2]
    factor = max(1 / shrink, min(1.0, SMALLEST_SIDE_PX / min(height, width)))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    image = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA)
    depth = frame.depth_m
    if depth is not None:
        depth = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)
    return replace(frame, image=image, depth_m=depth)
