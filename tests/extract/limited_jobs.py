"""Jobs that misbehave, for worker processes: in a module that is quick to import."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path


def break_down(job: int) -> int:
    if job == 1:
        ctypes.string_at(0)
    return job


def take(gigabytes: float) -> str:
    """Ask for memory, touch it, give it back."""
    import numpy as np

    from traceworld.extract.memory import limit_memory, ran_out_of_memory

    limit_memory(1.0)
    try:
        return f"{np.ones(int(gigabytes * 1e9), np.uint8).sum()}"
    except MemoryError as error:
        return f"refused {ran_out_of_memory(error)}"


def process_number(job: int) -> int:
    return os.getpid()


def _address_space_mb() -> float:
    """The most this process has ever asked for, touched or not."""
    return int(re.search(r"VmPeak:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def open_first_frame(path: str) -> tuple[str, float]:
    """What came of it, and how much more address space the process has asked for since."""
    from traceworld.errors import TraceworldError
    from traceworld.perception.sources import open_source

    before = _address_space_mb()
    try:
        with open_source(path) as source:
            next(iter(source))
        return "no error", 0.0
    except TraceworldError as error:
        return f"{type(error).__name__}: {error}", _address_space_mb() - before
