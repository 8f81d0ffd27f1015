"""Episodes of a robot that was shown what to do: states, actions and pictures, whatever they are stored in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from traceworld.errors import InvalidInputError
from traceworld.traces.robot import ActionSpec


@runtime_checkable
class FrameReader(Protocol):
    """Reads one picture of an episode; may be called in any order and from forked readers."""

    def __call__(self, camera: str, frame: int) -> UInt8[np.ndarray, "_h _w 3"]: ...


@runtime_checkable
class DepthReader(Protocol):
    """Reads one depth map of an episode, as `FrameReader` reads pictures: metres along the camera's axis, NaN unknown."""

    def __call__(self, camera: str, frame: int) -> Float32[np.ndarray, "_h _w"]: ...


@dataclass(frozen=True, eq=False)
class Demonstration:
    """One episode.

    Attributes:
        episode_id: unique in its set.
        instruction: what is done, in words.
        fps: frames (and actions) per second.
        state: [T,P] proprioception before each action. action: [T,A] what was sent.
        cameras: names, the scene camera first.
        read_frame: the picture that a camera saw before action `frame`.
        success: whether the task was done in the end; None if nobody knows.
        depth_cameras: those of `cameras` that have metric depth. read_depth: it, of the same moment as the picture.
    """

    episode_id: str
    instruction: str
    fps: float
    state: Float32[np.ndarray, "T P"]
    action: Float32[np.ndarray, "T A"]
    cameras: tuple[str, ...]
    read_frame: FrameReader = field(repr=False)
    success: bool | None = None
    depth_cameras: tuple[str, ...] = ()
    read_depth: DepthReader | None = field(default=None, repr=False)

    def __post_init__(self):
        if len(self.state) != len(self.action) or not len(self.action):
            raise InvalidInputError(
                f"{len(self.state)} states and {len(self.action)} actions", where=f"episode {self.episode_id}"
            )
        if not self.cameras:
            raise InvalidInputError("has no camera", where=f"episode {self.episode_id}")
        if set(self.depth_cameras) - set(self.cameras) or (self.depth_cameras and self.read_depth is None):
            raise InvalidInputError(
                f"depth of {list(self.depth_cameras)}, which have no picture or no reader",
                where=f"episode {self.episode_id}",
            )

    def __len__(self) -> int:
        return len(self.action)

    def depth_m(self, camera: str, frame: int) -> Float32[np.ndarray, "_h _w"]:
        """Metric depth that a camera saw before action `frame`, NaN unknown.

        Raises:
            InvalidInputError: this camera has none.
        """
        if self.read_depth is None or camera not in self.depth_cameras:
            raise InvalidInputError(
                f"camera '{camera}' has no depth",
                where=f"episode {self.episode_id}",
                mend="record demonstrations with depth (traceworld sim demos --depth)",
            )
        return self.read_depth(camera, frame)


@runtime_checkable
class Demonstrations(Protocol):
    """A set of demonstrations with one meaning of actions and states.

    Attributes:
        name: for messages, e.g. its folder.
        spec: what actions and states mean.
    """

    name: str
    spec: ActionSpec

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Demonstration: ...

    def instructions(self) -> Sequence[str]:
        """The instruction of every episode, without reading any."""
        ...
