"""The questions of the forecast benchmark: which frames and keypoints are asked about.

A slot is a frame of a clip that has a picture, with some of its points. Which slots and points are taken follows from the
seed and the clip ids alone, so that every predictor answers the same questions.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from traceworld.traces.media import frames_with_pictures
from traceworld.traces.store import Dataset, open_dataset
from traceworld.traces.types import Clip, Observation
from traceworld.traces.windows import WindowConfig, cut_window, observation_at


@dataclass(frozen=True, eq=False)
class Slot:
    """One question of the benchmark: an observation with its true future.

    Attributes:
        clip_id, frame: where it comes from. task: name for grouping. held_out: a task the models were not trained on.
        observation: with depth and history, as far as known; settings without them drop them.
        anchor_z_m: [N] true z of the points now. true_uvz: [N,H,3] absolute. valid: [N,H].
        K: [3,3] pixels of the observation's image.
    """

    clip_id: str
    frame: int
    task: str
    held_out: bool
    observation: Observation
    anchor_z_m: Float[np.ndarray, " N"]
    true_uvz: Float[np.ndarray, "N H 3"]
    valid: Bool[np.ndarray, "N H"]
    K: Float[np.ndarray, "3 3"]


@dataclass(frozen=True)
class SlotChoice:
    """Which slots are taken; see `evaluate_forecast`."""

    window: WindowConfig
    seed: int = 0
    moving_only: bool = True
    max_keypoints: int = 64
    slots_per_clip: int = 2
    max_clips: int | None = None
    max_windows: int | None = None
    held_out: tuple[str, ...] = ()


def open_stores(data: Any) -> list[Dataset]:
    """One or several clip stores, given as folders or opened.

    Raises:
        DatasetError: a folder is not a clip store.
    """
    # Importing it makes RGB-D folders readable with their depth registered to the colour camera (perception.clip_media).
    import traceworld.perception.sources  # noqa: F401

    stores = data if isinstance(data, Sequence) and not isinstance(data, str) else [data]
    return [store if isinstance(store, Dataset) else open_dataset(store) for store in stores]


def choose_slots(data: Any, choice: SlotChoice) -> list[Slot]:
    """The slots of some clip stores. Where not all are wanted, clips are taken in a seeded order."""
    places = [(store, clip_id) for store in open_stores(data) for clip_id in store.clip_ids]
    if choice.max_clips is not None or choice.max_windows is not None:
        places.sort(key=lambda place: int(seeded(choice.seed, place[1], 0).integers(1 << 62)))
    slots: list[Slot] = []
    for store, clip_id in places[: choice.max_clips]:
        slots += clip_slots(store.clip(clip_id), choice)
        if choice.max_windows is not None and len(slots) >= choice.max_windows:
            break
    return slots[: choice.max_windows]


def clip_slots(clip: Clip, choice: SlotChoice) -> Iterator[Slot]:
    """Up to `slots_per_clip` slots of one clip, at frames drawn from those with a picture."""
    made = 0
    frames = np.asarray(frames_with_pictures(clip), int)
    for frame in seeded(choice.seed, clip.clip_id, 1).permutation(frames):
        if made >= choice.slots_per_clip:
            return
        slot = make_slot(clip, int(frame), choice)
        if slot is not None:
            made += 1
            yield slot


def make_slot(clip: Clip, frame: int, choice: SlotChoice) -> Slot | None:
    """The slot of one frame; None if no point that is asked for has a future there."""
    window = cut_window(clip, frame, choice.window)
    wanted = window.usable() & (window.moving if choice.moving_only else True)
    points = np.flatnonzero(wanted)
    if len(points) == 0:
        return None
    if len(points) > choice.max_keypoints:
        rng = seeded(choice.seed, clip.clip_id, 4, frame)
        points = np.sort(rng.choice(points, choice.max_keypoints, replace=False))
    return slot_of_points(clip, frame, choice.window, points, held_out=choice.held_out)


def slot_of_points(
    clip: Clip,
    frame: int,
    window: WindowConfig,
    points: Int[np.ndarray, " n"],
    *,
    instruction: str | None = None,
    held_out: Sequence[str] = (),
) -> Slot:
    """The slot that asks for these points of the clip, in this order; `instruction` replaces the clip's own words."""
    observation, true_uvz, valid, cut = observation_at(clip, frame, window, points)
    assert observation.K is not None
    task = task_name(clip)
    return Slot(
        clip_id=clip.clip_id,
        frame=frame,
        task=task,
        held_out=task in held_out,
        observation=observation if instruction is None else replace(observation, instruction=instruction),
        anchor_z_m=cut.anchor_uvz[points, 2],
        true_uvz=true_uvz,
        valid=valid,
        K=observation.K,
    )


def task_name(clip: Clip) -> str:
    """What a clip is grouped under: the simulator's task name, else its instruction."""
    return str(clip.provenance.get("task") or clip.task or "unknown")


def seeded(seed: int, clip_id: str, *more: int) -> np.random.Generator:
    """A generator of its own for each purpose and place of the benchmark."""
    return np.random.default_rng([seed, zlib.crc32(clip_id.encode()), *more])
