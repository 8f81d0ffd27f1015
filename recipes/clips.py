"""Some clips of a corpus as a clip store of their own, so that a run or a benchmark can be given exactly these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from traceworld.errors import ConfigError
from traceworld.traces.manifest import read_statuses
from traceworld.traces.media import media_path
from traceworld.traces.store import Dataset, open_dataset
from traceworld.traces.writer import DatasetWriter


def task_of(clip_id: str) -> str:
    """Task of an episode of a simulated corpus (`drawer-open-v3-00012`)."""
    return clip_id.rpartition("-")[0]


def episodes_by_task(corpus: Dataset) -> dict[str, list[str]]:
    """Clip ids of each task in the order of their episode numbers, tasks in alphabetical order."""
    found: dict[str, list[str]] = {}
    for clip_id in sorted(corpus.clip_ids):
        found.setdefault(task_of(clip_id), []).append(clip_id)
    return found


def part_of(corpus: Dataset, fraction: float) -> list[str]:
    """The first episodes of each task, as many as make up `fraction` of them, at least one. A smaller part is inside every
    larger one."""
    return [
        clip_id
        for episodes in episodes_by_task(corpus).values()
        for clip_id in episodes[: max(1, math.floor(fraction * len(episodes) + 0.5))]
    ]


def choose_clips(corpus: Path, out: Path, clip_ids: Sequence[str]) -> Path:
    """A clip store of these clips, in this order; their pictures stay where they are. What is there is not made again.

    Raises:
        ConfigError: `out` holds other clips.
        DatasetError: the corpus has no such clip.
    """
    source = open_dataset(corpus)
    writer = DatasetWriter(out, source=f"chosen from {corpus.name}")
    item, wanted = "chosen", list(clip_ids)
    if item in writer.done_items():
        held = next(one["clips"] for one in read_statuses(out) if one["item_id"] == item)
        if held != wanted:
            raise ConfigError("holds other clips", where=str(out), mend="choose a new folder for this run")
    else:
        clips = [source.clip(clip_id) for clip_id in wanted]
        in_place = [replace(c.media, path=str(media_path(c).resolve())) for c in clips]
        writer.write_item(item, [replace(c, media=m, root=None) for c, m in zip(clips, in_place, strict=True)])
    if not open_dataset(out).counts:
        writer.finalise()
    return out
