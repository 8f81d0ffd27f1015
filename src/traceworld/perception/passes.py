"""Following points through one chunk of frames: forward from where each was chosen or handed over, backward to the chunk's start."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from traceworld.geometry.cameras import project
from traceworld.perception.chunks import FrameChunk, PointQueries, PointTracks, check_queries
from traceworld.perception.lift_tracks import from_world
from traceworld.perception.motion import DenseFlow, FlowField
from traceworld.perception.odometry import to_gray
from traceworld.perception.tracking import EmbeddedTracker, PointState, PointStepper, TrackingConfig, View, empty_state


@dataclass(frozen=True, eq=False)
class Queries:
    """Points to follow: `frame` within the chunk, where they are, which entity they belong to."""

    frame: Int[np.ndarray, " M"]
    xyz_world: Float[np.ndarray, "M 3"]
    part_id: Int[np.ndarray, " M"]

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(frozen=True, eq=False)
class ChunkTracks:
    """Paths of points over the frames of a chunk, as in `Traces`; `end` is the state at its last frame."""

    xyz_world: Float32[np.ndarray, "T M 3"]
    visible: Bool[np.ndarray, "T M"]
    valid: Bool[np.ndarray, "T M"]
    end: PointState


@dataclass(frozen=True, eq=False)
class ChunkView:
    """A chunk as the tracker sees it: views [T] and the flows between neighbours ([T−1], forward and backward)."""

    views: Sequence[View]
    forward: Sequence[FlowField]
    backward: Sequence[FlowField]


def follow_chunk(
    chunk: ChunkView,
    K: Float[np.ndarray, "3 3"],
    carried: PointState | None,
    queries: Queries,
    config: TrackingConfig,
    background_rests: bool = False,
) -> ChunkTracks:
    """Carry the points of the last chunk (`carried`, state at this chunk's first frame) and new ones through the chunk.

    `background_rests`: camera motion is accounted for, so that background points need not be followed to know where they are.
    Rows of the result: carried points first, then the queries in their order. Permuting the queries permutes the rows.
    """
    frames = len(chunk.views)
    height, width = chunk.views[0].gray.shape
    stepper = PointStepper(K, width, height, config, background_rests)
    held = 0 if carried is None else len(carried.xyz_world)
    total = held + len(queries)
    xyz = np.full((frames, total, 3), np.nan, np.float32)
    visible, valid = np.zeros((frames, total), bool), np.zeros((frames, total), bool)

    def note(t: int, state: PointState, rows: np.ndarray) -> None:
        ok = state.valid
        xyz[t, rows[ok]] = state.xyz_world[ok]
        visible[t, rows] = state.seen
        valid[t, rows] = ok

    # Forward: points join at the frame they were chosen in.
    state = carried if carried is not None else empty_state(config)
    rows = np.arange(held)
    for t in range(frames):
        if t > 0:
            stepper.step(state, chunk.views[t - 1], chunk.views[t], chunk.forward[t - 1], chunk.backward[t - 1])
        new = np.flatnonzero(queries.frame == t)
        if len(new):
            state = state.join(_begin(queries, new, chunk.views[t], K, config))
            rows = np.concatenate([rows, held + new])
        note(t, state, rows)
    order = np.argsort(rows, kind="stable")
    end = state.take(order)

    # Backward: new points only, from the last query frame to the chunk's first.
    state, rows = empty_state(config), np.zeros(0, np.int64)
    last = int(queries.frame.max()) if len(queries) else -1
    for t in range(last, -1, -1):
        if len(rows):
            stepper.step(state, chunk.views[t + 1], chunk.views[t], chunk.backward[t], chunk.forward[t])
            note(t, state, rows)
        new = np.flatnonzero(queries.frame == t)
        if len(new):
            state = state.join(_begin(queries, new, chunk.views[t], K, config))
            rows = np.concatenate([rows, held + new])
    return ChunkTracks(xyz, visible, valid, end)


def _begin(queries: Queries, pick: np.ndarray, view: View, K: np.ndarray, config: TrackingConfig) -> PointState:
    xyz = queries.xyz_world[pick].astype(np.float64)
    xy = project(xyz, np.asarray(K, np.float64), np.asarray(view.cam_from_world, np.float64))[..., :2]
    return PointState.begin(xyz, queries.part_id[pick], xy, view, config.patch_half)


class EmbeddedPointTracker:
    """The embedded tracker as a `PointTracker`; extraction calls `follow_chunk` directly, which keeps its state over chunks."""

    info = EmbeddedTracker.info

    def __init__(self, config: TrackingConfig | None = None):
        self.config = config or TrackingConfig()

    def track(self, chunk: FrameChunk, queries: PointQueries) -> PointTracks:
        """See `PointTracker`; hidden points are carried by their rigid neighbours. Confidence: 1 seen, ½ hidden, 0 lost."""
        check_queries(chunk, queries)
        flow, (width, height) = DenseFlow(), chunk.size
        grays = [to_gray(image) for image in chunk.images]
        small = [flow.small(gray) for gray in grays]
        forward = [flow.between(a, b, width, height) for a, b in itertools.pairwise(small)]
        backward = [flow.between(b, a, width, height) for a, b in itertools.pairwise(small)]
        depth = [None] * len(grays) if chunk.depth_m is None else list(chunk.depth_m)
        views = [View(*view) for view in zip(grays, depth, chunk.cam_from_world, strict=True)]
        points = Queries(queries.frame, queries.xyz_world, np.zeros(len(queries), np.int32))
        found = follow_chunk(ChunkView(views, forward, backward), chunk.K, None, points, self.config)
        confidence = np.where(found.visible, 1.0, np.where(found.valid, 0.5, 0.0))
        xyz = np.where(found.valid[..., None], found.xyz_world, np.nan)
        return from_world(xyz, found.visible, confidence, chunk, queries)
