"""Writing LeRobot v3.0 folders: many episodes per file, every file whole or absent, resumable, the same bytes each time.

Episodes go into files in blocks. A block's videos and data are written first and its part of the list of episodes last, so
a block counts as written when its list is there; a killed run goes on after the last such block. `info.json` comes last of
all: LeRobot does not open a folder that is not finished.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from traceworld.errors import DatasetError, InvalidInputError
from traceworld.traces.atomic import TEMP_SUFFIX, write_atomically, write_json
from traceworld.traces.lerobot.encode import png_bytes, tiff_bytes, write_video
from traceworld.traces.lerobot.episodes import read_table
from traceworld.traces.lerobot.layout import (
    DATA_PATH,
    EPISODES_PATH,
    INDEX_FEATURES,
    INFO_FILE,
    STATS_FILE,
    TASKS_FILE,
    VERSION,
    VIDEO_PATH,
    Feature,
)
from traceworld.traces.lerobot.schema import arrow_column, arrow_schema, episodes_table, stats_of_rows, tasks_table
from traceworld.traces.lerobot.stats import (
    Stats,
    column_stats,
    depth_stats,
    merge_stats,
    picture_stats,
    sampled_frames,
    thinned,
)
from traceworld.traces.lerobot.videos import depth_to_levels

_IDS, _PLAN = b"traceworld.episode_ids", b"traceworld.plan"
CHUNK_FILES, DATA_MB, VIDEO_MB = 1000, 100, 200
_VIDEO_BYTES_PER_PIXEL = 0.12  # a guess that decides how many episodes share a file, nothing else


@dataclass(frozen=True, eq=False)
class Episode:
    """One episode to be written.

    Attributes:
        episode_id: unique; tells a resumed run what is there already.
        task: what is done, in words.
        length: frames.
        columns: feature → [T,…] numbers, or a list of T values for `string` and `language` features.
        read_picture: (feature, frame) → RGB uint8 [H,W,3]; of a depth feature metres [H,W] (video) or the values to be
            stored (image).
    """

    episode_id: str
    task: str
    length: int
    columns: Mapping[str, Any] = field(default_factory=dict)
    read_picture: Callable[[str, int], np.ndarray] | None = None


def write_episodes(
    episodes: Iterable[Episode],
    folder: str | Path,
    features: Sequence[Feature],
    fps: float | int,
    *,
    robot_type: str = "",
    codec: str = "h264",
    encode_image: Callable[[np.ndarray], bytes] = png_bytes,
    data_mb: float | int = DATA_MB,
    video_mb: float | int = VIDEO_MB,
) -> Path:
    """Write a LeRobot v3.0 dataset; call it again with the same arguments to go on after a kill.

    Args:
        episodes: in order; on going on, those that are written already are passed over (by their ids).
        folder: new, or one that an unfinished run of the same call has left.
        features: everything but the index columns, which are added.
        fps: frames per second.
        robot_type: name of the robot.
        codec: of colour video features, `h264` or `av1`; depth video is lossless HEVC.
        encode_image: makes the bytes of a colour `image` feature.
        data_mb, video_mb: about how large files may grow.

    Returns:
        The folder.

    Raises:
        DatasetError: the folder holds something else, a finished dataset, or another run's beginning.
        InvalidInputError: an episode does not fit the features.
    """
    writer = _Writer(Path(folder), list(features), fps, robot_type, codec, encode_image, data_mb, video_mb)
    for episode in episodes:
        writer.add(episode)
    return writer.finish()


class _Writer:
    def __init__(self, folder, features, fps, robot_type, codec, encode_image, data_mb, video_mb):
        _check_features(features)
        self.folder, self.features, self.fps = folder, {f.key: f for f in features}, fps
        self.robot_type, self.codec, self.encode_image = robot_type, codec, encode_image
        self._limits = (data_mb * 2**20, video_mb * 2**20)
        self._tasks: dict[str, int] = {}
        self._written: list[tuple[str, int]] = []  # id and length of each episode that is there already
        self._frames, self._episodes, self._blocks = 0, 0, 0
        self._block: list[Episode] = []
        self._stats: list[Stats] = []
        self._plan = self._fingerprint()
        self._resume()

    def _fingerprint(self) -> str:
        plan = [[f.key, f.to_json()] for f in self.features.values()]
        text = json.dumps([plan, self.fps, self.robot_type, self.codec, self._limits], sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def _resume(self) -> None:
        if (self.folder / INFO_FILE).exists():
            raise DatasetError("is a finished dataset already", where=str(self.folder), mend="choose a new folder")
        there = [entry.name for entry in self.folder.iterdir()] if self.folder.is_dir() else []
        if foreign := sorted(set(there) - {"meta", "data", "videos"}):
            raise DatasetError(f"holds '{foreign[0]}'", where=str(self.folder), mend="choose a new folder")
        while (path := self._path(EPISODES_PATH)).is_file():
            table = read_table(path)
            if (table.schema.metadata or {}).get(_PLAN, b"").decode() != self._plan:
                raise DatasetError(
                    "is the beginning of a dataset with other features or settings",
                    where=str(path),
                    mend="choose a new folder, or repeat the call that began it",
                )
            rows = table.to_pylist()
            ids = json.loads(table.schema.metadata[_IDS])
            for row in rows:
                self._task_index(row["tasks"][0])
            self._written += [(ids[i], row["length"]) for i, row in enumerate(rows)]
            self._stats += stats_of_rows(rows)
            self._blocks += 1
        for left_over in self.folder.glob(f"**/.*{TEMP_SUFFIX}"):
            left_over.unlink(missing_ok=True)

    def _path(self, template: str, **fields: Any) -> Path:
        chunk, file = divmod(self._blocks, CHUNK_FILES)
        return self.folder / template.format(chunk_index=chunk, file_index=file, **fields)

    def add(self, episode: Episode) -> None:
        number = self._episodes + len(self._block)
        if number < len(self._written):
            if (episode.episode_id, episode.length) != self._written[number]:
                raise DatasetError(
                    f"episode {number} was '{self._written[number][0]}' before and is '{episode.episode_id}' now",
                    where=str(self.folder),
                    mend="go on with the same episodes in the same order, or choose a new folder",
                )
            self._episodes += 1
            self._frames += episode.length
            return
        _check_episode(episode, self.features)
        sizes = [self._size(e) for e in [*self._block, episode]]
        if self._block and any(
            sum(column) > limit for column, limit in zip(zip(*sizes, strict=True), self._limits, strict=True)
        ):
            self._flush()
        self._block.append(episode)

    def _size(self, episode: Episode) -> tuple[float, float]:
        """Bytes that an episode is expected to take in data and in video files; a function of its shape alone."""
        data = sum(v.nbytes if isinstance(v, np.ndarray) else 64 * len(v) for v in episode.columns.values())
        images = sum(f.size for f in self.features.values() if f.dtype == "image") * 0.5
        videos = max((f.shape[0] * f.shape[1] for f in self.features.values() if f.dtype == "video"), default=0)
        return float(data + images * episode.length), videos * _VIDEO_BYTES_PER_PIXEL * episode.length

    def _task_index(self, task: str) -> int:
        return self._tasks.setdefault(task, len(self._tasks))

    def _flush(self) -> None:
        block, samples = self._block, [dict[str, list[np.ndarray]]() for _ in self._block]
        for key, feature in self.features.items():
            if feature.dtype == "video":
                frames = self._pictures(block, feature, samples)
                write = functools.partial(self._encode, frames, feature)
                write_atomically(self._path(VIDEO_PATH, video_key=key), write)
        rows, tables, start = [], [], 0
        for episode, sampled in zip(block, samples, strict=True):
            table = self._table(episode, sampled)
            stats = self._episode_stats(episode, table, sampled)
            rows.append(self._row(episode, start, stats))
            tables.append(table)
            self._stats.append(stats)
            self._episodes += 1
            self._frames += episode.length
            start += episode.length
        write_atomically(self._path(DATA_PATH), lambda temporary: _write_row_groups(temporary, tables))
        listed = episodes_table(rows).replace_schema_metadata(
            {_PLAN: self._plan, _IDS: json.dumps([episode.episode_id for episode in block])}
        )
        write_atomically(
            self._path(EPISODES_PATH), lambda temporary: pq.write_table(listed, temporary, compression="zstd")
        )
        self._block, self._blocks = [], self._blocks + 1

    def _encode(self, frames: Iterator[np.ndarray], feature: Feature, path: Path) -> None:
        size = (feature.shape[1], feature.shape[0])
        write_video(path, frames, self.fps, size, "hevc" if feature.is_depth else self.codec, feature.is_depth)

    def _pictures(
        self, block: Sequence[Episode], feature: Feature, samples: Sequence[dict[str, list[np.ndarray]]]
    ) -> Iterator[np.ndarray]:
        """A video feature's frames of a whole block; those that statistics are taken from are kept in `samples`."""
        for episode, kept in zip(block, samples, strict=True):
            wanted = set(sampled_frames(episode.length).tolist())
            kept[feature.key] = []
            for frame in range(episode.length):
                picture = _picture(episode, feature.key, frame)
                if feature.is_depth:
                    picture = depth_to_levels(picture, feature.info)
                if frame in wanted:
                    kept[feature.key].append(thinned(picture))
                yield picture

    def _table(self, episode: Episode, samples: dict[str, list[np.ndarray]]) -> pa.Table:
        T, columns = episode.length, dict(episode.columns)
        for key, feature in self.features.items():
            if feature.dtype == "image":
                columns[key] = self._image_cells(episode, feature, samples)
        columns["timestamp"] = (np.arange(T) / self.fps).astype(np.float32)
        columns["frame_index"] = np.arange(T)
        columns["episode_index"] = np.full(T, self._episodes)
        columns["index"] = np.arange(self._frames, self._frames + T)
        columns["task_index"] = np.full(T, self._task_index(episode.task))
        schema = arrow_schema([*self.features.values(), *_index_features()])
        return pa.Table.from_arrays([arrow_column(columns[f.name], f.type) for f in schema], schema=schema)

    def _image_cells(self, episode: Episode, feature: Feature, samples: dict[str, list[np.ndarray]]) -> list[dict]:
        wanted = set(sampled_frames(episode.length).tolist())
        samples[feature.key], cells = [], []
        encode = tiff_bytes if feature.is_depth else self.encode_image
        suffix = "tiff" if feature.is_depth else "png" if self.encode_image is png_bytes else "jpg"
        for frame in range(episode.length):
            picture = _picture(episode, feature.key, frame)
            if picture.shape[:2] != feature.shape[:2]:
                raise InvalidInputError(
                    f"is {picture.shape[1]}×{picture.shape[0]}, not {feature.shape[1]}×{feature.shape[0]}",
                    where=f"{feature.key}, episode {episode.episode_id}, frame {frame}",
                    mend="all pictures of a feature must have one size",
                )
            cells.append({"bytes": encode(picture), "path": f"frame-{frame:06d}.{suffix}"})
            if frame in wanted:
                samples[feature.key].append(thinned(picture))
        return cells

    def _episode_stats(self, episode: Episode, table: pa.Table, samples: dict[str, list[np.ndarray]]) -> Stats:
        stats: Stats = {}
        for feature in [*self.features.values(), *_index_features()]:
            if feature.is_picture:
                kept = np.stack(samples[feature.key])
                stats[feature.key] = depth_stats(kept) if feature.is_depth else picture_stats(kept)
            elif feature.dtype not in ("string", "language"):
                known = episode.columns.get(feature.key)
                values = table[feature.key].to_numpy() if known is None else np.asarray(known)
                stats[feature.key] = column_stats(values.reshape(episode.length, -1))
        return stats

    def _row(self, episode: Episode, start: int, stats: Stats) -> dict[str, Any]:
        chunk, file = divmod(self._blocks, CHUNK_FILES)
        row: dict[str, Any] = {
            "episode_index": self._episodes,
            "tasks": [episode.task],
            "length": episode.length,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + episode.length,
        }
        for key, feature in self.features.items():
            if feature.dtype == "video":
                row[f"videos/{key}/chunk_index"], row[f"videos/{key}/file_index"] = chunk, file
                row[f"videos/{key}/from_timestamp"] = start / self.fps
                row[f"videos/{key}/to_timestamp"] = (start + episode.length) / self.fps
        for key, values in stats.items():
            row |= {f"stats/{key}/{name}": value.tolist() for name, value in values.items()}
        return row | {"meta/episodes/chunk_index": chunk, "meta/episodes/file_index": file}

    def finish(self) -> Path:
        if self._block:
            self._flush()
        if self._episodes != len(self._stats):
            raise DatasetError(
                f"{len(self._stats)} episodes are written, but only {self._episodes} were given",
                where=str(self.folder),
                mend="go on with all episodes of the first call",
            )
        if not self._episodes:
            raise InvalidInputError("no episode was given", where=str(self.folder))
        tasks = tasks_table(list(self._tasks))
        write_atomically(self.folder / TASKS_FILE, lambda temporary: pq.write_table(tasks, temporary))
        merged = {key: {n: v.tolist() for n, v in stats.items()} for key, stats in merge_stats(self._stats).items()}
        write_json(self.folder / STATS_FILE, merged)
        write_json(self.folder / INFO_FILE, self._info())
        return self.folder

    def _info(self) -> dict[str, Any]:
        videos = any(feature.dtype == "video" for feature in self.features.values())
        features = {key: feature.to_json() for key, feature in self.features.items()} | INDEX_FEATURES
        return {
            "codebase_version": VERSION,
            "robot_type": self.robot_type or None,
            "fps": round(self.fps) if float(self.fps).is_integer() else self.fps,
            "features": features,
            "total_episodes": self._episodes,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": max(1, round(self._limits[0] / 2**20)),
            "video_files_size_in_mb": max(1, round(self._limits[1] / 2**20)),
            "splits": {"train": f"0:{self._episodes}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if videos else None,
        }


def _index_features() -> list[Feature]:
    return [Feature(key, entry["dtype"], tuple(entry["shape"])) for key, entry in INDEX_FEATURES.items()]


def _picture(episode: Episode, key: str, frame: int) -> np.ndarray:
    if episode.read_picture is None:
        raise InvalidInputError("has no pictures", where=f"episode {episode.episode_id}, feature {key}")
    return episode.read_picture(key, frame)


def _write_row_groups(path: Path, tables: Sequence[pa.Table]) -> None:
    """One row group per episode, so that an episode is one read."""
    with pq.ParquetWriter(path, tables[0].schema, compression="zstd", write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=len(table))


def _check_features(features: Sequence[Feature]) -> None:
    keys = [feature.key for feature in features]
    for key in keys:
        if "/" in key or not key or key in INDEX_FEATURES or keys.count(key) > 1:
            raise InvalidInputError(f"the feature '{key}' is empty, twice, reserved, or holds a '/'", where="features")
    for feature in features:
        if not feature.is_picture and len(feature.shape) > 1:
            raise InvalidInputError(
                f"has shape {feature.shape}",
                where=f"feature {feature.key}",
                mend="write it flat: LeRobot's delete and merge fail on features of two axes and more",
            )


def _check_episode(episode: Episode, features: Mapping[str, Feature]) -> None:
    where = f"episode {episode.episode_id}"
    expected = {key for key, feature in features.items() if not feature.is_picture}
    if expected != set(episode.columns):
        difference = sorted(expected ^ set(episode.columns))
        raise InvalidInputError(f"column '{difference[0]}' is missing or not among the features", where=where)
    if episode.length < 1:
        raise InvalidInputError("has no frames", where=where)
    for key, values in episode.columns.items():
        feature = features[key]
        numbers = feature.dtype not in ("string", "language")
        size = values.size if isinstance(values, np.ndarray) else len(values)
        if size != episode.length * (feature.size if numbers else 1):
            raise InvalidInputError(f"column '{key}' has {size} values for {episode.length} frames", where=where)
        if numbers and np.asarray(values).dtype.kind == "f" and not np.isfinite(values).all():
            raise InvalidInputError(f"column '{key}' is not finite", where=where, mend="write 0 and a mask beside it")
