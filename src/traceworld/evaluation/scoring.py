"""Errors of one predictor over the slots of the benchmark, and what is made of them: means, ratios, intervals.

Averages are over keypoints; bootstrap intervals resample whole clips, for keypoints of one clip are not independent.
Predictors may say more of themselves than a name; what they do not say is taken as in brackets:

- `num_parameters` (those of `predictor.model`, else unknown);
- `gives_depth` (True): False for those that answer in the image plane, which are scored on u and v only;
- `requires_depth` (False): gets depth in settings without it, and the table says so;
- `takes` (all): which of "depth", "history", "intrinsics" it looks at;
- `usage()` (none): answers, failures, tokens since the last call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from traceworld.evaluation.metrics import forecast_metrics_per_keypoint
from traceworld.evaluation.slots import Slot, seeded
from traceworld.geometry.cameras import unproject, uv_to_px
from traceworld.models.predictor import TracePredictor
from traceworld.traces.observing import relative_z
from traceworld.traces.types import Observation

INPUTS = ("depth", "history", "intrinsics")
_BOOTSTRAP = 2000


@dataclass(frozen=True)
class Given:
    """What the observations of a setting hold beside picture, instruction and points."""

    depth: bool
    history: bool
    intrinsics: bool


@dataclass(frozen=True, eq=False)
class Scores:
    """Per keypoint [K]: its metrics, and the slot, clip and task it belongs to; per slot: seconds.

    Attributes:
        values: metric → [K], NaN where a keypoint has no valid step. With several noise seeds, the mean over them.
        by_seed: the means of each noise seed: metric → [seeds].
        usage: what the predictor says of its answers (`usage()`), or empty.
    """

    values: dict[str, np.ndarray]
    slot: np.ndarray
    clip: np.ndarray
    task: np.ndarray
    held_out: np.ndarray
    latency_s: np.ndarray
    by_seed: dict[str, np.ndarray]
    usage: Mapping[str, Any]


def score(
    predictor: TracePredictor,
    slots: Sequence[Slot],
    given: Given,
    *,
    num_samples: int,
    noise_seeds: Sequence[int],
    horizons: Sequence[int],
    released: bool = False,
    told: Callable[[int], None] | None = None,
) -> Scores:
    """Ask the predictor every slot, once per noise seed.

    Args:
        given: inputs of this setting.
        noise_seeds: the predictor's noise is a function of (noise seed, slot).
        released: also what the released metric names need (`_z` and `l1_*`, `steps`).
        told: called with the number of slots done.
    """
    usage = getattr(predictor, "usage", None)
    if usage:
        usage()  # what was asked before does not count here
    runs: list[dict[str, np.ndarray]] = []
    latency: list[float] = []
    for seed in noise_seeds:
        rows = []
        for slot in slots:
            observation = as_asked(slot.observation, given, predictor)
            noise = int(seeded(seed, slot.clip_id, 2, slot.frame).integers(1 << 31))
            start = time.perf_counter()
            uvz = predictor.predict(observation, num_samples=num_samples, seed=noise).uvz
            latency.append(time.perf_counter() - start)
            if observation.keypoints_z_m is None:
                uvz = uvz + np.stack([0 * slot.anchor_z_m] * 2 + [slot.anchor_z_m], -1)[:, None]
            rows.append(keypoint_errors(uvz, slot, horizons, getattr(predictor, "gives_depth", True), released))
            if told:
                told(len(latency) // len(noise_seeds))
        runs.append({key: np.concatenate([row[key] for row in rows]) for key in rows[0]})
    counts = [len(slot.valid) for slot in slots]
    return Scores(
        values={key: np.mean([run[key] for run in runs], axis=0) for key in runs[0]},
        slot=np.repeat(np.arange(len(slots)), counts),
        clip=np.repeat([slot.clip_id for slot in slots], counts),
        task=np.repeat([slot.task for slot in slots], counts),
        held_out=np.repeat([slot.held_out for slot in slots], counts),
        latency_s=np.asarray(latency),
        by_seed={key: np.asarray([mean(run[key]) for run in runs]) for key in runs[0]},
        usage=usage() if usage else {},
    )


def as_asked(observation: Observation, given: Given, predictor: TracePredictor | None = None) -> Observation:
    """The observation with only what this setting gives; depth stays for a predictor that cannot do without."""
    depth = given.depth or bool(getattr(predictor, "requires_depth", False))
    past = observation.history_uvz if given.history else None
    K = observation.K if given.intrinsics else None
    if depth and observation.keypoints_z_m is not None:
        return replace(observation, history_uvz=past, K=K)
    if past is not None and observation.keypoints_z_m is not None:
        past = relative_z(past, observation.keypoints_z_m)
    return replace(observation, history_uvz=past, depth_m=None, keypoints_z_m=None, K=K)


def inputs_of(predictor: TracePredictor, given: Given) -> dict[str, str]:
    """Per input: "yes", "unused" (given, not looked at), "no"; "required" for depth given against the setting."""
    takes = getattr(predictor, "takes", INPUTS)
    found = {}
    for name in INPUTS:
        found[name] = ("yes" if name in takes else "unused") if getattr(given, name) else "no"
    if not given.depth and getattr(predictor, "requires_depth", False):
        found["depth"] = "required"
    return found


def num_parameters(predictor: TracePredictor) -> int | None:
    """How many numbers the predictor learnt; None if it does not say."""
    known = getattr(predictor, "num_parameters", None)
    model: Any = getattr(predictor, "model", None)
    if known is None and hasattr(model, "parameters"):
        known = sum(p.numel() for p in model.parameters())
    return known


def keypoint_errors(
    pred_uvz: np.ndarray, slot: Slot, horizons: Sequence[int], gives_depth: bool = True, released: bool = False
) -> dict[str, np.ndarray]:
    """All metrics per keypoint [K] of predictions [S,K,H,3].

    (u, v, z) as in the paper, `_uv` in the image plane, ADE and FDE `_m` in metres; only `_uv` without depth. `released` adds
    `_z` and, of sample 0, `l1_uvz`, `l1_uv`, `l1_z` (sums over axes and valid steps) with `steps`.
    """
    if (pred_uvz == pred_uvz[:1]).all():
        pred_uvz = pred_uvz[:1]  # a predictor without randomness: the best of equals is the first
    pred = pred_uvz[:, :, : slot.valid.shape[1]].astype(np.float64)
    true = slot.true_uvz.astype(np.float64)
    suffixes = {"uv": "_uv"}
    if gives_depth:
        suffixes = {"uvz": "", **suffixes} | ({"z": "_z"} if released else {})
    found: dict[str, np.ndarray] = {}
    for dims, suffix in suffixes.items():
        scores = forecast_metrics_per_keypoint(pred, true, slot.valid, tuple(horizons), dims=dims)
        found |= {key.replace("@", f"{suffix}@"): values for key, values in scores.items()}
    if gives_depth:
        found |= _errors_in_metres(pred, true, slot, horizons)
    return found | (_l1_sums(pred[0], true, slot, horizons, gives_depth) if released else {})


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
        average = distance[:, :, :horizon].sum(-1) / np.maximum(steps, 1)
        end = np.take_along_axis(distance, last[None, :, None], axis=2)[..., 0]
        for name, values in (("ade", average), ("fde", end)):
            found[f"top1_{name}_m@{horizon}"] = np.where(steps > 0, values[0], np.nan)
            found[f"topS_{name}_m@{horizon}"] = np.where(steps > 0, values.min(0), np.nan)
    return found


def _l1_sums(
    first: np.ndarray, true: np.ndarray, slot: Slot, horizons: Sequence[int], gives_depth: bool
) -> dict[str, np.ndarray]:
    error = np.where(slot.valid[..., None], np.abs(first - true), 0.0)
    found = {}
    for horizon in horizons:
        by_axis = error[:, :horizon].sum(1)
        found[f"l1_uv@{horizon}"] = by_axis[:, :2].sum(1)
        if gives_depth:
            found[f"l1_z@{horizon}"], found[f"l1_uvz@{horizon}"] = by_axis[:, 2], by_axis.sum(1)
        found[f"steps@{horizon}"] = slot.valid[:, :horizon].sum(1).astype(float)
    return found


# --- summary ---------------------------------------------------------------------------------------------------------


def summary(own: Scores, still: Scores, main: str, seed: int) -> dict[str, Any]:
    """Means, ratios to "nothing moves", intervals and parts of one entrant in one setting (JSON-able).

    `main` is the figure that parts are given for, in uvz where the entrant has depth, and in the image plane.
    """
    names = [key for key in own.values if key.startswith("top")]
    metrics = {key: mean(own.values[key]) for key in names}
    first = main.replace("topS", "top1")
    figures = [key for each in (main, first) for key in (each, each.replace("@", "_uv@")) if key in metrics]
    sides = {"held_out": own.held_out, "trained": ~own.held_out} if own.held_out.any() else {}
    groups = {name: side for name, side in sides.items() if side.any()}
    draw = _Bootstrap(own.clip, seed)
    return {
        "metrics": metrics,
        "ratio": {key: _divide(metrics[key], mean(still.values[key])) for key in metrics},
        "interval95": {key: draw.ratio(own.values[key], still.values[key]) for key in figures},
        "metrics_interval95": {key: draw.mean(own.values[key]) for key in names},
        "noise_seeds": {key: _over_seeds(own.by_seed[key]) for key in figures},
        "by_task": {str(t): _part(own, still, own.task == t, figures, seed) for t in np.unique(own.task)},
        "by_group": {name: _part(own, still, rows, figures, seed) for name, rows in groups.items()},
        "latency_s": {"mean": float(own.latency_s.mean()), "median": float(np.median(own.latency_s))},
        "usage": dict(own.usage),
    }


def _part(own: Scores, still: Scores, rows: np.ndarray, figures: Sequence[str], seed: int) -> dict[str, Any]:
    part: dict[str, Any] = {"keypoints": int(rows.sum())}
    draw = _Bootstrap(own.clip[rows], seed)
    for key in figures:
        ours, still_ = own.values[key][rows], still.values[key][rows]
        part[key] = mean(ours)
        part[f"ratio_{key}"] = _divide(part[key], mean(still_))
        part[f"interval95_{key}"] = draw.ratio(ours, still_)
    return part


def mean(values: np.ndarray) -> float:
    """Mean of the keypoints that count."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _divide(a: float, b: float) -> float:
    return a / b if b > 0 else float("nan")


def _over_seeds(means: np.ndarray) -> dict[str, Any]:
    """Mean over noise seeds, its 95 % t-interval (none for one seed), and each seed's own figure."""
    found: dict[str, Any] = {"mean": float(means.mean()), "values": means.tolist(), "interval95": None}
    if len(means) > 1:
        from scipy.stats import t

        reach = float(t.ppf(0.975, len(means) - 1)) * float(means.std(ddof=1)) / len(means) ** 0.5
        found["interval95"] = [found["mean"] - reach, found["mean"] + reach]
    return found


class _Bootstrap:
    """95 % intervals by resampling clips; the same resamples for every figure."""

    def __init__(self, clip: np.ndarray, seed: int):
        _, self.clip = np.unique(clip, return_inverse=True)
        number = int(self.clip.max(initial=-1)) + 1
        rng = np.random.default_rng([seed, 3])
        self.weights = rng.multinomial(number, np.full(number, 1 / number), size=_BOOTSTRAP)

    def _sums(self, values: np.ndarray) -> np.ndarray:
        return self.weights @ np.bincount(self.clip, np.nan_to_num(values), minlength=self.weights.shape[1])

    def ratio(self, above: np.ndarray, below: np.ndarray) -> list[float]:
        """Of the mean of one over the mean of the other, both over the same keypoints."""
        return self._interval(self._sums(above), self._sums(below))

    def mean(self, values: np.ndarray) -> list[float]:
        return self._interval(self._sums(values), self._sums((~np.isnan(values)).astype(float)))

    @staticmethod
    def _interval(above: np.ndarray, below: np.ndarray) -> list[float]:
        found = above[below > 0] / below[below > 0]
        return [float(x) for x in np.percentile(found, [2.5, 97.5])] if len(found) else [float("nan")] * 2
