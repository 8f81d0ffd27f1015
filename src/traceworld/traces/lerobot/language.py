"""Captions as LeRobot's language rows, and its rows as events.

LeRobot keeps what is going on as rows in the column `language_persistent`, the same list on every frame of an episode: a
row holds from its time stamp until the next one of its style. Fine events (level 0) are rows of the style `subtask`,
coarser ones of the style `plan`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from traceworld.traces.types import Event

_STYLE_OF_LEVEL = ("subtask", "plan")


def rows_of_events(events: Sequence[Event], fps: float | int) -> list[dict[str, Any]]:
    """The rows that say what `events` say, by time; ends, gaps and the parts of a caption have no place in them."""
    rows = [
        {
            "role": "assistant",
            "content": event.caption,
            "style": _STYLE_OF_LEVEL[min(event.level, 1)],
            "timestamp": float(np.float32(event.start / fps)),
            "camera": None,
            "tool_calls": None,
        }
        for event in events
    ]
    return sorted(rows, key=lambda row: (row["timestamp"], row["style"] != "subtask"))


def events_of_rows(rows: Sequence[Mapping[str, Any]] | None, num_frames: int, fps: float | int) -> tuple[Event, ...]:
    """The events that rows of the styles `subtask` and `plan` describe; each lasts until the next of its style."""
    events = []
    for level, style in enumerate(_STYLE_OF_LEVEL):
        starts: dict[int, str] = {}  # of two rows on one frame the later one holds
        for row in sorted(rows or (), key=lambda row: float(row.get("timestamp") or 0.0)):
            frame = round(float(row.get("timestamp") or 0.0) * fps)
            if row.get("style") == style and str(row.get("content") or "").strip() and 0 <= frame < num_frames:
                starts[frame] = str(row["content"])
        frames = [*sorted(starts), num_frames]
        events += [Event(a, b, starts[a], level) for a, b in itertools.pairwise(frames)]
    return tuple(events)


def same_rows(a: Sequence[Mapping[str, Any]] | None, b: Sequence[Mapping[str, Any]] | None) -> bool:
    """Whether two lists say the same; only what this library writes is compared."""

    def plain(rows: Sequence[Mapping[str, Any]] | None) -> list[tuple]:
        return [
            (row.get("style"), row.get("content"), round(float(row.get("timestamp") or 0), 4)) for row in rows or ()
        ]

    return plain(a) == plain(b)


def events_of_runs(numbers: np.ndarray, texts: Mapping[int, str]) -> tuple[Event, ...]:
    """Events from a number per frame (`subtask_index`, `task_index`): one for each stretch with the same number."""
    numbers = numbers.reshape(-1)
    borders = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    spans = itertools.pairwise(borders)
    return tuple(Event(a, b, texts[int(numbers[a])]) for a, b in spans if texts.get(int(numbers[a])))
