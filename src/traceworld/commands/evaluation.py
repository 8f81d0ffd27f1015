"""Benchmarks: eval forecast, eval tracks, eval tracespatial."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg, subcommand

from traceworld.commands.printing import emit
from traceworld.commands.tracespatial import EvalTracespatial


@dataclasses.dataclass(frozen=True)
class EvalForecast:
    """Score predicted traces against what happened (mu0-paper D.1), beside the baselines."""

    data: Path
    """A dataset folder."""
    models: Annotated[tuple[str, ...], arg(aliases=["--model"])] = ("mu0-nano",)
    """Entrants, apart by spaces or commas: names, checkpoint folders, nearest-example:CORPUS, openai:MODEL@URL#option=value,
    robotracer:URL. The baselines are always run."""
    protocol: Literal["default", "mu0-paper"] = "default"
    """mu0-paper: slots, keypoints and captions of the released evaluation, picture and text alone, its metric names."""
    clock: tuple[Literal["time", "arc"], ...] = ()
    """What a step of the horizon is: fixed time, fixed path length, or both in turn. Default: both; mu0-paper: arc."""
    step: float | None = None
    """Seconds or image widths per step (0.025, 0.01; mu0-paper 0.05)."""
    samples: int = 5
    """Futures per model (S)."""
    seed: int = 0
    noise_seeds: int = 1
    """Repeat the predictions with so many noise seeds and give the interval over them."""
    no_depth: bool = False
    """Do not give the models depth."""
    max_clips: int | None = None
    """Use at most so many clips."""
    max_windows: int | None = None
    """Use at most so many windows."""
    slots_per_clip: int | None = None
    """Anchor frames per clip (2)."""
    markdown: Path | None = None
    """Also write the tables to this file."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        from rich.console import Console

        from traceworld.evaluation.forecast import evaluate_forecast
        from traceworld.evaluation.tables import forecast_tables, needed_width, write_markdown

        models = [model for item in self.models for model in item.split(",") if model]
        clocks: tuple = self.clock or (("time", "arc") if self.protocol == "default" else (None,))
        same = ("protocol", "step", "seed", "noise_seeds", "max_clips", "max_windows", "slots_per_clip")
        options: dict = {name: getattr(self, name) for name in same}
        options |= {"num_samples": self.samples, "depth": False if self.no_depth else None}
        reports = [evaluate_forecast(models, self.data, clock=clock, **options) for clock in clocks]
        if self.markdown is not None:
            write_markdown(self.markdown, reports)
        if self.json:
            emit({report["protocol"]["clock"]: report for report in reports}, True)
            return 0
        for report in reports:  # wider than most terminals: nothing may be cut off where the output is piped
            Console(width=max(Console().width, needed_width(report))).print(forecast_tables(report))
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
        emit(result, self.json, None if self.json else tracks_table(result))
        return 0


@dataclasses.dataclass(frozen=True)
class Eval:
    """Benchmarks."""

    command: Annotated[
        Annotated[EvalForecast, subcommand("forecast", prefix_name=False)]
        | Annotated[EvalTracks, subcommand("tracks", prefix_name=False)]
        | Annotated[EvalTracespatial, subcommand("tracespatial", prefix_name=False)],
        arg(name=""),
    ]

    def run(self) -> int:
        return self.command.run()
