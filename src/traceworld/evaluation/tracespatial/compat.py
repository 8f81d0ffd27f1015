"""The published evaluator of TraceSpatial-Bench to the letter, faults included (`reference/robotracer.md` §1.4–1.8).

What it does in single precision is done in single precision here. Where it would never return (a path that holds NaN, B1) the question
is marked `skipped` and stays out of every figure; where an exception would end its run, too; the summary says both. Kept: waypoints
alone are checked for collisions (B2), hollow obstacles (B3, B4), denominators that depend on the family (B5), 0.0 as the path error of
nothing (B6), failed collision checks as free (B7), two mask conventions (B8), clustering without effect (B9), truncated indices (B10),
corners behind the camera (B11), an object cloud left over from the question before (B13).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.interpolate import interp1d
from scipy.spatial.distance import cdist

from traceworld.errors import InvalidInputError
from traceworld.evaluation.tracespatial.cloud import object_cloud
from traceworld.evaluation.tracespatial.occupancy import COLLISION_SHARE, collision_shares, occupied_voxels
from traceworld.evaluation.tracespatial.records import (
    END_LIMIT_M,
    LAST_POINTS,
    START_LIMIT_M,
    Pictures,
    QuestionScore,
    begin,
    pictures_of,
)
from traceworld.geometry.alignment import prefix_alignments
from traceworld.tracespatial.answers_compat import fenced_json, text_tuples
from traceworld.tracespatial.bench_layout import Answer, Bench
from traceworld.tracespatial.bench_prompts import Family, Task
from traceworld.tracespatial.paths import NUM_POINTS, PathErrors

NEVER_RETURNS = "the published evaluator never returns: the path holds NaN"
ENDS_THE_RUN = "the published evaluator ends with an exception"
_LONGEST_FRECHET = 100.0

Pair = tuple[np.ndarray, np.ndarray]


class _Skip(Exception):
    """A question that the published evaluator leaves out, or does not survive."""


class _Unscored(Exception):
    """A question that cannot be scored here, though the published evaluator could with the pictures."""


def score_compat(
    answers: Sequence[Answer], task: Task, family: Family, bench: Bench | None = None
) -> list[QuestionScore]:
    """Every answer as the published evaluator scores it; without pictures what does not need them.

    Raises:
        DatasetError: a picture is damaged.
    """
    run = _Run(task, family)
    for answer in answers:
        run.add(answer, pictures_of(answer.question, bench, task))
    run.fill_paths()
    return run.scores


class _Run:
    """One pass over an answer file: the state that the published loop carries from question to question."""

    def __init__(self, task: Task, family: Family):
        self.task, self.family = task, family
        self.scores: list[QuestionScore] = []
        self._cloud: np.ndarray | None = None
        self._pairs: list[tuple[QuestionScore, str, Pair]] = []

    def add(self, answer: Answer, pictures: Pictures) -> None:
        score = begin(answer.question, self.task)
        score.error = answer.error
        self.scores.append(score)
        try:
            (self._add_2d if self.task == "2D" else self._add_3d)(answer, pictures, score)
        except _Skip as reason:
            score.skipped = str(reason)
        except _Unscored as reason:
            score.error = str(reason)

    def _parse(self, answer: Answer) -> np.ndarray:
        read = text_tuples if self.family == "text" else fenced_json
        return read(answer.prediction)

    def _add_2d(self, answer: Answer, pictures: Pictures, score: QuestionScore) -> None:
        if answer.question.K is None:
            raise _Skip(f"{ENDS_THE_RUN}: no intrinsics")
        try:
            parsed = self._parse(answer)
        except (TypeError, ValueError) as error:
            raise _Skip(f"{ENDS_THE_RUN}: {error!r}") from error
        size = _size(pictures)
        uv = parsed[:, :2] if parsed.ndim == 2 and parsed.shape[1] >= 2 else np.zeros((0, 2), np.float32)
        _note(score, parsed if len(uv) else uv)
        with np.errstate(over="ignore", invalid="ignore"):
            points = uv * np.array(size, np.float32)
        if len(points) == 0:
            points = np.zeros((2, 2), np.float32)
        elif len(points) == 1:
            points = np.repeat(points, 2, axis=0)
        K = _single(answer)
        true = _project(np.array(answer.question.record["trajectory"], np.float32), K).astype(np.float32)
        try:
            score.start_in_mask = _in_mask(points[0], pictures.mask)
        except (ValueError, OverflowError) as error:
            raise _Skip(f"{ENDS_THE_RUN}: {error!r}") from error
        score.end_in_box = _end_in_box(answer, points, K)
        pair = _shares(_resampled(points), size), _shares(_resampled(true), size)
        if not (np.isnan(pair[0]).any() or np.isnan(pair[1]).any()):
            self._pairs += [(score, suffix, pair) for suffix in ("", "_2d")]

    def _add_3d(self, answer: Answer, pictures: Pictures, score: QuestionScore) -> None:
        if answer.question.K is None:
            raise _Skip("no intrinsics")
        try:
            parsed = self._parse(answer)
        except (TypeError, ValueError) as error:
            raise _Skip(f"cannot be parsed: {error!r}") from error
        if parsed.ndim != 2 or parsed.shape[1] < 3:
            raise _Skip("no depth in the answer")
        size = _size(pictures)
        _note(score, parsed)
        K = _single(answer)
        points = _back_project(parsed, size, K)
        path, true = _resampled(points), np.array(answer.question.record["trajectory"], np.float32)
        if len(path) > 1 and np.isnan(path).any():
            raise _Skip(NEVER_RETURNS)
        true_path = _resampled(true)
        if len(path):
            self._pairs.append((score, "", (path, true_path)))
        self._derive_2d(answer, pictures, score, points, path, true_path, size)
        cloud = self._object(answer, pictures)
        self._set_start(score, points, true, cloud, pictures)
        self._set_end(answer, score, points)
        self._set_collision(answer, score, points, pictures)
        score.success = _success(score)

    def _derive_2d(self, answer, pictures, score, points, path, true_path, size) -> None:
        """The published report on projected 3D answers; what fails there counts as a failure."""
        K = _single(answer)
        score.start_in_mask = None if pictures.mask is None else False
        score.end_in_box = False
        if len(points) == 0:
            return
        pair = tuple(_shares(_project(each, K).astype(np.float32), size) for each in (path, true_path))
        if not (np.isnan(pair[0]).any() or np.isnan(pair[1]).any()):
            self._pairs.append((score, "_2d", (pair[0], pair[1])))
        raw = _project(points, K).astype(np.float32)
        try:
            score.start_in_mask = _in_mask(raw[0], pictures.mask)
        except (ValueError, OverflowError):
            return
        score.end_in_box = _end_in_box(answer, raw, K)

    def _object(self, answer: Answer, pictures: Pictures) -> np.ndarray | None:
        """The object's cloud; what raises in the published code leaves the one of the question before in place (B13)."""
        if pictures.mask is None or pictures.depth_mm is None:
            return None
        depth, mask = pictures.depth_mm, pictures.mask
        if mask.shape != depth.shape:
            import cv2

            mask = cv2.resize(mask, (depth.shape[1], depth.shape[0]), interpolation=cv2.INTER_NEAREST)
        self._cloud = object_cloud(mask, depth, np.asarray(answer.question.K), published=True)
        return self._cloud

    def _set_start(self, score, points, true, cloud, pictures: Pictures) -> None:
        if len(points) == 0:
            score.start_ok = False
            return
        score.start_from_truth_m = float(np.linalg.norm(points[0] - true[0]))
        if pictures.mask is None or pictures.depth_mm is None:
            score.start_ok = True if score.start_from_truth_m < START_LIMIT_M else None  # a cloud can only be nearer
            return
        if cloud is None or len(cloud) == 0:
            score.start_ok = False
            return
        nearest = float(np.min(np.linalg.norm(cloud - points[0], axis=1)))
        score.start_distance_m = min(nearest, score.start_from_truth_m)
        score.start_ok = score.start_distance_m < START_LIMIT_M

    def _set_end(self, answer: Answer, score: QuestionScore, points: np.ndarray) -> None:
        score.end_ok = False
        if len(points) and answer.question.box is not None:
            last = points[-LAST_POINTS:][::-1] if len(points) >= LAST_POINTS else points[-1:]
            score.end_distance_m = min(_box_distance(point, answer) for point in last)
            score.end_ok = score.end_distance_m < END_LIMIT_M

    def _set_collision(self, answer: Answer, score: QuestionScore, points: np.ndarray, pictures: Pictures) -> None:
        if pictures.mask is None or pictures.depth_mm is None:
            return
        score.collided = False
        cloud, depth, mask = self._cloud, pictures.depth_mm.astype(np.float32), pictures.mask
        if mask.shape != depth.shape or cloud is None or len(cloud) == 0 or len(points) == 0:
            return
        try:
            voxels = occupied_voxels(np.where(mask == 255, 0, depth) / np.float32(1000), np.asarray(answer.question.K))
        except InvalidInputError:
            return
        score.collision_ratios = collision_shares(voxels, cloud, points).tolist()
        score.collided = any(ratio > COLLISION_SHARE for ratio in score.collision_ratios)

    def fill_paths(self) -> None:
        """Path errors of all questions, their Fréchet tables filled together."""
        errors = _path_errors([pair for _, _, pair in self._pairs])
        for (score, suffix, _), found in zip(self._pairs, errors, strict=True):
            if not found.frechet > _LONGEST_FRECHET:
                score.set_paths(found, suffix)


def _note(score: QuestionScore, parsed: np.ndarray) -> None:
    score.parsed = len(parsed) > 0
    score.failure = None if score.parsed else "no_points"
    score.points = np.round(parsed * np.array([1000.0, 1000.0, 1.0])[: parsed.shape[1]], 6).tolist() or None


def _size(pictures: Pictures) -> tuple[int, int]:
    if pictures.size is None:
        raise _Unscored("no picture, and the intrinsics fit no published size: give --bench")
    return pictures.size


def _success(score: QuestionScore) -> bool | None:
    if score.start_ok is False or score.end_ok is False or score.collided:
        return False
    return None if score.start_ok is None or score.collided is None else True


def _single(answer: Answer) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy, rounded to single precision as published."""
    K = np.asarray(answer.question.K, np.float32)
    return float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])


def _project(points: np.ndarray, K: tuple[float, float, float, float]) -> np.ndarray:
    fx, fy, cx, cy = K
    x, y, z = points.T
    with np.errstate(over="ignore", invalid="ignore"):
        z = np.where(np.abs(z) < 1e-6, 1e-6, z).astype(points.dtype)
        return np.stack([x * fx / z + cx, y * fy / z + cy], axis=1)


def _back_project(parsed: np.ndarray, size: tuple[int, int], K: tuple[float, float, float, float]) -> np.ndarray:
    fx, fy, cx, cy = K
    u, v, d = parsed[:, 0] * size[0], parsed[:, 1] * size[1], parsed[:, 2]
    with np.errstate(over="ignore", invalid="ignore"):
        return np.stack([(u - cx) * d / fx, (v - cy) * d / fy, d], axis=1)


def _resampled(path: np.ndarray) -> np.ndarray:
    """Uniform in arc length, in single precision; two equal leading points divide zero by zero (B1)."""
    with np.errstate(all="ignore"):
        path = np.asarray(path, np.float32)
        if len(path) < 2:
            return path
        along = np.insert(np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1)), 0, 0.0)
        total = float(along[-1])
        if total <= 1e-12:
            return np.repeat(path[:1], NUM_POINTS, axis=0)
        if not np.isfinite(total):
            return np.full((NUM_POINTS, path.shape[1]), np.nan, np.float32)
        wanted = np.linspace(0.0, total, NUM_POINTS, dtype=np.float32)
        return np.stack([interp1d(along, path[:, axis])(wanted) for axis in range(path.shape[1])], axis=1)


def _shares(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return points / np.array(size, np.float32)


def _in_mask(point: np.ndarray, mask: np.ndarray | None) -> bool | None:
    u, v = round(float(point[0])), round(float(point[1]))  # raises on NaN and infinity, as published
    if mask is None:
        return None
    return 0 <= v < mask.shape[0] and 0 <= u < mask.shape[1] and bool(mask[v, u] > 0)


def _end_in_box(answer: Answer, points: np.ndarray, K: tuple[float, float, float, float]) -> bool:
    box = _box(answer)
    if box is None:
        return False
    center, extent, rotation = box
    signs = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)], np.float32) * 2 - 1
    corners = _project((signs * (extent / 2)) @ rotation.T + center, K)
    low, high = corners.min(axis=0), corners.max(axis=0)
    last = points[-LAST_POINTS:] if len(points) >= LAST_POINTS else points[-1:]
    return bool(((last >= low) & (last <= high)).all(axis=1).any())


def _box(answer: Answer) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    box = answer.question.box
    if box is None:
        return None
    return box.center_xyz.astype(np.float32), box.size_m.astype(np.float32), box.rotation.astype(np.float32)


def _box_distance(point: np.ndarray, answer: Answer) -> float:
    box = _box(answer)
    assert box is not None
    center, extent, rotation = box
    local = np.linalg.inv(rotation) @ (point - center)
    half = 0.5 * extent
    if (np.abs(local) <= half).all():
        return 0.0
    nearest = rotation @ np.clip(local, -half, half) + center
    return float(np.linalg.norm(point - nearest))


def _path_errors(pairs: Sequence[Pair]) -> list[PathErrors]:
    """Of resampled pairs; a path of one point stands still."""
    if not pairs:
        return []
    full = [tuple(np.broadcast_to(each, (NUM_POINTS, each.shape[1])) for each in pair) for pair in pairs]
    frechet = np.zeros(len(pairs))
    for dims in {pair[0].shape[1] for pair in pairs}:
        rows = [row for row, pair in enumerate(pairs) if pair[0].shape[1] == dims]
        for at in range(0, len(rows), 64):
            part = rows[at : at + 64]
            a, b = (np.stack([full[row][side] for row in part]).astype(np.float64) for side in (0, 1))
            frechet[part] = prefix_alignments(a, b)[1][-1]
    return [_errors(float(f), *pair) for f, pair in zip(frechet, pairs, strict=True)]


def _errors(frechet: float, pred: np.ndarray, true: np.ndarray) -> PathErrors:
    with np.errstate(over="ignore", invalid="ignore"):
        pred, true = pred.astype(np.float32), true.astype(np.float32)
        distance, apart = cdist(pred, true), pred - true
        hausdorff = float(max(distance.min(axis=1).max(), distance.min(axis=0).max()))
        rmse = float(np.sqrt(np.mean(np.sum(apart * apart, axis=1))))
        return PathErrors(frechet, hausdorff, rmse, float(np.mean(np.mean(np.abs(apart), axis=1))))


def published_figures(scores: Sequence[QuestionScore], task: Task) -> dict[str, Any]:
    """The averages that the published evaluator prints, with its denominators; None where pictures are missing."""
    used = [score for score in scores if score.skipped is None]
    figures: dict[str, Any] = {}
    for name in (*PathErrors._fields, *(f"{field}_2d" for field in PathErrors._fields)):
        values = [getattr(score, name) for score in used if getattr(score, name) is not None]
        figures[name] = float(np.mean(values)) if values else 0.0
    for name in ("start_in_mask", "end_in_box"):
        figures[name] = _rate([getattr(score, name) for score in used])
    if task == "2D":
        return figures
    for name in ("start_distance_m", "end_distance_m"):
        values = [getattr(score, name) for score in used if getattr(score, name) is not None]
        figures[name] = float(np.mean(values)) if values else None
    for name in ("start_ok", "end_ok"):
        figures[name] = _rate([getattr(score, name) for score in used])
    collided = _rate([score.collided for score in used])
    figures["no_collision"] = None if collided is None else 1.0 - collided
    succeeded = [score.success for score in used]
    known = all(value is not None for value in succeeded)
    figures["overall_success"] = sum(map(bool, succeeded)) / max(len(scores), 1) if known else None
    return figures


def _rate(flags: Sequence[bool | None]) -> float | None:
    known = [flag for flag in flags if flag is not None]
    return None if not flags or len(known) < len(flags) else sum(known) / len(known)
