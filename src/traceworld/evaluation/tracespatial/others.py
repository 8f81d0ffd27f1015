"""Scores beside TraceSpatial-Bench: points inside masks (RefSpatial-Bench), path errors of 2D trace sets (ShareRobot, VABench-V)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Num

from traceworld.evaluation.tracespatial.summary import Mode, bootstrap_interval
from traceworld.tracespatial.answers import SCALE, parse_trace
from traceworld.tracespatial.answers_compat import gemini_points, referring_tuples
from traceworld.tracespatial.bench_others import read_ref_answers, read_refspatial, read_trace_answers, ref_mask
from traceworld.tracespatial.bench_prompts import Family
from traceworld.tracespatial.paths import PathErrors, many_path_errors


def share_in_mask(points_px: Num[np.ndarray, "P 2"], mask: Num[np.ndarray, "H W"]) -> float:
    """Share of the points that lie on the mask; outside of the picture is not on it; 0 without a point."""
    if len(points_px) == 0:
        return 0.0
    with np.errstate(invalid="ignore"):
        pixels = np.trunc(points_px)
        inside = ((pixels >= 0) & (pixels < (mask.shape[1], mask.shape[0]))).all(axis=1)
    at = np.where(inside[:, None], pixels, 0).astype(np.int64)
    return float((inside & (mask[at[:, 1], at[:, 0]] > 0)).mean())


def score_refspatial(
    answers: str | Path,
    bench: str | Path,
    family: Family | Literal["auto"] = "auto",
    mode: Mode = "strict",
    seed: int = 0,
) -> dict[str, Any]:
    """RefSpatial-Bench: mean share of predicted points inside the mask, per split.

    `strict`: every question counts; coordinates in 0–1 (all of an answer at most 1) or 0–1000 thousandths. `compat`: the published
    parsers (a tuple with a decimal point is in 0–1, integers are pixels; `json`: Gemini's `[y, x]`), unanswered questions left out.

    Raises:
        DatasetError: the benchmark or a mask is missing, an answer file is damaged.
    """
    questions, said = read_refspatial(bench), read_ref_answers(answers)
    rows: list[dict[str, Any]] = []
    for question in questions:
        key = (question.split, question.question_id)
        if key not in said and mode == "compat":
            continue
        mask = ref_mask(bench, question)
        points, failure = _ref_points(said.get(key), mask.shape, family, mode)
        left_out = mode == "compat" and len(points) == 0
        rows.append(
            {
                "question_id": question.question_id,
                "split": question.split,
                "step": question.step,
                "points": len(points),
                "failure": failure,
                "in_mask": None if left_out else share_in_mask(points, mask),
            }
        )
    summary: dict[str, Any] = {"layout": "refspatial", "mode": mode, "questions": len(rows)}
    for split in dict.fromkeys(row["split"] for row in rows):
        values = [row["in_mask"] for row in rows if row["split"] == split and row["in_mask"] is not None]
        summary[split] = float(np.mean(values)) if values else None
        summary[f"{split}_interval95"] = bootstrap_interval(np.asarray(values, float), seed)
    return {"summary": summary, "questions": rows}


def _ref_points(text: Any, shape: tuple[int, ...], family: str, mode: Mode) -> tuple[np.ndarray, str | None]:
    height, width = shape
    if mode == "compat":
        points = (gemini_points if family == "json" else referring_tuples)(text, width, height)
        return points, None if len(points) else "no_points"
    parsed = parse_trace(text if isinstance(text, str) else None, 2)
    if parsed.failure:
        return parsed.points, parsed.failure
    scale = 1.0 if (np.abs(parsed.points) <= 1.0).all() else SCALE
    return parsed.points / scale * (width, height), None


def score_paths(answers: str | Path, seed: int = 0) -> dict[str, Any]:
    """A set of 2D traces: mean Fréchet, Hausdorff, RMSE and MAE in shares of the picture, over the answers that could be read.

    Raises:
        DatasetError: the file is damaged.
    """
    lines = read_trace_answers(answers)
    rows: list[dict[str, Any]] = []
    pairs, of = [], []
    for line in lines:
        parsed = parse_trace(line.prediction if isinstance(line.prediction, str) else None, 2)
        rows.append({"question_id": line.question_id, "parsed": parsed.ok, "failure": parsed.failure or None})
        rows[-1] |= dict.fromkeys(PathErrors._fields)
        if parsed.ok:
            size = np.array([line.width, line.height], float)
            pairs.append((parsed.points / (size if line.in_pixels else SCALE), line.trajectory_px / size))
            of.append(rows[-1])
    for row, errors in zip(of, many_path_errors(pairs), strict=True):
        row |= errors._asdict()
    summary: dict[str, Any] = {"layout": "paths", "questions": len(rows), "parsed": len(of)}
    for name in PathErrors._fields:
        values = np.array([row[name] for row in of], float)
        summary[name] = float(values.mean()) if len(values) else None
        summary[f"{name}_interval95"] = bootstrap_interval(values, seed)
    return {"summary": summary, "questions": rows}
