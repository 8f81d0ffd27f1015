"""Asking a model the questions of a benchmark, into an answer file that the published evaluator reads too.

A run goes on where it stopped: finished lines stay as they are, blank ones are asked again, lines are on disk after every answer, the file is
always whole. No question waits longer than its time-out, whatever the model does.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from traceworld.errors import ConfigError, DatasetError
from traceworld.evaluation.tracespatial.references import StraightLine
from traceworld.geometry.cameras import px_to_uv, uv_to_px
from traceworld.geometry.sampling import farthest_point_sampling
from traceworld.models.predictor import TracePredictor
from traceworld.models.words import TextModel, trace_prompt, trace_question
from traceworld.traces.atomic import write_atomically
from traceworld.traces.types import Observation
from traceworld.tracespatial.answers import format_trace, to_thousandths
from traceworld.tracespatial.bench_layout import PREDICTION, Bench, BenchQuestion
from traceworld.tracespatial.bench_prompts import Family, Task, bench_prompt
from traceworld.tracespatial.bench_writing import answer_line

log = logging.getLogger(__name__)

WAYPOINTS = 8
_KEYPOINTS = 16


@dataclass(frozen=True, eq=False)
class Request:
    """One question with what a model is given.

    Attributes:
        prompt: the words (`bench_prompts.bench_prompt`). instruction: the task alone, without the form of the answer.
        task: 2D or 3D. image: [H,W,3] RGB.
        depth_m: [H,W] metres, NaN where unknown; K: [3,3] pixels; None where the run does not give them.
        mask: [H,W] of the moving object; only for predictors that move given points.
    """

    prompt: str
    instruction: str
    task: Task
    image: UInt8[np.ndarray, "H W 3"]
    depth_m: Float[np.ndarray, "H W"] | None = None
    K: Float[np.ndarray, "3 3"] | None = None
    mask: UInt8[np.ndarray, "H W"] | None = None


@dataclass(frozen=True)
class RunOptions:
    """How to run.

    Attributes:
        family: which prompt. geometry: what is given beside the picture: `none`, `K`, `K+depth`.
        workers: questions asked at the same time. timeout_s: of one question.
        limit: ask only so many unanswered questions; None: all.
    """

    family: Family = "text"
    geometry: str = "K+depth"
    workers: int = 1
    timeout_s: float | int = 300.0
    limit: int | None = None

    def __post_init__(self):
        if self.geometry not in ("none", "K", "K+depth"):
            raise ConfigError(f"unknown geometry '{self.geometry}'", where="geometry", mend="none, K or K+depth")
        if self.workers < 1 or self.timeout_s <= 0 or (self.limit is not None and self.limit < 0):
            raise ConfigError("workers and time-out are positive", where="RunOptions")


def run_bench(
    bench: Bench,
    model: TextModel | TracePredictor | StraightLine,
    out: str | Path,
    task: Task,
    options: RunOptions | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Path:
    """Ask every question that `out` has no answer to, and write the answers there (JSONL, published fields).

    Args:
        model: answers in words, or any trace predictor: it gets points on the object's mask (which words-only models do not
            see), and the mean of their paths is the answer, as text; or a straight line (`references`).
        progress: called with answers done and questions asked.

    Raises:
        DatasetError: the file holds answers to other questions, or cannot be written; no question has a picture.
    """
    out, options = Path(out), options or RunOptions()
    book = _Book(out, bench)
    waiting = [question for question in bench.questions if question.question_id not in book.finished][: options.limit]
    if waiting and all(bench.read(question, "image") is None for question in waiting):
        raise DatasetError("has no pictures: there is nothing to ask", where=bench.name, mend="download raw_data/")

    def one(question: BenchQuestion) -> None:
        own = trace_prompt(model, task)
        prompt = trace_question(own, question.prompt) if own else bench_prompt(question, task, options.family)
        words, error = _within(options.timeout_s, lambda: _ask(bench, question, model, task, prompt, options.geometry))
        book.add(question, prompt, words, error)

    with ThreadPoolExecutor(options.workers) as pool:
        for done, _ in enumerate(pool.map(one, waiting), 1):
            progress(done, len(waiting))
    return out


def _ask(
    bench: Bench,
    question: BenchQuestion,
    model: TextModel | TracePredictor | StraightLine,
    task: Task,
    prompt: str,
    geometry: str,
) -> str:
    if isinstance(model, StraightLine):
        return model.words(bench, question, task)
    image = bench.picture(question, "image")
    if image is None:
        raise DatasetError("the picture is missing", where=f"question {question.question_id}")
    depth_mm = bench.picture(question, "gt_depth") if geometry == "K+depth" else None
    words = isinstance(model, TextModel)
    request = Request(
        prompt=prompt,
        instruction=question.prompt,
        task=task,
        image=image,
        depth_m=None if depth_mm is None else np.where(depth_mm > 0, depth_mm / 1000.0, np.nan),
        K=None if geometry == "none" else question.K,
        mask=None if words else bench.picture(question, "mask"),
    )
    if isinstance(model, TextModel):
        answer = model.answer(image, prompt, K=request.K, depth_m=request.depth_m)
    else:
        answer = predicted_words(model, request)
    if not isinstance(answer, str):
        raise TypeError(f"the model answered with {type(answer).__name__}, not text")
    return answer


def _within(timeout_s: float | int, ask: Callable[[], str]) -> tuple[str, str | None]:
    """(answer, error). Asks in a thread of its own that a hanging model can keep without keeping the run."""
    held: dict[str, Any] = {}

    def work() -> None:
        try:
            held["answer"] = ask()
        except Exception as error:  # whatever the model raises is the answer's error, not the run's end
            held["error"] = repr(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        return "", f"TimeoutError('no answer within {timeout_s:g} s')"
    return held.get("answer", ""), held.get("error")


class _Book:
    """The answer file: read once, written whole after every answer, in the order of the benchmark."""

    def __init__(self, path: Path, bench: Bench):
        self._path, self._order = path, [question.question_id for question in bench.questions]
        self._lines: dict[int | str, str] = {}
        self._lock = threading.Lock()
        self.finished: set[int | str] = set()
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], 1):
            if text.strip():
                self._take(number, text, bench)

    def _take(self, number: int, text: str, bench: Bench) -> None:
        where = f"{self._path}:{number}"
        try:
            line = json.loads(text)
            question_id, prediction = line["question_id"], line.get(PREDICTION)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"is no answer: {error!r}", where=where, mend="remove the line, or the file") from error
        if question_id not in bench.by_id:
            raise DatasetError(f"answers question {question_id}, which is not in the benchmark", where=where)
        self._lines[question_id] = text
        if isinstance(prediction, str) and prediction.strip():
            self.finished.add(question_id)

    def add(self, question: BenchQuestion, prompt: str, prediction: str, error: str | None) -> None:
        if error is not None:
            log.warning("question %s: %s", question.question_id, error)
        line = json.dumps(answer_line(question, prompt, prediction, error), ensure_ascii=False)
        with self._lock:
            self._lines[question.question_id] = line
            text = "".join(self._lines[id_] + "\n" for id_ in self._order if id_ in self._lines)
            write_atomically(self._path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def predicted_words(predictor: TracePredictor, request: Request, seed: int = 0) -> str:
    """What a trace predictor would answer: the mean path of points on the object, as text.

    It begins where the points are; a predictor without depth keeps the object at its depth.

    Raises:
        DatasetError: there is no mask, or no pixel on it.
    """
    observation, start_px = _observed(request)
    height, width = request.image.shape[:2]
    prediction = predictor.predict(observation, 1, seed)
    uvz = prediction.uvz[0].astype(np.float64)  # [N,H,3]
    valid = prediction.valid[0]
    seen = valid.any(axis=0)
    weights = valid[:, seen, None].astype(float)
    mean = (uvz[:, seen] * weights).sum(axis=0) / weights.sum(axis=0)
    path = np.concatenate([uv_to_px(mean[:, :2], width, height), mean[:, 2:]], axis=1)
    start = start_px.mean(axis=0)
    if request.depth_m is None or not np.isfinite(path[:, 2]).all() or (path[:, 2] <= 0).any():
        path[:, 2] = start[2]
    whole = np.concatenate([start[None], path])
    kept = whole[np.unique(np.linspace(0, len(whole) - 1, WAYPOINTS).round().astype(int))]
    return format_trace(to_thousandths(kept[:, : 2 if request.task == "2D" else 3], width, height))


def _observed(request: Request) -> tuple[Observation, np.ndarray]:
    """What the predictor sees, and its points as (u, v, d) in pixels and metres [N,3]."""
    if request.mask is None or not (request.mask > 0).any():
        raise DatasetError(
            "the object has no mask", where="predicted_words", mend="download mask.png, or use a text model"
        )
    height, width = request.image.shape[:2]
    v, u = np.nonzero(request.mask > 0)
    keep = (u < width) & (v < height)
    pixels = np.stack([u[keep], v[keep]], axis=1).astype(np.float64)
    pixels = pixels[:: max(1, len(pixels) // 4000)]
    depth = (
        np.ones(len(pixels))
        if request.depth_m is None
        else request.depth_m[pixels[:, 1].astype(int), pixels[:, 0].astype(int)]
    )
    if np.isfinite(depth).any():
        pixels, depth = pixels[np.isfinite(depth)], depth[np.isfinite(depth)]
    else:
        depth = np.ones(len(pixels))
    chosen = farthest_point_sampling(pixels, _KEYPOINTS)
    pixels, depth = pixels[chosen], depth[chosen]
    observation = Observation(
        image=request.image,
        instruction=request.instruction,
        depth_m=request.depth_m,
        K=request.K,
        keypoints_uv=px_to_uv(pixels, width, height),
        keypoints_z_m=None if request.depth_m is None else depth,
        part_id=np.zeros(len(pixels), np.int64),
    )
    return observation, np.concatenate([pixels, depth[:, None]], axis=1)
