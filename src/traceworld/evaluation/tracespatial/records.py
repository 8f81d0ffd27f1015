"""What is known of one answer after scoring, as it goes into the report; null is what does not apply or cannot be known."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from traceworld.tracespatial.bench_layout import Answer, Bench, BenchQuestion, Picture, size_of
from traceworld.tracespatial.bench_prompts import Task
from traceworld.tracespatial.paths import PathErrors

START_LIMIT_M = 0.20
END_LIMIT_M = 0.20
LAST_POINTS = 3
"""Any of so many last points may be the end of a trace."""


@dataclass
class QuestionScore:
    """One answer's figures.

    Attributes:
        parsed: a trace could be read. failure: why not, by name.
        points: the trace read: u, v in thousandths, metres.
        start_distance_m: to the object's cloud or the true start, the smaller; end_distance_m: to the destination box.
        start_from_truth_m: to the true start alone; needs no pictures.
        start_ok, end_ok: within 0.20 m. collided: more than a fifth of the object is inside of obstacles at some step.
        collision_ratios: that share, per step checked.
        success: start, end and no collision.
        start_in_mask, end_in_box: in the picture.
        frechet, hausdorff, rmse, mae: of the task: metres (3D), shares of the picture (2D); `…_2d`: in the picture.
        skipped: why it is in no figure (compat); error: why there was nothing to score.
    """

    question_id: int | str
    task: Task
    step: int | None = None
    category: str | None = None
    data_source: str | None = None
    parsed: bool = False
    failure: str | None = None
    points: list[list[float]] | None = None
    start_distance_m: float | None = None
    start_from_truth_m: float | None = None
    end_distance_m: float | None = None
    start_ok: bool | None = None
    end_ok: bool | None = None
    collided: bool | None = None
    collision_ratios: list[float] | None = None
    success: bool | None = None
    start_in_mask: bool | None = None
    end_in_box: bool | None = None
    frechet: float | None = None
    hausdorff: float | None = None
    rmse: float | None = None
    mae: float | None = None
    frechet_2d: float | None = None
    hausdorff_2d: float | None = None
    rmse_2d: float | None = None
    mae_2d: float | None = None
    skipped: str | None = None
    error: str | None = None

    def set_paths(self, errors: PathErrors, suffix: str = "") -> None:
        for name, value in errors._asdict().items():
            setattr(self, name + suffix, value)

    def as_json(self) -> dict[str, Any]:
        """JSON-able: NaN and infinity are null."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value


def begin(question: BenchQuestion, task: Task) -> QuestionScore:
    """An empty score of a question."""
    return QuestionScore(question.question_id, task, question.step, question.category, question.data_source)


@dataclass
class Pictures:
    """The pictures of a question as far as they are there, and what is missing."""

    size: tuple[int, int] | None
    mask: np.ndarray | None = None
    depth_mm: np.ndarray | None = None
    missing: list[str] = field(default_factory=list)


def pictures_of(question: BenchQuestion, bench: Bench | None, task: Task) -> Pictures:
    """(width, height) of RGB (2D) or depth (3D), or the published size that fits K; mask and depth if they are there.

    Raises:
        DatasetError: a picture is damaged.
    """
    own = None if bench is None else bench.by_id.get(question.question_id)
    found = {kind: None if bench is None or own is None else bench.picture(own, kind) for kind in _kinds(task)}
    decisive = found["image"] if task == "2D" else found["gt_depth"]
    if decisive is not None:
        size: tuple[int, int] | None = (decisive.shape[1], decisive.shape[0])
    else:
        size = None if question.K is None else size_of(question.K)
    missing: list[str] = [kind for kind, picture in found.items() if picture is None]
    return Pictures(size, found["mask"], found.get("gt_depth"), missing)


def _kinds(task: Task) -> tuple[Picture, ...]:
    return ("image", "mask") if task == "2D" else ("gt_depth", "mask")


def completed(answers: list[Answer], bench: Bench | None) -> list[Answer]:
    """Answers with step, category and source of the benchmark; questions of it without an answer are added, in its order."""
    if bench is None:
        return answers
    known = bench.by_id
    given = {answer.question.question_id: answer for answer in answers}
    found = [
        Answer(question, given[id_].prediction, given[id_].error)
        if id_ in given
        else Answer(question, None, "no answer")
        for id_, question in known.items()
    ]
    return found + [answer for id_, answer in given.items() if id_ not in known]
