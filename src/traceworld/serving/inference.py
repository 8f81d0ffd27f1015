"""One worker thread behind a bounded queue: the model runs there, the event loop stays free for the network.

A full queue refuses at once, so that a caller learns in a millisecond that it should come back, and no memory piles up.
What is asked for together may be answered together (`max_batch`).
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from traceworld.serving.refusals import BusyError, StoppingError, TooSlowError

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


def _always() -> bool:
    return True


@dataclass(eq=False)
class _Job(Generic[Item]):
    item: Item
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future
    wanted: Callable[[], bool]
    given_up: bool = field(default=False)


class InferenceWorker(Generic[Item, Result]):
    """Runs `process` on what is submitted, in one thread, in the order of submission.

    Args:
        process: [items] → [results], one for each; a result that is an exception is raised to the one who asked.
        max_queue: how many may wait.
        max_batch: how many are processed in one call.
        window_s: how long the first of a batch waits for others.
    """

    def __init__(
        self,
        process: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        max_queue: int,
        max_batch: int = 1,
        window_s: float = 0.0,
    ):
        self._process, self._max_batch, self._window_s = process, max_batch, window_s
        self._queue: queue.Queue[_Job[Item] | None] = queue.Queue(max_queue + 1)  # one place is for the end mark
        self._max_queue = max_queue
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="traceworld-inference", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return self._queue.qsize()

    async def submit(self, item: Item, timeout_s: float, wanted: Callable[[], bool] = _always) -> Result:
        """The result for an item.

        Args:
            timeout_s: from now to the result. What has begun by then cannot be interrupted; its result is dropped.
            wanted: asked when its turn comes; False: nobody waits any more, leave it out.

        Raises:
            BusyError: the queue is full.
            TooSlowError: the time is over.
            StoppingError: the worker takes nothing new.
        """
        if self._stopping:
            raise StoppingError("the server is shutting down", mend="ask again when it is back")
        if self._queue.qsize() >= self._max_queue:
            raise BusyError(f"{self._max_queue} requests wait already", mend="ask again later, or less often")
        loop = asyncio.get_running_loop()
        job = _Job(item, loop, loop.create_future(), wanted)
        self._queue.put_nowait(job)
        try:
            return await asyncio.wait_for(job.future, timeout_s)
        except TimeoutError:
            raise TooSlowError(
                f"no result within {timeout_s:g} s", mend="ask less often, or raise the time-out"
            ) from None
        finally:
            job.given_up = True

    async def stop(self, timeout_s: float) -> bool:
        """Take nothing new, finish what was submitted. False: it was not finished in time (the thread is left behind)."""
        if not self._stopping:
            self._stopping = True
            self._queue.put_nowait(None)
        end = time.monotonic() + timeout_s
        while self._thread.is_alive() and time.monotonic() < end:
            await asyncio.sleep(0.005)
        return not self._thread.is_alive()

    def _run(self) -> None:
        ended = False
        while not ended:
            job = self._queue.get()
            if job is None:
                return
            jobs = [job]
            end = time.monotonic() + self._window_s
            while len(jobs) < self._max_batch and not ended:
                try:
                    more = self._queue.get(timeout=max(0.0, end - time.monotonic()))
                except queue.Empty:
                    break
                ended = more is None
                jobs += [] if more is None else [more]
            self._serve(jobs)

    def _serve(self, jobs: list[_Job[Item]]) -> None:
        wanted = [job for job in jobs if not job.given_up and job.wanted()]
        results: Sequence[Any] = []
        if wanted:
            try:
                results = self._process([job.item for job in wanted])
            except Exception as error:
                results = [error] * len(wanted)
            except BaseException as error:  # a model that calls sys.exit must not end the thread
                results = [RuntimeError(repr(error))] * len(wanted)
        answers = {id(job): result for job, result in zip(wanted, results, strict=True)}
        for job in jobs:
            try:
                result = answers.get(id(job), TooSlowError("nobody waits for the result any more"))
                job.loop.call_soon_threadsafe(_settle, job.future, result)
            except RuntimeError:  # the loop is closed: the server was stopped without waiting
                log.warning("a result came after the server had stopped")


def _settle(future: asyncio.Future, result: Any) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
