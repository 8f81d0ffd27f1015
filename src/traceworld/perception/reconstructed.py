"""A source whose frames have depth and poses from a geometry backend: what comes after sees no difference to an RGB-D clip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from traceworld.errors import ExtractionError
from traceworld.perception.hybrid import Anchors, HybridConfig, HybridReconstruction
from traceworld.perception.interfaces import Frame, FrameSource, GeometryBackend


class ReconstructedSource:
    """Frames of `source` with `depth_m` and `cam_from_world` of a hybrid reconstruction (mu0-paper A.3).

    The sparse pass is made at once; dense passes while it is iterated, a chunk at a time, so memory does not grow with the
    clip. Every iteration makes the dense passes again: read pictures from `source` itself.

    Attributes:
        metric_depth: lengths are metres; False: in the unit of the sparse pass, the same throughout the clip.
        report: that of the source, with `geometry`: anchors, scales, residuals, what memory did not hold.

    Raises:
        ExtractionError: the source has no frame.
    """

    def __init__(self, source: FrameSource, backend: GeometryBackend, config: HybridConfig | None = None):
        self.source, self.backend = source, backend
        self.uri, self.kind, self.task = source.uri, source.kind, source.task
        self.width, self.height = source.width, source.height
        self._passes = HybridReconstruction(backend, config or HybridConfig())
        self.num_frames: int | None = source.num_frames or sum(1 for _ in source)
        if not self.num_frames:
            raise ExtractionError("has no frames", where=self.uri, mend="give a video with at least one frame")
        self._anchors = self._sparse_pass(self.num_frames)
        self.metric_depth = self._anchors.geometry.metric
        self.report: dict[str, Any] = source.report
        self.report["geometry"] = {"backend": backend.info.name, **self._passes.report}

    @property
    def K(self) -> np.ndarray:
        """[3,3] pixels: the source's if it was given, else the mean over the anchors."""
        return self._anchors.K

    def _sparse_pass(self, num_frames: int) -> Anchors:
        wanted = set(self._passes.sparse_frames(num_frames).tolist())
        frames = [frame for frame in self.source if frame.index in wanted]
        given = self.source.report.get("intrinsics") == "given"
        return self._passes.anchor(frames, self.source.K if given else None)

    def __iter__(self) -> Iterator[Frame]:
        for number in ("chunks", "out_of_memory"):
            self._passes.report[number].clear()
        waiting: list[Frame] = []
        for frame in self.source:
            waiting.append(frame)
            # One frame more is awaited: the tail of a clip must not be a chunk of one frame.
            if len(waiting) > self._passes.chunk_frames() + 1:
                size = self._passes.chunk_frames()
                yield from self._dense_pass(waiting[:size])
                waiting = waiting[size:]
        yield from self._dense_pass(waiting)

    def _dense_pass(self, frames: list[Frame]) -> Iterator[Frame]:
        for chunk in self._passes.align(frames, self._anchors):
            found = chunk.geometry
            for frame, depth_m, pose in zip(chunk.frames, found.depth_m, found.cam_from_world, strict=True):
                yield Frame(frame.index, frame.time_s, frame.image, depth_m, pose, frame.source_index)

    def close(self) -> None:
        """Close the source."""
        self.source.close()

    def __enter__(self) -> ReconstructedSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
