"""μ0 as a predictor: an observation in, absolute traces out."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.geometry.cameras import K_to_uv
from traceworld.models.mu0.config import Mu0Config
from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.noise import keypoint_noise
from traceworld.models.mu0.static import StaticSampler
from traceworld.models.normalisation import CLOCKS
from traceworld.traces.types import Observation, TracePrediction

_STEP_TOLERANCE = 0.01
"""A step this much (relatively) off the trained one is taken for the same."""


class Mu0Predictor:
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

    @torch.inference_mode()
    def predict(self, observation: Observation, num_samples: int = 1, seed: int = 0) -> TracePrediction:
        """S futures of the observation's keypoints.

        A trace is frozen where the validity head first gives a step less than `config.stop_threshold`. Where z is unknown
        (neither given, nor in the depth map, nor in the history), the returned z counts from 0. Without depth (no map and
        no z at all) the history's z counts from the point's current one too (see `Observation`), as in training.

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
        drawn = keypoint_noise(anchor[:, :2], num_samples, self.config.num_controls, seed)
        noise = torch.from_numpy(drawn)[None].to(self.device)
        if self._static is not None:
            encoded = time.perf_counter()
            controls, logits = self._static(batch, noise)
        else:
            context = self.model.context(batch, self.model.encode(batch))
            encoded = time.perf_counter()
            controls, logits = self.model.sample_from(context, num_samples, noise=noise)
        sampled = time.perf_counter()
        scale = self.model.normalisation.s_delta[observation.clock]
        uvz, valid, probability = self._decode(controls[0].cpu().numpy(), logits[0].cpu().numpy(), anchor, scale)
        ended = time.perf_counter()
        return TracePrediction(
            uvz=uvz,
            valid=valid,
            valid_prob=probability,
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

    @property
    def device(self) -> torch.device:
        return self.model.device

    def _check_clock(self, observation: Observation) -> None:
        steps = self.model.normalisation.steps
        trained = ", ".join(f"{clock} with step {step:g}" for clock, step in steps.items())
        step = steps.get(observation.clock)
        if step is None or abs(observation.step - step) > _STEP_TOLERANCE * step:
            raise ConfigError(
                f"'{self.name}' was trained on the clock {trained}, not on {observation.clock} with step {observation.step:g}",
                where="Observation.clock",
                mend="ask for a clock and step it was trained on",
            )

    def _batch(self, observation: Observation) -> tuple[Float32[np.ndarray, "N 3"], dict[str, Any]]:
        """The anchor that displacements are added to, and a batch of this one observation."""
        uv = observation.keypoints_uv
        if uv is None:
            raise InvalidInputError(
                "no keypoints", where="Observation.keypoints_uv", mend="say which points' future is asked for"
            )
        N, size = len(uv), self.config.image_size
        z, known = self._current_z(observation, uv)
        history, history_valid, z = self._history(observation, uv, z, known)
        depth = observation.depth_m
        has_depth = depth is not None and bool(np.isfinite(depth).any())
        conventions = self.model.conventions
        picture = (
            conventions.observed_depth(depth.astype(np.float32), size) if has_depth and depth is not None else None
        )
        height, width = observation.image.shape[:2]
        K = None if observation.K is None else K_to_uv(observation.K.astype(np.float64), width, height)
        shown = np.concatenate([uv, np.where(known, z, 0)[:, None]], axis=1).astype(np.float32)
        fields = {
            "image": conventions.observed_picture(observation.image, size),
            "depth_m": np.full(size[::-1], np.nan, np.float32) if picture is None else picture,
            "depth_present": np.bool_(has_depth),
            "K_uv": np.zeros(4, np.float32) if K is None else K.astype(np.float32),
            "anchor_uvz": shown,
            "anchor_z_known": known,
            "history": history,
            "history_valid": conventions.history_shown(history_valid, observation.history_uvz is not None),
            "present": np.ones(N, bool),
            "part_id": np.full(N, -1) if observation.part_id is None else observation.part_id.astype(np.int64),
            "clock": np.int64(CLOCKS.index(observation.clock)),
        }
        batch: dict[str, Any] = {k: torch.from_numpy(np.array(v)[None]).to(self.device) for k, v in fields.items()}
        batch["instruction"] = [observation.instruction]
        return np.concatenate([uv, z[:, None]], axis=1).astype(np.float32), batch

    def _current_z(
        self, observation: Observation, uv: Float[np.ndarray, "N 2"]
    ) -> tuple[Float[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
        """z in metres as given, else from the depth map's pixel, else 0; and where it is known."""
        z = np.full(len(uv), np.nan)
        if observation.depth_m is not None:
            height, width = observation.depth_m.shape
            cell = np.floor((uv + 1) / 2 * (width, height)).astype(int)
            inside = ((cell >= 0) & (cell < (width, height))).all(axis=1)
            z[inside] = observation.depth_m[cell[inside, 1], cell[inside, 0]]
        if observation.keypoints_z_m is not None:
            z = np.where(np.isfinite(observation.keypoints_z_m), observation.keypoints_z_m, z)
        known = np.isfinite(z) & (z > 0)
        return np.where(known, z, 0.0), known

    def _history(
        self, observation: Observation, uv: np.ndarray, z: np.ndarray, known: np.ndarray
    ) -> tuple[Float32[np.ndarray, "N h 3"], Bool[np.ndarray, "N h"], Float[np.ndarray, " N"]]:
        """The last h steps relative to the anchor, which of them are known, and z with its last known value filled in.

        With depth, a keypoint whose current z is unknown, but whose past has one, is taken to be where it was last.
        Without depth the history is relative in z already; where it knows only (u, v) its z is taken as unchanged.
        """
        wanted = self.config.history
        history = np.full((len(uv), wanted, 3), np.nan)
        if observation.history_uvz is not None:
            given = observation.history_uvz[:, -wanted:]
            history[:, wanted - given.shape[1] :] = given
        without_depth = observation.depth_m is None and observation.keypoints_z_m is None
        if without_depth:
            history[..., 2] = np.nan_to_num(history[..., 2], nan=0.0)
        valid = np.isfinite(history).all(axis=-1)
        last = wanted - 1 - valid[:, ::-1].argmax(axis=1)
        past_z = history[np.arange(len(uv)), last, 2]
        if not without_depth:
            z = np.where(~known & valid.any(axis=1), past_z, z)
        anchor = np.concatenate([uv, z[:, None]], axis=1)
        relative = np.where(valid[..., None], history - anchor[:, None], 0)
        return relative.astype(np.float32), valid, z

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
