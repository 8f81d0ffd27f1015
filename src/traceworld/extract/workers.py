"""Processes that work through a queue of jobs, where one that hangs or dies takes only its own job with it."""

from __future__ import annotations

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
        self.job: Job | None = None
        self.since = 0.0

    def give(self, job: Job) -> None:
        self.job, self.since = job, time.monotonic()
        self.connection.send(job)

    def end(self, kill: bool) -> int | None:
        """Stop the process and say how it ended."""
        self.connection.close()
        if kill:
            self.process.kill()
        self.process.join()
        return self.process.exitcode


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
        `work(job)`, or a `Loss` where the process died or ran out of time.
    """
    waiting = iter(jobs)
    threads = max(1, (os.cpu_count() or 1) // workers)
    busy: list[_Worker[Job]] = []
    idle: list[_Worker[Job]] = []
    try:
        while True:
            while len(busy) < workers:
                job = next(waiting, None)
                if job is None:
                    break
                worker = idle.pop() if idle else _Worker(work, threads)
                busy.append(worker)
                worker.give(job)
            if not busy:
                return
            yield from _collect(busy, idle, timeout_s)
    finally:
        for worker in busy:
            worker.end(kill=True)
        for worker in idle:
            worker.end(kill=False)


def _collect(busy: list[_Worker[Job]], idle: list[_Worker[Job]], timeout_s: float | None) -> Iterator[Any]:
    """Wait until at least one worker answers, dies or runs out of time, and sort the workers anew."""
    now = time.monotonic()
    patience = None if timeout_s is None else max(0.0, min(worker.since + timeout_s - now for worker in busy))
    ready = set(wait([worker.connection for worker in busy], patience))
    for worker in list(busy):
        job, seconds = worker.job, time.monotonic() - worker.since
        if worker.connection in ready:
            try:
                answer = worker.connection.recv()
            except (EOFError, OSError):
                busy.remove(worker)
                yield Loss(job, "died", worker.end(kill=True), seconds)
                continue
            busy.remove(worker)
            idle.append(worker)
            yield answer
        elif timeout_s is not None and seconds >= timeout_s:
            busy.remove(worker)
            yield Loss(job, "timeout", worker.end(kill=True), seconds)
