"""RoboTracer as a predictor of traces, and as something that answers questions about a picture.

It says one trace of the thing that the task moves, as `(u, v, d)`: thousandths of the picture and metres. Every keypoint makes
the displacement of that trace, from where it is (its anchor): in u and v as said, in z the change of d. On the arc clock the trace
is followed at its own length and holds at its end; on the time clock it is spread evenly over the horizon, for it says nothing of
speed (as `models.remote.robotracer`). A trace that cannot be read strictly counts as a failure and as "nothing moves".
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from traceworld.errors import InvalidInputError
from traceworld.models.baselines.anchors import anchor_uvz
from traceworld.models.remote.answers import Answer, Usage
from traceworld.models.remote.robotracer import along
from traceworld.models.robotracer.checkpoint import load_robotracer
from traceworld.models.robotracer.model import RoboTracer
from traceworld.models.robotracer.processor import Example, RoboTracerProcessor
from traceworld.models.words import trace_question
from traceworld.traces.types import Observation, TracePrediction
from traceworld.tracespatial.answers import SCALE, parse_trace

SINGLE_POINT = "single_point"
"""Failure of an answer with one point: a trace has two."""


class RoboTracerPredictor:
    """A trained RoboTracer.

    Args:
        temperature: of the samples after the first, which is the likeliest answer.

    Attributes:
        training: provenance, of a checkpoint.

    Calls from several threads are answered one after the other.
    """

    takes = ("depth", "intrinsics")

    def __init__(
        self, model: RoboTracer, processor: RoboTracerProcessor, name: str = "robotracer", temperature: float = 0.7
    ):
        self.model, self.processor = model.eval(), processor
        self.name, self.temperature = name, temperature
        self.gives_depth = model.config.space == "metric"
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.training: dict[str, Any] = {}
        self._usage, self._alone = Usage(), threading.Lock()

    @property
    def trace_prompts(self) -> dict[str, str]:
        """The words it was trained on to ask for a trace, for 2D and 3D; `{task}` is the instruction."""
        prompts = self.model.config.prompts
        return {"2D": prompts.trace_2d, "3D": prompts.trace_3d}

    @classmethod
    def from_checkpoint(cls, folder: str | Path, name: str, device: str = "cpu") -> RoboTracerPredictor:
        """From a folder of `save_robotracer`. Raises as `load_robotracer`."""
        loaded = load_robotracer(folder, device)
        predictor = cls(loaded.model, loaded.processor, name)
        predictor.training = dict(loaded.training)
        return predictor

    def predict(self, observation: Observation, num_samples: int = 1, seed: int = 0) -> TracePrediction:
        """S answers as traces, all steps valid; the first is the likeliest, the others are drawn.

        Raises:
            InvalidInputError: no keypoints, or no sample asked for.
        """
        if num_samples < 1:
            raise InvalidInputError(f"{num_samples} samples", where="num_samples", mend="ask for at least one")
        started = time.perf_counter()
        anchor = anchor_uvz(observation)
        prompts = self.model.config.prompts
        question = trace_question(prompts.trace_3d if self.gives_depth else prompts.trace_2d, observation.instruction)
        example = Example(observation.image, [(question, None)], observation.K, observation.depth_m)
        texts = self._texts(example, 1, 0.0, seed)
        if num_samples > 1:
            texts += self._texts(example, num_samples - 1, self.temperature, seed)
        said = time.perf_counter()
        offsets = [self._offset(text, observation, (said - started) / num_samples) for text in texts]
        uvz = np.stack([anchor[:, None] + offset for offset in offsets]).astype(np.float32)
        return TracePrediction(
            uvz=uvz,
            valid=np.ones(uvz.shape[:3], bool),
            clock=observation.clock,
            step=observation.step,
            text=texts[0] or None,
            timing={"words": said - started, "total": time.perf_counter() - started},
        )

    def answer(
        self,
        image: UInt8[np.ndarray, "Himg Wimg 3"],
        question: str,
        *,
        K: Float[np.ndarray, "3 3"] | None = None,
        depth_m: Float[np.ndarray, "Hdepth Wdepth"] | None = None,
        world_from_cam: Float[np.ndarray, "4 4"] | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str:
        """The model's words to any question about a picture.

        Args:
            K, depth_m, world_from_cam: pixels of `image`, metres (0 or NaN unknown), pose; as far as they are known.
            temperature: 0: the likeliest words.

        Raises:
            InvalidInputError: geometry that cannot be, or a question that is too long.
        """
        return self._texts(Example(image, [(question, None)], K, depth_m, world_from_cam), 1, temperature, seed)[0]

    def scale(self, example: Example) -> float:
        """ŝ in metres: what the scale decoder says of a scene before a word is said."""
        batch = self._on_device(self.processor.generation_batch([example]))
        with self._alone, torch.no_grad():
            return float(self.model(**batch).log_scale.exp()[0])

    def describe(self) -> dict[str, Any]:
        """Config, parameters per part and provenance of the training (JSON-able)."""
        sizes: Counter[str] = Counter()
        for name, parameter in self.model.named_parameters():
            sizes[name.split(".")[0]] += parameter.numel()
        return {
            "name": self.name,
            "kind": self.model.kind,
            "family": self.model.family.name,
            "config": self.model.config.to_dict(),
            "parameters": {"total": self.num_parameters, **sizes},
            "training": self.training,
        }

    def usage(self) -> dict[str, Any]:
        """Answers, failures and seconds since the last call."""
        taken, self._usage = self._usage, Usage()
        return taken.report()

    def _texts(self, example: Example, count: int, temperature: float, seed: int) -> list[str]:
        batch = self._on_device(self.processor.generation_batch([example]))
        with self._alone:  # the language model keeps positions between its steps
            made = self.model.generate(**batch, num_answers=count, temperature=temperature, seed=seed)
        return self.processor.decode(made.ids.cpu())

    def _on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {name: value if value is None else value.to(self.model.device) for name, value in batch.items()}

    def _offset(self, text: str, observation: Observation, seconds: float) -> Float[np.ndarray, "H 3"]:
        """Displacement per step that an answer says; zero if it fails."""
        parsed = parse_trace(text, 3 if self.gives_depth else 2)
        failure = parsed.failure or (SINGLE_POINT if len(parsed.points) < 2 else "")
        self._usage.add(Answer(text, seconds=seconds), failure, Counter())
        horizon = self.model.config.horizon
        if failure:
            return np.zeros((horizon, 3))
        path = np.zeros((len(parsed.points), 3))
        path[:, : parsed.points.shape[1]] = parsed.points
        path[:, :2] = 2 * path[:, :2] / SCALE - 1
        arc_step = observation.step if observation.clock == "arc" else None
        height, width = observation.image.shape[:2]
        return along(path, horizon, arc_step, height / width)
