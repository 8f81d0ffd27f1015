"""TraceSpatial-Bench done right: the default scoring.

The paper's measures (`reference/robotracer.md` §1.5, §1.6) with the faults of the published evaluator mended (§1.8): answers are read by
the strict parser (`tracespatial.answers`); every question counts in every rate; collisions are checked along the whole path, every centimetre,
against obstacles that are solid behind what is seen; the object is where its mask is above 0; box corners behind the camera are cut off
at the picture plane; what cannot be checked is unknown, not passed; an answer that cannot be read fails and has no path error.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from jaxtyping import Float, Num
from scipy.spatial import cKDTree

from traceworld.evaluation.tracespatial.cloud import object_cloud
from traceworld.evaluation.tracespatial.occupancy import COLLISION_SHARE, SolidDepth, collision_shares
from traceworld.evaluation.tracespatial.records import (
    END_LIMIT_M,
    LAST_POINTS,
    START_LIMIT_M,
    Pictures,
    QuestionScore,
    begin,
    pictures_of,
)
from traceworld.geometry.cameras import project_cam, unproject_cam
from traceworld.tracespatial.answers import parse_trace, to_pixels
from traceworld.tracespatial.bench_layout import Answer, Bench, BenchQuestion
from traceworld.tracespatial.bench_prompts import Family, Task
from traceworld.tracespatial.paths import every, many_path_errors
from traceworld.tracespatial.scene import OrientedBox

STEP_M = 0.01
"""A path is checked for collisions at least this often."""
NEAR_M = 0.01
"""What is nearer to the camera has no place in the picture."""

_FORMS: dict[Family | Literal["auto"], Literal["auto", "tuples", "json"]] = {
    "auto": "auto",
    "text": "tuples",
    "json": "json",
}


def score_strict(
    answers: Sequence[Answer], task: Task, family: Family | Literal["auto"] = "auto", bench: Bench | None = None
) -> list[QuestionScore]:
    """A score for every answer, whatever it says; without pictures what does not need them.

    Args:
        family: read only tuples (`text`), only JSON (`json`), or both (`auto`).

    Raises:
        DatasetError: a picture is damaged.
    """
    scores: list[QuestionScore] = []
    paths: dict[str, list[tuple[QuestionScore, tuple[np.ndarray, np.ndarray]]]] = {"": [], "_2d": []}
    for answer in answers:
        score = begin(answer.question, task)
        scores.append(score)
        pictures = pictures_of(answer.question, bench, task)
        if not _read(answer, task, family, pictures, score):
            _fail(score, answer, pictures)
            continue
        pairs = (_score_2d if task == "2D" else _score_3d)(answer.question, pictures, score)
        for suffix, pair in pairs.items():
            paths[suffix].append((score, pair))
    for suffix, found in paths.items():
        for (score, _), errors in zip(found, many_path_errors([pair for _, pair in found]), strict=True):
            score.set_paths(errors, suffix)
    if task == "2D":  # the task's own errors are those in the picture
        for score in scores:
            score.frechet, score.hausdorff = score.frechet_2d, score.hausdorff_2d
            score.rmse, score.mae = score.rmse_2d, score.mae_2d
    return scores


def _read(
    answer: Answer, task: Task, family: Family | Literal["auto"], pictures: Pictures, score: QuestionScore
) -> bool:
    """Parse; False if there is nothing to score."""
    score.error = answer.error
    parsed = parse_trace(answer.prediction, 2 if task == "2D" else 3, _FORMS[family])
    score.failure = parsed.failure or None
    if parsed.failure:
        return False
    score.parsed, score.points = True, parsed.points.tolist()
    if answer.question.K is None or pictures.size is None:
        score.error = "no intrinsics" if answer.question.K is None else "no picture and no known size: give --bench"
        score.failure = "no_camera"
        return False
    return True


def _fail(score: QuestionScore, answer: Answer, pictures: Pictures) -> None:
    """What cannot be read fails where it could have passed; what cannot be scored stays unknown."""
    if score.failure == "no_camera":
        return
    if score.task == "2D":
        score.start_in_mask = None if "mask" in pictures.missing else False
        score.end_in_box = None if answer.question.box is None else False
        return
    score.start_ok, score.end_ok, score.success = False, None if answer.question.box is None else False, False


def _score_2d(
    question: BenchQuestion, pictures: Pictures, score: QuestionScore
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    assert pictures.size is not None
    points_px = to_pixels(np.asarray(score.points), *pictures.size)
    _in_picture(question, points_px, pictures, score)
    return {"_2d": (points_px / pictures.size, _seen(question.trajectory_cam, question, pictures.size))}


def _in_picture(question: BenchQuestion, points_px: np.ndarray, pictures: Pictures, score: QuestionScore) -> None:
    """Start in the mask, end in the rectangle of the destination box."""
    assert pictures.size is not None
    if pictures.mask is not None:
        score.start_in_mask = in_mask(points_px[0], pictures.mask, pictures.size)
    if question.box is not None:
        assert question.K is not None
        rectangle = box_rectangle(question.box, question.K)
        score.end_in_box = rectangle is not None and bool(
            ((points_px[-LAST_POINTS:] >= rectangle[0]) & (points_px[-LAST_POINTS:] <= rectangle[1])).all(axis=1).any()
        )


def _seen(path_cam: np.ndarray, question: BenchQuestion, size: tuple[int, int]) -> np.ndarray:
    """A path in camera metres as shares of the picture; points at or behind the camera are put just before it."""
    assert question.K is not None
    front = np.concatenate([path_cam[:, :2], np.maximum(path_cam[:, 2:], NEAR_M)], axis=1)
    return project_cam(front, question.K)[:, :2] / size


def _score_3d(
    question: BenchQuestion, pictures: Pictures, score: QuestionScore
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    assert pictures.size is not None
    assert question.K is not None
    points_px = to_pixels(np.asarray(score.points), *pictures.size)
    path = unproject_cam(points_px[:, :2], points_px[:, 2], question.K)
    _in_picture(question, points_px[:, :2], pictures, score)
    _set_start_and_collision(question, pictures, path, score)
    if question.box is not None:
        score.end_distance_m = float(box_distances(path[-LAST_POINTS:], question.box).min())
        score.end_ok = score.end_distance_m < END_LIMIT_M
    score.success = _success(score)
    pairs = {"": (path, question.trajectory_cam)}
    return pairs | {"_2d": (points_px[:, :2] / pictures.size, _seen(question.trajectory_cam, question, pictures.size))}


def _set_start_and_collision(
    question: BenchQuestion, pictures: Pictures, path: np.ndarray, score: QuestionScore
) -> None:
    score.start_from_truth_m = float(np.linalg.norm(path[0] - question.trajectory_cam[0]))
    close = score.start_from_truth_m < START_LIMIT_M
    if pictures.mask is None or pictures.depth_mm is None:
        score.start_ok = True if close else None  # the object's cloud could only be nearer
        return
    assert question.K is not None
    mask = fitted(pictures.mask, (pictures.depth_mm.shape[1], pictures.depth_mm.shape[0]))
    cloud = object_cloud(mask, pictures.depth_mm, question.K)
    if len(cloud) == 0:
        score.start_ok = True if close else None
        score.error = "the object has no depth: neither its cloud nor collisions can be checked"
        return
    score.start_distance_m = min(score.start_from_truth_m, float(cKDTree(cloud).query(path[0])[0]))
    score.start_ok = score.start_distance_m < START_LIMIT_M
    obstacles = SolidDepth.around(mask, pictures.depth_mm, question.K)
    shares = collision_shares(obstacles, cloud, every(path, STEP_M))
    score.collision_ratios = np.round(shares, 4).tolist()
    score.collided = bool((shares > COLLISION_SHARE).any())


def _success(score: QuestionScore) -> bool | None:
    parts = (score.start_ok, score.end_ok, None if score.collided is None else not score.collided)
    return False if any(part is False for part in parts) else None if None in parts else True


def fitted(mask: Num[np.ndarray, "h w"], size: tuple[int, int]) -> Num[np.ndarray, "H W"]:
    """The mask at (width, height), nearest pixel."""
    if (mask.shape[1], mask.shape[0]) == size:
        return mask
    rows = (np.arange(size[1]) + 0.5) * mask.shape[0] / size[1]
    columns = (np.arange(size[0]) + 0.5) * mask.shape[1] / size[0]
    return mask[rows.astype(int)[:, None], columns.astype(int)]


def in_mask(point_px: Float[np.ndarray, " 2"], mask: Num[np.ndarray, "h w"], size: tuple[int, int]) -> bool:
    """Whether a pixel of the (width, height) picture is on the mask, which may have another size."""
    u, v = (int(value) for value in np.round(point_px))
    if not (0 <= u < size[0] and 0 <= v < size[1]):
        return False
    return bool(mask[int((v + 0.5) * mask.shape[0] / size[1]), int((u + 0.5) * mask.shape[1] / size[0])] > 0)


def box_distances(points: Float[np.ndarray, "P 3"], box: OrientedBox) -> Float[np.ndarray, " P"]:
    """Distance of each point to a solid box, 0 inside."""
    local = (points - box.center_xyz) @ box.rotation
    return np.linalg.norm(np.maximum(np.abs(local) - box.size_m / 2, 0.0), axis=1)


def box_rectangle(box: OrientedBox, K: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "2 2"] | None:
    """Least and greatest pixel of what of a box (camera frame) lies before the camera; None if nothing does."""
    signs = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)]) * 2.0 - 1.0
    corners = (signs * box.size_m / 2) @ box.rotation.T + box.center_xyz
    shown = [corner for corner in corners if corner[2] >= NEAR_M]
    for a, b in combinations(range(8), 2):
        if (signs[a] != signs[b]).sum() != 1 or (corners[a, 2] >= NEAR_M) == (corners[b, 2] >= NEAR_M):
            continue
        share = (NEAR_M - corners[a, 2]) / (corners[b, 2] - corners[a, 2])
        shown.append(corners[a] + share * (corners[b] - corners[a]))
    if not shown:
        return None
    pixels = project_cam(np.stack(shown), K)[:, :2]
    return np.stack([pixels.min(axis=0), pixels.max(axis=0)])
