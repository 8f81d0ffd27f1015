"""Commands on data: extract, info, view."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from traceworld.commands.printing import emit, table, tree


@dataclasses.dataclass(frozen=True)
class Extract:
    """Turn videos, RGB-D folders or folders of frames into a dataset of 3D traces."""

    inputs: Positional[tuple[Path, ...]]
    """Videos, RGB-D folders, folders of frames, or folders that hold them."""
    out: Path
    """Dataset folder to write or to go on with."""
    num_keypoints: int = 256
    """Keypoints per clip."""
    max_side: int = 960
    """Longer side in pixels above which frames are scaled down."""
    max_frames: int | None = None
    """Read at most so many frames of each input."""
    allow_partial: bool = False
    """Keep the readable beginning of a damaged video (flagged in the manifest)."""
    seed: int = 0
    executor: Literal["serial", "processes"] = "serial"
    """How to map over the inputs."""
    workers: int = 1
    """Worker processes of the executor `processes`."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        from traceworld.extract.config import ExtractConfig
        from traceworld.extract.jobs import extract_many

        config = ExtractConfig(
            num_keypoints=self.num_keypoints,
            max_side=self.max_side,
            max_frames=self.max_frames,
            allow_partial=self.allow_partial,
            seed=self.seed,
        )
        report = extract_many(list(self.inputs), self.out, config, executor=self.executor, workers=self.workers)
        result = dataclasses.asdict(report)
        emit(
            result,
            self.json,
            table(f"extract → {self.out}", list(result["items"]), ["item_id", "status", "stage", "error"]),
        )
        return 0 if report.ok else 1


@dataclasses.dataclass(frozen=True)
class Info:
    """Say what a dataset, a checkpoint or a model size holds (e.g. `out/clips`, `mu0-nano`, `mu0:large`, `tracegen:6x12`)."""

    target: Positional[str]
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        if self.target.startswith(("mu0:", "tracegen:")):
            from traceworld.models.describe import count_parameters

            result: dict = {"model": self.target, "parameters": count_parameters(*self.target.split(":", 1))}
        elif Path(self.target).is_dir() and (Path(self.target) / "clips").is_dir():
            from traceworld.traces.describe import describe_dataset
            from traceworld.traces.store import open_dataset

            result = describe_dataset(open_dataset(self.target))
        else:
            from traceworld.models.describe import describe_predictor

            result = describe_predictor(self.target)
        emit(result, self.json, None if self.json else tree(self.target, result))
        return 0


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
