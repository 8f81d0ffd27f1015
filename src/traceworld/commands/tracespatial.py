"""eval tracespatial: TraceSpatial-Bench, and the benchmarks beside it that are scored by points or paths."""

from __future__ import annotations

import dataclasses
import json as jsonlib
from pathlib import Path
from typing import Literal

from traceworld.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class EvalTracespatial:
    """Score spatial traces: of answer files, or of a model that is run first (TraceSpatial-Bench)."""

    answers: tuple[Path, ...] = ()
    """Answer files (JSONL). Each carries its ground truth; what needs pictures is scored with --bench."""
    bench: Path | None = None
    """The benchmark's folder (published layout, JSON or parquet)."""
    model: str | None = None
    """Run this model over the benchmark first: a name, checkpoint folder or address (see eval forecast); or straight-line,
    straight-line-true-ends, which need the benchmark's masks or traces."""
    out: Path = Path("outputs")
    """Folder of the answers of --model; a run that was stopped goes on there."""
    task: Literal["2D", "3D", "all"] = "all"
    """For a file and `all`: the task in its name (…_2D.jsonl), else both."""
    family: Literal["text", "json", "auto"] = "auto"
    """Prompt and form of answers: RoboTracer's tuples, JSON of general models, or by the model's name."""
    mode: Literal["strict", "compat"] = "strict"
    """strict: the paper's measures, mended. compat: the published evaluator, faults included."""
    layout: Literal["tracespatial", "refspatial", "paths"] = "tracespatial"
    """refspatial: points inside masks (RefSpatial-Bench; needs --bench). paths: JSONL of traces (ShareRobot, VABench-V)."""
    geometry: Literal["none", "K", "K+depth"] = "K+depth"
    """What --model is given beside the picture."""
    workers: int = 1
    """Questions asked at the same time."""
    timeout: float = 300.0
    """Seconds per question."""
    seed: int = 0
    """Of the bootstrap."""
    json: Path | None = None
    """Write the report, with every question, to this file."""

    def run(self) -> int:
        from rich.console import Console

        from traceworld.evaluation.tracespatial.scoring import joined, score_file
        from traceworld.evaluation.tracespatial.summary import needed_width, summary_tables
        from traceworld.tracespatial.bench_layout import open_bench

        if self.layout != "tracespatial":
            return self._other()
        if bool(self.answers) == bool(self.model):
            raise ConfigError("give --answers or --model", where="eval tracespatial", mend="one of the two")
        bench = None if self.bench is None else open_bench(self.bench)
        files = self.answers or self._answers_of_model(bench)
        reports = [
            report for file in files for report in score_file(file, bench, self.task, self.family, self.mode, self.seed)
        ]
        self._write(joined(reports))
        for report in reports:
            width = max(Console().width, needed_width(report["summary"]))
            Console(width=width).print(summary_tables(report["summary"]))
        return 0

    def _answers_of_model(self, bench) -> tuple[Path, ...]:
        from traceworld.evaluation.tracespatial.references import REFERENCES
        from traceworld.evaluation.tracespatial.runner import RunOptions, run_bench
        from traceworld.models.predictor import load_predictor
        from traceworld.tracespatial.bench_prompts import TASKS, family_of

        assert self.model is not None
        if bench is None:
            raise ConfigError("--model needs the benchmark", where="bench", mend="give --bench DIR")
        model = REFERENCES.get(self.model) or load_predictor(self.model)
        family = family_of(self.model) if self.family == "auto" else self.family
        options = RunOptions(family, self.geometry, self.workers, self.timeout)
        name = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in model.name).strip("-.")
        tasks = TASKS if self.task == "all" else (self.task,)
        return tuple(run_bench(bench, model, self.out / f"{name}_{task}.jsonl", task, options) for task in tasks)

    def _other(self) -> int:
        from traceworld.commands.printing import emit, table
        from traceworld.evaluation.tracespatial.others import score_paths, score_refspatial

        if len(self.answers) != 1 or self.model:
            raise ConfigError(
                f"--layout {self.layout} scores one answer file", where="answers", mend="give --answers FILE"
            )
        if self.layout == "refspatial":
            if self.bench is None:
                raise ConfigError("RefSpatial-Bench needs its masks", where="bench", mend="give --bench DIR")
            report = score_refspatial(self.answers[0], self.bench, self.family, self.mode, self.seed)
        else:
            report = score_paths(self.answers[0], self.seed)
        self._write(report)
        rows = [{"figure": name, "value": value} for name, value in report["summary"].items()]
        emit(report["summary"], False, table(self.layout, rows))
        return 0

    def _write(self, report: dict) -> None:
        from traceworld.traces.atomic import write_atomically

        if self.json is not None:
            text = jsonlib.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            write_atomically(self.json, lambda temporary: temporary.write_text(text, encoding="utf-8"))
