"""Many clips into one dataset: resumable, every failure on record, a broken input never stops the rest.

An item that fails is tried again by the next runs, `max_attempts` times in all; then it is quarantined: reported, but left
alone until its files change or somebody asks for it (`traceworld jobs retry`).
"""

from __future__ import annotations

import functools
import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from traceworld.errors import ConfigError, TraceworldError
from traceworld.extract.backend_tracks import require_backends
from traceworld.extract.config import ExtractConfig
from traceworld.extract.inputs import expand_inputs, item_id
from traceworld.extract.memory import check_memory_limit, limit_memory, ran_out_of_memory
from traceworld.extract.pipeline import extract_clip, failed_stage, stage_seconds
from traceworld.extract.quality import status_note
from traceworld.extract.shards import Part, input_mark
from traceworld.extract.stage_cache import StageCache
from traceworld.extract.workers import Loss, run_in_processes
from traceworld.traces.manifest import earlier_shard, read_statuses, shard_of
from traceworld.traces.writer import DatasetWriter

log = logging.getLogger(__name__)

ItemStatus = Literal["ok", "skipped", "failed"]
Executor = Literal["serial", "processes", "ray"]
MAX_TRACEBACK = 20_000
"""Characters of a traceback that are kept."""


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
        quarantined: failed so often that this run did not try it.
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
    quarantined: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExtractReport:
    """Outcome of a batch; `dataclasses.asdict` makes JSON of it.

    Attributes:
        ok, skipped, failed: numbers of items. With `ok` 0 nothing succeeded, and callers end with a code other than 0.
        quarantined: how many of the failed were not tried.
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
    quarantined: int = 0


@dataclass(frozen=True)
class _Job:
    """One input for a worker; picklable. `failures`: how often it has failed until now. `cache`: folder, "" without."""

    item_id: str
    path: str
    out: str
    config: ExtractConfig
    failures: int = 0
    cache: str = ""


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
    spent: dict[str, float] = {}
    try:
        stages = StageCache(job.cache, [where(writer.path, job.item_id) for where in (shard_of, earlier_shard)])
        with stage_seconds() as spent:
            clip = extract_clip(job.path, job.config, job.item_id, None, stages)
        status = str(clip.provenance["status"])
        note = status_note(status)
        seconds = time.perf_counter() - began
        timings = {**spent, "total": seconds}
        if clip.traces.num_keypoints == 0:
            writer.write_item(job.item_id, [], status="skipped", stage="tracks", error=note, timings=timings)
            return result("skipped", "tracks", note, frames=clip.num_frames, seconds=seconds)
        writer.write_item(job.item_id, [clip], error=note, timings=timings)
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
        trace = "".join(traceback.format_exception(error))[-MAX_TRACEBACK:]
        if ran_out_of_memory(error):
            stage, text = (
                "memory",
                f"out of memory in stage {stage} (raise memory_gb, or lower max_side or num_keypoints)",
            )
            traceback.clear_frames(error.__traceback__)  # what they hold is needed to write this down
        elif not isinstance(error, TraceworldError):
            log.exception("unexpected error in %s", job.path)
        _record_failure(writer, job, stage, text, {**spent, "total": seconds}, trace)
        return result("failed", stage, text, seconds=seconds)


def _run_limited(memory_gb: float, job: _Job) -> ItemResult:
    limit_memory(memory_gb)
    return run_item(job)


def _record_failure(
    writer: DatasetWriter, job: _Job, stage: str, text: str, timings: dict[str, float], trace: str = ""
) -> None:
    """Into the manifest; if even that cannot be written (disk full), the report alone must do."""
    try:
        writer.write_item(
            job.item_id,
            [],
            status="failed",
            stage=stage,
            error=text,
            timings=timings,
            attempts=job.failures + 1,
            input_mark=input_mark(Path(job.path)),
            traceback=trace,
        )
    except TraceworldError as error:
        log.error("the failure of %s cannot be recorded: %s", job.item_id, error)


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
    _record_failure(writer, job, stage, text, {"total": loss.seconds})
    return ItemResult(job.item_id, job.path, "failed", stage, text, seconds=loss.seconds)


def _resumed(
    inputs: dict[str, Path], writer: DatasetWriter, retry_failed: bool, max_attempts: int
) -> tuple[dict[str, ItemResult], dict[str, int]]:
    """What an earlier run with the same config has left: items that are not tried now, and failures of those that are."""
    done = writer.done_items()
    found: dict[str, ItemResult] = {}
    failures: dict[str, int] = {}
    for status in read_statuses(writer.path):
        name = status["item_id"]
        if name not in inputs or name not in done or status["source"] != writer.source:
            continue
        stays = True
        quarantined = False
        if status["status"] == "failed" and retry_failed:
            mended = status.get("input_mark", "") != input_mark(inputs[name])
            failures[name] = 0 if mended else status.get("attempts", 1)
            stays = quarantined = failures[name] >= max_attempts
        if stays:
            found[name] = ItemResult(
                name,
                str(inputs[name]),
                status["status"],
                status["stage"],
                status["error"],
                resumed=True,
                quarantined=quarantined,
            )
    return found, failures


def _run(
    jobs: Sequence[_Job],
    executor: Executor,
    workers: int,
    timeout_s: float | None,
    memory_gb: float | None,
    gpus: float,
) -> Iterator[ItemResult]:
    if executor == "serial":
        yield from map(run_item, jobs)
        return
    work: Callable[[_Job], ItemResult] = run_item
    if memory_gb is not None:
        work = functools.partial(_run_limited, memory_gb)
    answers: Iterator[ItemResult | Loss[_Job]]
    if executor == "ray":
        from traceworld.extract.ray_workers import run_on_ray

        answers = run_on_ray(jobs, work, workers, timeout_s, gpus, _memory_is_worn)
    else:
        answers = run_in_processes(jobs, work, workers, timeout_s, worn=_memory_is_worn)
    for answer in answers:
        yield _lost(answer, timeout_s) if isinstance(answer, Loss) else answer


def _memory_is_worn(answer: ItemResult | Loss[_Job]) -> bool:
    """Memory that was short once may be in pieces: the next item gets a fresh process."""
    return isinstance(answer, ItemResult) and answer.stage == "memory"


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
    executor: Executor = "serial",
    workers: int = 1,
    timeout_s: float | None = None,
    memory_gb: float | None = None,
    gpus: float = 0.0,
    retry_failed: bool = True,
    max_attempts: int = 3,
    part: Part | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> ExtractReport:
    """Extract many clips into the dataset folder `out`. Kill it at any moment and call it again: it goes on, same bytes.

    Args:
        inputs: videos, RGB-D folders, picture folders, folders of those, glob patterns (`extract.inputs.expand_inputs`).
        out: dataset folder; an existing one is continued. Items made with another config are made again.
        config: defaults if None.
        executor: `serial`, or `processes`: fresh interpreters, so that a clip that crashes one costs only itself. A script
            that uses it needs the usual `if __name__ == "__main__":`. `ray`: the same on a Ray cluster (`RAY_ADDRESS`), or on
            this machine if there is none; inputs and `out` must be paths that every node sees.
        workers: number of processes.
        timeout_s: limit per clip; needs `processes` or `ray`.
        memory_gb: limit of a process (`extract.memory.limit_memory`), in 10⁹ bytes; a clip that needs more fails. Linux only;
            needs `processes` or `ray`.
        gpus: share of a GPU that every worker on Ray asks for; Ray hides all GPUs from workers that ask for none.
        retry_failed: try items again that failed in an earlier run.
        max_attempts: failures in a row after which an item is left alone, until its files change.
        part: do only this part of the inputs (a SLURM array: one task each, same inputs, same `out`). The parts may run at
            the same time; whichever ends last finalises the dataset.
        cache: folder in which finished stages are kept (`extract.stage_cache`), for other datasets and configs too. Without
            it only `out` is looked into: an item made with other captions or other cuts is not tracked again.
        progress: show a progress bar on stderr.

    Returns:
        The report, items in the order of the inputs. Failures are in it and in the manifest; they do not raise.

    Raises:
        ConfigError: impossible options, an unknown backend, or one whose licence is not accepted.
        MissingExtraError, MissingWeightsError: a backend is not on this machine.
        DatasetError: `out` cannot be written, or holds something else.
    """
    config = config or ExtractConfig()
    _check_options(executor, workers, timeout_s, memory_gb, gpus, max_attempts)
    require_backends(config)
    began = time.perf_counter()
    clips = {item_id(path): path for path in expand_inputs(inputs)}
    if not clips:
        raise ConfigError("no input is given", where="inputs", mend="give a video, an RGB-D folder or a folder of them")
    everything = set(clips)
    if part is not None:
        clips = {name: path for name, path in clips.items() if part.holds(name)}
    writer = DatasetWriter(out, source=_source_mark(config))
    results, failures = _resumed(clips, writer, retry_failed, max_attempts)
    jobs = [
        _Job(name, str(path), str(out), config, failures.get(name, 0), str(cache or ""))
        for name, path in clips.items()
        if name not in results
    ]
    with _progress_bar(progress) as bar:
        task = bar.add_task("", total=len(clips), completed=len(results), rate=0.0, failed=0)
        frames = failed = 0
        for result in _run(jobs, executor, workers, timeout_s, memory_gb, gpus):
            results[result.item_id] = result
            frames += result.frames
            failed += result.status == "failed"
            bar.update(task, advance=1, rate=frames / (time.perf_counter() - began), failed=failed)
            if result.status == "failed":
                log.warning("%s failed: %s", result.input, result.error)
    if part is None or everything <= writer.done_items():
        writer.finalise(alone=part is None)  # another part may be trying a failed item again
    else:
        log.info("other parts of %s are not done yet: the last one finalises it", out)
    seconds = time.perf_counter() - began
    items = tuple(results[name] for name in clips)
    counts = Counter(item.status for item in items)
    return ExtractReport(
        counts["ok"],
        counts["skipped"],
        counts["failed"],
        items,
        seconds,
        frames / seconds,
        str(out),
        config.hash,
        quarantined=sum(item.quarantined for item in items),
    )


def _check_options(
    executor: str, workers: int, timeout_s: float | None, memory_gb: float | None, gpus: float, max_attempts: int
) -> None:
    if executor not in get_args(Executor):
        raise ConfigError(f"unknown executor '{executor}'", where="executor", mend="serial, processes or ray")
    if workers < 1 or (executor == "serial" and workers > 1):
        raise ConfigError(
            f"{workers} workers", where="workers", mend="at least 1; more than 1 needs executor 'processes' or 'ray'"
        )
    if timeout_s is not None and (executor == "serial" or timeout_s <= 0):
        raise ConfigError("cannot be kept", where="timeout_s", mend="positive, with executor 'processes' or 'ray'")
    if memory_gb is not None:
        if executor == "serial":
            raise ConfigError("cannot be kept", where="memory_gb", mend="choose executor 'processes' or 'ray'")
        check_memory_limit(memory_gb)
    if gpus < 0 or (gpus and executor != "ray"):
        raise ConfigError(
            f"is {gpus:g}", where="gpus", mend="0 or more, with executor 'ray'; other workers see all GPUs"
        )
    if max_attempts < 1:
        raise ConfigError(f"is {max_attempts}", where="max_attempts", mend="at least 1")
