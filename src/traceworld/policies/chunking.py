"""Real-time chunking: a policy thinks while the robot moves, and chunks pass into each other (Black et al. 2025, arXiv 2506.07339).

A chunk that was asked for at step s arrives d steps later. By then d of the old chunk's actions have been sent (fewer, if it ran
out and the robot stayed: what stayed took no action's place): they are committed, and the new chunk must agree with them, or the
robot jumps. After them the old chunk is followed less and less, and
past its end not at all (`soft_mask`, eq. 5 there).

- Any policy: committed actions are kept, the next ones are a mixture of old and new by the mask (`merge`).
- A policy that can itself go on from given actions (`act_after`: the action expert inpaints its noise, the trace follower
  plans from where they lead) is given the committed ones first; what follows is mixed like any other.

`evaluation.execution.ChunkPlayer` plays chunks so in simulation. `RealTimePolicy` does on a robot (docs/robots.md): it decides when to ask,
thinks in a background thread, and answers at every control step. An action never rests on an observation older than a bound: past
it the robot stays until the next chunk arrives.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.policies.policy import Policy
from traceworld.traces.robot import ActionChunk, ActionSpec, RobotObservation

Stay = Callable[[Float32[np.ndarray, " A"] | None], Float32[np.ndarray, " A"]]
"""Gives an action that keeps the robot where it is, from the action before (None: there was none)."""

_REMEMBERED_DELAYS = 10


@runtime_checkable
class InpaintingPolicy(Protocol):
    """A policy that can go on from actions that are settled."""

    name: str

    def reset(self, seed: int = 0) -> None: ...

    def act(self, observation: RobotObservation) -> ActionChunk: ...

    def act_after(self, observation: RobotObservation, committed: Float32[np.ndarray, "J A"]) -> ActionChunk:
        """A chunk whose first J actions are `committed`, which will be played whatever is answered."""
        ...


def soft_mask(horizon: int, delay: int, execute: int) -> Float64[np.ndarray, " horizon"]:
    """How much each action of a new chunk is bound to the old one (eq. 5 of real-time chunking).

    1 for the first `delay`; then, with c = (horizon − execute − i) / (horizon − execute − delay + 1), c (eᶜ − 1) / (e − 1);
    0 for the last `execute`, which the old chunk does not reach.

    Args:
        horizon: actions per chunk. delay: how many of them are sent before it arrives. execute: how many of the old chunk were
            sent before the new one was asked for.

    Raises:
        ConfigError: a negative number.
    """
    if min(horizon, delay, execute) < 0:
        raise ConfigError(f"horizon {horizon}, delay {delay}, execute {execute}", where="soft_mask", mend="all ≥ 0")
    index, reach = np.arange(horizon), horizon - execute
    c = np.clip((reach - index) / max(reach - delay + 1, 1), 0.0, 1.0)
    return np.where(index < min(delay, reach), 1.0, np.where(index < reach, c * np.expm1(c) / math.expm1(1), 0.0))


def merge(
    old: Float32[np.ndarray, "M A"], new: Float32[np.ndarray, "K A"], delay: int, execute: int
) -> Float32[np.ndarray, "K A"]:
    """A new chunk that leaves an old one without a jump: `soft_mask` of the old one, the rest of the new one.

    Args:
        old: what the old chunk has left, from the step on at which the new one was asked for (may be shorter).
        delay: how many of these have been sent.
    """
    overlap = min(len(old), len(new))
    if overlap == 0:
        return new
    weight = soft_mask(len(new), delay, max(execute, len(new) - overlap))[:overlap, None]
    merged = new.copy()
    merged[:overlap] = weight * old[:overlap] + (1 - weight) * new[:overlap]
    return merged


def entered(old: Float32[np.ndarray, "M A"], new: Float32[np.ndarray, "K A"], delay: int) -> Float32[np.ndarray, "K A"]:
    """`merge` as far as the old chunk goes."""
    return merge(old, new, delay, max(len(new) - len(old), 0))


def _with(chunk: ActionChunk, actions: Float32[np.ndarray, "K A"]) -> ActionChunk:
    return ActionChunk(actions, chunk.prediction, chunk.timing, chunk.done)


@runtime_checkable
class Inference(Protocol):
    """Where a policy thinks while the robot moves. One call at a time; the time is the robot's, in seconds."""

    def start(self, call: Callable[[], ActionChunk], now_s: float) -> None:
        """Begin."""
        ...

    def result(self, now_s: float) -> ActionChunk | None:
        """The chunk, once; None while it is not there. Raises what the policy raised."""
        ...

    def cancel(self) -> None:
        """Forget the call that is under way."""
        ...


class DelayedInference:
    """Thinks at once and tells later: a known latency, on whatever clock the caller keeps. For simulation, where the world
    would otherwise wait, and for tests."""

    def __init__(self, latency_s: float | int = 0.0):
        if not latency_s >= 0:
            raise ConfigError(f"{latency_s} s", where="latency_s", mend="give 0 or more")
        self.latency_s = float(latency_s)
        self._due: tuple[float, ActionChunk] | None = None

    def start(self, call: Callable[[], ActionChunk], now_s: float) -> None:
        self._due = (now_s + self.latency_s, call())

    def result(self, now_s: float) -> ActionChunk | None:
        if self._due is None or now_s < self._due[0] - 1e-9:
            return None
        (_, chunk), self._due = self._due, None
        return chunk

    def cancel(self) -> None:
        self._due = None


class ThreadInference:
    """Thinks in one background thread: the real thing. Close it, or use it in a `with` statement."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._future: Future[ActionChunk] | None = None

    def start(self, call: Callable[[], ActionChunk], now_s: float) -> None:
        self._future = self._pool.submit(call)

    def result(self, now_s: float) -> ActionChunk | None:
        if self._future is None or not self._future.done():
            return None
        future, self._future = self._future, None
        return future.result()

    def cancel(self) -> None:
        """Waits for the call under way: a policy is never called twice at once."""
        if self._future is not None:
            self._future.exception()
            self._future = None

    def close(self) -> None:
        self.cancel()
        self._pool.shutdown()

    def __enter__(self) -> ThreadInference:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RealTimePolicy:
    """A policy that is asked at every control step and answers at once, with the policy inside thinking beside it.

    Args:
        policy: gives chunks longer than the delay (else the robot stops and goes).
        spec: the robot's (its control rate turns steps into seconds).
        stay: what to send while there is no chunk, or only one that is too old.
        inference: where the policy thinks. None: a simulated machine without latency.
        execute: control steps between two questions, at least.
        max_stale_s: bound on the age of the observation behind an action.

    Attributes:
        stayed: control steps of this episode in which there was nothing to play. late: chunks thrown away because they came too
            late. delays: of the last chunks, in control steps.
    """

    def __init__(
        self,
        policy: Policy,
        spec: ActionSpec,
        stay: Stay,
        *,
        inference: Inference | None = None,
        execute: int = 8,
        max_stale_s: float | int = 1.0,
    ):
        if execute < 1 or max_stale_s <= 0:
            raise ConfigError(f"execute {execute}, max_stale_s {max_stale_s}", where="RealTimePolicy")
        self.policy, self.spec, self.stay = policy, spec, stay
        self.name = f"{policy.name} (real time)"
        self.inference: Inference = inference or DelayedInference()
        self.execute = execute
        self.max_stale = max(1, round(max_stale_s * spec.control_hz))
        self._forget()

    def _forget(self) -> None:
        self._chunk: ActionChunk | None = None
        self._sent: np.ndarray | None = None
        self._asked: tuple[int, int] | None = None  # step and count of sent actions
        self._begun = 0  # step of the observation behind the chunk in hand
        self._moved = 0  # actions of chunks that were sent
        self._entry = 0  # that count when the chunk in hand was asked for: where its first action belongs
        self._last = -1
        self.stayed = 0
        self.late = 0
        self.delays: deque[int] = deque(maxlen=_REMEMBERED_DELAYS)

    def reset(self, seed: int = 0) -> None:
        """A new episode."""
        self.inference.cancel()
        self.policy.reset(seed)
        self._forget()

    def act(self, observation: RobotObservation) -> ActionChunk:
        """The one action for now. To be called at every control step.

        Raises:
            InvalidInputError: the steps of the observations do not increase.
        """
        started = time.perf_counter()
        now = observation.step
        if now <= self._last:
            raise InvalidInputError(f"step {now} after step {self._last}", where="RobotObservation.step")
        self._last = now
        self._receive(now)
        if self._asked is None and (self._chunk is None or now - self._begun >= self.execute):
            self._ask(observation)
            self._receive(now)  # without latency it is there at once
        left, chunk = self._left(self._moved), self._chunk
        if chunk is not None and len(left) and now - self._begun < self.max_stale:
            action, self._moved = left[0], self._moved + 1
        else:
            action, self.stayed = self.stay(self._sent), self.stayed + 1
        self._sent = action
        timing = {"total": time.perf_counter() - started}
        if chunk is None:
            return ActionChunk(action[None], timing=timing)
        return ActionChunk(action[None], chunk.prediction, timing, chunk.done)

    def _ask(self, observation: RobotObservation) -> None:
        self._asked = (observation.step, self._moved)
        policy = self.policy
        # As many as will be sent before the answer comes, going by the slowest of the last ones.
        committed = self._left(self._moved)[: max(self.delays, default=0)]
        if isinstance(policy, InpaintingPolicy) and len(committed):
            call = partial(policy.act_after, observation, committed)
        else:
            call = partial(policy.act, observation)
        self.inference.start(call, observation.step / self.spec.control_hz)

    def _receive(self, now: int) -> None:
        if self._asked is None:
            return
        asked, self._asked = self._asked, None
        chunk = self.inference.result(now / self.spec.control_hz)
        if chunk is None:
            self._asked = asked
            return
        step, entry = asked
        self.delays.append(now - step)
        if self._moved - entry >= len(chunk.actions) or now - step >= self.max_stale:
            self.late += 1
            return
        # A chunk that is itself too old is not mixed in, or its actions would be played after all.
        old = self._left(entry)[: 0 if now - self._begun >= self.max_stale else None]
        self._chunk = _with(chunk, entered(old, chunk.actions, self._moved - entry))
        self._begun, self._entry = step, entry

    def _left(self, moved: int) -> Float32[np.ndarray, "M A"]:
        """What the chunk in hand has from a count of sent actions on."""
        if self._chunk is None:
            return np.zeros((0, self.spec.dim), np.float32)
        return self._chunk.actions[moved - self._entry :]
