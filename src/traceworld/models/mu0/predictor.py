"""μ0 as a predictor: an observation in, absolute traces out."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32

from traceworld.errors import InvalidInputError
from traceworld.models.mu0.config import Mu0Config
from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.noise import keypoint_noise
from traceworld.models.mu0.reading import ObservationReader
from traceworld.models.mu0.static import StaticSampler
from traceworld.traces.types import Observation, TracePrediction


class Mu0Predictor(ObservationReader):
    """A trained μ0.

    Args:
        model: with the normalisation of its corpus set.
        name: how tables call it.

    The noise of a keypoint is a hash of (seed, sample, its u and v) (`noise.keypoint_noise`), so permuting keypoints
    permutes the prediction and the same seed gives the same bytes.
    """

    def __init__(self, model: Mu0Model, name: str = "mu0"):
        self.model = model.eval()
        self.name = name
        self._static: StaticSampler | None = None

    @property
    def config(self) -> Mu0Config:
        return self.model.config

    def compile(self) -> None:
        """From now on predict by one compiled function over shapes of a few sizes (`static`), as CUDA graphs on a GPU.

        The first prediction of each shape then takes a minute or so. `timing` counts prefix and denoising together, as `denoise`.
        """
        self._static = StaticSampler(self.model)

    def predict(self, observation: Observation, num_samples: int = 1, seed: int = 0) -> TracePrediction:
        """S futures of the observation's keypoints.

        A trace is frozen where the validity head first gives a step less than `config.stop_threshold`. Where z is unknown
        (neither given, nor in the depth map, nor in the history), the returned z counts from 0. Without depth (no map and
        no z at all) the history's z counts from the point's current one too (see `Observation`), as in training.

        Raises:
            InvalidInputError: no keypoints, or no sample asked for.
            ConfigError: the model was not trained on this clock or step.
        """
        return self._predict([observation], num_samples, [seed])[0]

    def predict_many(
        self, observations: Sequence[Observation], num_samples: int, seeds: Sequence[int]
    ) -> list[TracePrediction]:
        """S futures of each of several observations in one forward pass, with a seed for each.

        The observations may have different keypoints, clocks, words and depth or none; those with fewer keypoints are padded, and
        what is padded is masked. Each prediction is what `predict` gives, to rounding; its `timing` is that of the whole
        pass. A compiled predictor (`compile`) answers one by one, as its shapes are for one.

        Raises:
            InvalidInputError, ConfigError: as `predict`, for any of them; as many seeds as observations are needed.
        """
        if len(observations) != len(seeds):
            raise InvalidInputError(f"{len(observations)} observations, {len(seeds)} seeds", where="predict_many")
        if self._static is not None or not observations:
            return [self.predict(one, num_samples, seed) for one, seed in zip(observations, seeds, strict=True)]
        return self._predict(observations, num_samples, seeds)

    @torch.inference_mode()
    def _predict(
        self, observations: Sequence[Observation], num_samples: int, seeds: Sequence[int]
    ) -> list[TracePrediction]:
        if num_samples < 1:
            raise InvalidInputError(f"{num_samples} samples", where="num_samples", mend="ask for at least one")
        for observation in observations:
            self._check_clock(observation)
        started = time.perf_counter()
        anchors, batch = self._batches(observations)
        prepared = time.perf_counter()
        noise = self._keypoint_noise(anchors, num_samples, seeds)
        if self._static is not None:
            encoded = time.perf_counter()
            controls, logits = self._static(batch, noise)
        else:
            context = self.model.context(batch, self.model.encode(batch))
            encoded = time.perf_counter()
            controls, logits = self.model.sample_from(context, num_samples, noise=noise)
        sampled = time.perf_counter()
        scales = self.model.normalisation.s_delta
        found = [
            self._decode(of_controls[:, : len(anchor)], of_logits[:, : len(anchor)], anchor, scales[observation.clock])
            for of_controls, of_logits, anchor, observation in zip(
                controls.cpu().numpy(), logits.cpu().numpy(), anchors, observations, strict=True
            )
        ]
        ended = time.perf_counter()
        timing = {
            "prepare": prepared - started,
            "prefix": encoded - prepared,
            "denoise": sampled - encoded,
            "decode": ended - sampled,
            "total": ended - started,
        }
        return [
            TracePrediction(uvz, valid, probability, clock=observation.clock, step=observation.step, timing=timing)
            for (uvz, valid, probability), observation in zip(found, observations, strict=True)
        ]

    def _keypoint_noise(
        self, anchors: Sequence[np.ndarray], num_samples: int, seeds: Sequence[int]
    ) -> Float[torch.Tensor, "B S N D 3"]:
        """Each keypoint's own noise; zeros behind the keypoints of an observation with fewer of them."""
        count = self.config.num_controls
        noise = np.zeros((len(anchors), num_samples, max(map(len, anchors)), count, 3), np.float32)
        for row, anchor, seed in zip(noise, anchors, seeds, strict=True):
            row[:, : len(anchor)] = keypoint_noise(anchor[:, :2], num_samples, count, seed)
        return torch.from_numpy(noise).to(self.device)

    def _decode(
        self,
        controls: Float32[np.ndarray, "S N D 3"],
        logits: Float32[np.ndarray, "S N H"],
        anchor: Float32[np.ndarray, "N 3"],
        scale: tuple[float, ...],
    ) -> tuple[Float32[np.ndarray, "S N H 3"], Bool[np.ndarray, "S N H"], Float32[np.ndarray, "S N H"]]:
        config = self.config
        offset = self.model.target.decode(controls)
        uvz = (offset * np.asarray(scale, np.float32) + anchor[:, None]).astype(np.float32)
        probability = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
        frozen, valid = freeze_past_end(uvz, anchor, probability, config.stop_threshold)
        return frozen if self.model.conventions.freezes_past_end else uvz, valid, probability


def freeze_past_end(
    uvz: Float32[np.ndarray, "S N H 3"],
    anchor: Float32[np.ndarray, "N 3"],
    probability: Float32[np.ndarray, "S N H"],
    threshold: float,
) -> tuple[Float32[np.ndarray, "S N H 3"], Bool[np.ndarray, "S N H"]]:
    """Stop each trace before its first step of a validity below the threshold (B.3, the stop index).

    From there on `valid` is False and the position is that of the last valid step (the anchor if there is none).
    """
    valid = np.logical_and.accumulate(probability >= threshold, axis=-1)
    stop = valid.sum(axis=-1)
    path = np.concatenate([np.broadcast_to(anchor[:, None], (*uvz.shape[:2], 1, 3)), uvz], axis=2)
    step = np.minimum(np.arange(1, uvz.shape[2] + 1), stop[..., None])
    return np.take_along_axis(path, step[..., None], axis=2).astype(np.float32), valid
