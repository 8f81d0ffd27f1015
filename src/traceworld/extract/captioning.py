"""From event spans to captioned events: measure what each part did, ask the captioner, merge neighbours (mu0-paper A.5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from traceworld.errors import InvalidInputError
from traceworld.geometry.cameras import project, project_cam, px_to_uv, transform
from traceworld.geometry.motion import trace_diameter
from traceworld.perception.interfaces import Caption, CaptionBackend, CaptionRequest, PartMotion
from traceworld.perception.source_base import resize_image
from traceworld.traces.media import read_frame
from traceworld.traces.types import Cameras, Clip, Event, Traces


@dataclass(eq=False)
class CaptionRecord:
    """What captioners said besides the captions: source, raw answers, instructions. Empty for the template captioner."""

    entries: list[dict[str, Any]] = field(default_factory=list)

    def add(self, start: int, end: int, level: int, caption: Caption) -> None:
        """Note one caption of a span of frames [start, end)."""
        if caption.extra:
            about = {"start": start, "end": end, "level": level, "source": caption.source}
            self.entries.append({**about, **caption.extra})

    def told(self) -> dict[str, Any]:
        """JSON-able: the entries, and how many captions are not by the captioner that was asked (`fallbacks`)."""
        if not self.entries:
            return {}
        return {"answers": self.entries, "fallbacks": sum("fallback" in entry["source"] for entry in self.entries)}


ImageReader = Callable[[Sequence[int]], tuple[np.ndarray, ...]]

_MASK_RADIUS = 0.02
"""Of the discs of a motion mask, in image widths; what does not leave its disc does not count as moving."""


def part_motions(
    traces: Traces, cameras: Cameras, start: int, end: int, metric: bool, min_points: int = 2
) -> tuple[PartMotion, ...]:
    """What every moving part did in frames [start, end), as the camera of the clip's first frame sees it, largest first.

    Size is net displacement × √points, so that one lost point does not outrank an arm. Parts seen with fewer than `min_points`
    moving points are left out, unless no part has more. Frames without a known position are skipped over.
    """
    xyz_cam = transform(cameras.cam_from_world[0], traces.xyz_world[start:end].astype(np.float64))
    uv = px_to_uv(project_cam(xyz_cam, cameras.K[0])[..., :2], cameras.width, cameras.height)
    usable = traces.valid[start:end] & np.isfinite(uv).all(-1) & traces.moving
    path_space = xyz_cam
    if not metric:  # only sideways motion means anything without depth
        path_space = np.concatenate([uv * [0.5, 0.5 * cameras.height / cameras.width], np.zeros_like(uv[..., :1])], -1)
    motions = []
    for part in np.unique(traces.part_id[usable.sum(0) >= 2]):
        members = (traces.part_id == part) & (usable.sum(0) >= 2)
        motion = _part_motion(int(part), path_space[:, members], uv[:, members], usable[:, members], metric)
        if motion is not None:
            motions.append(motion)
    if any(motion.num_points >= min_points for motion in motions):
        motions = [motion for motion in motions if motion.num_points >= min_points]
    size = [float(np.linalg.norm(m.shift) + 0.1 * m.path) * m.num_points**0.5 for m in motions]
    return tuple(motions[k] for k in np.argsort(-np.array(size), kind="stable"))


def _part_motion(
    part: int,
    path_space: Float[np.ndarray, "T M 3"],
    uv: Float[np.ndarray, "T M 2"],
    usable: np.ndarray,
    metric: bool,
) -> PartMotion | None:
    shifts, paths, starts, ends = [], [], [], []
    for point in range(usable.shape[1]):
        frames = np.flatnonzero(usable[:, point])
        xyz = path_space[frames, point]
        shifts.append(xyz[-1] - xyz[0])
        paths.append(np.linalg.norm(np.diff(xyz, axis=0), axis=-1).sum())
        starts.append(uv[frames[0], point])
        ends.append(uv[frames[-1], point])
    shift, start, end = np.median(shifts, 0), np.median(starts, 0), np.median(ends, 0)
    if not np.median(paths) > 0:
        return None
    return PartMotion(
        part_id=part,
        num_points=len(shifts),
        shift=(float(shift[0]), float(shift[1]), float(shift[2])),
        path=float(np.median(paths)),
        metric=metric,
        start_uv=(float(start[0]), float(start[1])),
        end_uv=(float(end[0]), float(end[1])),
    )


def motion_mask(traces: Traces, cameras: Cameras, start: int, end: int) -> np.ndarray:
    """Where in frame `start` something is that moves in frames [start, end) (A.5).

    Returns:
        [H,W] bool: a disc of 2 % of the image width around every moving point whose known positions in these frames, as the
        camera of frame `start` sees them, lie further apart than that radius (trace diameter, A.2).
    """
    radius_px = _MASK_RADIUS * cameras.width
    path = project(traces.xyz_world[start:end].astype(np.float64), cameras.K[start], cameras.cam_from_world[start])
    known = traces.valid[start:end] & np.isfinite(path).all(-1)
    keep = traces.moving & known[0] & (trace_diameter(path, known) > radius_px)
    rows, cols = np.mgrid[: cameras.height, : cameras.width]
    mask = np.zeros((cameras.height, cameras.width), bool)
    for x, y in path[0, keep, :2]:
        mask |= (cols - x) ** 2 + (rows - y) ** 2 <= radius_px**2
    return mask


def _event(start: int, end: int, level: int, caption: Caption) -> Event:
    return Event(start, end, caption.caption, level, caption.before, caption.interaction, caption.change)


def caption_events(
    spans: Sequence[tuple[int, int]],
    traces: Traces,
    cameras: Cameras,
    time_s: Float[np.ndarray, " T"],
    captioner: CaptionBackend,
    *,
    task: str = "",
    metric: bool = True,
    merge_window: int = 3,
    merge_stride: int = 1,
    read_images: ImageReader | None = None,
    record: CaptionRecord | None = None,
) -> tuple[Event, ...]:
    """Captioned events of a clip, fine ones first, then summaries.

    Args:
        spans: fine events (level 0).
        merge_window: level 1 holds one event per run of this many neighbours, if there are more fine events than that;
            level 2, or 1 with fewer, is the whole clip.
        merge_stride: fine events from the start of one run to the next: with 1 the window slides, with `merge_window` the
            runs tile the clip. The last run ends with the clip, and is shorter where the numbers do not fit.
        read_images: frames → pictures; called once per event with start, midpoint and end if the captioner wants them.
        record: is told what the captioner said besides.
    """
    record = record or CaptionRecord()
    captions: list[Caption] = []
    for index, (start, end) in enumerate(spans):
        images: tuple[np.ndarray, ...] = ()
        mask = None
        if captioner.needs_images and read_images is not None:
            images = read_images((start, (start + end - 1) // 2, end - 1))
            mask = motion_mask(traces, cameras, start, end)
        request = CaptionRequest(
            parts=part_motions(traces, cameras, start, end, metric),
            start_s=float(time_s[start]),
            end_s=float(time_s[min(end, len(time_s) - 1)]),
            index=index,
            count=len(spans),
            task=task,
            images=images,
            motion_mask=mask,
        )
        captions.append(captioner.caption(request))
    told = [(start, end, 0, caption) for (start, end), caption in zip(spans, captions, strict=True)]
    level = 1
    if len(spans) > merge_window:
        for run in merge_runs(len(spans), merge_window, merge_stride):
            words = captions[run][0] if len(captions[run]) == 1 else captioner.merge(captions[run], task)
            told.append((spans[run][0][0], spans[run][-1][1], level, words))
        level += 1
    if len(spans) > 1:
        told.append((spans[0][0], spans[-1][1], level, captioner.merge(captions, task)))
    for entry in told:
        record.add(*entry)
    return tuple(_event(*entry) for entry in told)


def merge_runs(count: int, window: int, stride: int) -> list[slice]:
    """Runs of neighbours among `count` events, `stride` from start to start, until one reaches the end."""
    starts = range(0, max(1, count - window + stride), stride)
    return [slice(first, min(first + window, count)) for first in starts]


def picture_reader(clip: Clip) -> ImageReader:
    """Reads the pictures of a stored clip at the size of its cameras, as they were when it was tracked.

    The reader raises MediaError if they are not there any more.
    """
    width, height = clip.cameras.width, clip.cameras.height
    return lambda frames: tuple(resize_image(read_frame(clip, frame), width, height) for frame in frames)


def recaption(
    clip: Clip,
    captioner: CaptionBackend,
    *,
    merge_window: int = 3,
    merge_stride: int = 1,
    spans: Sequence[tuple[int, int]] | None = None,
) -> Clip:
    """A stored clip with new words for its events: nothing is tracked.

    Args:
        captioner: `registry.create("captions", …)`.
        merge_window, merge_stride: see `caption_events`.
        spans: other fine events; None: those that it has.

    Raises:
        MediaError: the captioner looks at pictures, and the clip's are not there.
        InvalidInputError: the clip has no fine events.
    """
    if spans is None:
        spans = sorted((event.start, event.end) for event in clip.events if event.level == 0)
    if not spans:
        raise InvalidInputError("has no events of level 0", where=clip.clip_id, mend="extract it first")
    record = CaptionRecord()
    events = caption_events(
        spans,
        clip.traces,
        clip.cameras,
        clip.time_s,
        captioner,
        task=clip.task,
        metric=clip.metric,
        merge_window=merge_window,
        merge_stride=merge_stride,
        read_images=picture_reader(clip),
        record=record,
    )
    about = {"source": captioner.info.name, "version": captioner.info.version, **record.told()}
    return replace(clip, events=events, provenance={**clip.provenance, "captions": about})
