"""A source whose frames have depth from a single-image network: the cameras are then solved like those of an RGB-D clip."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from traceworld.errors import ExtractionError
from traceworld.perception.interfaces import BackendInfo, Frame, FrameSource

_K_FRAMES = 8


@runtime_checkable
class ImageDepth(Protocol):
    """Depth of one picture: z-depth [H,W] at its size, NaN unknown, and [3,3] intrinsics if the model estimates them."""

    info: BackendInfo

    def depth_of(self, image: np.ndarray, K: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]: ...


class DepthSource:
    """Frames of `source` with `depth_m` by `backend`, one at a time; a sensor's depth is replaced. Poses are left as they are.

    Attributes:
        K: the source's if it was given, else the median of what the backend finds in the first frames, else the source's
            assumed one.
        metric_depth: whether the backend answers in metres.

    Raises:
        ExtractionError: the source has no frame.
    """

    def __init__(self, source: FrameSource, backend: ImageDepth):
        self.source, self.backend = source, backend
        self.uri, self.kind, self.task = source.uri, source.kind, source.task
        self.width, self.height, self.num_frames = source.width, source.height, source.num_frames
        self.metric_depth = backend.info.metric
        given = source.report.get("intrinsics") == "given"
        self._known = np.asarray(source.K, np.float64) if given and source.K is not None else None
        self.K: np.ndarray | None = self._known if self._known is not None else self._estimated()
        self.report: dict[str, Any] = source.report
        self.report["geometry"] = {"backend": backend.info.name}

    def _estimated(self) -> np.ndarray | None:
        first = list(itertools.islice(iter(self.source), _K_FRAMES))
        if not first:
            raise ExtractionError("has no frames", where=self.uri, mend="give a video with at least one frame")
        found = [self.backend.depth_of(frame.image, None)[1] for frame in first]
        own = [K for K in found if K is not None]
        return np.median(own, axis=0) if own else self.source.K

    def __iter__(self) -> Iterator[Frame]:
        for frame in self.source:
            # Told the view, a model answers for that camera; one that assumes a view must assume the same throughout.
            depth, _ = self.backend.depth_of(frame.image, self.K)
            yield replace(frame, depth_m=depth)

    def close(self) -> None:
        """Close the source."""
        self.source.close()

    def __enter__(self) -> DepthSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
