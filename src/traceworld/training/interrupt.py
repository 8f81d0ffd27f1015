"""Being told to stop, and how many threads to use: what surrounds the loop in its process."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch

log = logging.getLogger(__name__)


class StopSignal:
    """Within the block SIGTERM and SIGINT only set `asked`; the loop ends after its step. (Main thread only.)"""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        log.warning("signal %d: stopping after this step", number)
        self.asked = True


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Within the block torch uses `count` threads (None: as many as before)."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
