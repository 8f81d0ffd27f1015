"""New words, and new cuts if asked for, for the clips of a dataset: in place, clip by clip, and nothing is tracked again.

Each shard is replaced whole or not at all, so a run may be killed and called again. A clip that cannot be captioned keeps
the words it had; its record in the manifest, still `ok`, says why. A clip of `traceworld extract` comes out byte for byte as
an extraction with the new options would have made it, and counts as made with them.
"""

from __future__ import annotations

import dataclasses
import logging
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traceworld.errors import ConfigError, TraceworldError
from traceworld.extract.captioning import picture_reader, recaption
from traceworld.extract.config import CAPTION_OPTIONS, CUT_OPTIONS, ExtractConfig
from traceworld.extract.events import cut_events
from traceworld.extract.jobs import MAX_TRACEBACK, ItemResult, describe_error
from traceworld.extract.pipeline import failed_stage, with_events
from traceworld.extract.quality import status_note
from traceworld.extract.shards import Part
from traceworld.extract.workers import Loss, run_in_processes
from traceworld.perception import registry
from traceworld.traces.atomic import read_json, write_json
from traceworld.traces.manifest import CLIPS, STATUS, item_name
from traceworld.traces.schema import Shard
from traceworld.traces.store import open_dataset
from traceworld.traces.types import Clip
from traceworld.traces.writer import DatasetWriter

log = logging.getLogger(__name__)

MAY_CHANGE = (*CAPTION_OPTIONS, *CUT_OPTIONS, "accept_licence")
_ASKED = "recaptioned"
"""Where the provenance of a clip that `extract` did not make says with which options it was captioned."""


@dataclass(frozen=True)
class RecaptionReport:
    """What came of a run; `dataclasses.asdict` makes JSON of it.

    Attributes:
        ok: items with new words, those that had them from an earlier run included (`resumed`).
        failed: items that keep their old words. items: all of them, by name.
        seconds: wall time of this run.
    """

    ok: int
    failed: int
    resumed: int
    items: tuple[ItemResult, ...]
    seconds: float


@dataclass(frozen=True)
class _Job:
    item_id: str
    dataset: str
    changes: Mapping[str, Any]


def recaption_clip(clip: Clip, changes: Mapping[str, Any]) -> Clip:
    """A stored clip with other captions or cuts.

    Args:
        clip: its pictures must be where it says, if the captioner looks at them.
        changes: options of `ExtractConfig` to differ in, of `MAY_CHANGE`; the others are those that the clip was made with.
            A clip that `extract` did not make keeps its events, unless an option of cutting is given.

    Raises:
        ConfigError: an option that would change the traces, or an impossible one; a licence that is not accepted.
        MediaError: the pictures are not there.
        ExtractionError: the captioner gives no answer.
    """
    if wrong := sorted(set(changes) - set(MAY_CHANGE)):
        raise ConfigError("cannot change without tracking again", where=wrong[0], mend="use `traceworld extract`")
    made = ExtractConfig.from_dict(clip.provenance["config"]) if _extracted(clip) else ExtractConfig()
    config = dataclasses.replace(made, **changes)
    registry.require_accepted({"captions": config.captions}, config.accept_licence)
    if _extracted(clip):
        return with_events(clip, config, picture_reader(clip))
    spans = None
    if set(changes) & set(CUT_OPTIONS):
        cuts = {name: getattr(config, name) for name in CUT_OPTIONS}
        spans = cut_events(clip.traces, clip.cameras, clip.time_s, lambda_z=config.lambda_z, **cuts).spans
    captioner = registry.held("captions", config.captions)
    runs = {"merge_window": config.merge_window, "merge_stride": config.merge_stride}
    told = recaption(clip, captioner, spans=spans, **runs)
    return dataclasses.replace(told, provenance={**told.provenance, _ASKED: _asked(changes)})


def _extracted(clip: Clip) -> bool:
    return "config" in clip.provenance and "config_hash" in clip.provenance


def _asked(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if name != "accept_licence"}


def _done(clip: Clip, changes: Mapping[str, Any]) -> bool:
    if _extracted(clip):
        config = ExtractConfig.from_dict(clip.provenance["config"])
        return dataclasses.replace(config, **changes).hash == clip.provenance["config_hash"]
    return clip.provenance.get(_ASKED) == _asked(changes)


def recaption_item(job: _Job) -> ItemResult:
    """Give the clips of one item new words. Never raises, so that the run goes on; what fails leaves them as they are."""
    began = time.perf_counter()
    root = Path(job.dataset)
    file = root / STATUS / f"{item_name(job.item_id)}.json"
    try:
        status = read_json(file)
        shard = Shard(root / CLIPS / status["shard"])
        old = [shard.clip(row, root) for row in range(len(shard))]
        resumed = all(_done(clip, job.changes) for clip in old)
        if resumed and _recorded(status, old, shard.path):
            return ItemResult(job.item_id, job.dataset, "ok", resumed=True)
        new = old if resumed else [recaption_clip(clip, job.changes) for clip in old]
        seconds = time.perf_counter() - began
        DatasetWriter(root, source=_source_mark(status, new)).write_item(
            job.item_id,
            new,
            error=status_note(str(new[0].provenance.get("status", "ok"))),
            timings={**status["timings"], "captions": seconds},
        )
        events = sum(event.level == 0 for clip in new for event in clip.events)
        return ItemResult(job.item_id, job.dataset, "ok", events=events, seconds=seconds, resumed=resumed)
    except Exception as error:
        if not isinstance(error, TraceworldError):
            log.exception("unexpected error in %s", job.item_id)
        stage, text = failed_stage(error) or "captions", describe_error(error)
        trace = "".join(traceback.format_exception(error))[-MAX_TRACEBACK:]
        return _failed(job, stage, text, time.perf_counter() - began, trace)


def _recorded(status: Mapping[str, Any], clips: Sequence[Clip], shard: Path) -> bool:
    """Whether the record is that of this shard: a run killed between the two files leaves the one of the old shard."""
    whole = status["shard_bytes"] == shard.stat().st_size and status["source"] == _source_mark(status, clips)
    return whole and status["stage"] == ""


def _source_mark(status: Mapping[str, Any], clips: Sequence[Clip]) -> str:
    """What `extract` would call itself for these clips, so that it goes on from here; other makers keep their name."""
    if not _extracted(clips[0]):
        return str(status["source"])
    return f"extract config={clips[0].provenance['config_hash']}"


def _failed(job: _Job, stage: str, text: str, seconds: float, trace: str = "") -> ItemResult:
    """The record says so, and goes on saying that the item is there: its clips are whole."""
    file = Path(job.dataset) / STATUS / f"{item_name(job.item_id)}.json"
    try:
        status = read_json(file)
        attempts = (status["attempts"] if status["stage"] else 0) + 1
        told = {"stage": stage, "error": f"not recaptioned: {text}", "attempts": attempts, "traceback": trace}
        write_json(file, {**status, **told})
    except TraceworldError as error:
        log.error("the failure of %s cannot be recorded: %s", job.item_id, error)
    return ItemResult(job.item_id, job.dataset, "failed", stage, text, seconds=seconds)


def recaption_dataset(
    path: str | Path,
    changes: Mapping[str, Any],
    *,
    workers: int = 1,
    timeout_s: float | None = None,
    part: Part | None = None,
) -> RecaptionReport:
    """Give all clips of a dataset other captions or cuts, in place. Kill it at any moment and call it again: it goes on.

    Args:
        path: dataset folder. changes: see `recaption_clip`.
        workers: processes at a time; 1: this one.
        timeout_s: limit per item; needs more than one worker.
        part: do only this part of the items.

    Returns:
        The report. Failures are in it and in the manifest; they do not raise.

    Raises:
        DatasetError: there is no dataset, or it cannot be written.
        ConfigError: impossible options, an unknown captioner, or one whose licence is not accepted.
        MissingExtraError, MissingWeightsError: the captioner is not on this machine.
    """
    if workers < 1 or (timeout_s is not None and (workers < 2 or timeout_s <= 0)):
        raise ConfigError("impossible", where="workers", mend="at least 1; a time limit needs 2 or more")
    if wrong := sorted(set(changes) - set(MAY_CHANGE)):
        raise ConfigError("cannot change without tracking again", where=wrong[0], mend="use `traceworld extract`")
    if "captions" in changes:
        chosen = {"captions": str(changes["captions"])}
        registry.require_accepted(chosen, changes.get("accept_licence", ()))
        registry.require_available(chosen)
    began = time.perf_counter()
    names = [item["item_id"] for item in open_dataset(path).manifest if item["shard"]]
    names = [name for name in names if part is None or part.holds(name)]
    jobs = [_Job(name, str(path), dict(changes)) for name in names]
    items = tuple(sorted(_run(jobs, workers, timeout_s), key=lambda item: item.item_id))
    DatasetWriter(path).finalise(alone=part is None)
    failed = sum(item.status == "failed" for item in items)
    return RecaptionReport(
        len(items) - failed, failed, sum(item.resumed for item in items), items, time.perf_counter() - began
    )


def _run(jobs: Sequence[_Job], workers: int, timeout_s: float | None) -> Iterator[ItemResult]:
    if workers == 1:
        yield from map(recaption_item, jobs)
        return
    for answer in run_in_processes(jobs, recaption_item, workers, timeout_s):
        if isinstance(answer, Loss):
            text = f"the process ended with code {answer.exit_code}"
            if answer.reason == "timeout":
                text = f"took longer than {timeout_s:g} s (raise timeout_s)"
            yield _failed(answer.job, "worker" if answer.reason == "died" else "timeout", text, answer.seconds)
        else:
            yield answer
