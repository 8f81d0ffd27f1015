"""One clip, from pictures to captioned 3D traces: the stages of TraceExtract in order (mu0-paper §2)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from traceworld.errors import DepthError, MediaError
from traceworld.extract.backend_tracks import Senses, build_traces_with, make_senses
from traceworld.extract.captioning import CaptionRecord, caption_events
from traceworld.extract.config import ExtractConfig
from traceworld.extract.events import EventCut, cut_events
from traceworld.extract.quality import trace_quality
from traceworld.extract.tracks import TrackResult
from traceworld.perception import registry
from traceworld.perception.interfaces import BackendInfo, CaptionBackend, FrameSource
from traceworld.perception.source_base import SourceBase
from traceworld.perception.sources import open_source
from traceworld.traces.types import Clip, Event, Media

Progress = Callable[[int], None]


@contextlib.contextmanager
def _stage(name: str) -> Iterator[None]:
    """Mark what passes through as having failed in this stage; broken input always counts as the source's stage."""
    try:
        yield
    except Exception as error:
        if not hasattr(error, "stage"):
            error.stage = "source" if isinstance(error, MediaError | DepthError) else name  # type: ignore[attr-defined]
        raise


def failed_stage(error: BaseException) -> str:
    """The stage in which an error left `extract_clip`; "" if it did not come from there."""
    return str(getattr(error, "stage", ""))


def extract_clip(
    source_path: str | Path,
    config: ExtractConfig | None = None,
    clip_id: str | None = None,
    progress: Progress | None = None,
) -> Clip:
    """Extract the traces of one clip. Same input, same config: same clip, to the byte.

    Args:
        source_path: video file, RGB-D folder or folder of pictures; see `perception.sources.open_source`.
        config: defaults if None.
        clip_id: name of the clip; the file's name without its suffix if None.
        progress: called with the number of frames done.

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
    record = CaptionRecord()
    with _stage("config"):
        senses = make_senses(config)
        captioner: CaptionBackend = registry.held("captions", config.captions)
    with _stage("source"):
        source = open_source(path, **config.source_options().as_dict())
    with source:
        with _stage("tracks"):
            result = build_traces_with(source, config, senses, progress)
        with _stage("events"):
            cut = cut_events(
                result.traces,
                result.cameras,
                result.time_s,
                lambda_z=config.lambda_z,
                smooth_s=config.smooth_s,
                peak_prominence=config.peak_prominence,
                min_event_s=config.min_event_s,
                max_event_s=config.max_event_s,
            )
        with _stage("captions"):
            events = caption_events(
                cut.spans,
                result.traces,
                result.cameras,
                result.time_s,
                captioner,
                task=source.task,
                metric=result.metric,
                merge_window=config.merge_window,
                read_images=lambda frames: read_images(source, frames),
                record=record,
            )
    return Clip(
        clip_id=clip_id or path.stem,
        time_s=np.asarray(result.time_s, np.float64),
        cameras=result.cameras,
        traces=result.traces,
        media=_media(source),
        events=events,
        task=source.task,
        metric=result.metric,
        provenance=_provenance(source, config, result, cut, events, captioner, senses, record),
    )


def read_images(source: FrameSource, frames: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Pictures of some frames, in the order asked for; the source is streamed up to the last of them."""
    wanted, found = set(frames), {}
    stream = iter(source)
    for frame in stream:
        if frame.index in wanted:
            found[frame.index] = frame.image
            if len(found) == len(wanted):
                break
    return tuple(found[frame] for frame in frames)


def _media(source: SourceBase) -> Media:
    if source.kind != "frames":
        return Media("rgbd" if source.kind == "rgbd" else "video", source.uri)
    numbers = source.report.get("source_frames") or range(source.num_frames or 0)
    names = tuple(source.files[number].name for number in numbers)  # type: ignore[attr-defined]
    return Media("frames", source.uri, tuple(range(len(names))), names)


def _version() -> str:
    try:
        return version("traceworld")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"


def _backends(captioner: CaptionBackend, senses: Senses) -> dict[str, dict[str, str]]:
    """Who did what, under which licence; the embedded stages have the library's own version."""
    embedded = {"name": "embedded", "version": _version(), "licence": "Apache-2.0"}
    told = {"features": embedded, "tracker": embedded, "geometry": embedded, "captions": _told(captioner.info)}
    kinds = {"tracking": "tracker"}
    return told | {kinds.get(kind, kind): _told(backend.info) for kind, backend in senses.chosen().items()}


def _told(info: BackendInfo) -> dict[str, str]:
    told = {"name": info.name, "version": info.version, "licence": info.licence}
    if info.weights:
        told |= {"licence_class": info.licence_class, "weights": info.weights, "revision": info.revision}
    return told


def _provenance(
    source: SourceBase,
    config: ExtractConfig,
    result: TrackResult,
    cut: EventCut,
    events: Sequence[Event],
    captioner: CaptionBackend,
    senses: Senses,
    record: CaptionRecord,
) -> dict[str, Any]:
    """Where the clip comes from and how it was made; JSON-able, and free of times and of the machine."""
    report = dict(source.report)
    listed = report.pop("source_frames", None)
    warnings = [*report.pop("warnings", []), *result.quality.get("warnings", [])]
    fine = sum(event.level == 0 for event in events)
    provenance: dict[str, Any] = {
        "source": {"uri": source.uri, **report},
        "status": result.status,
        "warnings": warnings,
        "quality": {**result.quality, **trace_quality(result.traces, result.cameras, config.lambda_z)},
        "events": {
            "fine": fine,
            "peaks": list(cut.peaks),
            "peak_acceleration": round(float(cut.smoothed.max(initial=0)), 4),
        },
        "captions": {"source": captioner.info.name, "version": captioner.info.version, **record.told()},
        "config": config.as_dict(),
        "config_hash": config.hash,
        "seed": config.seed,
        "version": _version(),
        "backends": _backends(captioner, senses),
    }
    if listed is not None:
        provenance["source_frames"] = listed
    return provenance
