"""An observation as a μ0 (and a TraceGen) is shown it: pictures in its size, keypoints, their depth and their past."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.geometry.cameras import K_to_uv
from traceworld.models.normalisation import CLOCKS
from traceworld.traces.batching import collate
from traceworld.traces.types import Observation

_STEP_TOLERANCE = 0.01
"""A step this much (relatively) off the trained one is taken for the same."""


class ObservationReader:
    """What predictors with such a model have in common.

    Attributes:
        name: for messages. model: with the normalisation of its corpus set.
    """

    name: str
    model: Any

    @property
    def config(self) -> Any:
        return self.model.config

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
        (anchor,), batch = self._batches([observation])
        return anchor, batch

    def _batches(self, observations: Sequence[Observation]) -> tuple[list[np.ndarray], dict[str, Any]]:
        """The anchors of each, and all as one batch of tensors, keypoints padded to the largest number among them."""
        shown = [self._shown(observation) for observation in observations]
        batch = {
            name: value if name == "instruction" else torch.from_numpy(np.asarray(value)).to(self.device)
            for name, value in collate([fields for _, fields in shown]).items()
        }
        return [anchor for anchor, _ in shown], batch

    def _shown(self, observation: Observation) -> tuple[Float32[np.ndarray, "N 3"], dict[str, Any]]:
        """The anchor that displacements are added to, and what the model is shown."""
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
            "instruction": observation.instruction,
        }
        return np.concatenate([uv, z[:, None]], axis=1).astype(np.float32), fields

    def _current_z(
        self, observation: Observation, uv: Float[np.ndarray, "N 2"]
    ) -> tuple[Float[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
        """z in metres as given, else from the depth map's pixel, else 0; and where it is known."""
        z = np.full(len(uv), np.nan) if observation.depth_m is None else depth_at(observation.depth_m, uv)
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
        wanted: int = self.config.history
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


def depth_at(depth_m: Float[np.ndarray, "H W"], uv: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, " N"]:
    """Metres of the pixel that each point lies in; NaN where the map is, and outside it."""
    height, width = depth_m.shape
    cell = np.floor((uv + 1) / 2 * (width, height)).astype(int)
    inside = ((cell >= 0) & (cell < (width, height))).all(axis=1)
    z = np.full(len(uv), np.nan)
    z[inside] = depth_m[cell[inside, 1], cell[inside, 0]]
    return z
