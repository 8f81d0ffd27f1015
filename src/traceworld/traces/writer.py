"""Writing a dataset folder: one shard per input item, by any number of processes on any number of machines.

Nothing is shared but the folder: the names of an item's files follow from its id alone, every file appears whole or not
at all, and an item counts as done when its status file is there. So a killed run continues where it was.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from traceworld.errors import DatasetError, InvalidInputError
from traceworld.traces.atomic import TEMP_SUFFIX, read_json, write_atomically, write_json
from traceworld.traces.manifest import (
    CACHE,
    CLIPS,
    DATASET_FILE,
    MANIFEST_FILE,
    MEDIA,
    STATUS,
    Status,
    earlier_shard,
    item_name,
    read_statuses,
    shard_of,
    write_manifest,
)
from traceworld.traces.schema import FORMAT_VERSION, check_version, write_shard
from traceworld.traces.statistics import count_contents, default_statistics
from traceworld.traces.store import open_dataset
from traceworld.traces.types import Clip


class DatasetWriter:
    """Writes a dataset folder of format version 1. Any number of writers may work on one folder at the same time.

    Args:
        path: the folder; made if it is not there. An existing dataset is continued.
        source: what makes the clips (a program and its config, in words); kept in the manifest.

    Raises:
        DatasetError: the folder cannot be written, or holds something else.
        FormatVersionError: the folder was written by a newer traceworld.
    """

    def __init__(self, path: str | Path, source: str = ""):
        self.path, self.source = Path(path), source
        described = self.path / DATASET_FILE
        if described.exists():
            check_version(read_json(described).get("format_version"), str(described))
        elif self.path.is_dir() and any(not entry.name.startswith(".") for entry in self.path.iterdir()):
            self._accept_only_own_folders(described)
        if not described.exists():
            write_json(described, {"format_version": FORMAT_VERSION})
        for folder in (CLIPS, STATUS):
            (self.path / folder).mkdir(parents=True, exist_ok=True)

    def _accept_only_own_folders(self, described: Path) -> None:
        # Another writer may be starting in the same folder at this moment: its folders are no foreign content.
        foreign = {e.name for e in self.path.iterdir() if not e.name.startswith(".")} - {
            DATASET_FILE,
            MANIFEST_FILE,
            CLIPS,
            STATUS,
            MEDIA,
            CACHE,
        }
        if foreign and not described.exists():
            raise DatasetError(
                f"is not empty and no dataset (holds {sorted(foreign)[0]})",
                where=str(self.path),
                mend="choose a new folder",
            )

    def media_folder(self, item_id: str) -> Path:
        """The folder for pictures of an item (`media/<name>`), so that no two items write the same files."""
        folder = self.path / MEDIA / item_name(item_id)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_item(
        self,
        item_id: str,
        clips: Sequence[Clip],
        *,
        status: Status = "ok",
        stage: str = "",
        error: str = "",
        timings: Mapping[str, float] | None = None,
        attempts: int = 0,
        input_mark: str = "",
        traceback: str = "",
    ) -> None:
        """Write what came of one input item. Writing an item again replaces it. A failure puts the clips of an earlier
        success aside (`manifest.earlier_shard`), where no reader looks, but the next attempt finds what it need not repeat.

        Args:
            item_id: unique name of the input (its path, or task and episode).
            clips: its clips, in order; none unless `status` is `ok`.
            status: `ok`, `skipped` (nothing to extract, and why in `error`) or `failed`.
            stage: the stage that failed or skipped.
            error: what went wrong and the mend.
            timings: seconds per stage.
            attempts: how often it has failed in a row.
            input_mark: what tells that the input has changed since.
            traceback: where in the code it failed.

        Raises:
            InvalidInputError: status and clips contradict each other, or two clips share an id.
            DatasetError: the files cannot be written.
        """
        clips = list(clips)
        _check_item(item_id, clips, status)
        name = item_name(item_id)
        shard, earlier = shard_of(self.path, item_id), earlier_shard(self.path, item_id)
        if clips:
            write_atomically(shard, lambda temporary: write_shard(temporary, clips))
        elif status == "failed" and shard.exists():
            os.replace(shard, earlier)  # before the status: a kill in between leaves an item that is not done
        else:
            shard.unlink(missing_ok=True)
        if status != "failed":
            earlier.unlink(missing_ok=True)
        write_json(
            self.path / STATUS / f"{name}.json",
            {
                "item_id": item_id,
                "status": status,
                "stage": stage,
                "error": error,
                "clips": [clip.clip_id for clip in clips],
                "shard": shard.name if clips else "",
                "shard_bytes": shard.stat().st_size if clips else 0,
                "source": self.source,
                "timings": {key: float(value) for key, value in (timings or {}).items()},
                "attempts": attempts,
                "input_mark": input_mark,
                "traceback": traceback,
            },
        )

    def forgive(self, item_id: str) -> bool:
        """Let a failed item count as never tried, so that the next run takes it up. False: it is not a failed one."""
        file = self.path / STATUS / f"{item_name(item_id)}.json"
        if not file.exists() or (record := read_json(file))["status"] != "failed":
            return False
        write_json(file, {**record, "attempts": 0})
        return True

    def done_items(self, *, retry_failed: bool = False) -> set[str]:
        """Ids of the items that need no more work: those with a status file, and with their shard if they have clips.

        Args:
            retry_failed: leave failed items out, so that a resumed run tries them again.
        """
        shards = {entry.name: entry.stat().st_size for entry in (self.path / CLIPS).glob("*.parquet")}
        return {
            item["item_id"]
            for item in read_statuses(self.path)
            if not (retry_failed and item["status"] == "failed")
            and (not item["shard"] or shards.get(item["shard"]) == item["shard_bytes"])
        }

    def finalise(self, *, statistics: bool = True, alone: bool = True) -> dict[str, Any]:
        """Write `manifest.parquet` and `dataset.json` (counts and statistics). Call it once, when all writers are done.

        Equal contents give an equal `dataset.json`, whoever wrote them in whatever order. Calling it again, also after
        more items were written, is safe.

        Args:
            statistics: False leaves out the corpus statistics (s_Δ, depth range), which read up to `statistics.CLIPS` clips.
            alone: nobody else writes now, so unfinished files are left-overs of killed writers and are removed.

        Returns:
            The content of `dataset.json`.
        """
        for folder in (CLIPS, STATUS) if alone else ():
            for left_over in (self.path / folder).glob(f".*{TEMP_SUFFIX}"):
                left_over.unlink(missing_ok=True)
        items = sorted(read_statuses(self.path), key=lambda item: item["item_id"])
        write_atomically(self.path / MANIFEST_FILE, lambda temporary: write_manifest(temporary, items))
        dataset = open_dataset(self.path)
        described = {
            "format_version": FORMAT_VERSION,
            "sources": sorted({item["source"] for item in items if item["source"]}),
            "counts": count_contents(dataset, [item["status"] for item in items]),
            "statistics": default_statistics(dataset) if statistics else {},
        }
        write_json(self.path / DATASET_FILE, described)
        return described


def _check_item(item_id: str, clips: Sequence[Clip], status: str) -> None:
    where = f"item {item_id}"
    if status not in get_args(Status):
        raise InvalidInputError(f"status '{status}' is unknown", where=where, mend="use ok, skipped or failed")
    if (status == "ok") != bool(clips):
        raise InvalidInputError(
            f"status '{status}' with {len(clips)} clips",
            where=where,
            mend="`ok` needs at least one clip; `skipped` and `failed` have none and say why in `error`",
        )
    ids = [clip.clip_id for clip in clips]
    if len(set(ids)) < len(ids):
        raise InvalidInputError("two clips share an id", where=where, mend="number the clips of an item")
