"""One action at a time from a policy that answers in chunks."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

PREFIX = "traceworld/"


class ChunkPlayer:
    """Plays chunks: asks when it has none left, and hands out the next action otherwise.

    Args:
        policy: anything with `infer(observation)` whose answer has `actions` [K,A], and `reset`.
        play: how many actions of each chunk are played; None: all. Fewer than K react sooner to what is seen.

    Only `actions` is cut by step; whatever else an answer holds is handed out as it is.
    """

    def __init__(self, policy: Any, play: Optional[int] = None):
        if play is not None and play < 1:
            raise ValueError(f"play must be 1 or more, not {play}")
        self._policy, self._play = policy, play
        self._answer = None  # type: Optional[Dict[str, Any]]
        self._next, self._step = 0, 0

    def infer(self, observation: Mapping[str, Any]) -> Dict[str, Any]:
        """The answer for this moment, `actions` being the one action [A] to send now."""
        if self._answer is None:
            self._answer, self._next = self._ask(observation), 0
        actions = self._answer["actions"]
        played = dict(self._answer, actions=actions[self._next])
        self._next += 1
        self._step += 1
        if self._next >= min(len(actions), self._play or len(actions)):
            self._answer = None
        return played

    def reset(self, seed: int = 0) -> None:
        """A new episode: what is left of the last chunk is forgotten."""
        self._answer, self._step = None, 0
        self._policy.reset(seed)

    def _ask(self, observation: Mapping[str, Any]) -> Dict[str, Any]:
        known = getattr(self._policy, "metadata", {}).get("extensions", ())
        if PREFIX + "step" in known and PREFIX + "step" not in observation:
            observation = dict(observation, **{PREFIX + "step": self._step})
        return self._policy.infer(observation)
