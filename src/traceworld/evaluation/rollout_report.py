"""What a closed-loop evaluation says: rates with intervals by task and group, beside the published rows; as tables and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group

from traceworld.evaluation.intervals import wilson_interval
from traceworld.evaluation.rollout_records import EpisodeRecord
from traceworld.evaluation.tables import Sheet, markdown_table, rich_table
from traceworld.traces.atomic import write_atomically, write_json

RESULTS_FILE, TABLES_FILE = "results.json", "results.md"

PUBLISHED_MT50: dict[str, dict[str, float]] = {
    "Evo-1 0.77B": {"easy": 89.2, "medium": 76.8, "hard": 77.2, "very-hard": 79.2},
    "SmolVLA 2.25B": {"easy": 87.14, "medium": 51.82, "hard": 70.0, "very-hard": 64.0},
    "SmolVLA 0.45B": {"easy": 82.5, "medium": 41.8, "hard": 45.0, "very-hard": 60.0},
    "π0": {"easy": 80.4, "medium": 40.9, "hard": 36.7, "very-hard": 44.0},
    "TinyVLA": {"easy": 77.6, "medium": 21.5, "hard": 11.4, "very-hard": 15.8},
    "Diffusion Policy": {"easy": 23.1, "medium": 10.7, "hard": 1.9, "very-hard": 6.1},
}
"""Per cent, as the SmolVLA and Evo-1 papers print them; their last column is the mean over the four groups."""


def published_mean(rates: Mapping[str, float]) -> str:
    """That last column, from the other four, with halves rounded up as there."""
    mean = sum((Decimal(str(rate)) for rate in rates.values()), Decimal(0)) / len(rates)
    return str(mean.quantize(Decimal("0.1"), ROUND_HALF_UP))


def summarise(
    records: Sequence[EpisodeRecord], suite: str, policy: str, *, seed: int, latency_ms: float
) -> dict[str, Any]:
    """The report of a run.

    Returns:
        `overall` (rate over all episodes with its interval, mean over tasks, mean over groups), `by_task`, `by_group`
        (pooled over the group's episodes), `timing` (milliseconds), `motion` (jitter; share of episodes that touched a distractor), `episodes`, `errors`.
    """
    tasks = _grouped(records, lambda record: record.env)
    groups = _grouped([record for record in records if record.group], lambda record: record.group)
    by_task, by_group = ({name: _rate(part) for name, part in found.items()} for found in (tasks, groups))
    return {
        "suite": suite,
        "policy": policy,
        "seed": seed,
        "latency_ms": latency_ms,
        "episodes": len(records),
        "errors": sum(record.error is not None for record in records),
        "overall": _rate(records)
        | {"mean_over_tasks": _mean_rate(by_task.values()), "mean_over_groups": _mean_rate(by_group.values())},
        "by_task": by_task,
        "by_group": by_group,
        "timing": _means(records, ("act_ms", "observe_ms", "step_ms", "seconds"))
        | {"act_ms_p95": _largest(records, "act_ms_p95"), "act_ms_max": _largest(records, "act_ms_max")},
        "motion": _means(records, ("jitter", "seam_jump", "inner_jump", "waits", "touched")),
    }


def _grouped(records, key) -> dict[str, list[EpisodeRecord]]:
    found: dict[str, list[EpisodeRecord]] = {}
    for record in records:
        found.setdefault(key(record), []).append(record)
    return found


def _rate(records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    successes, episodes = sum(record.success for record in records), len(records)
    steps = [record.steps for record in records if record.success]
    return {
        "successes": successes,
        "episodes": episodes,
        "rate": successes / episodes if episodes else None,
        "interval95": list(wilson_interval(successes, episodes)),
        "steps_to_success": float(np.mean(steps)) if steps else None,
    }


def _mean_rate(rates) -> float | None:
    values = [each["rate"] for each in rates]
    return float(np.mean(values)) if values else None


def _means(records: Sequence[EpisodeRecord], names: Sequence[str]) -> dict[str, float | None]:
    found = {
        name: [getattr(r, name) for r in records if r.error is None and getattr(r, name) is not None] for name in names
    }
    return {name: float(np.mean(values)) if values else None for name, values in found.items()}


def _largest(records: Sequence[EpisodeRecord], name: str) -> float | None:
    return max((value for record in records if (value := getattr(record, name)) is not None), default=None)


def rollout_tables(report: Mapping[str, Any]) -> Group:
    """The report for a terminal."""
    return Group(*(rich_table(sheet) for sheet in sheets(report)))


def rollout_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    return "\n\n".join(markdown_table(sheet) for sheet in sheets(report)) + "\n"


def write_results(folder: Path, report: Mapping[str, Any]) -> None:
    """`results.json` and `results.md`. Raises DatasetError if they cannot be written."""
    write_json(folder / RESULTS_FILE, report)
    write_atomically(folder / TABLES_FILE, lambda path: path.write_text(rollout_markdown(report), encoding="utf-8"))


def sheets(report: Mapping[str, Any]) -> list[Sheet]:
    """Success by task, by group beside the published rows, and what it cost."""
    found = [_tasks(report)]
    if report["by_group"]:
        found.append(_groups(report))
    return [*found, _cost(report)]


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{100 * rate:.1f}"


def _cells(rate: Mapping[str, Any]) -> list[str]:
    low, high = rate["interval95"]
    steps = rate["steps_to_success"]
    return [
        f"{rate['successes']}/{rate['episodes']}",
        _percent(rate["rate"]),
        f"{_percent(low)}–{_percent(high)}",
        "–" if steps is None else f"{steps:.0f}",
    ]


def _tasks(report: Mapping[str, Any]) -> Sheet:
    title = f"{report['policy']} on {report['suite']}, seed {report['seed']}"
    if report["latency_ms"]:
        title += f", {report['latency_ms']:g} ms latency"
    if report["errors"]:
        title += f"; {report['errors']} episodes ended by an error, counted as failed"
    rows = [[name, *_cells(rate)] for name, rate in report["by_task"].items()]
    overall = report["overall"]
    rows.append(["all episodes", *_cells(overall)])
    rows.append(["mean over tasks", "", _percent(overall["mean_over_tasks"]), "", ""])
    return Sheet(title, ["task", "done", "%", "95 %", "steps"], rows)


def _groups(report: Mapping[str, Any]) -> Sheet:
    groups = [name for name in ("easy", "medium", "hard", "very-hard") if name in report["by_group"]]
    rates = [report["by_group"][name] for name in groups]
    mean = report["overall"]["mean_over_groups"]
    rows = [
        [report["policy"], *(_percent(rate["rate"]) for rate in rates), _percent(mean)],
        ["95 %", *("–".join(_percent(end) for end in rate["interval95"]) for rate in rates), ""],
    ]
    if report["suite"] == "mt50":
        for name, published in PUBLISHED_MT50.items():
            values = [published[group] for group in groups]
            rows.append([f"{name} (published)", *(f"{value:.1f}" for value in values), published_mean(published)])
    return Sheet("success by difficulty, %", ["policy", *groups, "mean over groups"], rows)


def _cost(report: Mapping[str, Any]) -> Sheet:
    timing, motion = report["timing"], report["motion"]

    def figure(value: float | None) -> str:
        return "–" if value is None else f"{value:.3g}"

    rows = [
        ["inference, ms", f"{figure(timing['act_ms'])} (p95 {figure(timing['act_ms_p95'])})"],
        ["observation, ms", figure(timing["observe_ms"])],
        ["step of physics, ms", figure(timing["step_ms"])],
        ["episode, s", figure(timing["seconds"])],
        ["jitter of actions (second difference)", figure(motion["jitter"])],
        ["jump where chunks meet / elsewhere", f"{figure(motion['seam_jump'])} / {figure(motion['inner_jump'])}"],
        ["steps without an action to play", figure(motion["waits"])],
    ]
    if motion.get("touched") is not None:
        rows.append(["episodes that touched a distractor, %", _percent(motion["touched"])])
    return Sheet("cost and motion, means over episodes", ["", "mean"], rows)
