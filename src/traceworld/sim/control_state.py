"""The whole state of a Meta-World simulation, taken and put back exactly.

MuJoCo's integration state (positions, velocities, warm start of the solver, controls, mocap bodies, time), what a reset
changed in the model, and every attribute of the environment that an episode may change. Attributes that are views into
MuJoCo's own memory stay views: they follow the physics, before and after.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from traceworld.errors import InvalidInputError
from traceworld.extras import require
from traceworld.sim.worlds import PLACEMENT, PLACEMENT_OF_SITES

FIXED = ("model", "data", "mujoco_renderer", "spec", "metadata", "action_space", "observation_space", "goal_space")
"""Attributes of the environment that no episode changes (the generators of its spaces are never drawn from)."""


@dataclass(frozen=True, eq=False)
class WorldState:
    """One moment of one simulation; opaque to everyone but `take` and `put_back`."""

    task_class: str
    physics: Float64[np.ndarray, " S"]
    placement: Mapping[str, np.ndarray]
    attributes: Mapping[str, Any]


def take(env: Any) -> WorldState:
    """The state of a Meta-World environment now. It stays as it is whatever is simulated afterwards."""
    mujoco = require("mujoco")
    kind = mujoco.mjtState.mjSTATE_INTEGRATION.value
    physics = np.empty(mujoco.mj_stateSize(env.model, kind))
    mujoco.mj_getState(env.model, env.data, physics, kind)
    placement = {name: getattr(env.model, name).copy() for name in PLACEMENT + PLACEMENT_OF_SITES}
    return WorldState(type(env).__name__, physics, placement, _copied(_changing(env)))


def put_back(env: Any, state: WorldState) -> None:
    """Make the environment what it was when `state` was taken; what follows is the same to the last bit.

    Raises:
        InvalidInputError: the state is of another task.
    """
    if state.task_class != type(env).__name__:
        raise InvalidInputError(
            f"was taken in {state.task_class}", where="snapshot", mend=f"take one in {type(env).__name__}"
        )
    mujoco = require("mujoco")
    kind = mujoco.mjtState.mjSTATE_INTEGRATION.value
    for name, value in state.placement.items():
        getattr(env.model, name)[:] = value
    mujoco.mj_setState(env.model, env.data, state.physics, kind)
    mujoco.mj_forward(env.model, env.data)  # poses and contacts that Meta-World reads between two steps
    mujoco.mj_setState(env.model, env.data, state.physics, kind)  # which overwrote the solver's warm start
    for name in set(_changing(env)) - set(state.attributes):
        del env.__dict__[name]
    env.__dict__.update(_copied(state.attributes))


def _changing(env: Any) -> dict[str, Any]:
    return {name: value for name, value in env.__dict__.items() if name not in FIXED}


def _copied(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy that keeps what is shared between attributes shared, and MuJoCo's memory MuJoCo's."""
    memo = {id(value): value for value in attributes.values() if _is_live(value)}
    return copy.deepcopy(dict(attributes), memo)


def _is_live(value: Any) -> bool:
    """Whether an array is a view into memory that is not numpy's."""
    if not isinstance(value, np.ndarray):
        return False
    while isinstance(value.base, np.ndarray):
        value = value.base
    return not value.flags.owndata
