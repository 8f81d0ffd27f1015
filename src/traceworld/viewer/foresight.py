"""One prediction from one frame of an extracted clip, scored against what the clip shows next.

The question put to a predictor: the picture and depth of one frame, the instruction, the points seen in it, and, where
the clip reaches back far enough, where they came from. The answer it is scored against: the clip's own traces, at the
horizon's steps (interpolated where frame times differ).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from traceworld.errors import ExtractionError
from traceworld.evaluation.metrics import forecast_metrics
from traceworld.geometry import cameras as cam
from traceworld.geometry.retime import sample_at
from traceworld.models.predictor import TracePredictor
from traceworld.traces.observing import relative_z
from traceworld.traces.types import Clip, Observation, TracePrediction
from traceworld.viewer.scene import Forecast, forecast_from_prediction

HORIZON = 32
HISTORY = 8
HORIZONS = (8, 16, 32)


@dataclass(frozen=True, eq=False)
class Question:
    """What predictors are asked at one frame, and what happened.

    Attributes:
        frame: the clip frame.
        points: [K] which of the clip's points.
        moving: [K] they pass the clip's movement filter: only these are scored.
        anchor_uvz: [K,3].
        true_uvz, true_valid: [K,H,3], [K,H] the clip's traces at the horizon's steps, seen from the frame's camera.
        future_time_s: [H] clip time of each step.
        has_history: the observation holds the points' past.
    """

    frame: int
    points: Int[np.ndarray, " K"]
    moving: Bool[np.ndarray, " K"]
    observation: Observation
    anchor_uvz: Float[np.ndarray, "K 3"]
    true_uvz: Float[np.ndarray, "K H_ 3"]
    true_valid: Bool[np.ndarray, "K H_"]
    future_time_s: Float[np.ndarray, " H_"]
    has_history: bool

    @property
    def scored(self) -> np.ndarray:
        """[K] the points that count: moving, with at least one known step ahead."""
        return self.moving & self.true_valid.any(-1)


def ask(
    clip: Clip,
    frame: int,
    image: UInt8[np.ndarray, "Himg Wimg 3"],
    depth_m: Float32[np.ndarray, "Himg Wimg"] | None,
    instruction: str,
    *,
    with_history: bool,
    step_s: float = 0.025,
    max_points: int = 256,
) -> Question:
    """Put together what is asked at `frame`.

    Raises:
        ExtractionError: no extracted point is seen in that frame.
    """
    traces, camera = clip.traces, clip.cameras[frame]
    seen = np.flatnonzero(traces.visible[frame])
    if not len(seen):
        raise ExtractionError(
            "no extracted point is visible",
            where=f"clip {clip.clip_id}, frame {frame}",
            mend="use another frame or clip",
        )
    points = np.sort(seen[np.argsort(~traces.moving[seen], kind="stable")][:max_points])
    xyz = traces.xyz_world[:, points].astype(np.float64)
    valid = traces.valid[:, points]
    now = float(clip.time_s[frame])
    future_s = now + step_s * np.arange(1, HORIZON + 1)
    past_s = now - step_s * np.arange(HISTORY, 0, -1)

    def seen_from_here(times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, known = sample_at(clip.time_s, xyz, valid, times_s)
        uvz = cam.world_to_uvz(values, camera.K, camera.cam_from_world, camera.width, camera.height)
        known = known & np.isfinite(uvz).all(-1)
        return np.swapaxes(uvz, 0, 1), np.swapaxes(known, 0, 1)

    true_uvz, true_valid = seen_from_here(future_s)
    history, history_known = seen_from_here(past_s)
    has_history = with_history and bool(history_known.any())
    anchor = cam.world_to_uvz(xyz[frame], camera.K, camera.cam_from_world, camera.width, camera.height)
    if not clip.metric:  # z is only up to scale: the question is asked without depth
        depth_m, history = None, relative_z(history, anchor[:, 2])
    observation = Observation(
        image=image,
        instruction=instruction,
        depth_m=depth_m,
        K=cam.resize_K(camera.K, (camera.width, camera.height), (image.shape[1], image.shape[0])),
        keypoints_uv=anchor[:, :2],
        keypoints_z_m=anchor[:, 2] if clip.metric else None,
        history_uvz=np.where(history_known[..., None], history, np.nan) if has_history else None,
        part_id=traces.part_id[points],
        clock="time",
        step=step_s,
    )
    return Question(
        frame, points, traces.moving[points], observation, anchor, true_uvz, true_valid, future_s, has_history
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Answer:
    """One predictor's answer and its scores (empty when nothing could be scored)."""

    name: str
    prediction: TracePrediction
    scores: Mapping[str, float]
    curve_cm: Mapping[str, Sequence[float | None]]


def answer(question: Question, predictor: TracePredictor, clip: Clip, *, samples: int, seed: int) -> Answer:
    """Ask one predictor and score it on the moving points.

    Scores are those of `evaluation.metrics.forecast_metrics` in uvz, and for metric clips `top1_ade_cm@T`, `topS_ade_cm@T`:
    the mean 3D distance in centimetres (topS: of the sample that is best for the point over those T steps).
    """
    prediction = predictor.predict(question.observation, num_samples=samples, seed=seed)
    if question.observation.keypoints_z_m is None:  # its z counts from where the points are now
        start = question.anchor_uvz[:, None] * [0, 0, 1]
        prediction = replace(prediction, uvz=(prediction.uvz + start).astype(np.float32))
    keep = question.scored
    steps = prediction.uvz.shape[2]
    if not keep.any() or steps < 1:
        return Answer(predictor.name, prediction, {}, {})
    horizons = tuple(h for h in HORIZONS if h <= steps)
    true, valid = question.true_uvz[keep, :steps], question.true_valid[keep, :steps]
    predicted = prediction.uvz[:, keep].astype(np.float64)
    scores = dict(forecast_metrics(predicted, np.where(valid[..., None], true, 0.0), valid, horizons=horizons))
    curves: dict[str, list[float | None]] = {}
    if clip.metric:
        errors = _errors_cm(clip, question.frame, predicted, true, valid)
        for horizon in horizons:
            top1, best, _ = _means(errors[..., :horizon], valid[:, :horizon])
            scores[f"top1_ade_cm@{horizon}"], scores[f"topS_ade_cm@{horizon}"] = top1, best
        curves = _curves(errors, valid)
    return Answer(predictor.name, prediction, {k: float(v) for k, v in scores.items()}, curves)


def as_forecast(question: Question, given: Answer, clip: Clip, *, name: str, max_points: int = 24) -> Forecast:
    """The answer in world metres for the 3D view: of the scored points, else of all, at most `max_points` evenly chosen."""
    pool = np.flatnonzero(question.scored)
    if not len(pool):
        pool = np.arange(len(question.points))
    pick = pool[np.unique(np.linspace(0, len(pool) - 1, min(max_points, len(pool))).round().astype(int))]
    steps = given.prediction.uvz.shape[2]
    part = TracePrediction(
        given.prediction.uvz[:, pick], given.prediction.valid[:, pick], clock="time", step=given.prediction.step
    )
    return forecast_from_prediction(
        part,
        clip.cameras[question.frame],
        question.anchor_uvz[pick],
        name=name,
        frame=question.frame,
        start_s=float(clip.time_s[question.frame]),
        true_uvz=question.true_uvz[pick, :steps],
        true_valid=question.true_valid[pick, :steps],
    )


def summary(question: Question, answers: Sequence[Answer]) -> dict[str, Any]:
    """What `report.json` says about one question."""
    return {
        "frame": int(question.frame),
        "history": question.has_history,
        "points": len(question.points),
        "scored_points": int(question.scored.sum()),
        "known_share_of_future": round(float(question.true_valid[question.scored].mean()), 4)
        if question.scored.any()
        else 0.0,
        "instruction": question.observation.instruction,
        "step_s": question.observation.step,
        "scores": {a.name: {k: _number(v) for k, v in a.scores.items()} for a in answers},
    }


def _errors_cm(clip: Clip, frame: int, predicted: np.ndarray, true: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """3D distances [S,K,H] in centimetres; NaN where the truth is unknown."""
    camera = clip.cameras[frame]

    def lift(uvz: np.ndarray) -> np.ndarray:
        return cam.uvz_to_world(uvz, camera.K, camera.cam_from_world, camera.width, camera.height)

    distance = np.linalg.norm(lift(predicted) - lift(np.where(valid[..., None], true, 1.0))[None], axis=-1)
    return np.where(valid[None], distance * 100.0, np.nan)


def _means(errors: np.ndarray, valid: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Mean over points of the first sample's and of the best sample's mean error; the best sample of each known point."""
    known = valid.any(-1)
    if not known.any():
        return float("nan"), float("nan"), np.zeros(0, int)
    each = np.nanmean(errors[:, known], axis=-1)
    return float(each[0].mean()), float(each.min(0).mean()), each.argmin(0)


def _curves(errors: np.ndarray, valid: np.ndarray) -> dict[str, list[float | None]]:
    """Mean error per step of the first sample and of the sample that is best over the whole horizon; starts at step 0."""
    _, _, best = _means(errors, valid)
    known = valid.any(-1)
    chosen = np.take_along_axis(errors[:, known], best[None, :, None], axis=0)[0]

    def per_step(rows: np.ndarray) -> list[float | None]:
        counts = np.isfinite(rows).sum(0)
        sums = np.nansum(rows, axis=0)
        return [0.0] + [round(float(s / c), 4) if c else None for s, c in zip(sums, counts, strict=True)]

    return {"first sample": per_step(errors[0][known]), "best sample": per_step(chosen)}


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
