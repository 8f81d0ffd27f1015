"""Robot recordings as scenes: LeRobot datasets with a calibrated camera, by the rules of DROID, AgiBot or RoboTwin (§5.4).

LeRobot says nothing about calibration or the meaning of states; `calibration.json` beside `meta/` does:
    {"camera": "top", "depth": "top_depth",
     "K": [[…]], "cam_from_base": [[…]],                       metres, robot base to camera; K in pixels of the pictures
     "episodes": {"7": {"cam_from_base": [[…]]}},              optional, where the camera was moved
     "up_in_base": [0, 0, 1],
     "position": ["x", "y", "z"], "rotation": ["rx", "ry", "rz"], "rotation_kind": "euler_xyz" | "rotvec" | "quaternion_xyzw",
     "gripper": "grip", "closed_below": 0.02 | "closed_above": 0.5}
Names are those of `observation.state`. An episode is a scene (its picture at Fb) with two traces: of the object, while the gripper
is closed, and of the end effector, from Fb on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy.spatial.transform import Rotation

from traceworld.errors import DatasetError, ExtractionError, InvalidInputError
from traceworld.traces.atomic import read_json
from traceworld.traces.demonstrations import Demonstration
from traceworld.traces.lerobot.data import EpisodePictures, as_array, read_columns
from traceworld.traces.lerobot.episodes import read_episodes
from traceworld.traces.lerobot.reader import LeRobotDemonstrations
from traceworld.traces.types import Camera
from traceworld.tracespatial.recorded import recorded_scene, recorded_set, turned, upright
from traceworld.tracespatial.scene import Scene
from traceworld.tracespatial.sources import TraceSet
from traceworld.tracespatial.video_rules import (
    Segment,
    calibration_holds,
    consistency,
    grip_points,
    hidden,
    rules_of,
    segments,
)

CALIBRATION = "calibration.json"
TESTED_FRAMES = 20
"""Frames of an episode that the calibration is tested on, evenly spread."""
_ROTATIONS = {"euler_xyz": 3, "rotvec": 3, "quaternion_xyzw": 4}


@dataclass(frozen=True, eq=False)
class Effector:
    """What the states of an episode say: flange position [T,3] and rotation [T,3,3] in the base frame, gripper closed [T]."""

    position: Float[np.ndarray, "T 3"]
    rotation: Float[np.ndarray, "T 3 3"]
    closed: Bool[np.ndarray, " T"]


@dataclass(frozen=True, eq=False)
class _Episode:
    demonstration: Demonstration
    camera: Camera
    turn: Float[np.ndarray, "3 3"]
    grip_world: Float[np.ndarray, "T 3"]
    segment: Segment


class VideoSource:
    """Episodes of a calibrated LeRobot dataset.

    Args:
        folder: the dataset, with `calibration.json`. rules: `droid`, `agibot` or `robotwin`.

    Raises:
        DatasetError: no readable dataset, or no usable calibration. ConfigError: unknown rules or camera.
    """

    def __init__(self, folder: str | Path, rules: str = "droid"):
        self.folder, self.rules = Path(folder), rules_of(rules)
        self.name = f"video {rules} {self.folder.name}"
        self._about = read_calibration(self.folder)
        self._demos = LeRobotDemonstrations(folder, cameras={"scene": self._about["camera"]})
        self._rows = read_episodes(self._demos.layout)

    def scene_ids(self) -> Iterator[str]:
        """One per closed interval that the rules allow an episode to have; RoboTwin's several are numbered."""
        for number, row in enumerate(self._rows):
            closed = read_effector(self._demos[number], self._about, self._demos.spec.state_names).closed
            for place, _ in enumerate(segments(closed, self.rules)):
                yield f"episode_{row.index:06d}-{place}"

    def load(self, scene_id: str) -> Scene:
        """The picture at Fb.

        Raises:
            ExtractionError: the calibration does not hold, or the gripper is hidden there.
            InvalidInputError: no such scene. MediaError, DepthError: a picture cannot be read.
        """
        episode = self._episode(scene_id)
        self._check(episode, scene_id)
        base = episode.segment.base
        image = episode.demonstration.read_frame("scene", base)
        depth_m = self._depth(scene_id, base)
        grip = episode.grip_world[episode.segment.start]
        if self.rules.check_hidden and depth_m is not None and hidden(grip, depth_m, episode.camera):
            raise ExtractionError("the grip point is hidden", where=scene_id, mend="nothing: leave it out")
        return recorded_scene(scene_id, image, depth_m, episode.camera)

    def traces(self, scene: Scene, seed: int, number: int) -> list[TraceSet]:
        """The recorded traces, whatever the seed: of the object over [Fs, Fe), of the end effector over [Fb, Fe)."""
        episode = self._episode(scene.scene_id)
        start, end, base = episode.segment.start, episode.segment.end, episode.segment.base
        words = episode.demonstration.instruction
        paths = (("object", episode.grip_world[start:end]), ("end-effector", episode.grip_world[base:end]))
        found = [recorded_set(scene, path, words, kind) for kind, path in paths]
        return [traces for traces in found if isinstance(traces, TraceSet)]

    def _place(self, scene_id: str) -> tuple[int, int]:
        for number, row in enumerate(self._rows):
            head, _, place = scene_id.rpartition("-")
            if head == f"episode_{row.index:06d}" and place.isdigit():
                return number, int(place)
        raise InvalidInputError(f"no scene {scene_id!r}", where=str(self.folder))

    def _episode(self, scene_id: str) -> _Episode:
        number, place = self._place(scene_id)
        demonstration = self._demos[number]
        effector = read_effector(demonstration, self._about, self._demos.spec.state_names)
        found = segments(effector.closed, self.rules)
        if place >= len(found):
            raise InvalidInputError(f"no scene {scene_id!r}", where=str(self.folder))
        image = demonstration.read_frame("scene", found[place].base)
        camera = camera_of(self._about, self._rows[number].index, image.shape[1], image.shape[0], str(self.folder))
        camera, turn = upright(camera, np.asarray(self._about.get("up_in_base", (0, 0, 1)), np.float64))
        grip = turned(grip_points(effector.position, effector.rotation, self.rules), turn)
        return _Episode(demonstration, camera, turn, grip, found[place])

    def _check(self, episode: _Episode, scene_id: str) -> None:
        """The extrinsics check over frames spread through the episode."""
        if self.rules.consistent_share is None:
            return
        effector = read_effector(episode.demonstration, self._about, self._demos.spec.state_names)
        frames = np.unique(np.linspace(0, len(episode.demonstration) - 1, TESTED_FRAMES).astype(int)).tolist()
        depths = [self._depth(scene_id, frame) for frame in frames]
        if any(depth is None for depth in depths):
            raise ExtractionError(
                "has no depth to test the calibration with", where=scene_id, mend="name a depth feature"
            )
        tested = consistency(
            turned(effector.position[frames], episode.turn),
            [depth for depth in depths if depth is not None],
            episode.camera,
            self.rules.blind_counts,
        )
        if not calibration_holds(*tested, self.rules):
            raise ExtractionError(
                f"the calibration holds in {tested[0]} of {tested[1]} frames", where=scene_id, mend="calibrate again"
            )

    def _depth(self, scene_id: str, frame: int) -> Float32[np.ndarray, "H W"] | None:
        key = self._about.get("depth")
        if not key:
            return None
        layout = self._demos.layout
        keys = [name for name in layout.depth_keys() if name == key or name.rsplit(".", 1)[-1] == key]
        if not keys:
            raise DatasetError(
                f"has no depth feature '{key}'", where=str(self.folder), mend=f"it has {layout.depth_keys()}"
            )
        row = self._rows[self._place(scene_id)[0]]
        timestamps = None
        if "timestamp" in layout.features:
            timestamps = as_array(read_columns(row, ["timestamp"]), layout.features["timestamp"], row.data_file)
            timestamps = timestamps.astype(np.float32)
        return EpisodePictures(layout, row, timestamps).depth(keys[0], frame)


def read_calibration(folder: Path) -> dict[str, Any]:
    """`calibration.json`, checked.

    Raises:
        DatasetError: it is missing or lacks a field.
    """
    path = folder / CALIBRATION
    about = read_json(path)
    needed = ("camera", "K", "cam_from_base", "position", "rotation", "rotation_kind", "gripper")
    if missing := [name for name in needed if name not in about]:
        raise DatasetError(f"has no '{missing[0]}'", where=str(path), mend="see tracespatial/video_source.py")
    if about["rotation_kind"] not in _ROTATIONS or len(about["rotation"]) != _ROTATIONS[about["rotation_kind"]]:
        raise DatasetError(
            "rotation and rotation_kind do not fit", where=str(path), mend=f"kinds: {sorted(_ROTATIONS)}"
        )
    if ("closed_below" in about) == ("closed_above" in about):
        raise DatasetError("needs closed_below or closed_above", where=str(path), mend="give the one that holds")
    return about


def camera_of(about: dict[str, Any], episode: int, width: int, height: int, where: str) -> Camera:
    """The camera of an episode, the robot's base as the world."""
    own = {**about, **about.get("episodes", {}).get(str(episode), {})}
    try:
        K = np.asarray(own["K"], np.float64).reshape(3, 3)
        pose = np.asarray(own["cam_from_base"], np.float64).reshape(4, 4)
        return Camera(K, pose, width, height)
    except (ValueError, TypeError, InvalidInputError) as error:
        raise DatasetError(
            f"has no proper camera for episode {episode}: {error}", where=f"{where}/{CALIBRATION}"
        ) from error


def read_effector(demonstration: Demonstration, about: dict[str, Any], state_names: Sequence[str]) -> Effector:
    """Flange and gripper from the states of an episode.

    Raises:
        DatasetError: a state that the calibration names is not there.
    """
    names = list(state_names)
    wanted = [*about["position"], *about["rotation"], about["gripper"]]
    if unknown := [name for name in wanted if name not in names]:
        raise DatasetError(f"there is no state '{unknown[0]}'", where=CALIBRATION, mend=f"states: {names}")
    state = demonstration.state.astype(np.float64)
    columns = {name: state[:, names.index(name)] for name in wanted}
    position = np.stack([columns[name] for name in about["position"]], 1)
    numbers = np.stack([columns[name] for name in about["rotation"]], 1)
    turns = {
        "euler_xyz": lambda: Rotation.from_euler("xyz", numbers),
        "rotvec": lambda: Rotation.from_rotvec(numbers),
        "quaternion_xyzw": lambda: Rotation.from_quat(numbers),
    }[about["rotation_kind"]]()
    grip = columns[about["gripper"]]
    closed = grip < float(about["closed_below"]) if "closed_below" in about else grip > float(about["closed_above"])
    return Effector(position, turns.as_matrix(), closed)
