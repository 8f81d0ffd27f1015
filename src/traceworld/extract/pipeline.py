"""One clip, from pictures to captioned 3D traces: the stages of TraceExtract in order (mu0-paper §2)."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from traceworld.errors import DepthError, MediaError
from traceworld.extract.backend_tracks import Senses, build_traces_with, make_senses, require_backends
from traceworld.extract.captioning import CaptionRecord, ImageReader, caption_events
from traceworld.extract.config import ExtractConfig
from traceworld.extract.events import EventCut, cut_events
from traceworld.extract.quality import trace_quality
from traceworld.extract.shards import input_mark
from traceworld.extract.stage_cache import STAGES, TRACKS, StageCache, captions_key, tracks_key
from traceworld.extract.tracks import TrackResult
from traceworld.perception import registry
from traceworld.perception.interfaces import BackendInfo, CaptionBackend, Frame, FrameSource
from traceworld.perception.source_base import SourceBase
from traceworld.perception.sources import open_source
from traceworld.traces.types import Clip, Event, Media

Progress = Callable[[int], None]


_spent: ContextVar[dict[str, float] | None] = ContextVar("_spent", default=None)


@contextlib.contextmanager
def stage_seconds() -> Iterator[dict[str, float]]:
    """Stage → seconds spent in it, of the clips that are extracted inside; also when one of them fails."""
    spent: dict[str, float] = {}
    before = _spent.set(spent)
    try:
        yield spent
    finally:
        _spent.reset(before)


@contextlib.contextmanager
def _stage(name: str) -> Iterator[None]:
    """Mark what passes through as having failed in this stage; broken input always counts as the source's stage."""
    began = time.perf_counter()
    try:
        yield
    except Exception as error:
        if not hasattr(error, "stage"):
            error.stage = "source" if isinstance(error, MediaError | DepthError) else name  # type: ignore[attr-defined]
        raise
    finally:
        if (spent := _spent.get()) is not None:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - began


def failed_stage(error: BaseException) -> str:
    """The stage in which an error left `extract_clip`; "" if it did not come from there."""
    return str(getattr(error, "stage", ""))


def extract_clip(
    source_path: str | Path,
    config: ExtractConfig | None = None,
    clip_id: str | None = None,
    progress: Progress | None = None,
    cache: StageCache | None = None,
) -> Clip:
    """Extract the traces of one clip. Same input, same config: same clip, to the byte, whether its stages were kept or not.

    Args:
        source_path: video file, RGB-D folder or folder of pictures; see `perception.sources.open_source`.
        config: defaults if None.
        clip_id: name of the clip; the file's name without its suffix if None.
        progress: called with the number of frames done.
        cache: where stages may have been kept, and are kept; None: nowhere.

    Returns:
        The clip. Without anything to follow it has no keypoints, and `provenance["status"]` says why.

    Raises:
        MediaError, DepthError: the input cannot be used.
        ExtractionError: it can be read but not processed.
        ConfigError: a backend is unknown, or its licence is not accepted.
        MissingExtraError, MissingWeightsError: a backend's code or weights are not on this machine.
    """
    config = config or ExtractConfig()
    path = Path(source_path).expanduser().absolute()
    cache = cache or StageCache()
    with _stage("config"):
        require_backends(config)
    with _stage("source"):
        source = open_source(path, **config.source_options().as_dict())
    with source:
        with _stage("source"):
            mark = input_mark(path)
            key = tracks_key(path, config)
        tracked = cache.tracked(key)
        if tracked is None:
            tracked = _track(source, config, key, progress)
            if input_mark(path) == mark:  # else the key is that of another content
                cache.keep_tracked(key, tracked)
        elif progress:
            progress(tracked.num_frames)
        about = {**tracked.provenance, "source": {**tracked.provenance["source"], "uri": source.uri}}
        clip = dataclasses.replace(
            tracked,
            clip_id=clip_id or path.stem,
            media=_media(source, tracked),
            task=source.task,
            provenance=about,
            root=None,
        )
        return with_events(clip, config, PicturesInOrder(source), cache)


def _track(source: SourceBase, config: ExtractConfig, key: str, progress: Progress | None) -> Clip:
    """The stages up to the movement filter: a clip that has no events, pictures or name yet."""
    with _stage("config"):
        senses = make_senses(config)
        registry.held("captions", config.captions)  # what is wrong with it must not show only after the tracking
    with _stage("tracks"):
        result = build_traces_with(source, config, senses, progress)
        told = _told_of_tracks(source, config, result, senses)
    return Clip(
        clip_id=key,
        time_s=np.asarray(result.time_s, np.float64),
        cameras=result.cameras,
        traces=result.traces,
        metric=result.metric,
        provenance={**told, STAGES: {TRACKS: key}},
    )


def with_events(clip: Clip, config: ExtractConfig, read_pictures: ImageReader, cache: StageCache | None = None) -> Clip:
    """A clip with the events and captions of this config (mu0-paper §2.3, A.5): all that comes after the traces.

    Args:
        clip: extracted, with or without events; its traces stay as they are.
        config: says how to cut and who finds the words; the rest of it should be what the traces were made with.
        read_pictures: frames → pictures at the size of the clip's cameras, for captioners that look.
        cache: where words may have been kept; None: nowhere.
    """
    cache = cache or StageCache()
    with _stage("events"):
        cut = cut_events(
            clip.traces,
            clip.cameras,
            clip.time_s,
            lambda_z=config.lambda_z,
            smooth_s=config.smooth_s,
            peak_prominence=config.peak_prominence,
            min_event_s=config.min_event_s,
            max_event_s=config.max_event_s,
        )
    with _stage("captions"):
        key = captions_key(str(clip.provenance.get(STAGES, {}).get(TRACKS, "")), cut.spans, clip.task, config)
        kept = cache.captioned(key)
        if kept is None:
            kept = _captioned(clip, cut, config, read_pictures)
            if not kept["captions"].get("fallbacks"):  # words that a later run should try to replace
                cache.keep_captioned(key, kept)
    fine = sum(event["level"] == 0 for event in kept["events"])
    told = {
        **clip.provenance,
        "events": {
            "fine": fine,
            "peaks": list(cut.peaks),
            "peak_acceleration": round(float(cut.smoothed.max(initial=0)), 4),
        },
        "captions": kept["captions"],
        "backends": {**clip.provenance.get("backends", {}), "captions": kept["backend"]},
        "config": config.as_dict(),
        "config_hash": config.hash,
        "version": _version(),
    }
    return dataclasses.replace(clip, events=tuple(Event(**event) for event in kept["events"]), provenance=told)


def _captioned(clip: Clip, cut: EventCut, config: ExtractConfig, read_pictures: ImageReader) -> dict[str, Any]:
    """Events, what was said besides, and by whom; JSON-able."""
    captioner: CaptionBackend = registry.held("captions", config.captions)
    record = CaptionRecord()
    events = caption_events(
        cut.spans,
        clip.traces,
        clip.cameras,
        clip.time_s,
        captioner,
        task=clip.task,
        metric=clip.metric,
        merge_window=config.merge_window,
        merge_stride=config.merge_stride,
        read_images=read_pictures,
        record=record,
    )
    return {
        "events": [dataclasses.asdict(event) for event in events],
        "captions": {"source": captioner.info.name, "version": captioner.info.version, **record.told()},
        "backend": _told(captioner.info),
    }


class PicturesInOrder:
    """Reads pictures of a source by frame number. Asked for in ascending order, as the events of a clip ask, they cost one pass
    over the source however many events there are; only going back begins another."""

    def __init__(self, source: FrameSource):
        self._source = source
        self._stream: Iterator[Frame] = iter(())
        self._last: Frame | None = None

    def __call__(self, frames: Sequence[int]) -> tuple[np.ndarray, ...]:
        found = {number: self._image(number) for number in sorted(set(frames))}
        return tuple(found[number] for number in frames)

    def _image(self, number: int) -> np.ndarray:
        if self._last is None or number < self._last.index:
            self._stream, self._last = iter(self._source), None
        while self._last is None or self._last.index < number:
            self._last = next(self._stream)
        return self._last.image


def read_images(source: FrameSource, frames: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Pictures of some frames, in the order asked for; the source is streamed up to the last of them."""
    return PicturesInOrder(source)(frames)


def _media(source: SourceBase, tracked: Clip) -> Media:
    if source.kind != "frames":
        return Media("rgbd" if source.kind == "rgbd" else "video", source.uri)
    numbers = tracked.provenance.get("source_frames") or range(tracked.num_frames)
    names = tuple(source.files[number].name for number in numbers)  # type: ignore[attr-defined]
    return Media("frames", source.uri, tuple(range(len(names))), names)


def _version() -> str:
    try:
        return version("traceworld")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"


def _backends(senses: Senses) -> dict[str, dict[str, str]]:
    """Who made the traces, under which licence; the embedded stages have the library's own version."""
    embedded = {"name": "embedded", "version": _version(), "licence": "Apache-2.0"}
    told = {"features": embedded, "tracker": embedded, "geometry": embedded}
    kinds = {"tracking": "tracker"}
    return told | {kinds.get(kind, kind): _told(backend.info) for kind, backend in senses.chosen().items()}


def _told(info: BackendInfo) -> dict[str, str]:
    told = {"name": info.name, "version": info.version, "licence": info.licence}
    if info.weights:
        told |= {"licence_class": info.licence_class, "weights": info.weights, "revision": info.revision}
    return told


def _told_of_tracks(source: SourceBase, config: ExtractConfig, result: TrackResult, senses: Senses) -> dict[str, Any]:
    """Where the traces come from and how they were made; JSON-able, and free of times and of the machine."""
    report = dict(source.report)
    listed = report.pop("source_frames", None)
    warnings = [*report.pop("warnings", []), *result.quality.get("warnings", [])]
    provenance: dict[str, Any] = {
        "source": report,
        "status": result.status,
        "warnings": warnings,
        "quality": {**result.quality, **trace_quality(result.traces, result.cameras, config.lambda_z)},
        "seed": config.seed,
        "backends": _backends(senses),
    }
    if listed is not None:
        provenance["source_frames"] = listed
    return provenance
