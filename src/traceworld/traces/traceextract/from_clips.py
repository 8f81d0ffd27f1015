"""Our clips as episode folders that the released trainer reads."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from traceworld.errors import ExtractionError, InvalidInputError
from traceworld.geometry.cameras import resize_K
from traceworld.traces.exchange import ExchangeReport, export_clips
from traceworld.traces.frames_of_clip import DepthStack, ImageStack
from traceworld.traces.schema import write_shard
from traceworld.traces.store import Dataset
from traceworld.traces.traceextract import layout
from traceworld.traces.traceextract.captions import events_of_texts, texts_of_events
from traceworld.traces.traceextract.episode import Episode, camera_statistics, write_episode
from traceworld.traces.traceextract.originals import Originals
from traceworld.traces.traceextract.to_clips import INSTRUCTIONS_KEY
from traceworld.traces.traceextract.windows import acceleration, clip_rows, movement_counts
from traceworld.traces.types import Cameras, Clip


def export_traceextract(
    dataset: Dataset, out: str | Path, *, future: int = layout.FUTURE, history: int = layout.HISTORY
) -> ExchangeReport:
    """Write every clip as a TraceExtract episode folder; repeat the call to go on after a kill.

    Files, keys and dtypes are exactly the released ones (`curated/` and `curated_captions.json`, which only record how
    captions were made, are written for imported episodes alone). Beside them, in the folder `traceworld/`, lie the clip
    itself and `track_ids.npy`, the point of every row. What differs from the released writer: one clock for all points of a
    frame; a row is valid only while its point is known; a depth of 0 means unknown; slots only for frames that have a
    picture (the others show the last one before). Clips that were imported and not changed go back as they came.

    Args:
        dataset: the clips. One without pictures, without a moving point or with hardly any motion is reported as failed.
        out: folder of episodes.
        future, history: steps stored ahead and back, the frame itself included; the released trainer needs 33 and 9.

    Raises:
        InvalidInputError: future or history is less than 2.
        DatasetError: the folder cannot be written.
    """
    if future < 2 or history < 2:
        raise InvalidInputError("must be at least 2", where="future, history")
    return export_clips(dataset, out, functools.partial(_write, future=future, history=history))


def _write(clip: Clip, name: str, folder: Path, future: int, history: int) -> None:
    images = ImageStack(clip)
    depth = DepthStack(clip, images)
    cameras = clip.cameras
    if (cameras.width, cameras.height) != images.size:
        K = resize_K(cameras.K, (cameras.width, cameras.height), images.size)
        cameras = Cameras(K, cameras.cam_from_world, *images.size)
    originals = Originals.of(clip)
    kept_captions = False
    track_ids = None
    if originals is not None and originals.unchanged:
        kept_captions = _write_kept(clip, folder, images, depth, cameras, originals)
    else:
        track_ids = _write_anew(clip, folder, images, depth, cameras, future, history)
    if originals is not None:
        originals.copy_texts(folder, kept_captions)
    if clip.task and not (folder / layout.DESCRIPTION).exists():
        (folder / layout.DESCRIPTION).write_text(clip.task, encoding="utf-8")
    if clip.events and not kept_captions:
        texts = texts_of_events(clip.events, name, clip.num_frames, _instructions(clip))
        _write_json(folder / layout.CAPTIONS, texts)
    if track_ids is not None:
        _write_own(clip, folder, track_ids)


def _write_kept(
    clip: Clip, folder: Path, images: ImageStack, depth: DepthStack, cameras: Cameras, originals: Originals
) -> bool:
    """Write the arrays that the clip was made from; whether its captions, too, are still those."""
    arrays = originals.arrays
    episode = Episode(
        images,
        arrays.get("depth", depth if depth.stored else None),
        cameras,
        originals.samples(),
        arrays.get("acceleration"),
        originals.statistics(),
    )
    write_episode(folder, episode)
    path = originals.folder / layout.CAPTIONS
    texts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return events_of_texts(texts, clip.num_frames, originals.folder)[0] == clip.events


def _write_anew(
    clip: Clip, folder: Path, images: ImageStack, depth: DepthStack, cameras: Cameras, future: int, history: int
) -> np.ndarray:
    scratch = folder / ".rows"
    scratch.mkdir()
    rows = clip_rows(clip.traces, cameras, np.array(images.frames), scratch, future, history)
    if rows is None:
        raise ExtractionError(
            "nothing moves enough to give a row", where=f"clip {clip.clip_id}", mend="leave it out of the export"
        )
    meta = {"dataset": "traceworld", "clip_id": clip.clip_id, "metric": clip.metric, "depth": depth.stored}
    episode = Episode(
        images,
        depth,
        cameras,
        rows.samples,
        acceleration(clip.traces, cameras),
        movement_counts(clip.traces, cameras) | camera_statistics(cameras),
        meta=meta,
    )
    write_episode(folder, episode)
    shutil.rmtree(scratch)
    return rows.points


def _write_own(clip: Clip, folder: Path, track_ids: np.ndarray) -> None:
    own = folder / layout.OWN
    own.mkdir()
    np.save(own / "track_ids.npy", track_ids.astype(np.int64), allow_pickle=False)
    write_shard(own / "clip.parquet", [clip])
    if (folder / layout.CAPTIONS).exists():
        (own / layout.CAPTIONS).write_bytes((folder / layout.CAPTIONS).read_bytes())


def _instructions(clip: Clip) -> list[list[str]] | None:
    said = clip.provenance.get(INSTRUCTIONS_KEY)
    if not isinstance(said, list) or len(said) != len(clip.events):
        return None
    if any(next((t for t in s if t), None) != e.caption for s, e in zip(said, clip.events, strict=True)):
        return None
    return [[str(text) for text in three] for three in said]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")
