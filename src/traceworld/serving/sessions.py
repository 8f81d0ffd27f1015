"""Whose episode is whose: openpi's protocol knows connections, a policy here may remember an episode (`Policy.reset`).

How one policy serves several connections depends on what it offers beyond `Policy`:

- `act_batch(observations, seeds) -> chunks`: nothing is remembered but the episode's seed. All connections share it, and what they
  ask at the same time is answered in one call.
- `fork() -> Policy`: another memory on the same weights. Every connection gets its own.
- `stateless = True`: nothing is remembered. All connections share it.
- none of these: one connection at a time; a second one is told so.

A policy with an attribute `predictions` is told through it, for each request, whether the traces behind the actions are wanted.
One with `act_after(observation, committed)` (`policies.chunking.InpaintingPolicy`) is asked so, apart from the others, where a request
says what will be played meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from traceworld.policies.chunking import InpaintingPolicy
from traceworld.policies.policy import Policy
from traceworld.serving.refusals import BusyError
from traceworld.traces.robot import ActionChunk, RobotObservation


@dataclass(eq=False)
class Episode:
    """Where a connection is. The event loop reads it, the worker thread writes it.

    Attributes:
        policy: the connection's own, or the one that all share.
        requests: answered since the episode began.
    """

    policy: Policy
    begun: bool = False
    seed: int = 0
    requests: int = 0

    def turn(self, seed: int | None) -> bool:
        """Go on, or begin anew with a seed; whether an episode begins."""
        begins = seed is not None or not self.begun
        if begins:
            self.begun, self.seed, self.requests = True, seed or 0, 0
        return begins


@dataclass(frozen=True, eq=False)
class Turn:
    """One request: what is seen, the seed of the episode that begins with it (if one does), whether traces are wanted, and
    what will be played until the answer is there."""

    episode: Episode
    observation: RobotObservation
    reset_seed: int | None = None
    with_traces: bool = False
    committed: Float32[np.ndarray, "J A"] | None = None

    @property
    def heeded(self) -> bool:
        """Whether the policy goes on from what is committed."""
        committed = self.committed
        return committed is not None and len(committed) > 0 and isinstance(self.episode.policy, InpaintingPolicy)


Outcome = tuple[ActionChunk, float]
"""What the policy answered, and its seconds."""


class Sessions:
    """Hands out episodes by connection (on the event loop) and plays their turns (in the worker)."""

    def __init__(self, policy: Policy):
        self._policy = policy
        self._fork: Any = getattr(policy, "fork", None)
        self._together: Any = getattr(policy, "act_batch", None)
        self._shared = self._together is not None or bool(getattr(policy, "stateless", False))
        self._lent = False

    @property
    def takes_several(self) -> bool:
        """Whether turns in one call save anything; else each should be answered as soon as it is played."""
        return self._together is not None

    @property
    def full(self) -> bool:
        """Whether the next connection must be turned away."""
        return self._lent and not self._shared and self._fork is None

    def open(self) -> Episode:
        """For a new connection.

        Raises:
            BusyError: there is one policy, it remembers its episode, and another connection has it.
        """
        if self.full:
            raise BusyError(
                "the policy remembers its episode and serves one connection at a time",
                mend="close the other connection",
            )
        self._lent = True
        if self._together is None and self._fork is not None:
            return Episode(self._fork())
        return Episode(self._policy)

    def close(self) -> None:
        """A connection that `open` was called for has ended."""
        self._lent = False

    def act(self, turns: Sequence[Turn]) -> list[Outcome | Exception]:
        """The chunks of some turns, or what went wrong with each."""
        apart = [index for index, turn in enumerate(turns) if self._together is None or turn.heeded]
        outcomes: dict[int, Outcome | Exception] = {index: self._alone(turns[index]) for index in apart}
        for wanted in (False, True):
            group = [i for i, turn in enumerate(turns) if i not in outcomes and turn.with_traces is wanted]
            outcomes.update(zip(group, self._in_one_call([turns[index] for index in group], wanted), strict=True))
        return [outcomes[index] for index in range(len(turns))]

    def _in_one_call(self, turns: Sequence[Turn], with_traces: bool) -> list[Outcome | Exception]:
        if not turns:
            return []
        for turn in turns:
            turn.episode.turn(turn.reset_seed)
        _say_wanted(self._policy, with_traces)
        started = time.perf_counter()
        try:
            seeds = [turn.episode.seed for turn in turns]
            chunks = list(self._together([turn.observation for turn in turns], seeds))
        except Exception as error:
            if len(turns) == 1:
                return [error]
            return [self._in_one_call([turn], with_traces)[0] for turn in turns]  # whose fault it is shows alone
        seconds = time.perf_counter() - started
        for turn in turns:
            turn.episode.requests += 1
        return [(chunk, seconds) for chunk in chunks]

    def _alone(self, turn: Turn) -> Outcome | Exception:
        episode, committed = turn.episode, turn.committed
        policy: Any = episode.policy
        try:
            if episode.turn(turn.reset_seed) or self._together is not None:  # one that all share knows the last asker's
                policy.reset(episode.seed)
            _say_wanted(policy, turn.with_traces)
            started = time.perf_counter()
            chunk = policy.act_after(turn.observation, committed) if turn.heeded else policy.act(turn.observation)
        except Exception as error:
            return error
        episode.requests += 1
        return chunk, time.perf_counter() - started


def _say_wanted(policy: Any, with_traces: bool) -> None:
    if isinstance(getattr(policy, "predictions", None), bool):
        policy.predictions = with_traces
