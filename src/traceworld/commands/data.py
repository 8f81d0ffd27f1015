"""Commands on data: extract, info, view."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from traceworld.commands.printing import emit, table, tree


@dataclasses.dataclass(frozen=True)
class Extract:
    """Turn videos, RGB-D folders or folders of frames into a dataset of 3D traces."""

    inputs: Positional[tuple[Path, ...]]
    """Videos, RGB-D folders, folders of frames, or folders that hold them."""
    out: Path
    """Dataset folder to write or to go on with."""
    preset: Literal["embedded", "hf", "permissive-gpu", "paper"] = "embedded"
    """Backends to start from (`traceworld doctor` lists them); the options below replace single ones."""
    features: str | None = None
    """Patch descriptors, as NAME[:WEIGHTS][#option=value]; WEIGHTS is a hub id or a local path."""
    geometry: str | None = None
    """Depth and cameras."""
    tracker: str | None = None
    """Point tracker."""
    entities: str | None = None
    """What finds things in the image."""
    captions: str | None = None
    """Captioner; a server is openai:MODEL@URL."""
    accept_licence: tuple[Literal["non-commercial", "gated"], ...] = ()
    """Licence classes that this run may use; without it such backends are refused."""
    num_keypoints: int = 256
    """Keypoints per clip."""
    grid: int = 0
    """Follow a regular grid of so many points a side, in place of NUM-KEYPOINTS on entities (TraceForge: 20)."""
    max_side: int = 960
    """Longer side in pixels above which frames are scaled down."""
    fps: float | None = None
    """Use at most so many frames per second; none: all."""
    max_frames: int | None = None
    """Read at most so many frames of each input."""
    allow_partial: bool = False
    """Keep the readable beginning of a damaged video (flagged in the manifest)."""
    seed: int = 0
    min_event_s: float = 1.0
    """Shortest event, in seconds."""
    max_event_s: float = 20.0
    """Longest event, in seconds."""
    smooth_s: float = 0.75
    """Window in seconds over which acceleration is smoothed before it is cut."""
    peak_prominence: float = 0.25
    """Share of the signal's range by which a peak must stand out to be an action."""
    merge_window: int = 3
    """Adjacent events that one summary caption covers."""
    merge_stride: int = 1
    """Events from one summary to the next; as large as the window, summaries do not overlap."""
    cache: Path | None = None
    """Folder that keeps finished stages, for other datasets and options; without it only OUT is looked into. May be
    deleted at any moment."""
    executor: Literal["serial", "processes", "ray"] = "serial"
    """How to map over the inputs: here, in processes, or on a Ray cluster (`RAY_ADDRESS`; else on this machine)."""
    workers: int = 1
    """Worker processes of the executors `processes` and `ray`."""
    timeout_s: float | None = None
    """Limit per input, with `processes` or `ray`."""
    memory_gb: float | None = None
    """Limit of a worker process, with `processes` or `ray`; an input that needs more fails. Linux only."""
    gpus: float = 0.0
    """Share of a GPU that every worker on Ray asks for (0.25: four workers share one); Ray hides GPUs from those that ask
    for none."""
    max_attempts: int = 3
    """Failures in a row after which an input is left alone (`traceworld jobs retry` asks for it again)."""
    shard: str = ""
    """Do only part i of n of the inputs, as i/n from 0: `--shard $SLURM_ARRAY_TASK_ID/64`."""
    json: bool = False
    """Print the report as JSON."""

    def backends(self) -> dict[str, Any]:
        """Field of `ExtractConfig` → backend: the preset's, with those that are named in its place."""
        from traceworld.perception.catalogue import preset

        chosen = preset(self.preset)
        chosen["tracker"] = chosen.pop("tracking")
        named = {kind: getattr(self, kind) for kind in chosen}
        return {kind: named[kind] or text for kind, text in chosen.items()}

    def run(self) -> int:
        from traceworld.extract.config import ExtractConfig
        from traceworld.extract.jobs import extract_many
        from traceworld.extract.shards import Part

        config = ExtractConfig(
            **self.backends(),
            accept_licence=self.accept_licence,
            num_keypoints=self.grid**2 if self.grid else self.num_keypoints,
            grid=self.grid,
            max_side=self.max_side,
            fps=self.fps,
            max_frames=self.max_frames,
            allow_partial=self.allow_partial,
            seed=self.seed,
            min_event_s=self.min_event_s,
            max_event_s=self.max_event_s,
            smooth_s=self.smooth_s,
            peak_prominence=self.peak_prominence,
            merge_window=self.merge_window,
            merge_stride=self.merge_stride,
        )
        report = extract_many(
            list(self.inputs),
            self.out,
            config,
            executor=self.executor,
            workers=self.workers,
            timeout_s=self.timeout_s,
            memory_gb=self.memory_gb,
            gpus=self.gpus,
            max_attempts=self.max_attempts,
            part=Part.parse(self.shard) if self.shard else None,
            cache=self.cache,
        )
        result = dataclasses.asdict(report)
        emit(
            result,
            self.json,
            table(f"extract → {self.out}", list(result["items"]), ["item_id", "status", "stage", "error"]),
        )
        return 0 if report.ok else 1


@dataclasses.dataclass(frozen=True)
class Info:
    """Say what a dataset, a checkpoint or a size holds (e.g. `out/clips`, `mu0-nano`, `mu0:large`, `tracegen:6x12`, `policy:400m`)."""

    target: Positional[str]
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        if self.target.startswith(("mu0:", "tracegen:")):
            from traceworld.models.describe import count_parameters

            result: dict = {"model": self.target, "parameters": count_parameters(*self.target.split(":", 1))}
        elif self.target.startswith("policy:") or _is_policy(self.target):
            from traceworld.policies.describe import describe_policy

            result = describe_policy(self.target.removeprefix("policy:"))
        elif Path(self.target).is_dir() and (Path(self.target) / "clips").is_dir():
            from traceworld.traces.describe import describe_dataset
            from traceworld.traces.store import open_dataset

            result = describe_dataset(open_dataset(self.target))
        else:
            from traceworld.models.describe import describe_predictor

            result = describe_predictor(self.target)
        emit(result, self.json, None if self.json else tree(self.target, result))
        return 0


def _is_policy(target: str) -> bool:
    if not (Path(target) / "config.json").is_file():
        return False
    from traceworld.policies.describe import is_policy

    return is_policy(target)


@dataclasses.dataclass(frozen=True)
class View:
    """Look at a dataset in the browser: cameras, point cloud, traces, time slider."""

    dataset: Positional[Path]
    host: str = "127.0.0.1"
    port: int = 8080

    def run(self) -> int:
        from traceworld.viewer.server import view

        server = view(self.dataset, host=self.host, port=self.port)
        emit(f"{server.url}  (Ctrl-C stops)", False)
        try:
            server.wait()
        except KeyboardInterrupt:
            server.stop()
        return 0


@dataclasses.dataclass(frozen=True)
class Report:
    """Write one HTML page about a dataset: quality figures, histograms, the clips to look at first, what failed."""

    dataset: Positional[Path]
    out: Path | None = None
    """File to write; none: `NAME-report.html` beside the dataset."""
    worst: int = 12
    """How many of the worst clips are shown."""
    json: bool = False
    """Print the quality figures of every clip as JSON."""

    def run(self) -> int:
        from traceworld.traces.quality import quality_table
        from traceworld.traces.store import open_dataset
        from traceworld.viewer.dataset_report import dataset_report, default_path
        from traceworld.viewer.report import write_report

        dataset = open_dataset(self.dataset)
        written = write_report(self.out or default_path(self.dataset), dataset_report(dataset, self.worst))
        emit({"report": str(written), "clips": quality_table(dataset)}, self.json, str(written))
        return 0
