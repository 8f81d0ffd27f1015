"""Two policies that learn nothing, to check a benchmark with: the scripted expert (about 100 %) and random actions (about 0)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from traceworld.errors import ConfigError
from traceworld.sim.control import MetaworldEnv
from traceworld.sim.worlds import expert_action
from traceworld.traces.robot import ActionChunk, ActionSpec, RobotObservation


class ScriptedExpert:
    """Meta-World's script for the task, which goes by the goal and the objects as numbers, not by what it is shown.

    It looks ahead in the environment itself: it plays its next actions there, writes them down and goes back to where it
    was, so that its chunks are what it would have done step by step.

    Args:
        env: the very environment that the actions are sent to.
        horizon: actions per chunk.
    """

    name = "expert"

    def __init__(self, env: MetaworldEnv, horizon: int = 16):
        if horizon < 1:
            raise ConfigError(f"{horizon} actions", where="horizon", mend="give 1 or more")
        self._env, self._horizon, self._script = env, horizon, env.expert()

    def reset(self, seed: int = 0) -> None:
        self._script = self._env.expert()

    def act(self, observation: RobotObservation) -> ActionChunk:
        """The next actions; fewer than the horizon when the episode ends first."""
        begun = self._env.snapshot()
        actions: list[np.ndarray] = []
        while len(actions) < self._horizon:
            actions.append(clipped_expert_action(self._env, self._script))
            if self._env.step(actions[-1]).finished:
                break
        self._env.restore(begun)
        return ActionChunk(np.array(actions))


def clipped_expert_action(env: MetaworldEnv, script: object) -> Float32[np.ndarray, " 4"]:
    """What the script does now, within the bounds of the action."""
    return np.clip(expert_action(script, env.expert_view()), -1, 1).astype(np.float32)


class RandomPolicy:
    """Actions drawn evenly from between the bounds, the same for the same seed."""

    name = "random"

    def __init__(self, spec: ActionSpec, horizon: int = 16):
        self._spec, self._horizon = spec, horizon
        self._rng = np.random.default_rng(0)

    def reset(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng([seed, 0x4A2])

    def act(self, observation: RobotObservation) -> ActionChunk:
        actions = self._rng.uniform(self._spec.low, self._spec.high, (self._horizon, self._spec.dim))
        return ActionChunk(actions.astype(np.float32))
