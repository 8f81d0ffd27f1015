"""Everything that `robotracer_nano.py` measures on TraceSpatial-Sim: the model and its variants beside what they have to beat."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from traceworld.errors import MissingWeightsError
from traceworld.evaluation.tracespatial.references import REFERENCES
from traceworld.evaluation.tracespatial.runner import RunOptions, run_bench
from traceworld.evaluation.tracespatial.scoring import score_file
from traceworld.models.predictor import load_predictor
from traceworld.models.robotracer.nano import NAME
from traceworld.models.robotracer.predictor import RoboTracerPredictor
from traceworld.models.robotracer.processor import Example
from traceworld.traces.atomic import write_atomically
from traceworld.tracespatial.answers import format_trace, parse_trace
from traceworld.tracespatial.bench_layout import PREDICTION, Bench, open_bench

GEOMETRY = {"RGB": "none", "RGB + K": "K", "RGB + K + depth": "K+depth"}
JOINED = "own ends joined"
_FIGURES = ("parsed", "start_ok", "end_ok", "no_collision", "success", "start_in_mask", "end_in_box", "frechet")


def scored(answers: Path, bench_folder: Path, runs: Mapping[str, Path]) -> list[dict[str, Any]]:
    """One row per entrant: model, input, rates with 95 % intervals, error of the scale. Answers that are there are not asked again.

    Args:
        runs: name → checkpoint folder; `robotracer-nano` is asked with every input, the others with all they take.
    """
    bench = open_bench(bench_folder)
    rows = []
    for name in ("nothing-moves", *REFERENCES, "mu0-nano"):
        try:
            entrant = REFERENCES.get(name) or load_predictor(name)
        except MissingWeightsError:
            continue
        file = run_bench(bench, entrant, answers / f"{name}_3D.jsonl", "3D", RunOptions())
        rows.append(_row(file, bench, name, "mask"))
    for name, folder in runs.items():
        predictor = RoboTracerPredictor.from_checkpoint(folder, name)
        inputs = [*GEOMETRY] if name == NAME else ["RGB"] if name == "rgb-only" else ["RGB + K + depth"]
        for given in inputs:
            file = answers / f"{name}-{GEOMETRY[given].replace('+', '-')}_3D.jsonl"
            run_bench(bench, predictor, file, "3D", RunOptions(geometry=GEOMETRY[given]))
            row = _row(file, bench, name, given)
            rows.append(row | {"scale_error": scale_error(predictor, bench, GEOMETRY[given])})
        if name == NAME:
            rows.append(_row(ends_joined(file), bench, f"{name}, {JOINED}", inputs[-1]))
    return rows


def _row(file: Path, bench: Bench, name: str, given: str) -> dict[str, Any]:
    summary = score_file(file, bench, "3D", "text")[0]["summary"]
    intervals = {figure: summary["interval95"].get(figure) for figure in _FIGURES}
    figures = {figure: summary.get(figure) for figure in _FIGURES}
    steps = {step: found["success"] for step, found in summary["by_step"].items()}
    return {"model": name, "input": given, **figures, "interval95": intervals, "success_by_step": steps}


def ends_joined(file: Path) -> Path:
    """The answers of a file with only their first and last point: what the way between them is worth."""
    lines = []
    for line in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        trace = parse_trace(line[PREDICTION], 3)
        if trace.ok:
            line[PREDICTION] = format_trace(trace.points[[0, -1]])
        lines.append(json.dumps(line, ensure_ascii=False))
    path = file.with_name(file.name.replace("_3D", "-joined_3D"))
    write_atomically(path, lambda temporary: temporary.write_text("\n".join(lines) + "\n", encoding="utf-8"))
    return path


def scale_error(predictor: RoboTracerPredictor, bench: Bench, geometry: str) -> float:
    """Mean |log ŝ − log s*| over the benchmark; s* is the mean known depth of the picture."""
    errors = []
    for question in bench.questions:
        image, depth_mm = bench.picture(question, "image"), bench.picture(question, "gt_depth")
        if image is None or depth_mm is None:
            continue
        depth_m = depth_mm / 1000.0
        K = None if geometry == "none" else question.K
        seen = Example(image, [("", None)], K, depth_m if geometry == "K+depth" else None)
        errors.append(abs(np.log(predictor.scale(seen)) - np.log(depth_m[depth_m > 0].mean())))
    return float(np.mean(errors))
