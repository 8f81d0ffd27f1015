"""Cameras of a simulated scene: Meta-World's own, free ones, and ones that move.

A view is described as one describes a photograph: what it looks at, from how far, from which side, from how high, and
how wide. Pictures are always upright: Meta-World's corner cameras hang upside down or lean by a few degrees; here
they keep their place, direction and field of view and stand straight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from traceworld.errors import ConfigError
from traceworld.traces.types import Cameras

if TYPE_CHECKING:
    from traceworld.sim.worlds import Stage

FIXED_CAMERAS = ("topview", "corner", "corner2", "corner3", "corner4")
MOUNTED_CAMERAS = ("behindGripper", "gripperPOV")
"""Meta-World's cameras: fixed in the scene; carried by the gripper."""

WORKSPACE = (0.0, 0.65, 0.1)
"""Roughly the middle of where things happen, world metres."""


@dataclass(frozen=True)
class CameraView:
    """A free camera without roll.

    Attributes:
        lookat: the point in the middle of the picture, world metres.
        distance: from the camera to it, metres.
        azimuth_deg, elevation_deg: direction in which the camera looks; azimuth 0 looks along +x, 90 along +y,
            elevation −90 looks straight down.
        fovy_deg: vertical field of view.
    """

    lookat: tuple[float, float, float] = WORKSPACE
    distance: float = 1.5
    azimuth_deg: float = 45.0
    elevation_deg: float = -20.0
    fovy_deg: float = 45.0

    def __post_init__(self):
        if not (self.distance > 0 and 1 < self.fovy_deg < 170 and -90 <= self.elevation_deg <= 90):
            raise ConfigError(
                f"impossible camera {self}",
                where="CameraView",
                mend="distance > 0, 1° < fovy < 170°, |elevation| ≤ 90°",
            )

    def cam_from_world(self) -> Float64[np.ndarray, "4 4"]:
        """The pose, OpenCV axes."""
        azimuth, elevation = np.radians([self.azimuth_deg, self.elevation_deg])
        forward = np.array(
            [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
        )
        right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
        rotation = np.stack([right, np.cross(forward, right), forward])
        pose = np.eye(4)
        pose[:3, :3] = rotation
        pose[:3, 3] = -rotation @ (np.array(self.lookat) - self.distance * forward)
        return pose

    def jittered(self, rng: np.random.Generator, amount: float = 1.0) -> CameraView:
        """A similar view: at `amount` 1, ±8° around, ±5° up and down, ±10 % in distance, ±4 cm in aim, ±5 % in width."""
        turn, rise, dolly, zoom, *aim = amount * rng.uniform(-1, 1, 7)
        return replace(
            self,
            lookat=_point(np.array(self.lookat) + 0.04 * np.array(aim)),
            distance=float(self.distance * (1 + 0.1 * dolly)),
            azimuth_deg=float(self.azimuth_deg + 8 * turn),
            elevation_deg=float(np.clip(self.elevation_deg + 5 * rise, -89.9, 89.9)),
            fovy_deg=float(self.fovy_deg * (1 + 0.05 * zoom)),
        )


@dataclass(frozen=True)
class CameraPath:
    """A camera that moves smoothly: it orbits, rises and approaches, and is back where it began after a full swing.

    Attributes:
        start: the view of the first frame (a fixed camera's name or a view).
        orbit_deg, rise_deg, dolly: how far it goes at most: degrees around, degrees up, fraction of the distance.
        seed: decides directions and speeds.
    """

    start: str | CameraView = "corner"
    orbit_deg: float = 10.0
    rise_deg: float = 4.0
    dolly: float = 0.06
    seed: int = 0

    def views(self, start: CameraView, num_frames: int) -> list[CameraView]:
        """The view in every frame; the first is `start` itself."""
        rng = np.random.default_rng([self.seed, 0xCA3])
        phase = np.linspace(0, 1, max(num_frames, 2))
        size = np.array([self.orbit_deg, self.rise_deg, self.dolly]) * rng.choice([-1.0, 1.0], 3)
        swings = rng.uniform(0.5, 1.0, 3)  # half a swing ends at the far side, a whole one back at the start
        turn, rise, dolly = size[:, None] * (1 - np.cos(2 * np.pi * swings[:, None] * phase)) / 2
        return [
            replace(
                start,
                distance=float(start.distance * (1 + dolly[t])),
                azimuth_deg=float(start.azimuth_deg + turn[t]),
                elevation_deg=float(np.clip(start.elevation_deg + rise[t], -89.9, 89.9)),
            )
            for t in range(num_frames)
        ]


CameraChoice = str | CameraView | CameraPath


def intrinsics(fovy_deg: float, width: int, height: int) -> Float64[np.ndarray, "3 3"]:
    """K of a square-pixel camera. The picture spans −0.5 … height − 0.5 vertically (pixel centres are at integers), so
    its middle is (height − 1) / 2 and half its height, height / 2 pixels, subtends half the field of view."""
    focal = height / 2 / np.tan(np.radians(fovy_deg) / 2)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])


def named_view(stage: Stage, name: str) -> CameraView:
    """A fixed Meta-World camera, made upright. Its `lookat` is the point of its axis nearest to the workspace.

    Raises:
        ConfigError: no such camera, or one that is mounted on the gripper.
    """
    _check_name(name, FIXED_CAMERAS)
    camera = stage.data.camera(name)
    forward = -camera.xmat.reshape(3, 3)[:, 2]
    distance = float(forward @ (np.array(WORKSPACE) - camera.xpos))
    return CameraView(
        lookat=_point(camera.xpos + distance * forward),
        distance=distance,
        azimuth_deg=_azimuth(camera.xmat.reshape(3, 3)),
        elevation_deg=float(np.degrees(np.arcsin(np.clip(forward[2], -1, 1)))),
        fovy_deg=float(stage.model.camera(name).fovy[0]),
    )


def _point(xyz: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in xyz)
    return x, y, z


def _azimuth(gl_axes: np.ndarray) -> float:
    forward = -gl_axes[:, 2]
    if np.hypot(forward[0], forward[1]) < 1e-6:  # straight down: what is up in the picture decides
        forward = gl_axes[:, 1]
    return float(np.degrees(np.arctan2(forward[1], forward[0])))


def _check_name(name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ConfigError(f"there is no camera '{name}' here", where="camera", mend=f"one of {', '.join(known)}")


def film_cameras(
    stage: Stage, choice: CameraChoice, states: Float64[np.ndarray, "T nq"], width: int, height: int
) -> Cameras:
    """The camera of every frame, in the simulator's world frame.

    Args:
        stage: loaded with the episode.
        choice: a Meta-World camera by name, a free view, or a path.
        states: [T,nq] the joint states filmed (cameras mounted on the gripper follow them).

    Raises:
        ConfigError: no such camera.
    """
    if isinstance(choice, str):
        _check_name(choice, FIXED_CAMERAS + MOUNTED_CAMERAS)
        if choice in MOUNTED_CAMERAS:
            poses = np.array([_mounted_pose(stage, choice, qpos) for qpos in states])
            fovy = float(stage.model.camera(choice).fovy[0])
            return _cameras(poses, fovy, width, height)
        choice = named_view(stage, choice)
    if isinstance(choice, CameraPath):
        start = named_view(stage, choice.start) if isinstance(choice.start, str) else choice.start
        poses = np.array([view.cam_from_world() for view in choice.views(start, len(states))])
        return _cameras(poses, start.fovy_deg, width, height)
    return _cameras(np.repeat(choice.cam_from_world()[None], len(states), 0), choice.fovy_deg, width, height)


def _mounted_pose(stage: Stage, name: str, qpos: np.ndarray) -> np.ndarray:
    stage.put(qpos)
    camera = stage.data.camera(name)
    rotation = camera.xmat.reshape(3, 3).T * np.array([[1.0], [-1.0], [-1.0]])  # OpenGL axes to OpenCV axes
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ camera.xpos
    return pose


def _cameras(poses: np.ndarray, fovy_deg: float, width: int, height: int) -> Cameras:
    K = intrinsics(fovy_deg, width, height)
    return Cameras(np.repeat(K[None], len(poses), 0), poses, width, height)
