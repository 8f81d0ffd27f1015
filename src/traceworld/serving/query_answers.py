"""Who answers a query: a predictor that speaks (`answer`), or any trace predictor, whose traces are put into words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from traceworld.geometry.cameras import uv_to_px
from traceworld.models.baselines.anchors import anchor_uvz
from traceworld.models.predictor import TracePredictor
from traceworld.models.words import PUBLISHED, trace_prompt, trace_question
from traceworld.serving.query_schema import Query
from traceworld.traces.types import Observation
from traceworld.tracespatial.answers import format_trace, to_thousandths
from traceworld.tracespatial.paths import resample

GRID = 12
"""Keypoints across and down the picture when the question names none."""
WAYPOINTS = 8
"""Of a trace in words (the paper's have 6 to 12)."""

_TASK = re.compile(r'"([^"]{1,4096})"')
_PLACE = re.compile(r"\bpoint \(\s*(\d{1,4}(?:\.\d{0,6})?)\s*,\s*(\d{1,4}(?:\.\d{0,6})?)\s*\)")
_TRACE = re.compile(r"\btrac(?:e|jectory)\b", re.IGNORECASE)
_METRIC = re.compile(r"\b3D\b|\(\s*[xu]1?\s*,\s*[yv]1?\s*,\s*[dz]1?\s*\)", re.IGNORECASE)

Answers = Callable[[Query], str]


def answers_of(predictor: TracePredictor) -> Answers:
    """How a predictor answers queries.

    One with `answer(image, question, *, K, depth_m, seed) -> str` is asked that (`in_its_words`). Any other is asked for traces
    (`trace_in_words`).
    """
    speak: Any = getattr(predictor, "answer", None)
    if speak is None:
        return lambda query: trace_in_words(predictor, query)
    return lambda query: speak(
        query.image, in_its_words(predictor, query.text), K=query.K, depth_m=query.depth_m, seed=query.seed
    )


def in_its_words(predictor: TracePredictor, text: str) -> str:
    """A question that asks for the trace of a quoted task, in the words that the model was trained on; any other as it is.

    A published RoboTracer knows many wordings and gets the caller's; `robotracer-nano` knows one, in which no point can be named
    to begin at.
    """
    quoted = _TASK.search(text)
    own = trace_prompt(predictor, "3D" if _METRIC.search(text) else "2D")
    if own is None or own in PUBLISHED.values() or quoted is None or not _TRACE.search(text):
        return text
    return trace_question(own, quoted.group(1))


def answer_one_by_one(answers: Answers) -> Callable[[Sequence[Query]], list[str | Exception]]:
    """What an `InferenceWorker` runs: queries → answers or the errors they raised."""

    def one(query: Query) -> str | Exception:
        try:
            return answers(query)
        except Exception as error:
            return error

    return lambda queries: [one(query) for query in queries]


def trace_in_words(predictor: TracePredictor, query: Query) -> str:
    """The predicted trace of the point that moves farthest, as `[(u, v, d), …]` or `[(u, v), …]`.

    The task is what the question quotes (all of it, if it quotes nothing). The points are a grid over the picture, or the one
    that the question names in thousandths ("the point (u, v)"). The trace goes from where the point is now, over its valid
    steps, in `WAYPOINTS` waypoints at equal lengths of path. Metres are said if the question asks for 3D and the depth of the
    point is known; else it is (u, v).

    Raises:
        TraceworldError: whatever the predictor raises.
    """
    quoted = _TASK.search(query.text)
    observation = Observation(
        image=query.image,
        instruction=quoted.group(1) if quoted and quoted.group(1).strip() else query.text,
        depth_m=query.depth_m,
        K=query.K,
        keypoints_uv=_keypoints(query.text),
    )
    prediction = predictor.predict(observation, 1, query.seed)
    height, width = query.image.shape[:2]
    now = anchor_uvz(observation).astype(np.float64)
    best, longest = now[:1], -1.0
    for start, steps, valid in zip(now, prediction.uvz[0], prediction.valid[0], strict=True):
        path = np.concatenate([start[None], steps[valid].astype(np.float64)])
        pieces = np.diff(path[:, :2], axis=0) * (width / height, 1.0)
        length = float(np.linalg.norm(pieces, axis=1).sum())
        if length > longest:
            best, longest = path, length
    metric = bool(_METRIC.search(query.text)) and bool((best[:, 2] > 0).all())  # 0: unknown
    return format_trace(_waypoints(best, width, height)[:, : 3 if metric else 2])


def _waypoints(path: Float[np.ndarray, "P 3"], width: int, height: int) -> Float[np.ndarray, "Q 3"]:
    """Thousandths and metres, at equal lengths of path in the picture's pixels."""
    px = uv_to_px(path[:, :2], width, height)
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(px, axis=0), axis=1))])
    even = resample(px, WAYPOINTS)
    at = np.linspace(0.0, lengths[-1], WAYPOINTS)
    depth = np.interp(at, lengths, path[:, 2]) if lengths[-1] > 0 else np.linspace(path[0, 2], path[-1, 2], WAYPOINTS)
    return to_thousandths(np.concatenate([even, depth[:, None]], axis=1), width, height)


def _keypoints(text: str) -> Float[np.ndarray, "N 2"]:
    named = _PLACE.search(text)
    if named:
        return np.array([[float(number) / 500 - 1 for number in named.groups()]])
    centres = (np.arange(GRID) + 0.5) * 2 / GRID - 1
    return np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2)
