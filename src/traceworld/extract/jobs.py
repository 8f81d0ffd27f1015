"""Many clips into one dataset: resumable, every failure on record, a broken input never stops the rest."""

from __future__ import annotations

import functools
import logging
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from traceworld.errors import ConfigError, TraceworldError
from traceworld.extract.config import ExtractConfig
from traceworld.extract.inputs import expand_inputs, item_id
from traceworld.extract.pipeline import extract_clip, failed_stage
from traceworld.extract.quality import status_note
from traceworld.extract.workers import Loss, run_in_processes
from traceworld.traces.store import DatasetWriter
from traceworld.traces.writer import read_statuses

log = logging.getLogger(__name__)

ItemStatus = Literal["ok", "skipped", "failed"]


@dataclass(frozen=True)
class ItemResult:
    """What came of one input.

    Attributes:
        item_id, input: its name in the dataset; its path.
        status: `ok` (a clip was written), `skipped` (readable, but nothing to follow in it) or `failed`.
        stage: where it failed.
        error: class, message and mend of the failure; a note for `skipped` and for clips without motion; else "".
        frames, keypoints, events: of the clip; 0 without one.
        seconds: taken now; 0 if the item was done by an earlier run.
        resumed: done by an earlier run with the same config.
        warnings: of the clip's provenance.
    """

    item_id: str
    input: str
    status: ItemStatus
    stage: str = ""
    error: str = ""
    frames: int = 0
    keypoints: int = 0
    events: int = 0
    seconds: float = 0.0
    resumed: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExtractReport:
    """Outcome of a batch; `dataclasses.asdict` makes JSON of it.

    Attributes:
        ok, skipped, failed: numbers of items. With `ok` 0 nothing succeeded, and callers end with a code other than 0.
        items: in the order of the inputs.
        seconds: wall time of this run; `frames_per_second`: frames that it extracted, per second.
        out, config_hash: the dataset folder, and which config made it.
    """

    ok: int
    skipped: int
    failed: int
    items: tuple[ItemResult, ...]
    seconds: float
    frames_per_second: float
    out: str
    config_hash: str


@dataclass(frozen=True)
class _Job:
    """One input for a worker; picklable."""

    item_id: str
    path: str
    out: str
    config: ExtractConfig


def describe_error(error: BaseException) -> str:
    """Class, message and mend in one line; for an error nobody foresaw, also where in the code it arose."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, TraceworldError):
        return text
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{text} [unexpected; at {places}] (please report it with the input)"


def _source_mark(config: ExtractConfig) -> str:
    """What the manifest says made an item; a resumed run trusts only items with the same mark."""
    return f"extract config={config.hash}"


def run_item(job: _Job) -> ItemResult:
    """Extract one input and write what came of it. Never raises, so that the batch goes on."""
    began = time.perf_counter()
    result = functools.partial(ItemResult, job.item_id, job.path)
    writer = DatasetWriter(job.out, source=_source_mark(job.config))
    try:
        clip = extract_clip(job.path, job.config, job.item_id)
        status = str(clip.provenance["status"])
        note = status_note(status)
        seconds = time.perf_counter() - began
        if clip.traces.num_keypoints == 0:
            writer.write_item(job.item_id, [], status="skipped", stage="tracks", error=note, timings={"total": seconds})
            return result("skipped", "tracks", note, frames=clip.num_frames, seconds=seconds)
        writer.write_item(job.item_id, [clip], error=note, timings={"total": seconds})
        return result(
            "ok",
            "",
            note,
            frames=clip.num_frames,
            keypoints=clip.traces.num_keypoints,
            events=sum(event.level == 0 for event in clip.events),
            seconds=seconds,
            warnings=tuple(clip.provenance["warnings"]),
        )
    except Exception as error:
        seconds, stage, text = time.perf_counter() - began, failed_stage(error) or "write", describe_error(error)
        if not isinstance(error, TraceworldError):
            log.exception("unexpected error in %s", job.path)
        _record_failure(writer, job.item_id, stage, text, seconds)
        return result("failed", stage, text, seconds=seconds)


def _record_failure(writer: DatasetWriter, item: str, stage: str, text: str, seconds: float) -> None:
    """Into the manifest; if even that cannot be written (disk full), the report alone must do."""
    try:
        writer.write_item(item, [], status="failed", stage=stage, error=text, timings={"total": seconds})
    except TraceworldError as error:
        log.error("the failure of %s cannot be recorded: %s", item, error)


def _lost(loss: Loss[_Job], timeout_s: float | None) -> ItemResult:
    """A worker that died or hung, as a failed item."""
    job = loss.job
    if loss.reason == "timeout":
        stage, text = (
            "timeout",
            f"took longer than {timeout_s:g} s (raise timeout_s, or lower max_side, fps or max_frames)",
        )
    else:
        stage = "worker"
        text = f"the process ended with code {loss.exit_code} (out of memory? use fewer workers or a lower max_side)"
    writer = DatasetWriter(job.out, source=_source_mark(job.config))
    _record_failure(writer, job.item_id, stage, text, loss.seconds)
    return ItemResult(job.item_id, job.path, "failed", stage, text, seconds=loss.seconds)


def _resumed(inputs: dict[str, Path], writer: DatasetWriter, retry_failed: bool) -> dict[str, ItemResult]:
    """Items that an earlier run with the same config has done, from its status files."""
    done = writer.done_items(retry_failed=retry_failed)
    found: dict[str, ItemResult] = {}
    for status in read_statuses(writer.path):
        name = status["item_id"]
        if name in inputs and name in done and status["source"] == writer.source:
            found[name] = ItemResult(
                name, str(inputs[name]), status["status"], status["stage"], status["error"], resumed=True
            )
    return found


def _run(jobs: Sequence[_Job], executor: str, workers: int, timeout_s: float | None) -> Iterator[ItemResult]:
    if executor == "serial":
        yield from map(run_item, jobs)
        return
    for answer in run_in_processes(jobs, run_item, workers, timeout_s):
        yield _lost(answer, timeout_s) if isinstance(answer, Loss) else answer


def _progress_bar(shown: bool) -> Progress:
    return Progress(
        TextColumn("extract"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} frames/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]} failed"),
        console=Console(stderr=True),
        disable=not shown,
    )


def extract_many(
    inputs: Iterable[str | Path],
    out: str | Path,
    config: ExtractConfig | None = None,
    *,
    executor: Literal["serial", "processes"] = "serial",
    workers: int = 1,
    timeout_s: float | None = None,
    retry_failed: bool = True,
    progress: bool = True,
) -> ExtractReport:
    """Extract many clips into the dataset folder `out`. Kill it at any moment and call it again: it goes on, same bytes.

    Args:
        inputs: videos, RGB-D folders, picture folders, folders of those, glob patterns (`extract.inputs.expand_inputs`).
        out: dataset folder; an existing one is continued. Items made with another config are made again.
        config: defaults if None.
        executor: `serial`, or `processes`: fresh interpreters, so that a clip that crashes one costs only itself. A script
            that uses it needs the usual `if __name__ == "__main__":`.
        workers: number of processes.
        timeout_s: limit per clip; needs `processes`.
        retry_failed: try items again that failed in an earlier run (a mended file is then picked up).
        progress: show a progress bar on stderr.

    Returns:
        The report, items in the order of the inputs. Failures are in it and in the manifest; they do not raise.

    Raises:
        ConfigError: impossible options, or an unknown backend.
        DatasetError: `out` cannot be written, or holds something else.
    """
    config = config or ExtractConfig()
    if executor not in ("serial", "processes"):
        raise ConfigError(f"unknown executor '{executor}'", where="executor", mend="serial or processes")
    if workers < 1 or (executor == "serial" and workers > 1):
        raise ConfigError(
            f"{workers} workers", where="workers", mend="at least 1; more than 1 needs executor 'processes'"
        )
    if timeout_s is not None and (executor == "serial" or timeout_s <= 0):
        raise ConfigError("cannot be kept", where="timeout_s", mend="positive, with executor 'processes'")
    began = time.perf_counter()
    clips = {item_id(path): path for path in expand_inputs(inputs)}
    if not clips:
        raise ConfigError("no input is given", where="inputs", mend="give a video, an RGB-D folder or a folder of them")
    writer = DatasetWriter(out, source=_source_mark(config))
    results = _resumed(clips, writer, retry_failed)
    jobs = [_Job(name, str(path), str(out), config) for name, path in clips.items() if name not in results]
    with _progress_bar(progress) as bar:
        task = bar.add_task("", total=len(clips), completed=len(results), rate=0.0, failed=0)
        frames = failed = 0
        for result in _run(jobs, executor, workers, timeout_s):
            results[result.item_id] = result
            frames += result.frames
            failed += result.status == "failed"
            bar.update(task, advance=1, rate=frames / (time.perf_counter() - began), failed=failed)
            if result.status == "failed":
                log.warning("%s failed: %s", result.input, result.error)
    writer.finalise()
    seconds = time.perf_counter() - began
    items = tuple(results[name] for name in clips)
    counts = Counter(item.status for item in items)
    return ExtractReport(
        counts["ok"], counts["skipped"], counts["failed"], items, seconds, frames / seconds, str(out), config.hash
    )
