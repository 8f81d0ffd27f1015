"""Scoring an answer file: which task and family it is of, then strict or compat, then the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from traceworld.errors import ConfigError
from traceworld.evaluation.tracespatial.compat import score_compat
from traceworld.evaluation.tracespatial.records import completed
from traceworld.evaluation.tracespatial.strict import score_strict
from traceworld.evaluation.tracespatial.summary import Mode, summarise
from traceworld.tracespatial.bench_layout import Answer, Bench, read_answers
from traceworld.tracespatial.bench_prompts import TASKS, Family, Task, family_of


def tasks_of(path: Path, task: Task | Literal["all"]) -> tuple[Task, ...]:
    """The tasks an answer file is scored for: the one asked for; of `all`, the one in its name (`…_2D`), else both."""
    if task != "all":
        return (task,)
    named = tuple(each for each in TASKS if path.stem.endswith(f"_{each}"))
    return named or TASKS


def family_for(path: Path, answers: Sequence[Answer], family: Family | Literal["auto"]) -> Family:
    """The published parser of a file: by its name if a known model is in it, else `json` where an answer has a fence."""
    if family != "auto":
        return family
    if family_of(path.stem) == "json" or "robotracer" in path.stem.lower():
        return family_of(path.stem)
    fenced = any(isinstance(answer.prediction, str) and "```" in answer.prediction for answer in answers)
    return "json" if fenced else "text"


def score_file(
    path: str | Path,
    bench: Bench | None = None,
    task: Task | Literal["all"] = "all",
    family: Family | Literal["auto"] = "auto",
    mode: Mode = "strict",
    seed: int = 0,
) -> list[dict[str, Any]]:
    """A report `{"summary": …, "questions": […]}` per task that the file is scored for.

    With a benchmark, `strict` counts questions without an answer as failures; `compat` scores the lines that are there.

    Raises:
        DatasetError: the file or a picture cannot be read. ConfigError: unknown mode.
    """
    if mode not in ("strict", "compat"):
        raise ConfigError(f"unknown mode '{mode}'", where="mode", mend="strict or compat")
    path = Path(path)
    answers = read_answers(path)
    reports = []
    for each in tasks_of(path, task):
        if mode == "strict":
            scores = score_strict(completed(answers, bench), each, family, bench)
        else:
            scores = score_compat(answers, each, family_for(path, answers, family), bench)
        summary = {"answers": str(path)} | summarise(scores, each, mode, seed)
        reports.append({"summary": summary, "questions": [score.as_json() for score in scores]})
    return reports


def joined(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One report of several: that of one task as it is; of more, `summary` by task and all questions (each says its task).

    Raises:
        ConfigError: two reports of one task.
    """
    if len(reports) == 1:
        return dict(reports[0])
    summaries = {report["summary"]["task"]: report["summary"] for report in reports}
    if len(summaries) != len(reports):
        raise ConfigError("two answer files of one task", where="answers", mend="score them apart")
    return {"summary": summaries, "questions": [question for report in reports for question in report["questions"]]}
