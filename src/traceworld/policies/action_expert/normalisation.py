"""States and actions in units of their own spread, and what they mean. Both live inside every policy checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from traceworld.errors import CheckpointError, DatasetError
from traceworld.models.config_json import read_config
from traceworld.traces.robot import ActionSpec

_STILL = 1e-4
"""A number that varies less than this (standard deviation) is taken for a constant: it is shifted, not blown up."""


@dataclass(frozen=True)
class ActionScales:
    """Means and standard deviations over the demonstrations, and the meaning of the numbers.

    Attributes:
        state_mean, state_std, action_mean, action_std: per number, in the demonstrations' own unit.
        spec: names, bounds and rate.
        cameras: names of the cameras of the demonstrations, the scene camera first.
    """

    state_mean: tuple[float, ...]
    state_std: tuple[float, ...]
    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    spec: ActionSpec
    cameras: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("state", "action"):
            mean, std = getattr(self, f"{name}_mean"), getattr(self, f"{name}_std")
            if len(mean) != len(std) or not np.isfinite([*mean, *std]).all() or (std and min(std) <= 0):
                raise CheckpointError("are no usable scales", where=f"scales.{name}")
        if len(self.action_mean) != self.spec.dim:
            raise CheckpointError(f"{len(self.action_mean)} scales for {self.spec.dim} numbers", where="scales.action")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ActionScales:
        """The inverse of `to_dict`. Raises ConfigError for what it does not know."""
        return read_config(ActionScales, values, "scales")

    @staticmethod
    def unit(state_dim: int, spec: ActionSpec, cameras: tuple[str, ...] = ()) -> ActionScales:
        """States and actions as they are (the released policy)."""
        dim = spec.dim
        return ActionScales((0.0,) * state_dim, (1.0,) * state_dim, (0.0,) * dim, (1.0,) * dim, spec, cameras)


def measure_scales(
    episodes: Iterable[tuple[np.ndarray, np.ndarray]],
    spec: ActionSpec,
    cameras: tuple[str, ...] = (),
) -> ActionScales:
    """Scales over all steps of the (state [T,P], action [T,A]) pairs.

    Raises:
        DatasetError: there are none, or numbers that are not finite.
    """
    states, actions = [], []
    for state, action in episodes:
        states.append(state)
        actions.append(action)
    if not states:
        raise DatasetError("hold no episode to measure", where="demonstrations")
    moments = [_moments(np.concatenate(arrays).astype(np.float64)) for arrays in (states, actions)]
    return ActionScales(*moments[0], *moments[1], spec, cameras)


def _moments(values: Float[np.ndarray, "T C"]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not np.isfinite(values).all():
        raise DatasetError("states or actions are not finite", where="demonstrations", mend="leave the episode out")
    spread = values.std(axis=0)
    return tuple(values.mean(axis=0).tolist()), tuple(np.where(spread < _STILL, 1.0, spread).tolist())
