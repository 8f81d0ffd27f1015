"""The `traceworld` command: parses, calls one function of a room, prints.

Every command that prints a figure takes `--json`. Exit codes: 0 done, 1 nothing succeeded or an error, 2 wrong usage.
"""

from __future__ import annotations

import dataclasses
import json as jsonlib
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from traceworld.errors import ConfigError, TraceworldError


def _emit(result: object, as_json: bool, table=None) -> None:
    """Print a result: JSON on standard output, or a table for people."""
    if as_json:
        sys.stdout.write(jsonlib.dumps(result, indent=1, default=str, allow_nan=False) + "\n")
        return
    from rich.console import Console

    Console().print(table if table is not None else result)


def _table(title: str, rows: list[dict], columns: list[str] | None = None):
    from rich.table import Table

    columns = columns or (list(rows[0]) if rows else [])
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*[_cell(row.get(column, "")) for column in columns])
    return table


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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
        _emit(
            result,
            self.json,
            _table(f"extract → {self.out}", list(result["items"]), ["item_id", "status", "stage", "error"]),
        )
        return 0 if report.ok else 1


@dataclasses.dataclass(frozen=True)
class Info:
    """Say what a dataset, a checkpoint or a model size holds (e.g. `out/clips`, `mu0-nano`, `mu0:large`)."""

    target: Positional[str]
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        if self.target.startswith("mu0:"):
            from traceworld.models.mu0.counting import count_parameters

            result: dict = {"model": self.target, "parameters": count_parameters(self.target.split(":", 1)[1])}
        elif Path(self.target).is_dir() and (Path(self.target) / "clips").is_dir():
            from traceworld.traces.describe import describe_dataset
            from traceworld.traces.store import open_dataset

            result = describe_dataset(open_dataset(self.target))
        else:
            from traceworld.models.describe import describe_predictor

            result = describe_predictor(self.target)
        _emit(result, self.json, None if self.json else _tree(self.target, result))
        return 0


def _tree(title: str, value: object):
    from rich.tree import Tree

    def grow(branch, item):
        if isinstance(item, dict):
            for key, inner in item.items():
                nested = isinstance(inner, (dict, list)) and bool(inner)
                grow(
                    branch.add(f"[bold]{key}[/]" if nested else f"[bold]{key}[/] {_cell(inner)}"),
                    inner if nested else None,
                )
        elif isinstance(item, list):
            for inner in item[:20]:
                nested = isinstance(inner, (dict, list))
                grow(branch.add("•" if nested else _cell(inner)), inner if nested else None)
            if len(item) > 20:
                branch.add(f"… and {len(item) - 20} more (use --json)")

    root = Tree(title)
    grow(root, value)
    return root


@dataclasses.dataclass(frozen=True)
class View:
    """Look at a dataset in the browser: cameras, point cloud, traces, time slider."""

    dataset: Positional[Path]
    host: str = "127.0.0.1"
    port: int = 8080

    def run(self) -> int:
        from traceworld.viewer.server import view

        server = view(self.dataset, host=self.host, port=self.port)
        _emit(f"{server.url}  (Ctrl-C stops)", False)
        try:
            server.wait()
        except KeyboardInterrupt:
            server.stop()
        return 0


@dataclasses.dataclass(frozen=True)
class SimRecord:
    """Render simulated manipulation episodes to ordinary RGB-D folders, with the exact traces beside them."""

    tasks: Positional[tuple[str, ...]]
    """Meta-World tasks, e.g. drawer-open-v3, or `all`, `trained`, `held-out`."""
    out: Path
    """Folder for the recordings."""
    episodes: int = 1
    """Episodes per task."""
    seed: int = 0
    camera: str = "corner"
    """A named camera of the world."""
    moving_camera: bool = False
    """Move the camera along a smooth seeded path."""
    write_poses: bool = False
    """Write cam_from_world into clip.json (else the camera's motion has to be estimated)."""
    width: int = 640
    height: int = 480
    workers: int = 1
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        from traceworld.sim.record import record_many

        result = record_many(
            self.tasks,
            self.episodes,
            self.out,
            seed=self.seed,
            camera=self.camera,
            moving_camera=self.moving_camera,
            write_poses=self.write_poses,
            size=(self.width, self.height),
            workers=self.workers,
        )
        rows = [dataclasses.asdict(record) for record in result]
        _emit(rows, self.json, _table(f"sim record → {self.out}", rows))
        return 0


@dataclasses.dataclass(frozen=True)
class SimCorpus:
    """Build a training corpus: exact traces of many simulated episodes, with pictures of some frames."""

    out: Path
    """Dataset folder."""
    tasks: tuple[str, ...] = ("trained",)
    """Meta-World tasks, or `all`, `trained`, `held-out`."""
    episodes: int = 10
    """Episodes per task."""
    seed: int = 0
    workers: int = 2
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        from traceworld.sim.corpus import build_corpus

        result = build_corpus(self.out, self.tasks, self.episodes, seed=self.seed, workers=self.workers)
        _emit(result, self.json, _table(f"sim corpus → {self.out}", [result]))
        return 0


@dataclasses.dataclass(frozen=True)
class Sim:
    """Simulated worlds."""

    command: Annotated[
        Annotated[SimRecord, subcommand("record", prefix_name=False)]
        | Annotated[SimCorpus, subcommand("corpus", prefix_name=False)],
        arg(name=""),
    ]

    def run(self) -> int:
        return self.command.run()


@dataclasses.dataclass(frozen=True)
class Predict:
    """Predict how points of a picture will move."""

    image: Positional[Path]
    """A picture, or an RGB-D folder (its first frame)."""
    instruction: str
    """What is to happen, e.g. 'open the drawer'."""
    model: str = "mu0-nano"
    """A model's name or a checkpoint folder."""
    points: tuple[tuple[float, float], ...] = ()
    """Pixel positions x y of the points; none: points are chosen by the picture's own features."""
    num_points: int = 64
    """How many points to choose when none are given."""
    samples: int = 5
    """How many futures."""
    seed: int = 0
    out: Path | None = None
    """Also write the picture with the futures drawn in (PNG)."""
    json: bool = False
    """Print the prediction as JSON."""

    def run(self) -> int:
        from traceworld.viewer.prediction import predict_picture

        result = predict_picture(
            self.image,
            self.instruction,
            model=self.model,
            points_px=self.points,
            num_points=self.num_points,
            num_samples=self.samples,
            seed=self.seed,
            out=self.out,
        )
        _emit(
            result,
            self.json,
            None if self.json else _tree(str(self.image), {k: v for k, v in result.items() if k != "uvz"}),
        )
        return 0


@dataclasses.dataclass(frozen=True)
class EvalForecast:
    """Score predicted traces against what happened (mu0-paper D.1), beside the baselines."""

    data: Path
    """A dataset folder."""
    model: tuple[str, ...] = ("mu0-nano",)
    """Models, by name or checkpoint folder; the baselines are always run."""
    clock: tuple[Literal["time", "arc"], ...] = ("time", "arc")
    """What a step of the horizon is: fixed time, fixed path length, or both in turn."""
    samples: int = 5
    """Futures per model (S)."""
    seed: int = 0
    no_depth: bool = False
    """Do not give the models depth."""
    max_clips: int | None = None
    """Use at most so many clips."""
    slots_per_clip: int = 2
    """Anchor frames per clip."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        from traceworld.evaluation.forecast import evaluate_forecast, forecast_tables
        from traceworld.sim.tasks import HELD_OUT

        result = {
            clock: evaluate_forecast(
                list(self.model),
                self.data,
                clock=clock,
                num_samples=self.samples,
                seed=self.seed,
                depth=not self.no_depth,
                max_clips=self.max_clips,
                slots_per_clip=self.slots_per_clip,
                held_out=HELD_OUT,
            )
            for clock in self.clock
        }
        if self.json:
            _emit(result, True)
        else:
            for clock in self.clock:
                _emit(result, False, forecast_tables(result[clock]))
        return 0


@dataclasses.dataclass(frozen=True)
class EvalTracks:
    """Score extracted traces of simulated recordings against the exact ones (TAPVid-3D metrics)."""

    dataset: Positional[Path]
    """What `traceworld extract` wrote."""
    scaling: Literal["none", "median"] | None = None
    """Of the predicted tracks; left out: `median` for clips without metric depth, else `none`."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        from traceworld.evaluation.track_eval import evaluate_tracks, tracks_table

        result = evaluate_tracks(self.dataset, scaling=self.scaling)
        _emit(result, self.json, None if self.json else tracks_table(result))
        return 0


@dataclasses.dataclass(frozen=True)
class Eval:
    """Benchmarks."""

    command: Annotated[
        Annotated[EvalForecast, subcommand("forecast", prefix_name=False)]
        | Annotated[EvalTracks, subcommand("tracks", prefix_name=False)],
        arg(name=""),
    ]

    def run(self) -> int:
        return self.command.run()


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a trace model on datasets of clips; go on where a stopped run was."""

    data: Positional[tuple[Path, ...]]
    """Dataset folders."""
    out: Path
    """Run folder: log.jsonl, checkpoints."""
    model: Literal["mu0"] = "mu0"
    size: str = "nano"
    steps: int = 1000
    batch: int = 16
    lr: float = 1e-4
    warmup: int = 0
    """Steps of linear warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    ema: float = 0.0
    """Decay of the moving average of the weights; 0: off."""
    precision: Literal["fp32", "bf16"] = "fp32"
    grad_accumulation: int = 1
    keypoints: tuple[int, int] = (1, 256)
    """Least and most keypoints per window."""
    arc_weight: float = 0.2
    """Share of windows on the arc-length clock; the others are on plain time."""
    init_from: str | None = None
    """Checkpoint folder to start the weights from."""
    seed: int = 0
    minutes: float | None = None
    """Stop cleanly after so many minutes (a later start goes on)."""
    workers: int = 0
    """Processes that read data."""
    checkpoint_every: int = 1000
    eval_every: int = 1000
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        from traceworld.training.config import TrainConfig
        from traceworld.training.loop import train

        config = TrainConfig(
            data=tuple(map(str, self.data)),
            out=str(self.out),
            model=self.model,
            size=self.size,
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            warmup=self.warmup,
            schedule=self.schedule,
            ema=self.ema,
            precision=self.precision,
            grad_accumulation=self.grad_accumulation,
            keypoints=self.keypoints,
            time_weight=1.0 - self.arc_weight,
            arc_weight=self.arc_weight,
            init_from=self.init_from,
            seed=self.seed,
            max_minutes=self.minutes,
            workers=self.workers,
            checkpoint_every=self.checkpoint_every,
            eval_every=self.eval_every,
        )
        result = train(config)
        rows = dataclasses.asdict(result)
        _emit(rows, self.json, None if self.json else _tree(str(self.out), rows))
        return 0


@dataclasses.dataclass(frozen=True)
class Demo:
    """The main job, end to end: video → traces → predicted traces → report."""

    input: Path | None = None
    """Your own video or RGB-D folder; none: an unseen simulated episode."""
    out: Path = Path("demo")
    instruction: str | None = None
    """What is to happen, if the input does not say."""
    model: str = "mu0-nano"
    seed: int = 7
    json: bool = False
    """Print the figures as JSON."""

    def run(self) -> int:
        from traceworld.demo import run_demo, summary_table

        result = run_demo(self.input, self.out, model=self.model, seed=self.seed, instruction=self.instruction)
        _emit(result, self.json, None if self.json else summary_table(result))
        return 0


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Say what works on this machine, what does not, why, and the command that mends it."""

    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        from traceworld.doctor import as_json, examine

        findings = examine()
        rows = [
            {
                "": "✓" if f.ok else "✗",
                "what": f"{f.group}: {f.name}",
                "detail": f.detail,
                "licence": f.licence,
                "mend": f.mend,
            }
            for f in findings
        ]
        report = as_json(findings)
        _emit(report, self.json, _table("traceworld doctor", rows))
        return 0 if report["ok"] else 1


Command = (
    Annotated[Extract, subcommand("extract", prefix_name=False)]
    | Annotated[Info, subcommand("info", prefix_name=False)]
    | Annotated[View, subcommand("view", prefix_name=False)]
    | Annotated[Sim, subcommand("sim", prefix_name=False)]
    | Annotated[Train, subcommand("train", prefix_name=False)]
    | Annotated[Predict, subcommand("predict", prefix_name=False)]
    | Annotated[Eval, subcommand("eval", prefix_name=False)]
    | Annotated[Demo, subcommand("demo", prefix_name=False)]
    | Annotated[Doctor, subcommand("doctor", prefix_name=False)]
)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code (the console script exits with it)."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "--version":
        from traceworld import __version__

        sys.stdout.write(f"traceworld {__version__}\n")
        return 0
    os.environ.setdefault("MUJOCO_GL", "egl")
    command = tyro.cli(
        Command,
        prog="traceworld",
        description="Video to 3D traces, models of how traces move, and robots driven by them.",
        args=argv,
        config=(OmitArgPrefixes, OmitSubcommandPrefixes),
    )
    _log_to_stderr()
    try:
        return command.run()
    except TraceworldError as error:
        _say_error(error)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        return 130
    except BrokenPipeError:  # `| head` closed the pipe
        sys.stdout = None  # type: ignore[assignment]
        return 0


def _log_to_stderr() -> None:
    from rich.console import Console
    from rich.logging import RichHandler

    level = os.environ.get("TRACEWORLD_LOG", "WARNING").upper()
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    logging.basicConfig(level=level, handlers=[handler], format="%(message)s")


def _say_error(error: TraceworldError) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    where = f"{error.where}: " if error.where else ""
    console.print(f"[bold red]error[/] {escape(where + error.message)}")
    if error.mend:
        console.print(f"[bold]mend[/]  {escape(error.mend)}")


if __name__ == "__main__":
    sys.exit(main())
