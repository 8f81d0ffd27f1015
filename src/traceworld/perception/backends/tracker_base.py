"""What all learned trackers share: the easy cases, an order of queries that does not matter, and lifting for 2D ones."""

from __future__ import annotations

import logging

import numpy as np

from traceworld.errors import InvalidInputError
from traceworld.perception.chunks import FrameChunk, PointQueries, PointTracks, check_queries
from traceworld.perception.hybrid import is_out_of_memory
from traceworld.perception.interfaces import BackendInfo, Tracks2D
from traceworld.perception.lift_tracks import from_world, lift_tracks

log = logging.getLogger(__name__)

_TRACK_FIELDS = ("xyz_world", "xy_px", "visible", "valid", "confidence")


class LearnedTracker:
    """`PointTracker` around a model call. A subclass gives `follow`, which sees at least one query and two frames.

    Queries are handed over in an order that depends on themselves alone, so that permuting them permutes the answer to the
    last bit although points attend to each other in these models.
    """

    info: BackendInfo

    def track(self, chunk: FrameChunk, queries: PointQueries) -> PointTracks:
        """See `PointTracker`."""
        check_queries(chunk, queries)
        if len(queries) == 0 or len(chunk) == 1:
            return _at_rest(chunk, queries)
        order = np.lexsort((*queries.xyz_world.T, *queries.xy_px.T, queries.frame))
        found = self._follow_in_parts(chunk, queries.take(order))
        return found.take(np.argsort(order, kind="stable"))

    def _follow_in_parts(self, chunk: FrameChunk, queries: PointQueries) -> PointTracks:
        """Fewer points at a time where memory does not hold them all."""
        try:
            return self.follow(chunk, queries)
        except Exception as error:
            if not is_out_of_memory(error) or len(queries) < 2:
                raise
            log.warning("%s: out of memory with %d points, trying half: %s", self.info.name, len(queries), error)
        half = len(queries) // 2
        parts = [self._follow_in_parts(chunk, queries.take(rows)) for rows in np.split(np.arange(len(queries)), [half])]
        joined = (np.concatenate([getattr(part, name) for part in parts], axis=1) for name in _TRACK_FIELDS)
        return PointTracks(*joined)

    def follow(self, chunk: FrameChunk, queries: PointQueries) -> PointTracks:
        """The answer for at least one query in at least two frames."""
        raise NotImplementedError


class Tracker2D(LearnedTracker):
    """A tracker of pixels; its tracks are lifted with the chunk's depth. A subclass gives `follow_px`."""

    def follow(self, chunk: FrameChunk, queries: PointQueries) -> PointTracks:
        """See `LearnedTracker`."""
        return lift_tracks(self.follow_px(chunk.images, queries), chunk, queries)

    def follow_px(self, images: np.ndarray, queries: PointQueries) -> Tracks2D:
        """Tracks in house pixels."""
        raise NotImplementedError


def _at_rest(chunk: FrameChunk, queries: PointQueries) -> PointTracks:
    """No queries, or only the frame they lie in: nothing for a model to do."""
    frames, count = len(chunk), len(queries)
    seen = np.ones((frames, count), bool)
    xyz = np.repeat(queries.xyz_world[None].astype(np.float64), frames, 0)
    return from_world(xyz, seen, seen.astype(np.float32), chunk, queries)


def depth_or_error(chunk: FrameChunk, name: str) -> np.ndarray:
    """[T,H,W] with 0 where unknown, as world trackers want it.

    Raises:
        InvalidInputError: the source has no depth, or so little that the model's own normalisation fails (4 values).
    """
    if chunk.depth_m is None:
        raise InvalidInputError(
            "follows points in 3D and there is no depth",
            where=f"tracker {name}",
            mend="choose a --geometry that gives depth",
        )
    depth = np.nan_to_num(chunk.depth_m, nan=0.0)
    if (depth > 0).sum(axis=(1, 2)).min() < 4:
        raise InvalidInputError(
            "a frame has fewer than 4 known depths", where=f"tracker {name}", mend="choose another --geometry"
        )
    return depth
