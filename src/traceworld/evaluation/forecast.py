"""How well predictors foresee traces: the same slots and keypoints for every model, ratios against "nothing moves".

A slot is a frame of a clip that has a picture, with up to 64 of its moving points. The observation holds the picture, the
instruction, the points, and where asked for depth (the map, and the points' z) and history. Without depth z counts from where
a point is now, in its history too (as in training with depth dropped), and the true current z is added before scoring, as the
released evaluation does. Which slots and points are taken
follows from the seed and the clip ids alone, predictor noise from (seed, slot). Averages are over keypoints; intervals
resample whole clips.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from rich.console import Group
from rich.table import Table

from traceworld.errors import ConfigError, DatasetError
from traceworld.evaluation.metrics import forecast_metrics_per_keypoint
from traceworld.geometry.cameras import unproject, uv_to_px
from traceworld.models import load_predictor
from traceworld.models.baselines import BASELINES
from traceworld.models.predictor import TracePredictor
from traceworld.sim.tasks import HELD_OUT
from traceworld.traces.media import frames_with_pictures
from traceworld.traces.observing import relative_z
from traceworld.traces.store import Dataset, open_dataset
from traceworld.traces.types import Clip, Clock, Observation
from traceworld.traces.windows import WindowConfig, cut_window, observation_at

log = logging.getLogger(__name__)

REFERENCE = "nothing-moves"
_BOOTSTRAP = 2000


@dataclass(frozen=True, eq=False)
class Slot:
    """One question of the benchmark: an observation with its true future.

    Attributes:
        clip_id, frame: where it comes from. task: name for grouping. held_out: a task the models were not trained on.
        observation: with depth and history, as far as known; settings without them drop them.
        anchor_z_m: [N] true z of the points now. true_uvz: [N,H,3] absolute. valid: [N,H].
        K: [3,3] pixels of the observation's image.
    """

    clip_id: str
    frame: int
    task: str
    held_out: bool
    observation: Observation
    anchor_z_m: Float[np.ndarray, " N"]
    true_uvz: Float[np.ndarray, "N H 3"]
    valid: Bool[np.ndarray, "N H"]
    K: Float[np.ndarray, "3 3"]


def evaluate_forecast(
    models: Sequence[str | TracePredictor],
    data: str | Path | Dataset | Sequence[str | Path | Dataset],
    *,
    clock: Clock = "time",
    step: float | None = None,
    num_samples: int = 5,
    seed: int = 0,
    history: Sequence[bool] = (False, True),
    depth: bool = True,
    keypoints: str = "moving",
    max_keypoints: int = 64,
    slots_per_clip: int = 2,
    max_clips: int | None = None,
    max_windows: int | None = None,
    horizons: Sequence[int] = (8, 16, 32),
    held_out: Sequence[str] = HELD_OUT,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Score predictors on stored clips.

    Args:
        models: names or folders for `load_predictor`, or predictors. The baselines are always scored beside them.
        data: clip stores.
        clock, step: of the horizon; seconds (default 0.025) or image widths of path (default 0.01).
        num_samples: S; top-1 is the first sample, top-S the best per keypoint and metric.
        seed: of slots, keypoints and predictor noise.
        history: settings to score: with and without the points' past.
        depth: give the depth map (where the clip has one) and the z of the points.
        keypoints: "moving" (points that pass the movement filter) or "all".
        max_keypoints, slots_per_clip, max_clips, max_windows: size of the benchmark.
        horizons: scored after so many steps.
        held_out: task names that are reported as a group of their own; by default those no shipped model is trained on.
        progress: called with (model, slots done, slots) after each slot.

    Returns:
        JSON-able: `protocol`, `windows`, `clips`, `keypoints` and, per model, `parameters` and per setting
        (`no_history`, `history`): `metrics` (`topS_ade@32`, …; `_uv` in the image plane, `_m` in metres), `ratio` of each
        to "nothing moves" in the same setting, `interval95` of the main ratio (bootstrap over clips), `by_task`,
        `by_group` (main figures), `latency_s` per slot.

    Raises:
        DatasetError: no slot can be made of the data.
        ConfigError: an unknown option.
    """
    if keypoints not in ("moving", "all"):
        raise ConfigError(f"'{keypoints}' is unknown", where="keypoints", mend="moving or all")
    window = WindowConfig(horizon=max(horizons), clock=clock, step=step)
    wanted = SlotChoice(
        window,
        seed,
        moving_only=keypoints == "moving",
        max_keypoints=max_keypoints,
        slots_per_clip=slots_per_clip,
        max_clips=max_clips,
        max_windows=max_windows,
        held_out=tuple(held_out),
    )
    slots = choose_slots(data, wanted)
    if not slots:
        raise DatasetError("yields no window to score", where=str(data), mend="clips need pictures and moving points")
    predictors = _predictors(models, max(horizons))
    clips = sorted({slot.clip_id for slot in slots})
    report: dict[str, Any] = {
        "protocol": {
            "clock": clock,
            "step": window.step_size,
            "num_samples": num_samples,
            "seed": seed,
            "depth": depth,
            "keypoints": keypoints,
            "horizons": list(horizons),
            "main": f"topS_ade@{max(horizons)}",
        },
        "windows": len(slots),
        "clips": len(clips),
        "keypoints": int(sum(len(slot.valid) for slot in slots)),
        "models": {},
    }
    scores: dict[tuple[str, bool], _Scores] = {}
    for name, predictor in predictors.items():
        for past in history:
            told = (lambda done, name=name: progress(name, done, len(slots))) if progress else None
            scores[name, past] = _score(predictor, slots, past, depth, num_samples, seed, horizons, told)
    main = report["protocol"]["main"]
    for name, predictor in predictors.items():
        report["models"][name] = {
            "parameters": _parameters(predictor),
            **{
                "history" if past else "no_history": _summary(scores[name, past], scores[REFERENCE, past], main, seed)
                for past in history
            },
        }
    return report


def _predictors(models: Sequence[str | TracePredictor], horizon: int) -> dict[str, TracePredictor]:
    """The baselines and the models, by the names they have in the report."""
    found: dict[str, TracePredictor] = {name: make(horizon=horizon) for name, make in BASELINES.items()}
    for model in models:
        if isinstance(model, str) and model in BASELINES:
            continue
        predictor = load_predictor(model) if isinstance(model, str) else model
        name = predictor.name if predictor.name not in found else str(model)  # two runs' folders may be called alike
        found[name] = predictor
    return found


def _parameters(predictor: TracePredictor) -> int | None:
    """How many numbers the predictor learnt; None if it does not say."""
    known = getattr(predictor, "num_parameters", None)
    model: Any = getattr(predictor, "model", None)
    if known is None and hasattr(model, "parameters"):
        known = sum(p.numel() for p in model.parameters())
    return known


# --- slots -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SlotChoice:
    """Which slots are taken; see `evaluate_forecast`."""

    window: WindowConfig
    seed: int = 0
    moving_only: bool = True
    max_keypoints: int = 64
    slots_per_clip: int = 2
    max_clips: int | None = None
    max_windows: int | None = None
    held_out: tuple[str, ...] = ()


def choose_slots(data: Any, choice: SlotChoice) -> list[Slot]:
    """The slots of some clip stores. Where not all are wanted, clips are taken in a seeded order."""
    # Importing it makes RGB-D folders readable with their depth registered to the colour camera (perception.clip_media).
    import traceworld.perception.sources  # noqa: F401

    stores = data if isinstance(data, Sequence) and not isinstance(data, str) else [data]
    opened = [store if isinstance(store, Dataset) else open_dataset(store) for store in stores]
    places = [(store, clip_id) for store in opened for clip_id in store.clip_ids]
    if choice.max_clips is not None or choice.max_windows is not None:
        places.sort(key=lambda place: int(_rng(choice.seed, place[1], 0).integers(1 << 62)))
    slots: list[Slot] = []
    for store, clip_id in places[: choice.max_clips]:
        slots += clip_slots(store.clip(clip_id), choice)
        if choice.max_windows is not None and len(slots) >= choice.max_windows:
            break
    return slots[: choice.max_windows]


def clip_slots(clip: Clip, choice: SlotChoice) -> Iterator[Slot]:
    """Up to `slots_per_clip` slots of one clip, at frames drawn from those with a picture."""
    made = 0
    frames = np.asarray(frames_with_pictures(clip), int)
    rng = _rng(choice.seed, clip.clip_id, 1)
    for frame in rng.permutation(frames):
        if made >= choice.slots_per_clip:
            return
        slot = make_slot(clip, int(frame), choice)
        if slot is not None:
            made += 1
            yield slot


def make_slot(clip: Clip, frame: int, choice: SlotChoice) -> Slot | None:
    """The slot of one frame; None if no point that is asked for has a future there."""
    window = cut_window(clip, frame, choice.window)
    wanted = window.usable() & (window.moving if choice.moving_only else True)
    points = np.flatnonzero(wanted)
    if len(points) == 0:
        return None
    if len(points) > choice.max_keypoints:
        rng = _rng(choice.seed, clip.clip_id, 4, frame)
        points = np.sort(rng.choice(points, choice.max_keypoints, replace=False))
    observation, true_uvz, valid, _ = observation_at(clip, frame, choice.window, points)
    assert observation.K is not None
    task = task_name(clip)
    return Slot(
        clip_id=clip.clip_id,
        frame=frame,
        task=task,
        held_out=task in choice.held_out,
        observation=observation,
        anchor_z_m=window.anchor_uvz[points, 2],
        true_uvz=true_uvz,
        valid=valid,
        K=observation.K,
    )


def task_name(clip: Clip) -> str:
    """What a clip is grouped under: the simulator's task name, else its instruction."""
    return str(clip.provenance.get("task") or clip.task or "unknown")


def _rng(seed: int, clip_id: str, *more: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(clip_id.encode()), *more])


# --- scores ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Scores:
    """Per keypoint: its metrics, and the clip and task it belongs to."""

    values: dict[str, np.ndarray]
    clip: np.ndarray
    task: np.ndarray
    held_out: np.ndarray
    latency_s: np.ndarray


def _score(
    predictor: TracePredictor,
    slots: Sequence[Slot],
    history: bool,
    depth: bool,
    num_samples: int,
    seed: int,
    horizons: Sequence[int],
    told: Callable[[int], None] | None,
) -> _Scores:
    rows: list[dict[str, np.ndarray]] = []
    latency = []
    for number, slot in enumerate(slots):
        observation = _as_asked(slot.observation, history, depth)
        noise = int(_rng(seed, slot.clip_id, 2, slot.frame).integers(1 << 31))
        start = time.perf_counter()
        uvz = predictor.predict(observation, num_samples=num_samples, seed=noise).uvz
        latency.append(time.perf_counter() - start)
        if observation.keypoints_z_m is None:
            uvz = uvz + np.stack([0 * slot.anchor_z_m] * 2 + [slot.anchor_z_m], -1)[:, None]
        rows.append(_errors(uvz, slot, horizons))
        if told:
            told(number + 1)
    counts = [len(slot.valid) for slot in slots]
    return _Scores(
        values={key: np.concatenate([row[key] for row in rows]) for key in rows[0]},
        clip=np.repeat([slot.clip_id for slot in slots], counts),
        task=np.repeat([slot.task for slot in slots], counts),
        held_out=np.repeat([slot.held_out for slot in slots], counts),
        latency_s=np.asarray(latency),
    )


def _as_asked(observation: Observation, history: bool, depth: bool) -> Observation:
    past = observation.history_uvz if history else None
    if depth and observation.keypoints_z_m is not None:
        return replace(observation, history_uvz=past)
    if past is not None and observation.keypoints_z_m is not None:
        past = relative_z(past, observation.keypoints_z_m)
    return replace(observation, history_uvz=past, depth_m=None, keypoints_z_m=None)


def _errors(pred_uvz: np.ndarray, slot: Slot, horizons: Sequence[int]) -> dict[str, np.ndarray]:
    """All metrics per keypoint: (u, v, z) as in the paper, (u, v), and ADE and FDE in metres."""
    if (pred_uvz == pred_uvz[:1]).all():
        pred_uvz = pred_uvz[:1]  # a predictor without randomness: the best of equals is the first
    pred = pred_uvz[:, :, : slot.valid.shape[1]].astype(np.float64)
    true = slot.true_uvz.astype(np.float64)
    found = forecast_metrics_per_keypoint(pred, true, slot.valid, tuple(horizons))
    flat = forecast_metrics_per_keypoint(pred, true, slot.valid, tuple(horizons), dims="uv")
    found |= {key.replace("@", "_uv@"): values for key, values in flat.items()}
    return found | _errors_in_metres(pred, true, slot, horizons)


def _errors_in_metres(pred: np.ndarray, true: np.ndarray, slot: Slot, horizons: Sequence[int]) -> dict[str, np.ndarray]:
    """ADE and FDE in the camera's space; NaN for keypoints without a valid step."""
    height, width = slot.observation.image.shape[:2]
    xyz_pred, xyz_true = (
        unproject(uv_to_px(uvz[..., :2], width, height), uvz[..., 2], slot.K, np.eye(4)) for uvz in (pred, true)
    )
    distance = np.where(slot.valid, np.linalg.norm(xyz_pred - xyz_true, axis=-1), 0.0)
    found = {}
    for horizon in horizons:
        valid = slot.valid[:, :horizon]
        steps = valid.sum(1)
        last = horizon - 1 - np.argmax(valid[:, ::-1], axis=1)
        mean = distance[:, :, :horizon].sum(-1) / np.maximum(steps, 1)
        end = np.take_along_axis(distance, last[None, :, None], axis=2)[..., 0]
        for name, values in (("ade", mean), ("fde", end)):
            found[f"top1_{name}_m@{horizon}"] = np.where(steps > 0, values[0], np.nan)
            found[f"topS_{name}_m@{horizon}"] = np.where(steps > 0, values.min(0), np.nan)
    return found


# --- summary ---------------------------------------------------------------------------------------------------------


def _summary(own: _Scores, still: _Scores, main: str, seed: int) -> dict[str, Any]:
    metrics = {key: _mean(values) for key, values in own.values.items()}
    ratio = {key: _divide(metrics[key], _mean(still.values[key])) for key in metrics}
    figures = (main, main.replace("topS", "top1"))
    groups = {"held_out": own.held_out, "trained": ~own.held_out} if own.held_out.any() else {}
    return {
        "metrics": metrics,
        "ratio": ratio,
        "interval95": {key: _interval(own, still, key, seed) for key in figures},
        "by_task": {str(t): _part(own, still, own.task == t, figures) for t in np.unique(own.task)},
        "by_group": {name: _part(own, still, rows, figures) for name, rows in groups.items()},
        "latency_s": {"mean": float(own.latency_s.mean()), "median": float(np.median(own.latency_s))},
    }


def _part(own: _Scores, still: _Scores, rows: np.ndarray, figures: Sequence[str]) -> dict[str, Any]:
    part: dict[str, Any] = {"keypoints": int(rows.sum())}
    for key in figures:
        part[key] = _mean(own.values[key][rows])
        part[f"ratio_{key}"] = _divide(part[key], _mean(still.values[key][rows]))
    return part


def _mean(values: np.ndarray) -> float:
    """Mean of the keypoints that count."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _divide(a: float, b: float) -> float:
    return a / b if b > 0 else float("nan")


def _interval(own: _Scores, still: _Scores, key: str, seed: int) -> list[float]:
    """95 % bootstrap interval of the ratio, resampling clips: keypoints of one clip are not independent."""
    _, clip = np.unique(own.clip, return_inverse=True)
    sums = [np.bincount(clip, np.nan_to_num(scores.values[key])) for scores in (own, still)]
    rng = np.random.default_rng([seed, 3])
    weights = rng.multinomial(len(sums[0]), np.full(len(sums[0]), 1 / len(sums[0])), size=_BOOTSTRAP)
    above, below = weights @ sums[0], weights @ sums[1]
    ratios = above[below > 0] / below[below > 0]
    return [float(x) for x in np.percentile(ratios, [2.5, 97.5])] if len(ratios) else [float("nan")] * 2


# --- table -----------------------------------------------------------------------------------------------------------


def forecast_tables(report: Mapping[str, Any]) -> Group:
    """The report for a terminal: main figures per model, then ratios per group and task."""
    protocol = report["protocol"]
    main = protocol["main"]
    first = main.replace("topS", "top1")
    unit = "s" if protocol["clock"] == "time" else "image widths"
    models = Table(
        title=f"{report['windows']} windows of {report['clips']} clips, {report['keypoints']} {protocol['keypoints']} "
        f"points; {protocol['clock']} clock, step {protocol['step']:g} {unit}; S={protocol['num_samples']}"
    )
    for column in ("model", "history", main, "× still", "95 %", first, "× still", main.replace("@", "_m@"), "s/slot"):
        models.add_column(column, justify="left" if column in ("model", "history") else "right")
    for name, setting, found in _settings(report):
        low, high = found["interval95"][main]
        models.add_row(
            name,
            setting,
            f"{found['metrics'][main]:.4f}",
            f"{found['ratio'][main]:.3f}",
            f"{low:.3f}–{high:.3f}",
            f"{found['metrics'][first]:.4f}",
            f"{found['ratio'][first]:.3f}",
            f"{found['metrics'][main.replace('@', '_m@')]:.4f}",
            f"{found['latency_s']['mean']:.3f}",
        )
    rows = [(name, setting, found) for name, setting, found in _settings(report) if name != REFERENCE]
    if not rows:
        return Group(models)
    parts = Table(title=f"{main} × still")
    parts.add_column("task")
    for name, setting, _ in rows:
        parts.add_column(f"{name}\n{setting}", justify="right")
    for kind in ("by_group", "by_task"):
        for part in rows[0][2][kind]:
            parts.add_row(part, *(f"{found[kind][part][f'ratio_{main}']:.3f}" for _, _, found in rows))
        parts.add_section()
    return Group(models, parts)


def _settings(report: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for name, model in report["models"].items():
        for setting in ("no_history", "history"):
            if setting in model:
                yield name, setting.replace("_", " "), model[setting]
