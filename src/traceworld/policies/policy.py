"""The one interface of everything that acts, and how policies are found by name."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from traceworld.traces.robot import ActionChunk, RobotObservation


@runtime_checkable
class Policy(Protocol):
    """Anything that says what a robot does next.

    Attributes:
        name: how tables call it.

    A policy may say what it is to be shown: `cameras`, names with the scene camera first, and `wants_depth`.
    """

    name: str

    def reset(self, seed: int = 0) -> None:
        """A new episode begins: forget the last one. What follows depends on `seed` and the observations alone."""
        ...

    def act(self, observation: RobotObservation) -> ActionChunk:
        """The next actions. Called once per chunk, or more often: how much of it is played is the caller's choice."""
        ...
