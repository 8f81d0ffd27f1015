"""Worker processes of the simulator: one core each, and none that outlives who started it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import cv2


def worker_pool(workers: int, begin: Callable[..., None] | None = None, *given: Any) -> ProcessPoolExecutor:
    """Processes that have a core each, and end when this one is gone, even if it was killed.

    Args:
        begin: called in each of them first, with what is `given`; importable.
    """
    # spawn: a forked child would share the parent's GL driver and thread pools
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(begin, given))


def one_thread() -> None:
    """One worker is one core: no threads in linear algebra, OpenCV or the software renderer. Call before rendering."""
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", LP_NUM_THREADS="1")
    cv2.setNumThreads(0)


def _begin(begin: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    one_thread()
    if begin is not None:
        begin(*given)


def _end_with_the_parent() -> None:
    """A worker of `concurrent.futures` whose parent was killed waits for its next job for ever, with all its memory."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
