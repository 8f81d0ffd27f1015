"""Processes that work through a queue of jobs, where one that hangs or dies takes only its own job with it."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

_START_S = 120.0
"""A process that is not ready after so long hangs."""
_EXIT_S = 5.0
"""What a process that has closed its pipe is given to end by itself."""

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Loss(Generic[Job]):
    """A job whose worker did not live to answer: `reason` is `died` or `timeout`."""

    job: Job
    reason: str
    exit_code: int | None
    seconds: float


def _serve(connection: Connection, work: Callable[[Any], Any], threads: int) -> None:
    """Say that it is ready, then answer jobs until the parent closes the pipe or is gone."""
    import cv2

    cv2.setNumThreads(threads)
    connection.send(None)
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(work(job))


class _Worker(Generic[Job]):
    """One process and the job it is on."""

    def __init__(self, work: Callable[[Job], Any], threads: int):
        # A fresh interpreter: forking a process that has run OpenCV or torch threads can hang.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, work, threads), daemon=True)
        self.process.start()
        theirs.close()
        self.task: _Task[Job] | None = None
        self.ready = False
        self.since = 0.0

    def give(self, task: _Task[Job]) -> None:
        self.task, self.since = task, time.monotonic()
        with contextlib.suppress(OSError):  # it died just now: reading its answer will say so
            self.connection.send(task.job)

    def receive(self) -> tuple[bool, Any]:
        """Whether the job is answered, and its answer. EOFError or OSError if the process is gone."""
        answer = self.connection.recv()
        if self.ready:
            return True, answer
        self.ready, self.since = True, time.monotonic()  # starting an interpreter is not the job's time
        return False, None

    def deadline(self, timeout_s: float | None) -> float:
        """When to give up on it."""
        if not self.ready:
            return self.since + max(_START_S, timeout_s or 0.0)
        return math.inf if timeout_s is None else self.since + timeout_s

    def end(self, patience_s: float) -> int | None:
        """Stop the process, by force if it has not ended by itself in time, and say how it ended."""
        self.connection.close()
        self.process.join(patience_s)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode


@dataclass
class _Task(Generic[Job]):
    job: Job
    deaths: int = 0


def never(_: Any) -> bool:
    """No answer says that its process is worn."""
    return False


def run_in_processes(
    jobs: Iterable[Job],
    work: Callable[[Job], Result],
    workers: int,
    timeout_s: float | None = None,
    worn: Callable[[Result], bool] = never,
) -> Iterator[Result | Loss[Job]]:
    """Results in the order in which they come.

    Args:
        jobs: picklable.
        work: an importable function of one job; what it returns must be picklable.
        workers: processes at a time.
        timeout_s: a job that takes longer is killed (None: never). Starting the process does not count.
        worn: says of an answer whether its process should do no more jobs; another one takes its place.

    Yields:
        `work(job)`, or a `Loss` where the process ran out of time or died twice over the job. (The first death may be a
        neighbour's fault: the kernel, short of memory, does not always pick the process that is to blame.)
    """
    waiting = map(_Task, jobs)
    threads = max(1, (os.cpu_count() or 1) // workers)
    again: list[_Task[Job]] = []
    busy: list[_Worker[Job]] = []
    idle: list[_Worker[Job]] = []
    try:
        while True:
            while len(busy) < workers:
                task = again.pop() if again else next(waiting, None)
                if task is None:
                    break
                worker = _living(idle) or _Worker(work, threads)
                busy.append(worker)
                worker.give(task)
            if not busy:
                return
            yield from _collect(busy, idle, again, timeout_s, worn)
    finally:
        for worker in busy:
            worker.end(0.0)
        for worker in idle:
            worker.end(_EXIT_S)


def _living(idle: list[_Worker[Job]]) -> _Worker[Job] | None:
    """An idle worker whose process is alive; one that died meanwhile must not be counted against the next job."""
    while idle:
        worker = idle.pop()
        if worker.process.is_alive():
            return worker
        worker.end(0.0)
    return None


def _collect(
    busy: list[_Worker[Job]],
    idle: list[_Worker[Job]],
    again: list[_Task[Job]],
    timeout_s: float | None,
    worn: Callable[[Any], bool],
) -> Iterator[Any]:
    """Wait until at least one worker answers, dies or runs out of time, and sort the workers anew."""
    first = min(worker.deadline(timeout_s) for worker in busy)
    wait([worker.connection for worker in busy], None if math.isinf(first) else max(0.0, first - time.monotonic()))
    for worker in list(busy):
        task, seconds = worker.task, time.monotonic() - worker.since
        assert task is not None  # whoever is busy has one
        if worker.connection.poll():  # asked here, not before: an answer that has come in is never thrown away
            try:
                answered, answer = worker.receive()
            except (EOFError, OSError):
                busy.remove(worker)
                # The pipe closes before the process has ended: killed in between, its own exit code would be lost.
                yield from _dead(worker.end(_EXIT_S), task, seconds, again)
                continue
            if answered:
                busy.remove(worker)
                if worn(answer):
                    worker.end(_EXIT_S)
                else:
                    idle.append(worker)
                yield answer
        elif time.monotonic() >= worker.deadline(timeout_s):
            busy.remove(worker)
            exit_code = worker.end(0.0)
            if worker.ready:
                yield Loss(task.job, "timeout", exit_code, seconds)
            else:  # the job was never begun
                yield from _dead(exit_code, task, seconds, again)


def _dead(exit_code: int | None, task: _Task[Job], seconds: float, again: list[_Task[Job]]) -> Iterator[Loss[Job]]:
    """The job's second chance, or its loss."""
    task.deaths += 1
    if task.deaths > 1:
        yield Loss(task.job, "died", exit_code, seconds)
    else:
        again.append(task)
