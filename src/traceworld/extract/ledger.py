"""Reading and mending the ledger of a dataset: the status files behind its manifest."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from traceworld.errors import ConfigError
from traceworld.traces.manifest import read_statuses
from traceworld.traces.store import open_dataset
from traceworld.traces.writer import DatasetWriter


def summarise(path: str | Path) -> dict[str, Any]:
    """Counts by status, and of those that are ok but could not be captioned anew; failures by stage with one example each; seconds of the items that are done, by stage too.

    Raises:
        DatasetError: there is no dataset.
    """
    items = _items(path)
    timings = [item["timings"] for item in items if item["status"] == "ok"]
    seconds = sorted(each.get("total", 0.0) for each in timings)
    by_stage: dict[str, float] = defaultdict(float)
    for name, spent in itertools.chain.from_iterable(each.items() for each in timings):
        by_stage[name] += spent
    stages: dict[str, dict[str, Any]] = defaultdict(lambda: {"items": 0, "most_attempts": 0})
    for item in items:
        if item["status"] == "failed":
            row = stages[item["stage"]]
            row["items"] += 1
            row["most_attempts"] = max(row["most_attempts"], item.get("attempts", 1))
            row.setdefault("example", f"{item['item_id']}: {item['error']}")
    return {
        "items": len(items),
        **{name: sum(item["status"] == name for item in items) for name in ("ok", "skipped", "failed")},
        "not_recaptioned": sum(map(_old_words, items)),
        "failed_by_stage": dict(sorted(stages.items())),
        "seconds": {
            "total": sum(seconds),
            "median": seconds[len(seconds) // 2] if seconds else 0.0,
            "by_stage": {name: spent for name, spent in sorted(by_stage.items()) if name != "total"},
        },
    }


def failures(path: str | Path) -> list[dict[str, Any]]:
    """The records of all failed items, as written; and of items that are there, but could not be captioned anew.

    Raises:
        DatasetError: there is no dataset.
    """
    return [item for item in _items(path) if item["status"] == "failed" or _old_words(item)]


def _old_words(item: Mapping[str, Any]) -> bool:
    """Whether `traceworld recaption` failed on it: the record is `ok` and names a stage."""
    return bool(item["status"] == "ok" and item["stage"])


def retry(path: str | Path, names: Collection[str] = (), stage: str = "") -> list[str]:
    """Let failed items count as never tried. Returns their ids.

    Args:
        names: which; none: all.
        stage: only those that failed there.

    Raises:
        DatasetError: there is no dataset.
        ConfigError: a name is not that of a failed item, or of one that has its traces and only awaits new captions.
    """
    records = failures(path)
    if held := sorted(set(names) & {item["item_id"] for item in records if _old_words(item)}):
        raise ConfigError(
            "has its traces, only its captions are old", where=held[0], mend=f"traceworld recaption {path}"
        )
    failed = {item["item_id"]: item for item in records if not _old_words(item)}
    if unknown := sorted(set(names) - set(failed)):
        raise ConfigError("is no failed item", where=unknown[0], mend=f"traceworld jobs export-failures {path}")
    writer = DatasetWriter(path)
    wanted = names or failed
    return [name for name in wanted if (not stage or failed[name]["stage"] == stage) and writer.forgive(name)]


def _items(path: str | Path) -> list[dict[str, Any]]:
    open_dataset(path)
    return list(read_statuses(Path(path)))
