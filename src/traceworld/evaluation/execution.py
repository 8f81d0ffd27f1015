"""How the chunks of a policy become actions, one per control step, when inference takes time.

The clock is the environment's: one tick per action. A chunk that is asked for at tick t is there at tick t + latency; until then
the robot plays on from the chunk before, and stays where it is when that has run out. A chunk that arrives is entered behind as
many actions as were played since it was asked for: their place is taken. While the robot stays nothing is taken, so a latency
longer than a chunk makes it stop and go, and a first chunk is played from its beginning. Without latency this is ordinary
receding-horizon execution. Two chunks can meet in three ways: as they are; mixed (`policies.chunking`); or the
policy takes what is played meanwhile into account (`act_after(observation, committed)`), if it can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float32

from traceworld.errors import ConfigError
from traceworld.policies.chunking import entered
from traceworld.traces.robot import ActionChunk


@dataclass
class Played:
    """What happened in an episode so far.

    Attributes:
        actions: every action sent.
        seams: ticks at which a new chunk took over from another one.
        waits: ticks at which there was nothing to play.
        act_s, observe_s: seconds of each inference and of each observation.
    """

    actions: list[np.ndarray] = field(default_factory=list)
    seams: list[int] = field(default_factory=list)
    waits: int = 0
    act_s: list[float] = field(default_factory=list)
    observe_s: list[float] = field(default_factory=list)


class ChunkPlayer:
    """Keeps the time: says when the policy is to be asked, takes its chunks and gives out the action of each tick.

    Args:
        execute: ask for the next chunk when so many actions of one have been played; None: as late as can be without having to
            wait (the whole chunk, less what is played during inference); the whole chunk, if inference takes longer than it.
        latency_steps: ticks from the question to the answer.
        blend: mix a new chunk with what is left of the old one (`policies.chunking.entered`).

    Raises:
        ConfigError: `execute` below 1 or a negative latency.
    """

    def __init__(self, *, execute: int | None = None, latency_steps: int = 0, blend: bool = False):
        if (execute is not None and execute < 1) or latency_steps < 0:
            raise ConfigError(f"execute {execute}, latency {latency_steps}", where="ChunkPlayer", mend="from 1; from 0")
        self._execute, self._latency, self._blend = execute, latency_steps, blend
        self.played = Played()
        self._chunk: ActionChunk | None = None
        self._moved = 0  # actions of chunks that were sent
        self._entry = 0  # that count when `_chunk` was asked for: where its first action belongs
        self._coming: tuple[int, int, ActionChunk] | None = None  # tick and count of the question, answer

    @property
    def tick(self) -> int:
        """Actions sent so far."""
        return len(self.played.actions)

    def wants(self) -> bool:
        """Whether the policy is to be asked now."""
        self._receive()
        if self._coming is not None or (self._chunk is not None and self._chunk.done):
            return False  # under way; or what follows is to stay
        if self._chunk is None:
            return True
        length = len(self._chunk.actions)
        wanted = self._execute
        if wanted is None:  # where waiting cannot be helped, each chunk is played whole
            wanted = length - self._latency if self._latency < length else length
        return self._moved - self._entry >= min(wanted, length)

    def committed(self) -> Float32[np.ndarray, "J A"]:
        """What will be sent until an answer to a question asked now is there (less, when it runs out before)."""
        return self._rest(self._moved)[: self._latency]

    def answer(self, chunk: ActionChunk) -> None:
        """The answer to a question asked now."""
        self._coming = (self.tick, self._moved, chunk)
        self._receive()

    def send(self, stay: Callable[[np.ndarray | None], np.ndarray]) -> Float32[np.ndarray, " A"]:
        """The action of this tick. `stay` gives one that keeps the robot where it is, from the action before."""
        rest = self._rest(self._moved)
        if len(rest):
            action = rest[0]
            self._moved += 1
        else:
            action = stay(self.played.actions[-1] if self.played.actions else None)
            self.played.waits += 1
        self.played.actions.append(action)
        return action

    def _receive(self) -> None:
        if self._coming is None or self.tick < self._coming[0] + self._latency:
            return
        _, entry, chunk = self._coming
        old = self._rest(entry)
        if self._chunk is not None:
            self.played.seams.append(self.tick)
        if self._blend and len(old):
            chunk = replace(chunk, actions=entered(old, chunk.actions, self._moved - entry))
        self._entry, self._chunk, self._coming = entry, chunk, None

    def _rest(self, moved: int) -> Float32[np.ndarray, "J A"]:
        """What the present chunk has from a count of sent actions on."""
        return np.empty((0, 0), np.float32) if self._chunk is None else self._chunk.actions[moved - self._entry :]


def smoothness(
    actions: Sequence[np.ndarray], seams: Sequence[int], moving: Sequence[int], control_hz: float | int
) -> dict[str, float | None]:
    """How even the motion of an episode was asked for.

    Args:
        actions: [A] each, in the environment's unit.
        seams: ticks at which a new chunk took over.
        moving: which numbers of an action are motion (not the gripper's).
        control_hz: actions per second.

    Returns:
        `jitter`: root mean square of the second difference of the actions, per second²; `seam_jump`: of the first difference where a new
        chunk took over; `inner_jump`: of the first difference elsewhere. None where there is nothing to measure.
    """
    if not actions:
        return {"jitter": None, "seam_jump": None, "inner_jump": None}
    path = np.array(actions, np.float64)[:, list(moving)]
    first = np.diff(path, axis=0)
    at_seam = np.isin(np.arange(1, len(path)), list(seams))
    return {
        "jitter": _rms(np.diff(first, axis=0) * control_hz**2),
        "seam_jump": _rms(first[at_seam]),
        "inner_jump": _rms(first[~at_seam]),
    }


def _rms(differences: np.ndarray) -> float | None:
    return float(np.sqrt((differences**2).sum(1).mean())) if len(differences) else None
