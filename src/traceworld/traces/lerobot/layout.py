"""What a LeRobot dataset folder says of itself: `meta/info.json` of formats v2.0, v2.1 and v3.0, and where its files are.

v2 keeps one parquet and one video file per episode; v3.0 puts many episodes into each file and lists in
`meta/episodes/` where each one lies. Facts from LeRobot's published format, read with pyarrow alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from traceworld.errors import DatasetError, FormatVersionError
from traceworld.traces.atomic import read_json

INFO_FILE, STATS_FILE, TASKS_FILE = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
EPISODES_FOLDER = "meta/episodes"
EPISODES_PATH = EPISODES_FOLDER + "/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

VERSION = "v3.0"
"""The format that is written."""
READABLE = ("v2.0", "v2.1", "v3.0")

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
PERSISTENT, EVENTS = "language_persistent", "language_events"

INDEX_FEATURES: dict[str, dict[str, Any]] = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}
"""Columns that every LeRobot dataset has; its writers fill them and refuse them from the caller."""


@dataclass(frozen=True)
class Feature:
    """One entry of `features` in info.json.

    Attributes:
        key: its name, e.g. `observation.state`.
        dtype: a numpy dtype, `image`, `video`, `string` or `language`.
        shape: of one frame's value; pictures are [H,W,C] unless `names` says otherwise.
        names: of the elements, as written (a list, a dict of lists, or None).
        info: free-form facts about it (video encoding, depth unit, …).
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    names: Any = None
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_picture(self) -> bool:
        """True for colour pictures and depth maps, stored as images or as video."""
        return self.dtype in ("image", "video")

    @property
    def is_depth(self) -> bool:
        return self.is_picture and bool(self.info.get("is_depth_map") or self.info.get("video.is_depth_map"))

    @property
    def size(self) -> int:
        """Numbers per frame."""
        return math.prod(self.shape)

    def element_names(self) -> tuple[str, ...]:
        """A name per number: those of info.json where they fit, else `<last part of the key>_0`, `_1`, …"""
        found = self.names
        if isinstance(found, dict):  # {"motors": [...]} or {"axes": [...]}; some writers give one list per group
            found = [name for group in found.values() if isinstance(group, list) for name in group]
        if isinstance(found, list) and len(found) == self.size and all(isinstance(name, str) for name in found):
            return tuple(found)
        stem = self.key.rsplit(".", 1)[-1]
        return tuple(f"{stem}_{number}" for number in range(self.size))

    def to_json(self) -> dict[str, Any]:
        """As info.json has it."""
        entry: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape), "names": self.names}
        return entry | ({"info": dict(self.info)} if self.info else {})


@dataclass(frozen=True)
class Layout:
    """A LeRobot dataset folder, as its info.json describes it.

    Attributes:
        folder: the dataset.
        version: `v2.0`, `v2.1` or `v3.0`.
        fps: frames per second.
        features: by key, in the order of info.json.
        num_episodes: as stated.
        chunks_size: v2: episodes per chunk folder; v3: files per chunk folder.
        data_path, video_path: templates of file names; no video path when nothing is stored as video.
        robot_type: "" if not stated.
    """

    folder: Path
    version: str
    fps: float
    features: Mapping[str, Feature]
    num_episodes: int
    chunks_size: int
    data_path: str
    video_path: str | None
    robot_type: str = ""

    @property
    def info_file(self) -> Path:
        return self.folder / INFO_FILE

    @property
    def is_v3(self) -> bool:
        return self.version == VERSION

    def cameras(self) -> tuple[str, ...]:
        """Keys of the colour pictures, in the order of info.json."""
        return tuple(key for key, feature in self.features.items() if feature.is_picture and not feature.is_depth)

    def depth_keys(self) -> tuple[str, ...]:
        return tuple(key for key, feature in self.features.items() if feature.is_depth)

    def file(self, template: str, **fields: Any) -> Path:
        """The file that a path template of info.json names.

        Raises:
            DatasetError: the template has another form, or leads out of the folder.
        """
        try:
            relative = template.format(**fields)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise DatasetError(
                f"the path template '{template}' cannot be filled in: {error}", where=str(self.info_file)
            ) from error
        if Path(relative).is_absolute() or ".." in Path(relative).parts:
            raise DatasetError(f"the path template '{template}' leads out of the folder", where=str(self.info_file))
        return self.folder / relative


def read_layout(folder: str | Path) -> Layout:
    """Read and check `meta/info.json`.

    Raises:
        DatasetError: no LeRobot dataset, or a field of info.json is missing or impossible (both are named).
        FormatVersionError: a version of the format that is not known here.
    """
    folder = Path(folder)
    path = folder / INFO_FILE
    if not path.is_file():
        raise DatasetError(
            f"is not a LeRobot dataset (no {INFO_FILE})", where=str(folder), mend="give the folder that holds meta/"
        )
    info = read_json(path)
    version = info.get("codebase_version")
    if version not in READABLE:
        raise FormatVersionError(
            f"field 'codebase_version' is {version!r}; versions {', '.join(READABLE)} are read here",
            where=str(path),
            mend="convert it with LeRobot, or update traceworld",
        )
    features = _field(info, "features", dict, path)
    return Layout(
        folder=folder,
        version=version,
        fps=float(_positive(info, "fps", path)),
        features={key: _feature(key, entry, path) for key, entry in features.items()},
        num_episodes=int(_field(info, "total_episodes", int, path)),
        chunks_size=int(_positive(info, "chunks_size", path)),
        data_path=_field(info, "data_path", str, path),
        video_path=info.get("video_path") if isinstance(info.get("video_path"), str) else None,
        robot_type=str(info.get("robot_type") or ""),
    )


def _field(info: Mapping[str, Any], name: str, kind: type, path: Path) -> Any:
    value = info.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DatasetError(
            f"field '{name}' is missing or no {kind.__name__} (found {value!r})"[:300],
            where=str(path),
            mend="restore it from a copy",
        )
    return value


def _positive(info: Mapping[str, Any], name: str, path: Path) -> float | int:
    value = info.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise DatasetError(
            f"field '{name}' must be a positive number (found {value!r})", where=str(path), mend="restore it"
        )
    return value


def _feature(key: str, entry: Any, path: Path) -> Feature:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    sound = (
        isinstance(shape, list)
        and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape)
        and isinstance(entry.get("dtype"), str)
    )
    if not sound:
        raise DatasetError(
            f"feature '{key}' needs a dtype and a shape of positive integers",
            where=str(path),
            mend="restore info.json from a copy",
        )
    info = entry.get("info") or entry.get("video_info")
    info = info if isinstance(info, dict) else {}
    return Feature(key, entry["dtype"], tuple(shape or ()), entry.get("names"), info)
