"""LeRobot datasets (v2.0, v2.1, v3.0) into our clip store: robot recordings, and what `export_lerobot` wrote.

A clip is one episode seen by one camera. A recording has no traces yet: its clips have pictures, depth where there is any,
events from the language columns, and the robot's own columns in a file beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from traceworld.errors import ConfigError, MediaError, TraceworldError
from traceworld.traces.lerobot.columns import FILE_NAME, PROVENANCE_KEY, write_robot_columns
from traceworld.traces.lerobot.data import EpisodePictures, as_array, read_columns
from traceworld.traces.lerobot.episodes import EpisodeRow, read_episodes, read_subtasks, read_tasks
from traceworld.traces.lerobot.from_clips import CLIP
from traceworld.traces.lerobot.language import events_of_rows, events_of_runs
from traceworld.traces.lerobot.layout import PERSISTENT, Layout, read_layout
from traceworld.traces.lerobot.own_export import clip_of_export, robot_features
from traceworld.traces.lerobot.picture_files import store_pictures
from traceworld.traces.lerobot.reader import chosen_cameras, depth_of
from traceworld.traces.lerobot.videos import frame_times
from traceworld.traces.types import Cameras, Clip, Event, Media, Traces
from traceworld.traces.writer import DatasetWriter

ASSUMED_FOV_DEG = 60.0
"""Horizontal field of view assumed for cameras that LeRobot says nothing about."""


@dataclass(frozen=True)
class ImportReport:
    """What an import did: number of clips `ok`, `failed`, and found `done` from an earlier run."""

    ok: int
    failed: int
    done: int


def import_lerobot(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    cameras: Sequence[str] | None = None,
    depth: bool = True,
    max_episodes: int | None = None,
    retry_failed: bool = False,
) -> ImportReport:
    """Read LeRobot datasets into a clip store; repeat the call to go on after a kill.

    Colour videos stay where they are and are referred to; pictures that the dataset keeps in its tables, and those of
    cameras with depth, are stored as files. Intrinsics are assumed (60° field of view; `provenance["intrinsics"]` says so).

    Args:
        folders: LeRobot datasets.
        out: dataset folder to write or to go on with.
        cameras: which cameras, by feature key or its last part; None: all. Each gives a clip per episode.
        depth: take depth maps along, where a depth feature bears the camera's name and `depth` (`top_depth`), or where
            there is one camera and one depth feature.
        max_episodes: read at most so many episodes of each dataset.
        retry_failed: try again what failed in an earlier run.

    Raises:
        DatasetError, FormatVersionError: a folder is no readable LeRobot dataset.
        ConfigError: a dataset has no such camera.
    """
    writer = DatasetWriter(out, source="import lerobot")
    done, ok, failed, already = writer.done_items(retry_failed=retry_failed), 0, 0, 0
    for item_id, source in _items([Path(folder) for folder in folders], cameras, depth, max_episodes):
        if item_id in done:
            already += 1
            continue
        try:
            writer.write_item(item_id, [source.clip(item_id, writer)])
            ok += 1
        except TraceworldError as error:
            writer.write_item(item_id, [], status="failed", stage="read", error=str(error))
            failed += 1
    writer.finalise()
    return ImportReport(ok, failed, already)


def _items(
    folders: Sequence[Path], cameras: Sequence[str] | None, depth: bool, max_episodes: int | None
) -> Iterator[tuple[str, _Source]]:
    names: set[str] = set()
    for folder in folders:
        name = folder.resolve().name
        if name in names:
            raise ConfigError(f"two datasets are called '{name}'", where="folders", mend="import them one by one")
        names.add(name)
        layout = read_layout(folder)
        tasks, subtasks = read_tasks(layout), read_subtasks(layout)
        # A recording without pictures still has numbers and captions, but a clip of it would show nothing: refuse.
        chosen = {"": None} if CLIP in layout.features and not layout.cameras() else chosen_cameras(layout, cameras)
        for row in read_episodes(layout)[:max_episodes]:
            for camera, key in chosen.items():
                depth_key = depth_of(layout, key) if depth and key else None
                source = _Source(layout, row, tasks, subtasks, key, depth_key)
                yield "/".join(filter(None, [name, f"episode_{row.index:06d}", camera])), source


@dataclass(frozen=True)
class _Source:
    """One episode of one camera."""

    layout: Layout
    row: EpisodeRow
    tasks: dict[int, str]
    subtasks: dict[int, str]
    key: str | None
    depth_key: str | None

    def clip(self, item_id: str, writer: DatasetWriter) -> Clip:
        features = [f for f in self.layout.features.values() if not f.is_picture]
        table = read_columns(self.row, [feature.key for feature in features])
        times = self._numbers(table, "timestamp")
        pictures = EpisodePictures(self.layout, self.row, times.astype(np.float32))
        folder = writer.media_folder(item_id)
        if CLIP in self.layout.features:
            return clip_of_export(table, self.layout, pictures, self.key, self.depth_key, folder, writer.path)
        assert self.key is not None
        robot = robot_features(self.layout)
        provenance: dict[str, Any] = {
            "source": str(self.layout.folder.resolve()),
            "lerobot": {"version": self.layout.version, "episode": self.row.index, "camera": self.key, "fps": self.layout.fps},
            "intrinsics": f"assumed: {ASSUMED_FOV_DEG:g}° across the longer side",
        }  # fmt: skip
        if robot:
            write_robot_columns(folder / FILE_NAME, table, robot)
            provenance[PROVENANCE_KEY] = (folder / FILE_NAME).relative_to(writer.path).as_posix()
        media, size = self._media(pictures, folder, writer.path, times, provenance)
        T = self.row.length
        task_index = self._numbers(table, "task_index").astype(np.int64)
        return Clip(
            item_id,
            _increasing(times.astype(np.float64), self.layout.fps),
            Cameras.still(_assumed_K(*size), size[0], size[1], T),
            Traces.empty(T),
            media,
            self._events(table, task_index),
            self.tasks.get(int(task_index[0]), self.row.tasks[0] if self.row.tasks else ""),
            metric=self.depth_key is not None,
            provenance=provenance,
            root=writer.path,
        )

    def _numbers(self, table: pa.Table, key: str) -> np.ndarray:
        return as_array(table, self.layout.features[key], self.row.data_file)

    def _events(self, table: pa.Table, task_index: np.ndarray) -> tuple[Event, ...]:
        if PERSISTENT in table.column_names:
            rows = table[PERSISTENT][0].as_py()
            if events := events_of_rows(rows, self.row.length, self.layout.fps):
                return events
        if self.subtasks and "subtask_index" in table.column_names:
            return events_of_runs(self._numbers(table, "subtask_index"), self.subtasks)
        return events_of_runs(task_index, self.tasks) if len(set(task_index.tolist())) > 1 else ()

    def _media(
        self, pictures: EpisodePictures, folder: Path, root: Path, times: np.ndarray, provenance: dict[str, Any]
    ) -> tuple[Media, tuple[int, int]]:
        assert self.key is not None
        feature = self.layout.features[self.key]
        first = pictures.image(self.key, 0)
        size = (first.shape[1], first.shape[0])
        if feature.dtype == "video" and self.depth_key is None:
            place = self.row.videos[self.key]
            provenance["source_frames"] = _frame_numbers(
                place.file, place.from_s + times.astype(np.float64), self.layout.fps
            )
            return Media("video", str(place.file.resolve())), size
        return store_pictures(pictures, self.key, self.depth_key, range(self.row.length), folder, root), size


def _frame_numbers(path: Path, times_s: np.ndarray, fps: float | int) -> list[int]:
    """Which frames of a video file show these moments."""
    shown = frame_times(path)
    if not len(shown):
        raise MediaError("holds no frames", where=str(path))
    places = np.searchsorted(shown, times_s - 0.45 / fps)
    wrong = (places >= len(shown)) | (np.abs(shown[places.clip(max=len(shown) - 1)] - times_s) > 0.45 / fps)
    if wrong.any():
        raise MediaError(
            f"has no frame at {times_s[int(wrong.argmax())]:.4f} s", where=str(path), mend="restore it from a copy"
        )
    return places.astype(int).tolist()


def _increasing(times: np.ndarray, fps: float | int) -> np.ndarray:
    """Time stamps as recorded, or evenly spaced where they stand still or run back."""
    return times if (np.diff(times) > 0).all() else np.arange(len(times)) / fps


def _assumed_K(width: int, height: int) -> np.ndarray:
    focal = max(width, height) / 2 / math.tan(math.radians(ASSUMED_FOV_DEG) / 2)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
