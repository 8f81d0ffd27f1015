"""Processes that work through a queue of jobs, where one that hangs or dies takes only its own job with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

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
    """Answer jobs until the parent closes the pipe or is gone."""
    import cv2

    cv2.setNumThreads(threads)
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
        self.since = 0.0

    def give(self, task: _Task[Job]) -> None:
        self.task, self.since = task, time.monotonic()
        with contextlib.suppress(OSError):  # it died while idle: reading its answer will say so
            self.connection.send(task.job)

    def end(self, kill: bool) -> int | None:
        """Stop the process and say how it ended."""
        self.connection.close()
        if kill:
            self.process.kill()
        self.process.join()
        return self.process.exitcode


@dataclass
class _Task(Generic[Job]):
    job: Job
    deaths: int = 0


def run_in_processes(
    jobs: Iterable[Job], work: Callable[[Job], Result], workers: int, timeout_s: float | None = None
) -> Iterator[Result | Loss[Job]]:
    """Results in the order in which they come.

    Args:
        jobs: picklable.
        work: an importable function of one job; what it returns must be picklable.
        workers: processes at a time.
        timeout_s: a job that takes longer is killed (None: never).

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
                worker = idle.pop() if idle else _Worker(work, threads)
                busy.append(worker)
                worker.give(task)
            if not busy:
                return
            yield from _collect(busy, idle, again, timeout_s)
    finally:
        for worker in busy:
            worker.end(kill=True)
        for worker in idle:
            worker.end(kill=False)


def _collect(
    busy: list[_Worker[Job]], idle: list[_Worker[Job]], again: list[_Task[Job]], timeout_s: float | None
) -> Iterator[Any]:
    """Wait until at least one worker answers, dies or runs out of time, and sort the workers anew."""
    now = time.monotonic()
    patience = None if timeout_s is None else max(0.0, min(worker.since + timeout_s - now for worker in busy))
    ready = set(wait([worker.connection for worker in busy], patience))
    for worker in list(busy):
        task, seconds = worker.task, time.monotonic() - worker.since
        assert task is not None  # whoever is busy has one
        if worker.connection in ready:
            busy.remove(worker)
            try:
                answer = worker.connection.recv()
            except (EOFError, OSError):
                exit_code = worker.end(kill=True)
                task.deaths += 1
                if task.deaths > 1:
                    yield Loss(task.job, "died", exit_code, seconds)
                else:
                    again.append(task)
                continue
            idle.append(worker)
            yield answer
        elif timeout_s is not None and seconds >= timeout_s:
            busy.remove(worker)
            yield Loss(task.job, "timeout", worker.end(kill=True), seconds)
