"""RoboTracer's HTTP API as a trace predictor: `robotracer:URL`, in both published shapes of `POST /query`.

`shape=base64` (RoboRefer's server, RoboTracer's Qwen3-VL server, port 25547 or 25557): pictures in the request. `shape=paths`
(RoboTracer's own client): the server reads files that it shares with the caller, depth in millimetres and intrinsics beside.

RoboTracer answers with one trace: up to ten waypoints without a clock. `ask=scene` asks for the trace of the object that the
task moves and lets every keypoint make that displacement; `ask=keypoint` asks for each keypoint, its place stated. On the
arc clock a trace is followed at its own length (the step is a length of path) and holds at its end; on the time clock it is
spread evenly over the horizon, for it says nothing of speed.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from traceworld.errors import ConfigError
from traceworld.models.baselines.anchors import anchor_uvz
from traceworld.models.remote.address import parse_address, read_options
from traceworld.models.remote.answers import Answer, AnswerCache, Usage
from traceworld.models.remote.drawing import base64_text, depth_range, nearness, png
from traceworld.models.remote.parsing import MAX_DEPTH_M, SCALE, read_path
from traceworld.models.remote.prompts import METRIC, SPACES, thousandths
from traceworld.perception.http_json import Patience, Reply, post_json
from traceworld.traces.atomic import write_atomically
from traceworld.traces.types import Observation, TracePrediction

SHAPES = ("base64", "paths")
ASKS = ("scene", "keypoint")


@dataclass(frozen=True)
class RoboTracerOptions:
    """Options of an address (`robotracer:URL#shape=paths&folder=/shared`).

    Attributes:
        shape: `base64` or `paths`. folder: for `paths`, where pictures are put for the server; must be shared with it.
        space: `metric` (x, y, depth) or `image` (x, y).
        ask: `scene` or `keypoint`.
        horizon: steps to predict.
        timeout_s, deadline_s, retries, backoff_s: `perception.http_json.Patience`.
        cache: folder of kept answers, or `off`; empty: the user's cache folder.
    """

    shape: str = "base64"
    folder: str = ""
    space: str = METRIC
    ask: str = "scene"
    horizon: int = 32
    timeout_s: float = 120.0
    deadline_s: float = 300.0
    retries: int = 3
    backoff_s: float = 1.0
    cache: str = ""

    def __post_init__(self):
        for name, known in (("shape", SHAPES), ("space", SPACES), ("ask", ASKS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"'{getattr(self, name)}' is unknown", where=name, mend=" or ".join(known))
        if self.shape == "paths" and not (self.folder and Path(self.folder).expanduser().is_dir()):
            raise ConfigError(
                "names no folder", where="folder", mend="name one that the server of shape=paths can read"
            )
        if self.horizon < 1 or self.retries < 0 or min(self.timeout_s, self.deadline_s) <= 0 or self.backoff_s < 0:
            raise ConfigError("horizon and time-outs are positive, retries at least 0", where="options")

    @property
    def patience(self) -> Patience:
        return Patience(self.timeout_s, self.deadline_s, self.retries, self.backoff_s)


class RoboTracerPredictor:
    """A RoboTracer server prompted for spatial traces.

    Failures are counted and scored as "nothing moves", as those of `VlmPredictor`. The protocol knows no seed: samples
    differ only if the server draws its words. `url` is the server's root.
    """

    num_parameters = None

    def __init__(self, url: str, options: RoboTracerOptions | None = None):
        self.url, self.options = url, options or RoboTracerOptions()
        self.gives_depth = self.options.space == METRIC
        self.takes = ("depth", "intrinsics") if self.options.shape == "paths" else ("depth",)
        self.name = "robotracer" + ("" if self.gives_depth else " 2D")
        self._cache, self._usage = AnswerCache(self.options.cache), Usage()

    @classmethod
    def from_address(cls, text: str) -> RoboTracerPredictor:
        """From `robotracer:URL#option=value&…`. Raises ConfigError."""
        address = parse_address(text)
        return cls(address.url, read_options(RoboTracerOptions, address.options, "robotracer"))

    def predict(self, observation: Observation, num_samples: int = 1, seed: int = 0) -> TracePrediction:
        """S answers as traces, all steps valid.

        Raises:
            InvalidInputError: no keypoints.
            DatasetError: the answer cache or the shared folder cannot be written.
        """
        started = time.perf_counter()
        anchor = anchor_uvz(observation)
        questions = self._questions(observation, anchor)
        body = self._pictures(observation)
        traces = []
        try:
            for sample in range(num_samples):
                offsets = [self._offset(self._ask(body, text, seed + sample), observation) for text in questions]
                traces.append(anchor[:, None] + np.stack(offsets))  # [1 or N,H,3]
        finally:
            for file in [*body.get("image_paths", []), *(body.get("depth_z_paths") or [])]:
                Path(file).unlink(missing_ok=True)
        uvz = np.stack(traces).astype(np.float32)
        return TracePrediction(
            uvz=uvz,
            valid=np.ones(uvz.shape[:3], bool),
            clock=observation.clock,
            step=observation.step,
            timing={"total": time.perf_counter() - started},
        )

    def usage(self) -> dict[str, Any]:
        """Answers, failures, mends and seconds since the last call."""
        taken, self._usage = self._usage, Usage()
        return taken.report()

    def _questions(self, observation: Observation, anchor: np.ndarray) -> list[str]:
        space, form = (
            ("3D", "(x1, y1, d1), (x2, y2, d2), ...") if self.gives_depth else ("2D", "(x1, y1), (x2, y2), ...")
        )
        ending = (
            f" Your answer should be formatted as a list of tuples, i.e. [{form}], x and y between 0 and 1000"
            + (", d the distance from the camera in metres." if self.gives_depth else ".")
        )  # fmt: skip
        if self.options.ask == "scene":
            return [
                f'Please point out the {space} object-centric visual trace for the task "{observation.instruction}".{ending}'
            ]
        return [
            f"Please point out the {space} visual trace of the point ({u:.0f}, {v:.0f}) for the task "
            f'"{observation.instruction}", beginning at that point.{ending}'
            for u, v in thousandths(anchor[:, :2])
        ]

    def _pictures(self, observation: Observation) -> dict[str, Any]:
        """The request without its text."""
        picture, depth = png(observation.image), observation.depth_m
        near_far = None if depth is None else depth_range(depth)
        shown = [] if depth is None or near_far is None else [(depth, near_far)]
        if self.options.shape == "base64":
            grey = [base64_text(png(nearness(*each))) for each in shown]
            return {"image_url": [base64_text(picture)], "depth_url": grey, "enable_depth": len(grey)}
        files = [self._shared("depth", png(_millimetres(depth))) for depth, _ in shown]
        return {
            "image_paths": [self._shared("rgb", picture)],
            "depth_z_paths": files or None,
            "intrinsics": None if observation.K is None else observation.K.tolist(),
            "enable_spatial": int(bool(files) or observation.K is not None),
        }

    def _shared(self, kind: str, data: bytes) -> str:
        path = Path(self.options.folder).expanduser().resolve() / f"{kind}-{uuid.uuid4().hex}.png"
        write_atomically(path, lambda temporary: temporary.write_bytes(data))
        return str(path)

    def _ask(self, body: Mapping[str, Any], text: str, seed: int) -> Answer:
        options = self.options
        if options.shape == "base64":
            pictures = [item.encode() for name in ("image_url", "depth_url") for item in body[name]]
        else:  # by content: the names change from call to call
            pictures = [Path(item).read_bytes() for item in [*body["image_paths"], *(body["depth_z_paths"] or [])]]
        key = self._cache.key([self.url, options.shape, body.get("intrinsics")], text, pictures, seed)
        kept = self._cache.find(key)
        if kept is not None:
            return kept
        answer = read_reply(post_json(f"{self.url}/query", {**body, "text": text}, {}, options.patience))
        if not answer.failure:
            self._cache.keep(key, answer, {"url": self.url, "prompt": text, "seed": seed})
        return answer

    def _offset(self, answer: Answer, observation: Observation) -> Float[np.ndarray, "H 3"]:
        """Displacement per step that an answer says; zero if it fails."""
        mends: Counter[str] = Counter()
        failure = answer.failure
        offset = np.zeros((self.options.horizon, 3))
        if not failure:
            path = trace_path(read_path(answer.text), self.gives_depth, mends)
            failure = "" if len(path) > 1 else "unparsable"
            if not failure:
                arc_step = observation.step if observation.clock == "arc" else None
                height, width = observation.image.shape[:2]
                offset = along(path, self.options.horizon, arc_step, height / width)
        self._usage.add(answer, failure, Counter() if failure else mends)
        return offset


def _millimetres(depth_m: np.ndarray) -> np.ndarray:
    return np.round(np.clip(np.nan_to_num(depth_m) * 1000, 0, 65535)).astype(np.uint16)


def read_reply(reply: Reply) -> Answer:
    """The words of a `/query` reply: `answer`, and where there is a `result` it must be 1."""
    if reply.failure:
        return Answer(failure=reply.failure, seconds=reply.seconds)
    value = reply.value if isinstance(reply.value, Mapping) else {}
    words = value.get("answer")
    if not isinstance(words, str) or value.get("result", 1) != 1:
        return Answer(failure="no_answer", seconds=reply.seconds)
    return Answer(words, "" if words.strip() else "empty", reply.seconds)


def trace_path(path: list[list[float]], with_depth: bool, mends: Counter[str]) -> Float[np.ndarray, "P 3"]:
    """Waypoints [P,3] in uv and metres from RoboTracer's thousandths; places outside are clipped (counted).

    A waypoint without depth keeps that of the one before; the third number counts only `with_depth`.
    """
    points = np.asarray([[*point, np.nan][:3] for point in path], float).reshape(-1, 3)
    points = points[np.isfinite(points[:, :2]).all(1)]
    if not with_depth or np.isnan(points[:, 2]).all():
        mends["no_depth"] += with_depth and len(points) > 0
        points[:, 2] = 0.0
    known = np.flatnonzero(np.isfinite(points[:, 2]))
    if len(known) and len(known) < len(points):
        mends["no_depth"] += 1
        before = np.maximum(np.searchsorted(known, np.arange(len(points)), side="right") - 1, 0)
        points[:, 2] = points[known[before], 2]
    inside = np.clip(points, [0, 0, 0], [SCALE, SCALE, MAX_DEPTH_M])
    mends["clipped"] += bool((inside != points).any())
    return np.concatenate([inside[:, :2] / 500 - 1, inside[:, 2:]], axis=1)


def along(
    path: Float[np.ndarray, "P 3"], horizon: int, arc_step: float | None, height_per_width: float
) -> Float[np.ndarray, "H 3"]:
    """Displacement from the path's start after steps 1..horizon.

    Args:
        arc_step: image widths per step: the path is followed at that pace and holds at its end. None: it is spread evenly
            over the horizon by its length in the picture.
        height_per_width: of the picture, to measure lengths in widths.
    """
    pieces = np.linalg.norm(np.diff(path[:, :2], axis=0) * (0.5, 0.5 * height_per_width), axis=1)
    length = np.concatenate([[0.0], np.cumsum(pieces)])
    if length[-1] == 0:  # moves in depth alone: by number of waypoints
        length = np.linspace(0.0, 1.0, len(path))
        arc_step = None
    wanted = np.arange(1, horizon + 1) * (length[-1] / horizon if arc_step is None else arc_step)
    return np.stack([np.interp(wanted, length, path[:, axis]) for axis in range(3)], axis=1) - path[0]
