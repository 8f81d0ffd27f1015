"""Episodes from reset to end, several beside each other: who is due is asked together, then every robot takes its step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from traceworld.errors import ConfigError
from traceworld.evaluation.execution import ChunkPlayer, smoothness
from traceworld.policies.policy import Policy
from traceworld.sim.control import ControlEnv
from traceworld.traces.robot import ActionChunk, RobotObservation

_UNKNOWN = ("act_ms", "act_ms_p95", "act_ms_max", "observe_ms", "step_ms", "jitter", "seam_jump", "inner_jump")
UNPLAYED: dict[str, Any] = dict.fromkeys(_UNKNOWN) | {
    "success": False,
    "steps": 0,
    "calls": 0,
    "waits": 0,
    "seconds": 0.0,
}
"""What a record says of an episode that an error ended."""

Film = Callable[[ControlEnv], object]


def play_together(
    envs: Sequence[ControlEnv],
    policy: Policy,
    seeds: Sequence[int],
    player_of: Callable[[ControlEnv], ChunkPlayer],
    films: Sequence[Film | None] = (),
) -> list[dict[str, Any]]:
    """One episode in each environment; an episode is the same whatever is played beside it.

    Args:
        envs: of one task. More than one needs a policy with `act_batch(observations, seeds)`.
        seeds: one each: of the environment and of the policy.
        player_of: makes the player of an environment.
        films: called with the environment before every step and after the last; None films nothing.

    Returns:
        What an `EpisodeRecord` says about each, its name aside. The time of an inference is that of the whole batch.

    Raises:
        ConfigError: several environments and a policy that plays one at a time; a policy with actions of another robot.
    """
    if len(envs) > 1 and not hasattr(policy, "act_batch"):
        raise ConfigError(f"'{policy.name}' plays one at a time", where="batch", mend="give batch=1")
    episodes = [
        _Episode(env, seed, player_of(env), film)
        for env, seed, film in zip(envs, seeds, films or [None] * len(envs), strict=True)
    ]
    policy.reset(seeds[0])
    going = list(episodes)
    while going:
        _ask_who_is_due(policy, [episode for episode in going if episode.player.wants()], len(envs) > 1)
        for episode in going:
            episode.step()
        going = [episode for episode in going if not episode.finished]
    return [episode.account() for episode in episodes]


class _Episode:
    """One environment's episode under way."""

    def __init__(self, env: ControlEnv, seed: int, player: ChunkPlayer, film: Film | None):
        self.env, self.seed, self.player, self._film = env, seed, player, film
        self.finished = self.success = False
        self._started, self._physics_s = time.perf_counter(), 0.0
        env.reset(seed)

    def observe(self) -> RobotObservation:
        started = time.perf_counter()
        seen = self.env.observe()
        self.player.played.observe_s.append(time.perf_counter() - started)
        return seen

    def step(self) -> None:
        if self._film is not None:
            self._film(self.env)
        action = self.player.send(self.env.stay)
        before = time.perf_counter()
        outcome = self.env.step(action)
        self._physics_s += time.perf_counter() - before
        self.finished, self.success = outcome.finished, outcome.success
        if self.finished:
            self._seconds = time.perf_counter() - self._started
            if self._film is not None:
                self._film(self.env)

    def account(self) -> dict[str, Any]:
        played, steps = self.player.played, self.player.tick
        act = 1e3 * np.array(played.act_s)
        moving = [number for number, name in enumerate(self.env.spec.names) if "gripper" not in name]
        return {
            "success": self.success,
            "steps": steps,
            "calls": len(act),
            "waits": played.waits,
            "seconds": self._seconds,
            "act_ms": float(act.mean()),
            "act_ms_p95": float(np.quantile(act, 0.95)),
            "act_ms_max": float(act.max()),
            "observe_ms": float(1e3 * np.mean(played.observe_s)),
            "step_ms": 1e3 * self._physics_s / steps,
            "touched": getattr(self.env, "touched", None),
            **smoothness(played.actions, played.seams, moving, self.env.spec.control_hz),
        }


def _ask_who_is_due(policy: Any, due: Sequence[_Episode], several: bool) -> None:
    seen = [episode.observe() for episode in due]
    heeding = [len(episode.player.committed()) > 0 and hasattr(policy, "act_after") for episode in due]
    together = [number for number, heeds in enumerate(heeding) if several and not heeds]
    started = time.perf_counter()
    batch = policy.act_batch([seen[n] for n in together], [due[n].seed for n in together]) if together else []
    batch_s = time.perf_counter() - started
    answered: dict[int, ActionChunk] = dict(zip(together, batch, strict=True))
    for number, episode in enumerate(due):
        started = time.perf_counter()
        if number not in answered:
            if several:
                policy.reset(episode.seed)
            committed = episode.player.committed()
            answered[number] = (
                policy.act_after(seen[number], committed) if heeding[number] else policy.act(seen[number])
            )
        _check(policy.name, answered[number], episode.env)
        spent = batch_s if number in together else time.perf_counter() - started
        episode.player.played.act_s.append(spent)
        episode.player.answer(answered[number])


def _check(name: str, chunk: ActionChunk, env: ControlEnv) -> None:
    given, spec = chunk.actions.shape[1], env.spec
    if given != spec.dim:
        raise ConfigError(
            f"gives {given} numbers per action, {env.task} takes {spec.dim}",
            where=f"policy '{name}'",
            mend=f"choose a policy for {', '.join(spec.names)}",
        )
