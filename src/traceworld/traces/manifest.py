"""What is in a dataset folder: the names of its files, and the record of what came of each input item.

While items are written, each has a status file; `manifest.parquet` gathers them when the dataset is finalised.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from traceworld.errors import DatasetError, InvalidInputError
from traceworld.traces.atomic import read_json

DATASET_FILE, MANIFEST_FILE = "dataset.json", "manifest.parquet"
CLIPS, STATUS, MEDIA, CACHE = "clips", "status", "media", "cache"

Status = Literal["ok", "skipped", "failed"]

MANIFEST_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("status", pa.string()),
        ("stage", pa.string()),
        ("error", pa.string()),
        ("clips", pa.list_(pa.string())),
        ("shard", pa.string()),
        ("shard_bytes", pa.int64()),
        ("source", pa.string()),
        ("timings", pa.string()),
        ("attempts", pa.int64()),
        ("input_mark", pa.string()),
        ("traceback", pa.string()),
    ]
)


def item_name(item_id: str) -> str:
    """File name stem of an item, a function of its id alone: readable part plus a hash that keeps ids apart.

    Raises:
        InvalidInputError: the id is empty.
    """
    if not item_id:
        raise InvalidInputError("is empty", where="item_id", mend="give every input item its own id, e.g. its path")
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", item_id).strip("-.")[-60:].lstrip("-.") or "item"
    return f"{readable}-{hashlib.blake2b(item_id.encode(), digest_size=6).hexdigest()}"


def shard_of(path: Path, item_id: str) -> Path:
    """The file with the clips of an item."""
    return path / CLIPS / f"{item_name(item_id)}.parquet"


def earlier_shard(path: Path, item_id: str) -> Path:
    """Where the clips of an earlier success lie while the item's last attempt is a failure."""
    return path / CLIPS / f".{item_name(item_id)}.parquet.earlier"


def read_statuses(path: Path) -> Iterable[dict[str, Any]]:
    """The status files of a dataset folder, in the order of their names."""
    return [read_json(file) for file in sorted((path / STATUS).glob("*.json"))]


def write_manifest(path: Path, items: Sequence[Mapping[str, Any]]) -> None:
    """Write status records as `manifest.parquet`, one row per input item."""
    rows = [{**item, "timings": json.dumps(item["timings"], sort_keys=True)} for item in items]
    pq.write_table(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), path, compression="zstd")


def read_manifest(path: Path) -> list[dict[str, Any]]:
    """The rows of `manifest.parquet`, `timings` parsed.

    Raises:
        DatasetError: the file is damaged.
    """
    try:
        rows = pq.read_table(path, use_threads=False).to_pylist()
        return [{**row, "timings": json.loads(row["timings"])} for row in rows]
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DatasetError(
            f"is damaged: {error}", where=str(path), mend="delete it and run DatasetWriter(folder).finalise()"
        ) from error
