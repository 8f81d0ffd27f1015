"""Answers that a model has to beat, made from what the benchmark holds: straight lines. ("Nothing moves" is a predictor.)

straight-line             from the object (its mask: the true place) straight towards where the words point, if they name a
                          direction, and as far as they say; else to what the middle of the picture shows
straight-line-true-ends   the two ends of the reference trace joined: all that can be had without planning a way. No model knows
                          the true end; it says how many questions need a way around something.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from traceworld.errors import DatasetError
from traceworld.geometry.cameras import project_cam, unproject_cam
from traceworld.tracespatial.answers import format_trace, to_thousandths
from traceworld.tracespatial.bench_layout import Bench, BenchQuestion
from traceworld.tracespatial.bench_prompts import Task

USUAL_M = 0.3
"""How far a thing is moved where the words do not say."""
_WAYS = {
    "straight up": (0.0, -1.0, 0.0),
    "straight down": (0.0, 1.0, 0.0),
    "towards the camera": (0.0, 0.0, -1.0),
    "away from the camera": (0.0, 0.0, 1.0),
    "to the left,": (-1.0, 0.0, 0.0),
    "to the right,": (1.0, 0.0, 0.0),
}
_SAID = re.compile(r"by (\d+\.\d+)m")
_NEAR_M = 0.05


@dataclass(frozen=True)
class StraightLine:
    """An entrant that sees the mask; with `true_ends` the reference trace too."""

    name: Literal["straight-line", "straight-line-true-ends"]

    def words(self, bench: Bench, question: BenchQuestion, task: Task) -> str:
        """Two points, as text.

        Raises:
            DatasetError: the question has no intrinsics, no picture, or (without true ends) no mask with known depth.
        """
        image = bench.picture(question, "image")
        if image is None or question.K is None:
            raise DatasetError("no picture or no intrinsics", where=f"question {question.question_id}")
        if self.name == "straight-line-true-ends":
            ends = np.asarray(question.trajectory_cam, np.float64)[[0, -1]]
        else:
            ends = _towards_words(bench, question, question.K)
        points = to_thousandths(project_cam(ends, question.K), image.shape[1], image.shape[0])
        return format_trace(points[:, : 2 if task == "2D" else 3])


REFERENCES: dict[str, StraightLine] = {
    each.name: each for each in (StraightLine("straight-line"), StraightLine("straight-line-true-ends"))
}
"""Entrants by name."""


def _towards_words(bench: Bench, question: BenchQuestion, K: np.ndarray) -> Float[np.ndarray, "2 3"]:
    """Both ends in camera metres."""
    mask, depth_mm = bench.picture(question, "mask"), bench.picture(question, "gt_depth")
    if mask is None or depth_mm is None or mask.shape != depth_mm.shape or not ((mask > 0) & (depth_mm > 0)).any():
        raise DatasetError("no mask with known depth", where=f"question {question.question_id}")
    v, u = np.nonzero((mask > 0) & (depth_mm > 0))
    start = unproject_cam(np.array([[u.mean(), v.mean()]]), np.array([np.median(depth_mm[v, u]) / 1000.0]), K)[0]
    prompt = question.prompt.rstrip(".") + ","
    way = next((np.array(way) for said, way in _WAYS.items() if said in prompt), None)
    if way is not None:
        said = _SAID.search(prompt)
        end = start + way * (float(said[1]) if said else USUAL_M)
        end[2] = max(end[2], _NEAR_M)
        return np.stack([start, end])
    height, width = depth_mm.shape
    known = np.argwhere(depth_mm > 0)
    row, column = known[np.argmin(((known - (height / 2, width / 2)) ** 2).sum(axis=1))]
    middle = unproject_cam(np.array([[float(column), float(row)]]), np.array([depth_mm[row, column] / 1000.0]), K)[0]
    return np.stack([start, middle])
