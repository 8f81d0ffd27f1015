"""What a benchmark run says: rates and path errors over all questions, by step, category and source, with bootstrap intervals; as JSON and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from rich.console import Group
from rich.text import Text

from traceworld.evaluation.tables import Sheet, rich_table
from traceworld.evaluation.tracespatial.compat import ENDS_THE_RUN, NEVER_RETURNS, published_figures
from traceworld.evaluation.tracespatial.records import QuestionScore
from traceworld.tracespatial.bench_prompts import Task
from traceworld.tracespatial.paths import PathErrors

Mode = Literal["strict", "compat"]
RATES: dict[Task, tuple[str, ...]] = {
    "2D": ("parsed", "start_in_mask", "end_in_box"),
    "3D": ("parsed", "start_ok", "end_ok", "no_collision", "success", "start_in_mask", "end_in_box"),
}
GROUPS = ("step", "category", "data_source")
_PATHS = tuple(f"{name}{suffix}" for suffix in ("", "_2d") for name in PathErrors._fields)
_RESAMPLES = 2000


def summarise(scores: Sequence[QuestionScore], task: Task, mode: Mode, seed: int = 0) -> dict[str, Any]:
    """The summary of one task (JSON-able).

    `strict`: every rate is over all questions; one that some question leaves open (no pictures) is null, with `at_least` beside it; path
    errors are means over the answers that could be read, their number in `path_errors_over`. `compat`: the published averages under their
    own denominators. Both: `failures` by name, `missing` says what could not be scored and why.
    """
    general = {
        "task": task,
        "mode": mode,
        "questions": len(scores),
        "failures": dict(sorted(Counter(score.failure for score in scores if score.failure).items())),
        "missing": _missing(scores, task),
    }
    if mode == "compat":
        return general | _compat(scores, task)
    figures, intervals = _figures(scores, task, seed)
    groups = {f"by_{name}": _by(scores, name, task, seed) for name in GROUPS}
    return general | figures | {"interval95": intervals} | {name: found for name, found in groups.items() if found}


def _compat(scores: Sequence[QuestionScore], task: Task) -> dict[str, Any]:
    skipped = {str(score.question_id): score.skipped for score in scores if score.skipped}
    hangs = [id_ for id_, reason in skipped.items() if reason == NEVER_RETURNS]
    ends = [id_ for id_, reason in skipped.items() if reason.startswith(ENDS_THE_RUN)]
    run = "ends with its figures"
    if ends or hangs:
        stops = (
            f"ends with an exception at question {ends[0]}" if ends else f"never returns (questions {', '.join(hangs)})"
        )
        run = f"{stops}; the figures are those of the other questions"
    return published_figures(scores, task) | _at_least(scores, task) | {"skipped": skipped, "published_run": run}


def _flag(score: QuestionScore, name: str) -> bool | None:
    if name != "no_collision":
        return getattr(score, name)
    return None if score.collided is None else not score.collided


def _flags(scores: Sequence[QuestionScore], name: str) -> list[bool | None]:
    """A flag of every question; no collision of an answer that could not be read is no success."""
    unread = name == "no_collision"
    return [
        False if unread and score.failure and score.failure != "no_camera" else _flag(score, name) for score in scores
    ]


def _figures(scores: Sequence[QuestionScore], task: Task, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    draw = _Draws(len(scores), seed)
    figures: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for name in RATES[task]:
        flags = _flags(scores, name)
        known = bool(flags) and all(flag is not None for flag in flags)
        values = np.array([np.nan if flag is None else float(flag) for flag in flags])
        figures[name] = float(values.mean()) if known else None
        if known:
            intervals[name] = draw.interval(values)
    for name in (*_PATHS, *(("start_distance_m", "end_distance_m") if task == "3D" else ())):
        values = np.array([np.nan if getattr(score, name) is None else getattr(score, name) for score in scores], float)
        some = np.isfinite(values).any()
        figures[name] = float(np.nanmean(values)) if some else None
        if some:
            intervals[name] = draw.interval(values)
    figures["path_errors_over"] = sum(score.frechet is not None for score in scores)
    return figures | _at_least(scores, task), intervals


def _at_least(scores: Sequence[QuestionScore], task: Task) -> dict[str, Any]:
    """Lower bounds of rates that some question leaves open: what is certain without the pictures, over all questions."""
    if task == "2D" or not scores or all(score.start_ok is not None or score.skipped for score in scores):
        return {}
    start = sum(score.start_ok is True for score in scores) / len(scores)
    both = sum(score.start_ok is True and score.end_ok is True for score in scores) / len(scores)
    return {"at_least": {"start_ok": start, "start_and_end_ok": both}}


def _missing(scores: Sequence[QuestionScore], task: Task) -> dict[str, str]:
    """What is null and why."""
    used = [score for score in scores if score.skipped is None]
    mend = "give --bench DIR with the pictures"
    needs = {"start_in_mask": "the mask"} if task == "2D" else {
        "start_in_mask": "the mask",
        "start_distance_m": "mask and depth of the object",
        "no_collision": "mask and depth",
        "success": "mask and depth",
    }  # fmt: skip
    found = {}
    for name, need in needs.items():
        if name == "start_distance_m":
            open_ = sum(score.start_from_truth_m is not None and score.start_distance_m is None for score in used)
        else:
            open_ = sum(flag is None for flag in _flags(used, name))
        if open_:
            found[name] = f"{open_} of {len(scores)} questions: needs {need}; {mend}"
    return found


def _by(scores: Sequence[QuestionScore], name: str, task: Task, seed: int) -> dict[str, Any]:
    parts: dict[str, list[QuestionScore]] = {}
    for score in sorted(scores, key=lambda score: (getattr(score, name) is None, getattr(score, name) or 0)):
        parts.setdefault(str(getattr(score, name)), []).append(score)
    if set(parts) <= {"None"}:
        return {}
    found = {}
    for part, inside in parts.items():
        figures, intervals = _figures(inside, task, seed)
        found[part] = {"questions": len(inside)} | figures | {"interval95": intervals}
    return found


class _Draws:
    """95 % percentile intervals of means by resampling questions; the same resamples for every figure."""

    def __init__(self, number: int, seed: int):
        rng = np.random.default_rng([seed, number])
        self.weights = rng.multinomial(number, np.full(number, 1 / number), size=_RESAMPLES) if number else None

    def interval(self, values: np.ndarray) -> list[float]:
        assert self.weights is not None
        above = self.weights @ np.nan_to_num(values)
        below = self.weights @ np.isfinite(values).astype(float)
        return [float(end) for end in np.percentile(above[below > 0] / below[below > 0], [2.5, 97.5])]


def bootstrap_interval(values: Float[np.ndarray, " N"], seed: int = 0) -> list[float] | None:
    """95 % percentile interval of a mean by resampling; None without a value."""
    return _Draws(len(values), seed).interval(values) if len(values) else None


# --- for people ------------------------------------------------------------------------------------------------------


def summary_tables(summary: Mapping[str, Any]) -> Group:
    """The figures of one task for a terminal."""
    intervals = summary.get("interval95", {})
    rows = [[name, _shown(value), _ends(intervals.get(name))] for name, value in _numbers(summary)]
    rows += [[f"{name}, at least", _shown(value), ""] for name, value in summary.get("at_least", {}).items()]
    title = f"TraceSpatial-Bench {summary['task']}, {summary['mode']}, {summary['questions']} questions"
    sheets = [Sheet("", ["figure", "value", "95 %"], rows)]
    sheets += [_group_sheet(name, summary) for name in GROUPS if f"by_{name}" in summary]
    notes = {**summary["failures"], **summary["missing"]}
    notes |= {f"question {name}": reason for name, reason in summary.get("skipped", {}).items()}
    notes |= {"published run": summary["published_run"]} if "published_run" in summary else {}
    lines = Text("\n".join(f"{name}: {value}" for name, value in notes.items()))
    return Group(Text(title), *[rich_table(sheet) for sheet in sheets], lines)


def needed_width(summary: Mapping[str, Any]) -> int:
    """Columns of text that the tables need, so that nothing is cut off where the output is piped."""
    grouped = any(f"by_{name}" in summary for name in GROUPS)
    return 24 + 26 * (len(RATES[summary["task"]]) + 1) if grouped else 60


def _numbers(summary: Mapping[str, Any]) -> list[tuple[str, Any]]:
    rates = (*RATES["3D"], "overall_success", *_PATHS, "start_distance_m", "end_distance_m", "path_errors_over")
    return [(name, summary[name]) for name in rates if name in summary]


def _group_sheet(name: str, summary: Mapping[str, Any]) -> Sheet:
    names = [*RATES[summary["task"]], "frechet"]
    rows = [
        [
            part,
            str(found["questions"]),
            *(f"{_shown(found[key])} {_ends(found['interval95'].get(key))}" for key in names),
        ]
        for part, found in summary[f"by_{name}"].items()
    ]
    return Sheet(f"by {name}", [name, "n", *names], rows)


def _shown(value: float | int | None) -> str:
    return "–" if value is None else str(value) if isinstance(value, int) else f"{value:.5f}"


def _ends(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]"
