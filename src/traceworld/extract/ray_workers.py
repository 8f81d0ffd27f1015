"""The queue of `extract.workers` on a Ray cluster: actors instead of processes, the same answers and losses."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from traceworld.errors import ConfigError
from traceworld.extract.workers import Loss, never
from traceworld.extras import require

Job = TypeVar("Job")
Result = TypeVar("Result")


class Worker:
    """What runs in an actor. A class of the module, so that Ray sends its name and not its code."""

    def __init__(self, work: Callable[[Any], Any]):
        self.work = work

    def ready(self) -> None:
        """Return once the process is there and its libraries behave."""
        import cv2

        cv2.setNumThreads(1)

    def run(self, job: Any) -> Any:
        """Do a job."""
        return self.work(job)


class _Actor:
    """One Ray actor and the job it is on; as with a process, starting does not count as the job's time."""

    def __init__(self, ray: Any, make: Callable[[], Any]):
        self.ray, self.handle = ray, make()
        self.task: list[Any] = []
        self.answer: Any = self.handle.ready.remote()
        self.ready, self.since = False, time.monotonic()

    def give(self, task: list[Any]) -> None:
        """Begin with a job, once the actor lives."""
        self.task, self.since = task, time.monotonic()
        if self.ready:
            self.answer = self.handle.run.remote(task[0])

    def begin(self) -> None:
        self.ready = True
        self.give(self.task)

    def deadline(self, timeout_s: float | None) -> float:
        # Waiting for a place in the cluster is no fault of the job.
        return math.inf if timeout_s is None or not self.ready else self.since + timeout_s

    def end(self) -> None:
        self.ray.kill(self.handle)


def run_on_ray(
    jobs: Iterable[Job],
    work: Callable[[Job], Result],
    workers: int,
    timeout_s: float | None = None,
    gpus: float = 0.0,
    worn: Callable[[Result], bool] = never,
) -> Iterator[Result | Loss[Job]]:
    """Results in the order in which they come; arguments and losses as `extract.workers.run_in_processes`.

    The cluster is the one of `RAY_ADDRESS`, or one that this process has joined; else Ray is started on this machine and
    ended afterwards. Each actor asks for one CPU and `gpus` of a GPU; models that a job loads stay in its process for the
    next one.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: the cluster has no such GPU, so the actors would wait for ever.
    """
    ray = require("ray")
    ours = not ray.is_initialized()
    if ours:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if "RAY_ADDRESS" not in os.environ:
            options |= {"num_cpus": max(workers, os.cpu_count() or 1), "include_dashboard": False}
        ray.init(**options)
    try:
        there = float(ray.cluster_resources().get("GPU", 0))
        if gpus > there:
            raise ConfigError(f"asks for {gpus:g}, the cluster has {there:g}", where="gpus", mend="ask for fewer")
        make = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0, max_task_retries=0)(Worker)
        yield from _run(ray, jobs, lambda: make.remote(work), workers, timeout_s, worn)
    finally:
        if ours:
            ray.shutdown()


def _run(
    ray: Any,
    jobs: Iterable[Any],
    make: Callable[[], Any],
    workers: int,
    timeout_s: float | None,
    worn: Callable[[Any], bool],
) -> Iterator[Any]:
    waiting = iter([job, 0] for job in jobs)
    again: list[list[Any]] = []
    busy: list[_Actor] = []
    idle: list[_Actor] = []
    try:
        while True:
            while len(busy) < workers and (task := again.pop() if again else next(waiting, None)):
                actor = idle.pop() if idle else _Actor(ray, make)
                busy.append(actor)
                actor.give(task)
            if not busy:
                return
            for actor, outcome in _settled(ray, busy, timeout_s):
                seconds = time.monotonic() - actor.since
                if outcome == "began":
                    actor.begin()
                    continue
                busy.remove(actor)
                if outcome == "answered":
                    answer = ray.get(actor.answer)
                    if worn(answer):
                        actor.end()
                    else:
                        idle.append(actor)
                    yield answer
                    continue
                actor.end()
                actor.task[1] += outcome == "died"
                if outcome == "died" and actor.task[1] == 1:
                    again.append(actor.task)  # the death may be a neighbour's fault: a second chance
                else:
                    yield Loss(actor.task[0], outcome, None, seconds)
    finally:
        for actor in [*busy, *idle]:
            actor.end()


def _settled(ray: Any, busy: list[_Actor], timeout_s: float | None) -> list[tuple[_Actor, str]]:
    """Wait until something happens; actors with what did: `began`, `answered`, `died` or `timeout`."""
    first = min(actor.deadline(timeout_s) for actor in busy)
    patience = None if math.isinf(first) else max(0.0, first - time.monotonic())
    done, _ = ray.wait([actor.answer for actor in busy], num_returns=1, timeout=patience)
    settled = []
    for actor in busy:
        if actor.answer in done:
            try:
                ray.get(actor.answer)
                settled.append((actor, "answered" if actor.ready else "began"))
            except ray.exceptions.RayActorError:
                settled.append((actor, "died"))
        elif time.monotonic() >= actor.deadline(timeout_s):
            settled.append((actor, "timeout"))
    return settled
