"""TraceGen as a predictor: an observation in, absolute traces out."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32

from traceworld.errors import InvalidInputError
from traceworld.models.mu0.noise import keypoint_noise
from traceworld.models.mu0.reading import ObservationReader
from traceworld.models.tracegen.grid import displacements
from traceworld.models.tracegen.model import TraceGenModel
from traceworld.traces.types import Observation, TracePrediction


class TraceGenPredictor(ObservationReader):
    """A trained TraceGen. It reads an observation as μ0 does, and looks at neither history nor keypoints (it is told where they
    are only to know which grid points matter).

    Args:
        model: with the normalisation of its corpus set.
        name: how tables call it.

    A keypoint's trace is where it is now plus the sum of the grid's increments, interpolated bilinearly where it is now. The
    noise of a grid point is a hash of (seed, sample, its place), so the same seed gives the same bytes and permuting keypoints
    permutes the prediction. TraceGen has no signal for the end of a motion: all steps are valid, except of keypoints outside the
    picture, where there is no grid; they stay where they are and are not valid.
    """

    takes = ("depth", "intrinsics")

    def __init__(self, model: TraceGenModel, name: str = "tracegen"):
        self.model = model.eval()
        self.name = name

    @property
    def config(self) -> Any:
        return self.model.config

    def compile(self) -> None:
        """From now on run a compiled decoder. Its shapes vary with the number of words and samples alone.

        No CUDA graphs: one evaluation is so much work that starting its kernels one by one does not count.
        """
        self.model.decoder.compile(fullgraph=True, dynamic=False)

    @torch.inference_mode()
    def predict(self, observation: Observation, num_samples: int = 1, seed: int = 0) -> TracePrediction:
        """S futures of the observation's keypoints.

        Where z is unknown the returned z counts from 0, as for μ0.

        Raises:
            InvalidInputError: no keypoints, or no sample asked for.
            ConfigError: the model was not trained on this clock or step.
        """
        if num_samples < 1:
            raise InvalidInputError(f"{num_samples} samples", where="num_samples", mend="ask for at least one")
        self._check_clock(observation)
        started = time.perf_counter()
        anchor, batch = self._batch(observation)
        prepared = time.perf_counter()
        condition = self.model.encode(batch)
        encoded = time.perf_counter()
        generator = torch.Generator(device=self.device).manual_seed(seed)
        field = self.model.sample_from(condition, batch, num_samples, generator, self._noise(num_samples, seed))
        sampled = time.perf_counter()
        uvz, valid = self._trace(field, batch, anchor)
        ended = time.perf_counter()
        return TracePrediction(
            uvz=uvz,
            valid=valid,
            clock=observation.clock,
            step=observation.step,
            timing={
                "prepare": prepared - started,
                "prefix": encoded - prepared,
                "denoise": sampled - encoded,
                "decode": ended - sampled,
                "total": ended - started,
            },
        )

    def _noise(self, num_samples: int, seed: int) -> torch.Tensor:
        side = self.model.grid.side
        noise = keypoint_noise(self.model.grid.uv.numpy(), num_samples, self.config.horizon, seed)  # [S,points,H,3]
        field = torch.from_numpy(noise).movedim(2, 1).unflatten(2, (side, side))
        return field[None].to(self.device)

    def _trace(
        self, field: torch.Tensor, batch: dict[str, Any], anchor: Float32[np.ndarray, "N 3"]
    ) -> tuple[Float32[np.ndarray, "S N H 3"], Bool[np.ndarray, "S N H"]]:
        """Increments of the grid → absolute positions of the keypoints, and whether they are inside the picture."""
        scale = self.model.s_delta[batch["clock"]][:, None, None, None, None]
        step = self.model.conventions.from_network(field, scale)
        moved = displacements(self.model.grid.sample(self.model.grid.weights(batch["anchor_uvz"][..., :2]), step))
        inside = (np.abs(anchor[:, :2]) <= 1).all(axis=1)
        offset = np.where(inside[:, None, None], moved[0].cpu().numpy(), 0)
        uvz = (offset + anchor[:, None]).astype(np.float32)
        valid = np.broadcast_to(inside[None, :, None], uvz.shape[:3]).copy()
        return uvz, valid
