"""The clip store: a dataset is a folder of clips (format version 1, described column by column in docs/format.md)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from traceworld.errors import DatasetError
from traceworld.traces.atomic import read_json
from traceworld.traces.cache import TraceCache
from traceworld.traces.manifest import CLIPS, DATASET_FILE, MANIFEST_FILE, STATUS, read_manifest, read_statuses
from traceworld.traces.schema import Shard, check_version
from traceworld.traces.types import Clip


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset folder for reading, finished or not (what a killed run has written so far can be read).

    Raises:
        DatasetError: there is no dataset, or it is damaged; the message names the file.
        FormatVersionError: it was written by a newer traceworld.
    """
    return Dataset(path)


class Dataset:
    """Clips of a dataset folder, read when asked for, in the order of their shards' names.

    Index with a position or use `clip(clip_id)`; iterate for all. `cache()` gives the memory map that training reads.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        described = self.path / DATASET_FILE
        if not described.is_file():
            raise DatasetError(
                "is not a dataset (no dataset.json)",
                where=str(self.path),
                mend="make one with `traceworld extract` or `traceworld sim`, or check the path",
            )
        self._described = read_json(described)
        self.format_version = check_version(self._described.get("format_version"), str(described))
        self._open_shard: tuple[str, Shard] | None = None

    def __reduce__(self) -> tuple:
        return Dataset, (self.path,)

    @property
    def statistics(self) -> dict[str, Any]:
        """Corpus statistics of `dataset.json` (see traces/statistics.py); empty before `finalise`."""
        return self._described.get("statistics", {})

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of items, clips, frames, keypoints, events; empty before `finalise`."""
        return self._described.get("counts", {})

    @cached_property
    def manifest(self) -> list[dict[str, Any]]:
        """One record per input item: item_id, status, stage, error, clips, shard, shard_bytes, source, timings.

        Read from `manifest.parquet`, or from the status files if items were written since the last `finalise`.
        """
        file = self.path / MANIFEST_FILE
        if file.is_file():
            written = file.stat().st_mtime_ns
            if all(status.stat().st_mtime_ns <= written for status in (self.path / STATUS).glob("*.json")):
                return read_manifest(file)
        return sorted(read_statuses(self.path), key=lambda item: item["item_id"])

    @cached_property
    def shards(self) -> list[Path]:
        """The parquet files with clips, sorted by name."""
        return sorted((self.path / CLIPS).glob("[!.]*.parquet"))

    @cached_property
    def _places(self) -> dict[str, tuple[Path, int]]:
        listed = {item["shard"]: item for item in self.manifest if item["shard"]}
        places: dict[str, tuple[Path, int]] = {}
        for shard in self.shards:
            item = listed.get(shard.name)
            fresh = item is not None and item["shard_bytes"] == shard.stat().st_size
            ids = item["clips"] if fresh and item else Shard(shard).columns(["clip_id"])["clip_id"]
            for row, clip_id in enumerate(ids):
                if clip_id in places:
                    raise DatasetError(
                        f"clip '{clip_id}' is also in {places[clip_id][0].name}",
                        where=str(shard),
                        mend="two items wrote the same clip id; delete one of the two files",
                    )
                places[clip_id] = (shard, row)
        return places

    @cached_property
    def clip_ids(self) -> list[str]:
        """Ids of all clips, in the order of iteration."""
        return list(self._places)

    @cached_property
    def tasks(self) -> list[str]:
        """The different task texts, sorted."""
        return sorted({task for shard in self.shards for task in Shard(shard).columns(["task"])["task"] if task})

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Clip:
        return self.clip(self.clip_ids[index])

    def __iter__(self) -> Iterator[Clip]:
        return (self.clip(clip_id) for clip_id in self.clip_ids)

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._places

    def clip(self, clip_id: str) -> Clip:
        """Read one clip.

        Raises:
            DatasetError: no such clip, or its shard is damaged (named in the message).
        """
        if clip_id not in self._places:
            raise DatasetError(
                f"has no clip '{clip_id}'", where=str(self.path), mend=f"it has {len(self)}, e.g. {self.clip_ids[:3]}"
            )
        path, row = self._places[clip_id]
        if self._open_shard is None or self._open_shard[0] != path.name:
            self._open_shard = (path.name, Shard(path))
        clip = self._open_shard[1].clip(row, self.path)
        if clip.clip_id != clip_id:
            raise DatasetError(
                f"row {row} is clip '{clip.clip_id}', not '{clip_id}'",
                where=str(path),
                mend="run DatasetWriter(folder).finalise() again",
            )
        return clip

    def cache(self, build: bool = True, folder: str | Path | None = None) -> TraceCache:
        """The memory-mapped cache that training reads from; built when missing or out of date.

        Args:
            build: False: raise instead of building.
            folder: where to keep it, if not in the dataset folder (a read-only disk, say).

        Raises:
            DatasetError: it is not there and `build` is False, or cannot be written.
        """
        return TraceCache.of(self, build=build, folder=Path(folder) if folder else None)
