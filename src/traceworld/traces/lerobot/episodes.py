"""The lists in `meta/`: episodes and where they lie, tasks, subtasks, statistics; v2 (JSON lines) and v3.0 (parquet)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from traceworld.errors import DatasetError
from traceworld.traces.atomic import read_json
from traceworld.traces.lerobot.layout import EPISODES_FOLDER, STATS_FILE, TASKS_FILE, Layout
from traceworld.traces.lerobot.stats import Stats, merge_stats

_MEND = "restore it from a copy, or convert the dataset again"


@dataclass(frozen=True)
class VideoPlace:
    """Where an episode lies in a video file: `from_s` seconds after the file's start."""

    file: Path
    from_s: float


@dataclass(frozen=True)
class EpisodeRow:
    """One episode in the list of episodes.

    Attributes:
        index: its number in the dataset.
        length: frames.
        tasks: what is done, in words; LeRobot stores them in no order.
        data_file: the parquet file with its frames.
        videos: video feature → file and start.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    data_file: Path
    videos: Mapping[str, VideoPlace] = field(default_factory=dict)


def read_table(path: Path, **options: Any) -> pa.Table:
    """A parquet file as a table.

    Raises:
        DatasetError: missing or damaged; the file is named.
    """
    try:
        return pq.read_table(path, use_threads=False, **options)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DatasetError(f"is missing or damaged: {error}", where=str(path), mend=_MEND) from error


def read_episodes(layout: Layout) -> list[EpisodeRow]:
    """All episodes, by their number.

    Raises:
        DatasetError: the list is missing, damaged, or has another number of episodes than info.json states.
    """
    rows = _episodes_v3(layout) if layout.is_v3 else _episodes_v2(layout)
    rows.sort(key=lambda row: row.index)
    if len(rows) != layout.num_episodes or [row.index for row in rows] != list(range(len(rows))):
        raise DatasetError(
            f"field 'total_episodes' is {layout.num_episodes}, but {len(rows)} episodes are listed in meta/"
            + ("" if len(rows) != layout.num_episodes else " with gaps or twice"),
            where=str(layout.info_file),
            mend=_MEND,
        )
    return rows


def _episodes_v2(layout: Layout) -> list[EpisodeRow]:
    path = layout.folder / "meta/episodes.jsonl"
    videos = [key for key, feature in layout.features.items() if feature.dtype == "video"]
    rows = []
    for line, entry in _json_lines(path):
        index, length = entry.get("episode_index"), entry.get("length")
        if not isinstance(index, int) or not isinstance(length, int) or index < 0 or length < 1:
            raise DatasetError(
                f"field 'episode_index' or 'length' is impossible ({index!r}, {length!r})",
                where=f"{path}, line {line}",
                mend=_MEND,
            )
        fields = {"episode_chunk": index // layout.chunks_size, "episode_index": index}
        places = {key: VideoPlace(layout.file(layout.video_path or "", video_key=key, **fields), 0.0) for key in videos}
        tasks = tuple(str(task) for task in entry.get("tasks") or ())
        rows.append(EpisodeRow(index, length, tasks, layout.file(layout.data_path, **fields), places))
    return rows


def _episodes_v3(layout: Layout) -> list[EpisodeRow]:
    rows = []
    for path in episode_files(layout):
        names = [name for name in parquet_columns(path) if not name.startswith("stats/")]
        for entry in read_table(path, columns=names).to_pylist():
            try:
                rows.append(_episode_v3(layout, entry))
            except (KeyError, TypeError, ValueError) as error:
                raise DatasetError(
                    f"column {error} is missing or impossible in a row of the list of episodes",
                    where=str(path),
                    mend=_MEND,
                ) from error
    return rows


def _episode_v3(layout: Layout, entry: Mapping[str, Any]) -> EpisodeRow:
    places = {}
    for key, feature in layout.features.items():
        if feature.dtype == "video":
            where = {name: int(entry[f"videos/{key}/{name}"]) for name in ("chunk_index", "file_index")}
            file = layout.file(layout.video_path or "", video_key=key, **where)
            places[key] = VideoPlace(file, float(entry[f"videos/{key}/from_timestamp"]))
    where = {name: int(entry[f"data/{name}"]) for name in ("chunk_index", "file_index")}
    tasks = tuple(str(task) for task in entry.get("tasks") or ())
    if int(entry["length"]) < 1:
        raise ValueError("'length'")
    return EpisodeRow(
        int(entry["episode_index"]), int(entry["length"]), tasks, layout.file(layout.data_path, **where), places
    )


def episode_files(layout: Layout) -> list[Path]:
    """The parquet files that list the episodes (v3.0)."""
    files = sorted((layout.folder / EPISODES_FOLDER).glob("*/[!.]*.parquet"))
    if not files and layout.num_episodes:
        raise DatasetError("holds no list of episodes", where=str(layout.folder / EPISODES_FOLDER), mend=_MEND)
    return files


def parquet_columns(path: Path) -> list[str]:
    """Names of a parquet file's columns."""
    try:
        return pq.read_schema(path).names
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"is missing or damaged: {error}", where=str(path), mend=_MEND) from error


def read_tasks(layout: Layout) -> dict[int, str]:
    """Task number → text."""
    return _texts(layout, TASKS_FILE, "task") if layout.is_v3 else _tasks_v2(layout)


def read_subtasks(layout: Layout) -> dict[int, str]:
    """Subtask number → text, for datasets with a `subtask_index` column; else empty."""
    path = layout.folder / "meta/subtasks.parquet"
    return _texts(layout, "meta/subtasks.parquet", "subtask") if path.is_file() else {}


def _tasks_v2(layout: Layout) -> dict[int, str]:
    path = layout.folder / "meta/tasks.jsonl"
    try:
        return {int(entry["task_index"]): str(entry["task"]) for _, entry in _json_lines(path)}
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"field {error} is missing or impossible", where=str(path), mend=_MEND) from error


def _texts(layout: Layout, name: str, kind: str) -> dict[int, str]:
    path = layout.folder / name
    table = read_table(path)
    # pandas wrote the texts as its index; old releases left that column without a name.
    texts = next((c for c in (kind, "__index_level_0__") if c in table.column_names), None)
    if texts is None or f"{kind}_index" not in table.column_names:
        raise DatasetError(f"needs the columns '{kind}' and '{kind}_index'", where=str(path), mend=_MEND)
    return dict(zip(table[f"{kind}_index"].to_pylist(), table[texts].to_pylist(), strict=True))


def read_stats(layout: Layout, features: Sequence[str]) -> Stats:
    """Statistics of some features, as stored; features without any are left out."""
    path = layout.folder / STATS_FILE
    if path.is_file():
        stored = read_json(path)
        return {key: _arrays(stored[key]) for key in features if isinstance(stored.get(key), dict)}
    path = layout.folder / "meta/episodes_stats.jsonl"
    if not path.is_file():
        return {}
    episodes = [entry.get("stats") or {} for _, entry in _json_lines(path)]
    return merge_stats([{key: _arrays(stats[key]) for key in features if key in stats} for stats in episodes])


def _arrays(stats: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.atleast_1d(np.asarray(value, np.float64)) for name, value in stats.items()}


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot be read: {error}", where=str(path), mend=_MEND) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"is no JSON: {error}", where=f"{path}, line {number}", mend=_MEND) from error
        if not isinstance(entry, dict):
            raise DatasetError("is no JSON object", where=f"{path}, line {number}", mend=_MEND)
        yield number, entry
