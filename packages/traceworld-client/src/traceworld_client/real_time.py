"""An action at every control step, while the next chunk is thought out elsewhere (real-time chunking, arXiv 2506.07339)."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Deque, Dict, Mapping, Optional, Tuple

import numpy as np

PREFIX = "traceworld/"


class RealTimePlayer:
    """Plays chunks without pausing between them: asks in a background thread, and passes from chunk to chunk without a jump.

    Actions that are sent while an answer is awaited are settled: the new chunk is entered behind them, and its first actions are
    mixed with what the old one has left. A server that can is told which they are (`traceworld/committed`), and plans on from them.

    Args:
        policy: anything with `infer(observation)` whose answer has `actions` [K,A], and `reset`. It is asked from one other thread;
            do not use it meanwhile.
        stay: gives an action [A] that keeps the robot where it is, from the last one sent (None: nothing was sent yet). Sent while
            there is no chunk: before the first, and when answers take longer than chunks last.
        ask_every: control steps between two questions, at least.
        max_stale: control steps. What is sent never rests on an observation older than this.

    Attributes:
        stayed: steps of this episode without an action to play. late: chunks thrown away because they came too late.
        delays: of the last answers, in control steps.
    """

    def __init__(
        self,
        policy: Any,
        stay: Callable[[Optional[np.ndarray]], np.ndarray],
        ask_every: int = 8,
        max_stale: int = 50,
    ):
        if ask_every < 1 or max_stale < 1:
            raise ValueError(f"ask_every and max_stale must be 1 or more, not {ask_every} and {max_stale}")
        self._policy, self._stay = policy, stay
        self._ask_every, self._max_stale = ask_every, max_stale
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._coming: Optional[Tuple[Future, int, int]] = None  # answer, step and count of sent actions when asked
        self._forget()

    def infer(self, observation: Mapping[str, Any]) -> Dict[str, Any]:
        """The last answer with `actions` being the one action [A] to send now. To be called at every control step; never waits.

        Raises:
            ClientError: what the question before ended in. The next call asks again; until then keep the robot where it is.
        """
        now, self._step = self._step, self._step + 1
        self._receive(now)
        if self._coming is None and (self._answer is None or now - self._begun >= self._ask_every):
            self._ask(observation, now)
        left = self._left(self._moved)
        if len(left) and now - self._begun < self._max_stale:
            action, self._moved = left[0], self._moved + 1
        else:
            action, self.stayed = np.asarray(self._stay(self._sent)), self.stayed + 1
        self._sent = action
        return dict(self._answer or {}, actions=action)

    def reset(self, seed: int = 0) -> None:
        """A new episode. Waits for the answer that is on its way, and forgets it."""
        self._cancel()
        self._forget()
        self._policy.reset(seed)

    def close(self) -> None:
        """End the thread; the policy stays open."""
        self._cancel()
        self._pool.shutdown()

    def __enter__(self) -> RealTimePlayer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forget(self) -> None:
        self._answer: Optional[Dict[str, Any]] = None
        self._sent: Optional[np.ndarray] = None
        self._step = 0
        self._begun = 0  # step of the observation behind the chunk in hand
        self._moved = 0  # actions of chunks that were sent
        self._entry = 0  # that count when the chunk in hand was asked for: where its first action belongs
        self.stayed = 0
        self.late = 0
        self.delays: Deque[int] = deque(maxlen=10)

    def _ask(self, observation: Mapping[str, Any], now: int) -> None:
        request = _kept(observation)
        known = getattr(self._policy, "metadata", {}).get("extensions", ())
        if PREFIX + "step" in known:
            request.setdefault(PREFIX + "step", now)
        # As many as will be sent before the answer comes, going by the slowest of the last ones.
        committed = self._left(self._moved)[: max(self.delays, default=0)]
        if PREFIX + "committed" in known and len(committed):
            request[PREFIX + "committed"] = committed
        self._coming = (self._pool.submit(self._policy.infer, request), now, self._moved)

    def _receive(self, now: int) -> None:
        if self._coming is None or not self._coming[0].done():
            return
        (future, asked, entry), self._coming = self._coming, None
        answer = future.result()
        self.delays.append(now - asked)
        actions, sent = np.array(answer["actions"], np.float32), self._moved - entry
        if sent >= len(actions) or now - asked >= self._max_stale:
            self.late += 1
            return
        # A chunk that is itself too old is not mixed in, or its actions would be played after all.
        old = self._left(entry) if now - self._begun < self._max_stale else actions[:0]
        self._answer = dict(answer, actions=mixed(old, actions, sent))
        self._begun, self._entry = asked, entry

    def _left(self, moved: int) -> np.ndarray:
        """What the chunk in hand has from a count of sent actions on."""
        if self._answer is None:
            return np.zeros((0, 0), np.float32)
        return self._answer["actions"][moved - self._entry :]

    def _cancel(self) -> None:
        if self._coming is not None:
            self._coming[0].exception()
            self._coming = None


def _kept(value: Any) -> Any:
    """A copy of an observation: cameras may write their next picture into the same array while the server is told of this one."""
    if isinstance(value, Mapping):
        return {key: _kept(inner) for key, inner in value.items()}
    return value.copy() if isinstance(value, np.ndarray) else value


def mixed(old: np.ndarray, new: np.ndarray, sent: int) -> np.ndarray:
    """A new chunk [K,A] that leaves an old one without a jump (eq. 5 of real-time chunking).

    Args:
        old: [M,A] what the old chunk had left when the new one was asked for. sent: how many of these were sent since.
    """
    reach = min(len(old), len(new))
    if not reach:
        return new
    c = (reach - np.arange(reach)) / max(reach - sent + 1, 1)
    weight = np.where(np.arange(reach) < sent, 1.0, c * np.expm1(np.clip(c, 0.0, 1.0)) / np.expm1(1.0))[:, None]
    result = new.copy()
    result[:reach] = weight * old[:reach] + (1.0 - weight) * new[:reach]
    return result
