"""How well predictors foresee traces: the same slots and keypoints for every model, ratios against "nothing moves".

The observation of a slot holds the picture, the instruction, the points, and where asked for depth (the map, and the points'
z), history and intrinsics. Without depth z counts from where a point is now, in its history too (as in training with depth
dropped), and the true current z is added before scoring, as the released evaluation does.

Two protocols choose slots and inputs: `default` (`slots`: frames and moving points drawn by hashes of seed and clip, given
with depth, with and without history) and `mu0-paper` (`paper_protocol`: slots, keypoints and captions of the released μ0
evaluation, picture and text alone).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from traceworld.errors import ConfigError, DatasetError
from traceworld.evaluation import scoring
from traceworld.evaluation.paper_protocol import STEP, PaperChoice, choose_paper_slots, paper_metrics
from traceworld.evaluation.slots import Slot, SlotChoice, choose_slots
from traceworld.evaluation.tables import forecast_tables
from traceworld.models import load_predictor
from traceworld.models.baselines import BASELINES
from traceworld.models.predictor import TracePredictor
from traceworld.sim.tasks import HELD_OUT
from traceworld.traces.store import Dataset
from traceworld.traces.types import Clock
from traceworld.traces.windows import WindowConfig

__all__ = ["PROTOCOLS", "REFERENCE", "Protocol", "evaluate_forecast", "forecast_tables"]

log = logging.getLogger(__name__)

REFERENCE = "nothing-moves"


@dataclass(frozen=True)
class Protocol:
    """What a protocol gives unless the caller says otherwise."""

    clock: Clock
    step: float | None
    history: tuple[bool, ...]
    depth: bool
    intrinsics: bool


PROTOCOLS = {
    "default": Protocol("time", None, (False, True), depth=True, intrinsics=True),
    "mu0-paper": Protocol("arc", STEP, (False,), depth=False, intrinsics=False),
}


def evaluate_forecast(
    models: Sequence[str | TracePredictor],
    data: str | Path | Dataset | Sequence[str | Path | Dataset],
    *,
    protocol: str = "default",
    clock: Clock | None = None,
    step: float | None = None,
    num_samples: int = 5,
    seed: int = 0,
    noise_seeds: int = 1,
    history: Sequence[bool] | None = None,
    depth: bool | None = None,
    intrinsics: bool | None = None,
    keypoints: str | None = None,
    max_keypoints: int | None = None,
    slots_per_clip: int | None = None,
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
        protocol: `default`, or `mu0-paper` (what it needs of a clip: `evaluation.paper_protocol`). The following six follow
            from it where they are None.
        clock, step: of the horizon; seconds (0.025) or image widths of path (0.01; mu0-paper 0.05).
        history: settings to score: with and without the points' past (mu0-paper: without).
        depth: give the depth map (where the clip has one) and the z of the points (mu0-paper: no).
        intrinsics: give the camera matrix (mu0-paper: no).
        num_samples: S; top-1 is the first sample, top-S the best per keypoint and metric.
        seed: of slots, keypoints and predictor noise.
        noise_seeds: predictor noise is drawn anew so many times (seed, seed + 1, …); figures are means over them, and
            `noise_seeds` in the report holds their interval.
        keypoints: "moving" (points that pass the movement filter; the default) or "all".
        max_keypoints, slots_per_clip, max_clips: size of the benchmark (64, 2, all). Fixed in mu0-paper.
        max_windows: no more slots than this.
        horizons: scored after so many steps.
        held_out: task names that are reported as a group of their own; by default those no shipped model is trained on.
        progress: called with (model, slots done, slots) after each slot.

    Returns:
        JSON-able: `protocol`, `windows`, `clips`, `keypoints` and, per model, `parameters` and per setting
        (`no_history`, `history`): `given` (inputs), `metrics` (`topS_ade@32`, …; `_uv` in the image plane, `_m` in metres;
        only `_uv` for entrants without depth) with `metrics_interval95`, `ratio` of each to "nothing moves" in the same
        setting, `interval95` of the main ratios (bootstrap over clips), `noise_seeds`, `by_task`, `by_group`, `latency_s` per
        slot, `usage` (answers, failures, repairs, tokens of entrants that count them) and in mu0-paper `released`, the
        figures under the released names. None where a figure is undefined.

    Raises:
        DatasetError: no slot can be made of the data.
        ConfigError: an unknown option, or one that the protocol fixes.
    """
    wanted = _checked(protocol, keypoints, max_keypoints, slots_per_clip, max_clips, noise_seeds)
    window = WindowConfig(horizon=max(horizons), clock=clock or wanted.clock, step=step or _step(wanted, clock))
    depth = wanted.depth if depth is None else depth
    intrinsics = wanted.intrinsics if intrinsics is None else intrinsics
    history = wanted.history if history is None else tuple(history)
    if protocol == "mu0-paper":
        chosen = choose_paper_slots(data, PaperChoice(window, seed, max_windows=max_windows, held_out=tuple(held_out)))
        slots, short = chosen.slots, chosen.short
    else:
        choice = SlotChoice(
            window,
            seed,
            moving_only=keypoints != "all",
            max_keypoints=64 if max_keypoints is None else max_keypoints,
            slots_per_clip=2 if slots_per_clip is None else slots_per_clip,
            max_clips=max_clips,
            max_windows=max_windows,
            held_out=tuple(held_out),
        )
        slots, short = choose_slots(data, choice), {}
    if not slots:
        raise DatasetError("yields no window to score", where=str(data), mend=_needs(short))
    predictors = _predictors(models, max(horizons))
    report: dict[str, Any] = {
        "protocol": {
            "name": protocol,
            "clock": window.clock,
            "step": window.step_size,
            "num_samples": num_samples,
            "seed": seed,
            "noise_seeds": noise_seeds,
            "depth": depth,
            "intrinsics": intrinsics,
            "keypoints": keypoints or "moving",
            "horizons": list(horizons),
            "main": f"topS_ade@{max(horizons)}",
            "too_short_clips": dict(short),
        },
        "windows": len(slots),
        "clips": len({slot.clip_id for slot in slots}),
        "keypoints": int(sum(len(slot.valid) for slot in slots)),
        "models": {name: {"parameters": scoring.num_parameters(found)} for name, found in predictors.items()},
    }
    for past in history:
        given = scoring.Given(depth, past, intrinsics)
        still: scoring.Scores | None = None
        for name, predictor in predictors.items():
            scores = scoring.score(
                predictor,
                slots,
                given,
                num_samples=num_samples,
                noise_seeds=range(seed, seed + noise_seeds),
                horizons=horizons,
                released=protocol == "mu0-paper",
                told=None if progress is None else partial(_told, progress, name, len(slots)),
            )
            still = still or scores  # the reference is the first
            found: dict[str, Any] = {"given": scoring.inputs_of(predictor, given)}
            found |= scoring.summary(scores, still, report["protocol"]["main"], seed)
            if protocol == "mu0-paper":
                found["released"] = paper_metrics(scores.values, scores.slot, num_samples, horizons)
            found["seen_clips"] = _seen_clips(name, predictor, slots)
            report["models"][name]["history" if past else "no_history"] = found
    return _without_nan(report)


def _told(progress: Callable[[str, int, int], None], name: str, slots: int, done: int) -> None:
    progress(name, done, slots)


def _checked(
    protocol: str,
    keypoints: str | None,
    max_keypoints: int | None,
    slots_per_clip: int | None,
    max_clips: int | None,
    noise_seeds: int,
) -> Protocol:
    if protocol not in PROTOCOLS:
        raise ConfigError(f"'{protocol}' is unknown", where="protocol", mend=" or ".join(PROTOCOLS))
    if keypoints not in (None, "moving", "all"):
        raise ConfigError(f"'{keypoints}' is unknown", where="keypoints", mend="moving or all")
    if noise_seeds < 1:
        raise ConfigError(f"is {noise_seeds}", where="noise_seeds", mend="give at least 1")
    fixed = {
        "keypoints": keypoints,
        "max_keypoints": max_keypoints,
        "slots_per_clip": slots_per_clip,
        "max_clips": max_clips,
    }
    for name, value in fixed.items():
        if protocol == "mu0-paper" and value is not None:
            raise ConfigError(f"{name} is fixed by the protocol mu0-paper", where=name, mend="leave it out")
    return PROTOCOLS[protocol]


def _step(protocol: Protocol, clock: Clock | None) -> float | None:
    """The protocol's step belongs to its clock; another clock has its own default."""
    return protocol.step if clock in (None, protocol.clock) else None


def _needs(short: Mapping[str, str]) -> str:
    if not short:
        return "clips need pictures and moving points"
    clip, why = next(iter(short.items()))
    return f"mu0-paper takes the 5th, 9th and 13th usable frame of a clip; {clip} has {why}"


def _predictors(models: Sequence[str | TracePredictor], horizon: int) -> dict[str, TracePredictor]:
    """The baselines, the reference first, and the models, by the names they have in the report."""
    names = sorted(BASELINES, key=lambda name: name != REFERENCE)
    found: dict[str, TracePredictor] = {name: BASELINES[name](horizon=horizon) for name in names}
    for model in models:
        if isinstance(model, str) and model in BASELINES:
            continue
        predictor = load_predictor(model) if isinstance(model, str) else model
        name = predictor.name if predictor.name not in found else str(model)  # two runs' folders may be called alike
        found[name] = predictor
    return found


def _seen_clips(name: str, predictor: TracePredictor, slots: Sequence[Slot]) -> int:
    """How many clips of the benchmark the entrant holds as examples: more than none makes its score worthless."""
    seen = len({slot.clip_id for slot in slots} & set(getattr(predictor, "clip_ids", ())))
    if seen:
        log.warning("%s has examples from %d of the clips it is scored on", name, seen)
    return seen


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
