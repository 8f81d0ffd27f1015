"""Demonstrations read from a LeRobot dataset folder (v2.0, v2.1, v3.0), without LeRobot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from traceworld.errors import ConfigError, DatasetError, InvalidInputError
from traceworld.traces.demonstrations import Demonstration
from traceworld.traces.lerobot.data import EpisodePictures, as_array, read_columns
from traceworld.traces.lerobot.episodes import EpisodeRow, read_episodes, read_stats, read_tasks
from traceworld.traces.lerobot.layout import ACTION, STATE, Feature, Layout, read_layout
from traceworld.traces.robot import ActionSpec

_SUCCESS = "next.success"


class LeRobotDemonstrations:
    """The episodes of a LeRobot dataset as demonstrations (`traces/demonstrations.py`).

    Args:
        folder: the dataset (the folder that holds `meta/`).
        cameras: which pictures to use, the scene camera first: feature keys (`observation.images.top`), their last
            parts (`top`), or a mapping from the name wanted here to either (`{"scene": "top", "wrist": "hand"}`).
            None: all colour features, in the order of info.json.
        state, action: feature keys of the numbers. A dataset without the state feature gives states of no numbers.

    Attributes:
        name: the folder. spec: what actions and states mean; bounds are the smallest and largest action recorded.
        cameras: name here → feature key. depths: the same of their metric depth, for those that have it.

    Raises:
        DatasetError: a file is missing or damaged, or a field is impossible (both are named).
        FormatVersionError: a version of the format that is not known here.
        ConfigError: a camera or feature that the dataset does not have.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        cameras: Sequence[str] | Mapping[str, str] | None = None,
        state: str = STATE,
        action: str = ACTION,
    ):
        self.layout = read_layout(folder)
        self.name = str(folder)
        self.cameras = chosen_cameras(self.layout, cameras)
        found = {name: depth_of(self.layout, key) for name, key in self.cameras.items()}
        self.depths = {name: key for name, key in found.items() if key is not None}
        self._state = self.layout.features.get(state)
        self._action = _number_feature(self.layout, action)
        self._rows = read_episodes(self.layout)
        self._tasks = read_tasks(self.layout)
        self.spec = self._read_spec()

    @property
    def fps(self) -> float:
        return self.layout.fps

    def __len__(self) -> int:
        return len(self._rows)

    def instructions(self) -> list[str]:
        """The instruction of every episode, without reading any; of several tasks in one, the first by number."""
        return [self._instruction(row) for row in self._rows]

    def __getitem__(self, index: int) -> Demonstration:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} episodes")
        row = self._rows[index]
        table = read_columns(row, [feature.key for feature in self._columns()])
        file = row.data_file
        timestamps = None
        if "timestamp" in table.column_names:
            timestamps = as_array(table, self.layout.features["timestamp"], file).astype(np.float32)
        pictures = EpisodePictures(self.layout, row, timestamps)
        state = np.zeros((row.length, 0), np.float32)
        if self._state is not None:
            state = self._numbers(as_array(table, self._state, file), self._state, row)
        success = None
        if _SUCCESS in self.layout.features:
            success = bool(as_array(table, self.layout.features[_SUCCESS], file).any())
        return Demonstration(
            episode_id=f"episode_{row.index:06d}",
            instruction=self._instruction(row),
            fps=self.fps,
            state=state,
            action=self._numbers(as_array(table, self._action, file), self._action, row),
            cameras=tuple(self.cameras),
            read_frame=_FrameReader(pictures, self.cameras),
            success=success,
            depth_cameras=tuple(self.depths),
            read_depth=_DepthReader(pictures, self.depths) if self.depths else None,
        )

    def _columns(self) -> list[Feature]:
        extra = [self.layout.features[key] for key in ("timestamp", _SUCCESS) if key in self.layout.features]
        return [self._action, *([self._state] if self._state else []), *extra]

    def _numbers(self, values: np.ndarray, feature: Feature, row: EpisodeRow) -> Float32[np.ndarray, "T D"]:
        numbers = values.reshape(row.length, -1).astype(np.float32)
        if not np.isfinite(numbers).all():
            frame = int(np.argwhere(~np.isfinite(numbers))[0, 0])
            raise DatasetError(
                f"column '{feature.key}' is not finite in episode {row.index}, frame {frame}",
                where=str(row.data_file),
                mend="delete the episode, or repair the recording",
            )
        return numbers

    def _instruction(self, row: EpisodeRow) -> str:
        if len(row.tasks) <= 1:
            return row.tasks[0] if row.tasks else ""
        number_of = {text: number for number, text in self._tasks.items()}
        return min(row.tasks, key=lambda text: (number_of.get(text, len(number_of)), text))

    def _read_spec(self) -> ActionSpec:
        key = self._action.key
        stats = read_stats(self.layout, [key]).get(key, {})
        low, high = (stats[name].reshape(-1) if name in stats else None for name in ("min", "max"))
        if low is None or high is None or not len(low) == len(high) == self._action.size:
            low, high = self._recorded_range()
        return ActionSpec(
            names=self._action.element_names(),
            low=tuple(float(value) for value in low),
            high=tuple(float(value) for value in high),
            control_hz=float(self.fps),
            state_names=self._state.element_names() if self._state is not None else (),
        )

    def _recorded_range(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.full(self._action.size, np.inf), np.full(self._action.size, -np.inf)
        for row in self._rows:
            table = read_columns(row, [self._action.key])
            values = as_array(table, self._action, row.data_file).reshape(row.length, -1)
            low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
        return low, high


class _FrameReader:
    """Reads a picture by the camera's name here. A class, so that it survives being sent to worker processes."""

    def __init__(self, pictures: EpisodePictures, keys: Mapping[str, str]):
        self._pictures, self._keys = pictures, dict(keys)

    def __call__(self, camera: str, frame: int) -> UInt8[np.ndarray, "_h _w 3"]:
        if camera not in self._keys:
            raise InvalidInputError(
                "no such camera", where=f"camera '{camera}'", mend=f"choose one of {sorted(self._keys)}"
            )
        return self._pictures.image(self._keys[camera], frame)


class _DepthReader:
    """Reads metres by the camera's name here."""

    def __init__(self, pictures: EpisodePictures, keys: Mapping[str, str]):
        self._pictures, self._keys = pictures, dict(keys)

    def __call__(self, camera: str, frame: int) -> Float32[np.ndarray, "_h _w"]:
        return self._pictures.depth(self._keys[camera], frame)


def short_name(key: str) -> str:
    """The name of a camera by its feature key: `observation.images.top` → `top`."""
    return key.rsplit(".", 1)[-1]


def depth_of(layout: Layout, key: str) -> str | None:
    """The depth feature of a camera: the one that bears its name, or the only one beside the only camera."""
    depths = layout.depth_keys()
    bare = short_name(key).replace("rgb", "").replace("color", "").strip("_-.")
    for candidate in depths:
        if short_name(candidate).replace("depth", "").strip("_-.") == bare:
            return candidate
    return depths[0] if len(depths) == 1 and len(layout.cameras()) == 1 else None


def chosen_cameras(layout: Layout, cameras: Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Name here → feature key, for the cameras asked for.

    Raises:
        ConfigError: the dataset has no such colour feature, or two would have one name.
        DatasetError: no camera was asked for and the dataset has none.
    """
    known = layout.cameras()
    by_name = {short_name(key): key for key in reversed(known)} | {key: key for key in known}
    if cameras is None:
        if not known:
            raise DatasetError("has no colour pictures", where=str(layout.info_file))
        shorts = [short_name(key) for key in known]
        return dict(zip(shorts if len(set(shorts)) == len(shorts) else known, known, strict=True))
    wanted = dict(cameras) if isinstance(cameras, Mapping) else {short_name(name): name for name in cameras}
    if unknown := [name for name in wanted.values() if name not in by_name]:
        raise ConfigError(
            f"no colour feature '{unknown[0]}' in {layout.folder}", where="cameras", mend=f"it has {list(known)}"
        )
    if not wanted or (not isinstance(cameras, Mapping) and len(wanted) != len(cameras)):
        raise ConfigError(
            f"{list(cameras)} names no camera, or two by one name", where="cameras", mend="give a mapping name → key"
        )
    return {name: by_name[key] for name, key in wanted.items()}


def _number_feature(layout: Layout, key: str) -> Feature:
    feature = layout.features.get(key)
    if feature is None or feature.is_picture or feature.dtype in ("string", "language"):
        raise ConfigError(
            f"{layout.folder} has no feature '{key}' of numbers",
            where="action",
            mend=f"it has {[k for k in layout.features if k not in ('index', 'timestamp')]}",
        )
    return feature
