"""Where scenes come from: one small interface for simulator, scans, pictures and manipulation video."""

from __future__ import annotations

import dataclasses
import itertools
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.tracespatial.questions.view import SceneView
from traceworld.tracespatial.rejection import Rejection
from traceworld.tracespatial.scene import Scene, SpatialTrace

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")


@dataclass(frozen=True, eq=False)
class TraceSet:
    """Traces through a scene, and how they came about.

    Attributes:
        traces: the traces. kind: whose path they are, `object` or `end-effector`.
        recorded_world: [R,3] all recorded positions of what is traced, for traces out of a recording; None for planned ones.
        rejected: proposals that were no traces, with their reasons.
    """

    traces: Sequence[SpatialTrace]
    kind: str = "object"
    recorded_world: Float[np.ndarray, "R 3"] | None = None
    rejected: Sequence[Rejection] = ()


@runtime_checkable
class SceneSource(Protocol):
    """Scenes by id. A source is picklable and holds no open files, so that worker processes can have it.

    Attributes:
        name: what the source is, with what makes it what it is (kind, folder, seed); part of a dataset's record.
    """

    name: str

    def scene_ids(self) -> Iterator[str]:
        """Ids in a fixed order, each usable as a file name; may be endless."""
        ...

    def load(self, scene_id: str) -> Scene:
        """The scene of an id. Raises TraceworldError where it cannot be made."""
        ...

    def traces(self, scene: Scene, seed: int, number: int) -> list[TraceSet]:
        """Traces through a scene, `number` of them tried; the same arguments give the same traces."""
        ...


TABLES_PER_SEED = 1_000_000
"""Seed S sets the tables from S million on: two seeds share none."""


class SimSource:
    """Tables of our simulator, photographed: exact geometry, without end.

    Args:
        seed: which tables. views: pictures per table.
        varied: many lenses and scales, so that a picture alone does not tell metres (`sim_views`).
        sizes: picture sizes (width, height) to draw from; () for the usual ones.
    """

    def __init__(self, seed: int = 0, views: int = 1, varied: bool = False, sizes: Sequence[tuple[int, int]] = ()):
        if seed < 0 or views < 1:
            raise ConfigError(f"seed {seed}, {views} views", where="SimSource", mend="seed ≥ 0, views ≥ 1")
        self.seed, self.views, self.varied, self.sizes = seed, views, varied, tuple(sizes)
        self.name = f"sim seed {seed} views {views}{' varied' if varied else ''}"
        self.name += "".join(f" {width}x{height}" for width, height in self.sizes)
        self._held: tuple[int, tuple[Scene, ...]] | None = None

    def scene_ids(self) -> Iterator[str]:
        for table in itertools.count(self.seed * TABLES_PER_SEED):
            for view in range(self.views):
                yield f"sim-{table}-{view}"

    def load(self, scene_id: str) -> Scene:
        """Raises InvalidInputError for an id of another form, MissingExtraError or RenderingError without the simulator."""
        from traceworld.tracespatial.sim_source import SimSourceConfig, sim_scenes
        from traceworld.tracespatial.sim_views import ViewVariety

        match = re.fullmatch(r"sim-(\d+)-(\d+)", scene_id)
        if match is None or int(match.group(2)) >= self.views:
            raise InvalidInputError(f"no scene {scene_id!r}", where=self.name)
        table, view = int(match.group(1)), int(match.group(2))
        if self._held is None or self._held[0] != table:
            config = SimSourceConfig(views=self.views, variety=ViewVariety() if self.varied else None)
            if self.sizes:
                config = dataclasses.replace(config, sizes=self.sizes)
            self._held = (table, sim_scenes(table, config))
        return self._held[1][view]

    def traces(self, scene: Scene, seed: int, number: int) -> list[TraceSet]:
        return planned_traces(scene, seed, number)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_held": None}


def planned_traces(scene: Scene, seed: int, number: int) -> list[TraceSet]:
    """What sources of scenes with boxes answer: traces of the five primitives, planned and checked (`traces.make_traces`).

    Scenes without a metric scale have none: every limit of the planner is in metres.
    """
    from traceworld.tracespatial.traces import make_traces

    if not scene.metric or number == 0:
        return [TraceSet(())]
    # Proposals are drawn from (seed, number): the scene's own seed keeps two scenes from getting the same draws.
    made = make_traces(scene, zlib.crc32(f"{seed}/{scene.scene_id}".encode()), number)
    traces = [one for one in made if isinstance(one, SpatialTrace)]
    return [TraceSet(traces, rejected=[one for one in made if isinstance(one, Rejection)])]


def views(source: SceneSource, scene: Scene, seed: int, number: int) -> list[SceneView]:
    """A scene as the question makers see it, once per set of traces; the first also counts the rejected proposals."""
    found = []
    for traces in source.traces(scene, seed, number):
        view = SceneView(scene, traces.traces, traces.kind, traces.recorded_world)
        for rejection in traces.rejected:
            view.reject(f"trace: {rejection.reason}")
        found.append(view)
    return found


def safe_id(scene_id: str) -> str:
    """The id itself, if it can be a file name.

    Raises:
        InvalidInputError: it cannot.
    """
    if not _SAFE.fullmatch(scene_id):
        raise InvalidInputError(
            f"{scene_id!r} is no file name", where="scene_id", mend="letters, digits, '.', '_', '-'"
        )
    return scene_id
