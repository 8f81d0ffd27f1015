"""The slots, keypoints, captions and metric names of the released μ0 evaluation (`--protocol mu0-paper`).

Python's `random.Random(seed)` is consumed in the order of the released code:

1. An episode is a clip; episodes are sorted by dataset folder and clip id. A slot is usable if at least 16 of its rows move.
2. For each offset 4, 8, 12: of each episode the usable slot of that rank (from 0, by frame; episodes with too few give
   none); this list is shuffled by a fresh `Random(seed)`.
3. The three lists are joined, repeats dropped, and the whole is shuffled by one more fresh `Random(seed)`.
4. One further `Random(seed)` is consumed slot after slot: `randint` of the number of keypoints (it draws even if both ends
   are equal), `sample` of the rows, and, where the frame has captions, `choice` of the entry and `choice` of its paraphrase.

What a clip must have for it: pictures at five frames or more at which 16 moving points can be asked about (offset 4 is the
fifth usable slot). The rows of a slot are the points whose `query_frame` is that frame if the clip says so
(`provenance["slots"] == "queried"`, as an episode with keypoints of its own in each slot does), else all points seen in that
frame. Captions are events that cover the frame: events of the same span and level are paraphrases of one entry.

Not as released: the step is that of our arc-length clock (0.05 image widths), whose length does not add metres to image
fractions; a slot in which no moving point can be seen is not used (the released code would ask about unseen points there).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int

from traceworld.evaluation.slots import Slot, open_stores, slot_of_points
from traceworld.traces.batching import NO_INSTRUCTION
from traceworld.traces.media import frames_with_pictures
from traceworld.traces.types import Clip
from traceworld.traces.windows import WindowConfig, cut_window

STEP = 0.05
"""Image widths per step of the released data."""
OFFSETS = (4, 8, 12)
NUM_KEYPOINTS = 16
BATCH = 8
"""Slots per batch of the released command: the l1 figures are means of batch means."""


@dataclass(frozen=True)
class PaperChoice:
    """Arguments of the released command.

    Attributes:
        window: clock, step and horizon.
        seed: of every `random.Random`.
        offsets: ranks of the slots taken from each episode.
        num_keypoints: n_min = n_max, and the moving rows that make a slot usable.
        max_windows: score only the first so many slots.
    """

    window: WindowConfig
    seed: int = 0
    offsets: tuple[int, ...] = OFFSETS
    num_keypoints: int = NUM_KEYPOINTS
    max_windows: int | None = None
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class PaperSlots:
    """The chosen slots in the released order, and the clips that gave fewer than one per offset: clip id → why."""

    slots: list[Slot]
    short: Mapping[str, str] = field(default_factory=dict)


def choose_paper_slots(data: Any, choice: PaperChoice) -> PaperSlots:
    """Slots, keypoints and captions as the released evaluation takes them from these clip stores."""
    places = [(store, clip_id) for store in open_stores(data) for clip_id in store.clip_ids]
    places.sort(key=lambda place: (str(place[0].path), place[1]))
    clips = [store.clip(clip_id) for store, clip_id in places]
    frames = [usable_frames(clip, choice) for clip in clips]
    needed = max(choice.offsets) + 1
    short = {
        clip.clip_id: f"{len(usable)} of {needed} frames with a picture and {choice.num_keypoints} moving points"
        for clip, usable in zip(clips, frames, strict=True)
        if len(usable) < needed
    }
    drawn = random.Random(choice.seed)
    slots = []
    for episode, frame in slot_order(frames, choice.offsets, choice.seed)[: choice.max_windows]:
        clip = clips[episode]
        points = draw_keypoints(keypoint_pool(clip, frame, choice.window), choice.num_keypoints, drawn)
        words = draw_caption(clip, frame, drawn)
        slots.append(slot_of_points(clip, frame, choice.window, points, instruction=words, held_out=choice.held_out))
    return PaperSlots(slots, short)


def slot_order(frames: Sequence[Sequence[int]], offsets: Sequence[int], seed: int) -> list[tuple[int, int]]:
    """(episode, frame) in the released order, from the usable frames of each episode (steps 2 and 3 above)."""
    joined: dict[tuple[int, int], None] = {}
    for offset in offsets:
        ranked = [(episode, found[offset]) for episode, found in enumerate(frames) if len(found) > offset]
        random.Random(seed).shuffle(ranked)
        joined.update(dict.fromkeys(ranked))
    order = list(joined)
    random.Random(seed).shuffle(order)
    return order


def slot_rows(clip: Clip, frame: int, window: WindowConfig) -> tuple[np.ndarray, np.ndarray]:
    """[N] points that are moving rows of the frame's slot, and [N] those of them that can be asked about."""
    cut = cut_window(clip, frame, window)
    if clip.provenance.get("slots") == "queried":
        rows = cut.moving & (clip.traces.query_frame == frame)
    else:
        rows = cut.moving & cut.eligible
    return rows, rows & cut.eligible


def usable_frames(clip: Clip, choice: PaperChoice) -> list[int]:
    """Frames with a picture and enough moving rows, in order."""
    found = []
    for frame in sorted(int(frame) for frame in frames_with_pictures(clip)):
        rows, askable = slot_rows(clip, frame, choice.window)
        if rows.sum() >= choice.num_keypoints and askable.any():
            found.append(frame)
    return found


def keypoint_pool(clip: Clip, frame: int, window: WindowConfig) -> Int[np.ndarray, " M"]:
    """Rows to draw keypoints from, in stored order: moving, and now valid and inside the image."""
    return np.flatnonzero(slot_rows(clip, frame, window)[1])


def draw_keypoints(pool: Int[np.ndarray, " M"], number: int, drawn: random.Random) -> Int[np.ndarray, " n"]:
    """Keypoints in drawn order; `number` of them, or all if there are fewer."""
    count = drawn.randint(min(number, len(pool)), min(number, len(pool)))
    return pool[drawn.sample(range(len(pool)), count)]


def draw_caption(clip: Clip, frame: int, drawn: random.Random) -> str:
    """A paraphrase of a caption entry that covers the frame; without any, nothing is drawn and no task is named."""
    entries: dict[tuple[int, int, int], list[str]] = {}
    for event in clip.events:
        if event.start <= frame < event.end and event.caption.strip():
            entries.setdefault((event.level, event.start, event.end), []).append(event.caption)
    if not entries:
        return NO_INSTRUCTION
    return drawn.choice(drawn.choice(list(entries.values())))


def paper_metrics(
    values: Mapping[str, np.ndarray], slot_of: Int[np.ndarray, " K"], num_samples: int, horizons: Sequence[int]
) -> dict[str, dict[str, float | int | None]]:
    """The figures of one entrant under the released names, per horizon (`metrics_8.json`, …).

    Args:
        values: per keypoint, as `scoring.keypoint_errors` names them.
        slot_of: number of each keypoint's slot.

    Returns:
        per horizon: `ade_uvz`, `minADE_5_uvz`, …, the same with `_uv` and `_depth`; `l1_abs`, `l1_uv`, `l1_depth`; `horizon`,
        `n_batches`, `n_samples`. None for what an entrant without depth cannot be scored on.
    """
    names = {"ade": "ADE", "fde": "FDE", "dtw": "DTW", "fd": "Frechet"}
    found: dict[str, dict[str, float | int | None]] = {}
    for horizon in horizons:
        row: dict[str, float | int | None] = {}
        for suffix, dims in (("", "uvz"), ("_uv", "uv"), ("_z", "depth")):
            for name, released in names.items():
                row[f"{released.lower()}_{dims}"] = _mean(values.get(f"top1_{name}{suffix}@{horizon}"))
                row[f"min{released}_{num_samples}_{dims}"] = _mean(values.get(f"topS_{name}{suffix}@{horizon}"))
        for released, axes in (("abs", "uvz"), ("uv", "uv"), ("depth", "z")):
            sums, steps = values.get(f"l1_{axes}@{horizon}"), values[f"steps@{horizon}"]
            row[f"l1_{released}"] = None if sums is None else _batch_mean(sums, steps, slot_of // BATCH)
        slots = len(np.unique(slot_of))
        found[str(horizon)] = row | {"horizon": horizon, "n_batches": -(-slots // BATCH), "n_samples": slots}
    return found


def _mean(values: np.ndarray | None) -> float | None:
    if values is None or np.isnan(values).all():
        return None
    return float(np.nanmean(values))


def _batch_mean(sums: np.ndarray, steps: np.ndarray, batch: np.ndarray) -> float | None:
    total, count = np.bincount(batch, sums), np.bincount(batch, steps)
    return float((total[count > 0] / count[count > 0]).mean()) if (count > 0).any() else None
