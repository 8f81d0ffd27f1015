"""`build_traces` with backends chosen by name: the same stages, other senses (mu0-paper A.1–A.4)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from traceworld.extract.config import ExtractConfig
from traceworld.extract.keypoints import Keypoints
from traceworld.extract.tracks import MIN_DEPTH_SHARE, RETIRE_AFTER, TrackResult, _Builder, _Chunk, _Piece, build_traces
from traceworld.geometry.cameras import project
from traceworld.perception import registry
from traceworld.perception.chunks import EntityBackend, FrameChunk, PointQueries, PointTracker
from traceworld.perception.depth_source import DepthSource, ImageDepth
from traceworld.perception.interfaces import FeatureBackend, FrameSource, GeometryBackend
from traceworld.perception.reconstructed import ReconstructedSource


@dataclass(frozen=True)
class Senses:
    """The backends of one run; None: the embedded one, built into `build_traces`."""

    features: FeatureBackend | None = None
    geometry: GeometryBackend | None = None
    tracking: PointTracker | None = None
    entities: EntityBackend | None = None

    def chosen(self) -> dict[str, Any]:
        """Kind → backend of those that are not embedded."""
        return {kind: backend for kind, backend in vars(self).items() if backend is not None}


def require_backends(config: ExtractConfig) -> None:
    """Refuse a run before it begins if a backend may not be used, or is not on this machine. Raises as `make_senses`."""
    registry.require_accepted(config.backends(), config.accept_licence)
    registry.require_available(config.backends())


def make_senses(config: ExtractConfig) -> Senses:
    """Make what the config names, or take what this process made for the last clip; embedded ones are left to
    `build_traces`.

    Raises:
        ConfigError: unknown, or restricted and not accepted.
        MissingExtraError, MissingWeightsError: not on this machine.
    """
    chosen = config.backends()
    registry.require_accepted(chosen, config.accept_licence)
    made = {}
    for kind in ("features", "geometry", "tracking", "entities"):
        if chosen[kind] != "embedded":
            seed = {"seed": config.seed} if kind == "entities" else {}
            made[kind] = registry.held(kind, chosen[kind], **seed)
    if "entities" in made:
        made["entities"].start()
    return Senses(**made)


def build_traces_with(
    source: FrameSource, config: ExtractConfig, senses: Senses, progress: Callable[[int], None] | None = None
) -> TrackResult:
    """As `build_traces`; with no sense chosen it is `build_traces`.

    A geometry backend replaces the source's depth. One that knows single pictures leaves the cameras to the odometry; the
    others give cameras too (hybrid reconstruction, A.3), and the traces are metric if they are.

    Raises:
        ExtractionError: the source has no frame, or memory does not hold two small ones.
    """
    if not senses.chosen():
        return build_traces(source, config, progress)
    seen = _with_geometry(source, senses.geometry)
    result = _ChosenBuilder(seen, config, senses).run(progress)
    return result if senses.geometry is None else replace(result, metric=result.metric and seen.metric_depth)


def _with_geometry(source: FrameSource, geometry: GeometryBackend | None) -> FrameSource:
    if geometry is None:
        return source
    return DepthSource(source, geometry) if isinstance(geometry, ImageDepth) else ReconstructedSource(source, geometry)


class _PicturesToo:
    """The builder's entity finder, fed with the pictures that an `EntityBackend` may look at."""

    def __init__(self, backend: EntityBackend):
        self._backend = backend
        self.images: list[np.ndarray] = []

    def find(self, features: np.ndarray, motion: np.ndarray, displaced: np.ndarray | None = None) -> Any:
        return self._backend.find(np.stack(self.images), features, motion, displaced)


@dataclass(eq=False)
class _Held:
    """Points carried into the next chunk: ids, last valid position, frames since last seen."""

    ids: np.ndarray
    xyz_world: np.ndarray
    lost: np.ndarray


class _ChosenBuilder(_Builder):
    def __init__(self, source: FrameSource, config: ExtractConfig, senses: Senses):
        super().__init__(source, config)
        self._tracker = senses.tracking
        self.both_ways = self._tracker is None
        # With geometry on the same GPU, two models at once could run out of memory at one time and not at another.
        self._overlap = senses.geometry is None
        self._pending: tuple[int, _Held, np.ndarray, Future] | None = None
        self._held = _Held(np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros(0, np.int64))
        if senses.features is not None:
            self.features = senses.features  # type: ignore[assignment]
        self._shown = None if senses.entities is None else _PicturesToo(senses.entities)
        if self._shown is not None:
            self.entities = self._shown  # type: ignore[assignment]

    def run(self, progress: Callable[[int], None] | None) -> TrackResult:
        """The tracker works on a chunk while the next one is read."""
        with ThreadPoolExecutor(1) as self._pool:
            return super().run(progress)

    def _assemble(self) -> TrackResult:
        self._settle()
        return super()._assemble()

    def _choose(self, chunk: _Chunk, residual: list[np.ndarray], carried_xy: np.ndarray) -> Keypoints:
        if self._shown is not None:
            self._shown.images = [chunk.images[t] for t in self._representatives(residual, len(chunk.grays))]
        return super()._choose(chunk, residual, carried_xy)

    def _where_carried(self, chunk: _Chunk) -> np.ndarray:
        if self._tracker is None:
            return super()._where_carried(chunk)
        return project(self._held.xyz_world, self.K, chunk.poses[0])[..., :2]

    def _held_parts(self) -> np.ndarray:
        if self._tracker is None:
            return super()._held_parts()
        return np.asarray(self.part, np.int32)[self._held.ids]

    def _finish(self, chunk: _Chunk) -> None:
        if self._tracker is None:
            super()._finish(chunk)
            return
        self._settle()
        self._depth_or_plane(chunk)
        self._solve_cameras(chunk)
        keypoints = self._choose(chunk, self._residuals(chunk), self._where_carried(chunk))
        queries = self._lift_queries(chunk, keypoints)
        held = self._in_view(chunk)
        asked = PointQueries(
            np.concatenate([np.zeros(len(held.ids), np.int64), queries.frame]),
            np.concatenate([self._pixels(chunk, held), self._query_pixels(chunk, queries)]),
            np.concatenate([held.xyz_world, queries.xyz_world]),
        )
        depth = np.stack(chunk.depth) if self.metric else None
        view = FrameChunk(np.stack(chunk.images), depth, self.K, np.stack(chunk.poses))
        new_ids = np.arange(len(self.part), len(self.part) + len(queries))
        self.part += queries.part_id.tolist()
        self.query_frame += [chunk.index[t] for t in queries.frame]
        self._pending = (chunk.index[0], held, new_ids, self._pool.submit(self._tracker.track, view, asked))
        if not self._overlap:
            self._settle()

    def _settle(self) -> None:
        """Take what the tracker found in the last chunk."""
        if self._pending is None:
            return
        (start, held, new_ids, future), self._pending = self._pending, None
        tracks = future.result()
        ids = np.concatenate([held.ids, new_ids])
        skip = 1 if self.pieces else 0
        xyz = np.where(tracks.valid[..., None], tracks.xyz_world, np.nan)
        self.pieces.append(_Piece(start + skip, ids, xyz[skip:], tracks.visible[skip:], tracks.valid[skip:]))
        lost = np.concatenate([held.lost, np.zeros(len(new_ids), np.int64)])
        self._carry(ids, xyz, tracks.visible, lost, np.arange(len(held.ids)))

    def _depth_or_plane(self, chunk: _Chunk) -> None:
        """Whether the source has usable depth is decided by the first chunk, as in `_Builder`."""
        if self.metric is None:
            shares = [0.0 if depth is None else np.isfinite(depth).mean() for depth in chunk.depth]
            self.metric = bool(np.mean(shares) >= MIN_DEPTH_SHARE)
        nothing = np.full((self.height, self.width), np.nan, np.float32)
        chunk.depth = [(d if d is not None else nothing) if self.metric else None for d in chunk.depth]

    def _in_view(self, chunk: _Chunk) -> _Held:
        """Carried points that the first camera looks at; the others have left and get no position in this chunk."""
        xy = project(self._held.xyz_world, self.K, chunk.poses[0])[..., :2]
        keep = np.isfinite(xy).all(-1) & (xy > -0.5).all(-1)
        keep &= (xy[:, 0] < self.width - 0.5) & (xy[:, 1] < self.height - 0.5)
        self.quality["retired"] += int((~keep).sum())
        return _Held(self._held.ids[keep], self._held.xyz_world[keep], self._held.lost[keep])

    def _pixels(self, chunk: _Chunk, held: _Held) -> np.ndarray:
        return project(held.xyz_world, self.K, chunk.poses[0])[..., :2].reshape(-1, 2)

    def _query_pixels(self, chunk: _Chunk, queries: Any) -> np.ndarray:
        xy = [
            project(xyz[None], self.K, chunk.poses[t])[0, :2]
            for t, xyz in zip(queries.frame.tolist(), queries.xyz_world, strict=True)
        ]
        return np.asarray(xy, np.float64).reshape(-1, 2)

    def _carry(self, ids: np.ndarray, xyz: np.ndarray, visible: np.ndarray, lost: np.ndarray, old: np.ndarray) -> None:
        """Hand points over by their last valid position (A.4); those unseen for too long are retired."""
        frames = len(xyz)
        known = np.isfinite(xyz).all(-1)
        last = frames - 1 - known[::-1].argmax(0)
        seen_last = frames - 1 - visible[::-1].argmax(0)
        # A carried point is a query at frame 0, where the tracker calls it seen without having looked.
        ever = np.asarray(visible.any(0))
        ever[old] = visible[1:, old].any(0)
        unseen = np.where(ever, frames - 1 - seen_last, lost + frames)
        alive = known.any(0) & (unseen < RETIRE_AFTER)
        self.quality["retired"] += int((~alive).sum())
        rows = np.flatnonzero(alive)
        self._held = _Held(ids[rows], xyz[last[rows], rows].astype(np.float64), unseen[rows])
