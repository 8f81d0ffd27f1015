"""Commands of TraceSpatial data: tracespatial build, report, check, bench."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg, subcommand

from traceworld.commands.printing import emit, table, tree
from traceworld.errors import ConfigError

if TYPE_CHECKING:
    from traceworld.tracespatial.sources import SceneSource

SourceName = Literal["sim", "ca1m", "scannet", "web", "video", "clips"]


@dataclasses.dataclass(frozen=True)
class Where:
    """Where scenes come from."""

    source: SourceName = "sim"
    """sim: our simulator. ca1m, scannet: folders of scans with boxes. web: pictures with given boxes. video: a calibrated
    LeRobot dataset. clips: our own clip store."""
    input: Path | None = None
    """Folder of the source (not for sim)."""
    every: int = 1
    """Scans: take every n-th frame."""
    views: int = 1
    """Simulator: pictures per table."""
    varied: bool = False
    """Simulator: many lenses and scales, so that a picture alone does not tell metres (as TraceSpatial-Sim and robotracer-nano)."""
    rules: Literal["droid", "agibot", "robotwin"] = "droid"
    """Video: whose rules for calibration check, grip point and segments."""
    geometry: str | None = None
    """Web: the perception backend that gives depth and intrinsics (see `traceworld doctor`)."""

    def open(self, seed: int) -> SceneSource:
        """The source. Raises ConfigError where an option is missing."""
        if self.source == "sim":
            from traceworld.tracespatial.sources import SimSource

            return SimSource(seed, self.views, self.varied)
        if self.input is None:
            raise ConfigError(f"the source '{self.source}' needs a folder", where="--input", mend="--input FOLDER")
        if self.source in ("ca1m", "scannet"):
            from traceworld.tracespatial.scan_source import ScanSource

            return ScanSource(self.input, self.source, self.every)
        if self.source == "web":
            from traceworld.tracespatial.web_source import WebSource

            return WebSource(self.input, self.geometry)
        if self.source == "clips":
            from traceworld.tracespatial.clip_source import ClipSource

            return ClipSource(self.input)
        from traceworld.tracespatial.video_source import VideoSource

        return VideoSource(self.input, self.rules)


@dataclasses.dataclass(frozen=True)
class SpatialBuild(Where):
    """Build a dataset of spatial questions, each answer checked against the scene's geometry; the same call goes on after a stop."""

    out: Path = Path("tracespatial")
    """Dataset folder."""
    questions: int = 1000
    """How many questions."""
    seed: int = 0
    """Of scenes and questions."""
    proposals: int = 10
    """Traces tried per scene."""
    max_scenes: int | None = None
    """Look at no more scenes than this."""
    workers: int = 1
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        from traceworld.tracespatial.dataset import BuildConfig, build

        config = BuildConfig(self.questions, self.seed, proposals=self.proposals, max_scenes=self.max_scenes)
        done = dataclasses.asdict(build(self.open(self.seed), self.out, config, self.workers))
        emit(done, self.json, table(f"tracespatial build → {self.out}", [done]))
        return 0 if done["questions"] else 1


@dataclasses.dataclass(frozen=True)
class SpatialReport:
    """What a dataset is made of: shares by family, steps and relation, what was not asked and why, throughput."""

    data: Positional[Path]
    """Dataset folder."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        from traceworld.tracespatial.statistics import report

        figures = report(self.data)
        emit(figures, self.json, tree(str(self.data), _short(figures)))
        return 0


def _short(figures: dict[str, Any]) -> dict[str, Any]:
    """Count and share on one line each."""

    def told(value: Any) -> Any:
        if isinstance(value, dict) and set(value) == {"count", "share"}:
            return f"{value['count']}  ({100 * value['share']:.1f} %)"
        return {name: told(inner) for name, inner in value.items()} if isinstance(value, dict) else value

    return {name: told(value) for name, value in figures.items()}


@dataclasses.dataclass(frozen=True)
class SpatialCheck(Where):
    """Compute every answer of a dataset again from its scenes; exit code 1 if one is wrong."""

    data: Path = Path("tracespatial")
    """Dataset folder."""
    seed: int = 0
    """The seed it was built with."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        from traceworld.tracespatial.dataset import read_records, recheck

        faults = recheck(self.open(self.seed), self.data)
        result = {"questions": len(read_records(self.data)), "wrong": len(faults), "faults": faults}
        emit(result, self.json, tree(str(self.data), result))
        return 1 if faults else 0


@dataclasses.dataclass(frozen=True)
class SpatialBench(Where):
    """Write a benchmark in the published layout: one trace question per scene, steps 2 to 8."""

    out: Path = Path("tracespatial-sim")
    """Benchmark folder."""
    scenes: int = 200
    """Questions, one per scene."""
    seed: int = 1000
    """Of the scenes; take one that no training set has."""
    proposals: int = 12
    """Traces tried per scene."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        from traceworld.tracespatial.bench_maker import make_bench

        made = make_bench(self.open(self.seed), self.out, self.scenes, seed=self.seed, proposals=self.proposals)
        emit(dataclasses.asdict(made), self.json, tree(f"tracespatial bench → {self.out}", dataclasses.asdict(made)))
        return 0


@dataclasses.dataclass(frozen=True)
class Tracespatial:
    """Spatial questions, reasoning chains and traces from scenes with known geometry."""

    command: Annotated[
        Annotated[SpatialBuild, subcommand("build", prefix_name=False)]
        | Annotated[SpatialReport, subcommand("report", prefix_name=False)]
        | Annotated[SpatialCheck, subcommand("check", prefix_name=False)]
        | Annotated[SpatialBench, subcommand("bench", prefix_name=False)],
        arg(name=""),
    ]

    def run(self) -> int:
        return self.command.run()
