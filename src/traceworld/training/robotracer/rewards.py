"""The five rewards of RoboTracer's reinforcement (§3.2, D.4) as pure functions of an answer's text and its annotation.

R_OF  the answer has the form `<think>…</think> <answer>…</answer>`.
R_P   both ends of the trace.                        R_T   the whole trace.
R_PF  the steps of the reasoning have their form.    R_Acc their values, for the annotated key steps, in any order.

The paper leaves open how these are put together; `RewardConfig` has every choice with the reason for its default. No answer, of
whatever length or content, raises; one that cannot be read earns 0. `None` means that a reward does not apply to the question.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from traceworld.errors import ConfigError
from traceworld.tracespatial.answers import SCALE, parse_trace, split_thinking
from traceworld.tracespatial.steps import ProcessStep, parse_steps
from traceworld.training.robotracer.annotation import Annotation, KeyStep, plain_name
from traceworld.training.robotracer.warping import warping_distance

NAMES = ("format", "points", "trace", "process_format", "accuracy")
"""R_OF, R_P, R_T, R_PF, R_Acc."""

WEIGHTS: dict[str, tuple[float, float, float, float, float]] = {
    "text": (1.0, 1.0, 1.0, 0.25, 0.25),
    "eq7": (1.0, 1.0, 0.0, 0.25, 0.25),
}
"""Weights in the order of `NAMES`: `text` sums all outcome and process terms, as the paper's text says; `eq7` is its equation 7,
which has no R_T."""


@dataclass(frozen=True)
class RewardConfig:
    """What the paper leaves open, decided.

    Attributes:
        weights: `text` or `eq7`, see `WEIGHTS`. The paper's text and equation disagree about R_T; the text is the default, for
            without R_T nothing rewards what lies between the ends.
        warping: the d of R_T ("e.g. dynamic time warping"): `mean` cost along the warping path, so that many points cost no
            more than few; or its `sum`.
        accuracy: R_Acc over key steps as `mean` (in [0,1]: a long annotation earns no more than a short one) or `sum`.
        process_format: R_PF as `fraction` of steps in their form, or `all` or nothing.
        steps: what R_PF calls a step in its form: `exact`, as specified; or `tolerant`, as the paper's own figures print it too
            (no colon, `[Position]` for Referring, a length without unit). R_Acc always reads tolerantly.
        referring_tolerance: L1 distance in the picture, as a part of its longer side.
        metric_tolerance: relative error of depths, lengths and scales.
    """

    weights: Literal["text", "eq7"] = "text"
    warping: Literal["mean", "sum"] = "mean"
    accuracy: Literal["mean", "sum"] = "mean"
    process_format: Literal["fraction", "all"] = "fraction"
    steps: Literal["exact", "tolerant"] = "exact"
    referring_tolerance: float = 0.10
    metric_tolerance: float = 0.30

    def __post_init__(self):
        known = {
            "weights": tuple(WEIGHTS),
            "warping": ("mean", "sum"),
            "accuracy": ("mean", "sum"),
            "process_format": ("fraction", "all"),
            "steps": ("exact", "tolerant"),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ConfigError(
                    f"'{getattr(self, name)}' is unknown", where=f"RewardConfig.{name}", mend=" or ".join(values)
                )
        for name in ("referring_tolerance", "metric_tolerance"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"is {getattr(self, name)}", where=f"RewardConfig.{name}", mend="must be positive")


@dataclass(frozen=True)
class Rewards:
    """The five rewards of one answer; None where one does not apply to the question."""

    format: float
    points: float | None
    trace: float | None
    process_format: float
    accuracy: float | None

    def total(self, weights: Sequence[float | int]) -> float:
        """Their weighted sum; what does not apply adds nothing. `weights` in the order of `NAMES`."""
        values = dataclasses.astuple(self)
        return float(sum(w * value for w, value in zip(weights, values, strict=True) if value is not None))


def reward(text: str, annotation: Annotation, config: RewardConfig | None = None) -> Rewards:
    """All five rewards of an answer."""
    config = config or RewardConfig()
    return Rewards(
        format=format_reward(text),
        points=points_reward(text, annotation),
        trace=trace_reward(text, annotation, config),
        process_format=process_format_reward(text, annotation, config),
        accuracy=accuracy_reward(text, annotation, config),
    )


def format_reward(text: str) -> float:
    """R_OF: 1 if the text is `<think>…</think>` and then `<answer>…</answer>`, each tag once, nothing around them; else 0."""
    return float(split_thinking(text).well_formed)


def points_reward(text: str, annotation: Annotation) -> float | None:
    """R_P: ½[f(p₁,p̂₁) + f(p_T,p̂_T)] with f = max(0, 1 − ‖p − p̂‖²), u and v in [0,1], d by the scene's largest depth.

    A 3D question is not answered by 2D points (0); for a 2D question the depths of an answer are left out. A single point is
    both ends.
    """
    pair = _traces(text, annotation)
    if pair is None:
        return None
    given, true = pair
    if not len(given):
        return 0.0
    return 0.5 * sum(max(0.0, 1.0 - float(((given[end] - true[end]) ** 2).sum())) for end in (0, -1))


def trace_reward(text: str, annotation: Annotation, config: RewardConfig) -> float | None:
    """R_T: max(0, 1 − d(τ, τ̂)), d by dynamic time warping in the units of R_P."""
    pair = _traces(text, annotation)
    if pair is None:
        return None
    given, true = pair
    if not len(given):
        return 0.0
    return max(0.0, 1.0 - warping_distance(given, true, normalise=config.warping == "mean"))


def _traces(text: str, annotation: Annotation) -> tuple[Float[np.ndarray, "A d"], Float[np.ndarray, "T d"]] | None:
    """The answer's trace (no rows if it has none that counts) and the true one, both in unit coordinates."""
    true = annotation.unit_trace()
    if true is None:
        return None
    given = parse_trace(text, dims=true.shape[1])
    return (annotation.to_unit(given.points) if given.ok else np.zeros((0, true.shape[1]))), true


def process_format_reward(text: str, annotation: Annotation, config: RewardConfig) -> float:
    """R_PF: how many of the reasoning's steps have the form `[Perception Type] [Target Object]: value`.

    `fraction`: good / (good + bad). A step said twice counts once, and no more good steps count than there are key steps (at
    least one), so that padding a chain cannot hide its bad steps. `all`: 1 if there is a step and none is bad.
    """
    steps = parse_steps(split_thinking(text).think)
    formed = [step.exact if config.steps == "exact" else _readable(step) for step in steps]
    good = len({_said(step) for step, ok in zip(steps, formed, strict=True) if ok})
    bad = len(steps) - sum(formed)
    if not good:
        return 0.0
    if config.process_format == "all":
        return float(bad == 0)
    counted = min(good, max(1, len(annotation.key_steps)))
    return counted / (counted + bad)


def accuracy_reward(text: str, annotation: Annotation, config: RewardConfig) -> float | None:
    """R_Acc over the annotated key steps; steps about anything else neither earn nor cost.

    Each key step takes the answer's step that fits it best, each of those serving one key step only; so order does not matter
    and nothing counts twice. An answer that gives n values where k are asked for is guessing: those steps earn k/n.
    """
    keys = annotation.key_steps
    if not keys:
        return None
    steps = {_said(step): step for step in parse_steps(split_thinking(text).think) if _readable(step)}
    said = [steps[each] for each in sorted(steps)]
    about = np.array([[key.matches(step.kind, step.target) for step in said] for key in keys], bool)
    if not about.any():
        return 0.0
    scores = np.array([[step_score(key, step, annotation, config) for step in said] for key in keys])
    rivals = about.sum(1)
    peers = (about.astype(int) @ about.T.astype(int) > 0).sum(1)
    share = np.minimum(1.0, peers / np.maximum(rivals, 1))
    scores = np.where(about, scores * share[:, None], 0.0)
    total = float(scores[linear_sum_assignment(scores, maximize=True)].sum())
    return total / len(keys) if config.accuracy == "mean" else total


def step_score(key: KeyStep, step: ProcessStep, annotation: Annotation, config: RewardConfig) -> float:
    """How right a step's value is, in [0,1]; 0 for a step of another kind or without a value.

    Referring: ½ for (u, v) within the tolerance by L1 distance in pixels, ½ for d. What the annotation has no d for is judged by
    (u, v) alone. Measuring and Scale: 1 within the relative tolerance.
    """
    if step.kind != key.kind or not _readable(step):
        return 0.0
    if step.point is None:
        assert step.value is not None
        return float(_within(step.value, key.value[0], config.metric_tolerance))
    width, height = annotation.size_px
    off = abs(step.point[0] - key.value[0]) * width + abs(step.point[1] - key.value[1]) * height
    near = off <= config.referring_tolerance * SCALE * max(width, height)
    if len(key.value) == 2:
        return float(near)
    return 0.5 * near + 0.5 * _within(step.point[2], key.value[2], config.metric_tolerance)


def _readable(step: ProcessStep) -> bool:
    return step.kind is not None and (step.point is not None or step.value is not None)


def _said(step: ProcessStep) -> tuple[str, str, tuple[float, ...]]:
    """What a step says, however it is numbered, spaced or spelled; lengths to the micrometre, whatever their unit."""
    value = step.point if step.point is not None else (step.value or 0.0,)
    return str(step.kind), plain_name(step.target).casefold(), tuple(round(number, 6) for number in value)


def _within(value: float, true: float, tolerance: float) -> bool:
    return abs(value - true) <= tolerance * true * (1 + 1e-9)  # 0.13 is within 30 % of 0.1
