"""`curated_training_texts.json` ↔ events: inclusive ends there, half-open here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from traceworld.traces.traceextract.layout import CAPTIONS, damaged
from traceworld.traces.types import Event

MERGES = {"pair": 1, "triple": 2, "full": 3}
"""Kinds of merged texts and the level that an event of each gets; chunks are level 0."""
EMBODIMENTS = ("human_hand", "robot_gripper", "robot_arm", "tool", "unknown")
SKILLS = (
    "reach", "grasp", "lift", "transport", "place", "release", "push", "pull", "rotate", "open_close", "reposition",
    "unknown",
)  # fmt: skip
_INSTRUCTIONS = ("instruction_1", "instruction_2", "instruction_3")


def events_of_texts(
    texts: Mapping[str, Any], num_frames: int, folder: Path
) -> tuple[tuple[Event, ...], list[list[str]]]:
    """The events that the training texts describe, fine ones first, and the instructions behind each.

    An event's caption is the first of its up to three instructions that is not empty; an entry without any (its captioning
    failed) gives no event.

    Raises:
        DatasetError: an entry has no frame range, or one outside the clip; the message names the entry.
    """
    events, instructions = [], []
    for key, index, entry in _entries(texts, folder):
        where = f"{key}[{index}]"
        said = [str(entry.get(name) or "").strip() for name in _INSTRUCTIONS]
        if not any(said):
            continue
        try:
            start, last = int(entry["start_idx"]), int(entry["end_idx"])
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(folder / CAPTIONS, f"has no frame range: {error!r}", where) from error
        if not 0 <= start <= last < num_frames:
            raise damaged(folder / CAPTIONS, f"frames {start} to {last} are not of the {num_frames}", where)
        level = 0 if key == "chunk_texts" else MERGES.get(str(entry.get("merge_type")), MERGES["full"])
        events.append(Event(start, last + 1, next(text for text in said if text), level))
        instructions.append(said)
    order = sorted(range(len(events)), key=lambda i: (events[i].level, events[i].start, events[i].end))
    return tuple(events[i] for i in order), [instructions[i] for i in order]


def _entries(texts: Mapping[str, Any], folder: Path) -> list[tuple[str, int, Mapping[str, Any]]]:
    found = []
    for key in ("chunk_texts", "merged_texts"):
        entries = texts.get(key, [])
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            raise damaged(folder / CAPTIONS, "is not a list of objects", key)
        found += [(key, index, entry) for index, entry in enumerate(entries)]
    return found


def texts_of_events(
    events: Sequence[Event], video_id: str, num_frames: int, instructions: Sequence[Sequence[str]] | None = None
) -> dict[str, Any]:
    """Training texts that say what the events say.

    Level 0 becomes `chunk_texts`. Coarser events become `merged_texts`: `full` if they cover all chunks, `pair` or `triple`
    by the number they cover; the format has no name for others, which are left out.

    Args:
        instructions: three per event, where they are known (after an import); else the caption is the first, the second is
            the change that the caption states, if it does, and the third is empty (training draws from those that are not).
    """
    chunks = [event for event in events if event.level == 0]
    texts: dict[str, Any] = {"video_id": video_id, "n_frames": num_frames, "chunk_texts": [], "merged_texts": []}
    for index, event in enumerate(events):
        said = list(instructions[index]) if instructions is not None else [event.caption, event.change, ""]
        span = {"start_idx": event.start, "end_idx": event.end - 1}
        if event.level == 0:
            chunk_id = len(texts["chunk_texts"])
            texts["chunk_texts"].append(_chunk(chunk_id, span, said))
            continue
        sources = [i for i, chunk in enumerate(chunks) if event.start <= chunk.start and chunk.end <= event.end]
        kind = "full" if len(sources) == len(chunks) else {2: "pair", 3: "triple"}.get(len(sources))
        if kind is not None:
            texts["merged_texts"].append(_merged(kind, sources, chunks, span, said))
    return texts


def _named(said: Sequence[str]) -> dict[str, str]:
    return dict(zip(_INSTRUCTIONS, said, strict=True))


def _chunk(chunk_id: int, span: Mapping[str, int], said: Sequence[str]) -> dict[str, Any]:
    return {
        "chunk_id": chunk_id,
        **span,
        **_named(said),
        "embodiment_type": "unknown",
        "task_type": "manipulation",
        "skill_labels": ["unknown"],
        "hallucination_flags": {
            "contact_claim_without_clear_evidence": False,
            "object_identity_uncertain": False,
            "embodiment_uncertain": True,
        },
        "used_middle_frame": False,
        "complexity_tier": "simple",
    }


def _merged(
    kind: str, sources: Sequence[int], chunks: Sequence[Event], span: Mapping[str, int], said: Sequence[str]
) -> dict[str, Any]:
    timeline = [
        {"chunk_id": i, "start_idx": chunks[i].start, "end_idx": chunks[i].end - 1, "event": chunks[i].caption}
        for i in sources
    ]
    return {
        "merge_type": kind,
        "source_chunk_ids": list(sources),
        **span,
        **_named(said),
        "skill_labels": ["unknown"],
        "timeline": timeline,
    }
