"""A limit on the memory of one process, kept by the kernel, and what running into it looks like."""

from __future__ import annotations

import sys

import cv2

from traceworld.errors import ConfigError
from traceworld.perception.hybrid import is_out_of_memory

LEAST_GB = 0.5
"""What a process with nothing but the libraries takes, and a little room."""


def check_memory_limit(memory_gb: float) -> None:
    """Refuse a limit that cannot be kept.

    Raises:
        ConfigError: too small to begin, or this system keeps no such limit.
    """
    if not memory_gb >= LEAST_GB:
        raise ConfigError(f"{memory_gb:g} GB are too few", where="memory_gb", mend=f"at least {LEAST_GB} for a process")
    if not sys.platform.startswith("linux"):
        raise ConfigError("only Linux keeps such a limit", where="memory_gb", mend="leave it out, or use a container")


def limit_memory(memory_gb: float) -> None:
    """Let this process, from now on, take no more than so many GB (10⁹ bytes) of memory of its own.

    What it asks for beyond is refused, and it goes on (`ran_out_of_memory`). Counted is what it may write to and shares with
    nobody, touched or not: not the libraries' code, nor address space that a GPU driver has merely reserved.
    """
    import resource

    limit = int(memory_gb * 1e9)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that memory was refused (Python, numpy, OpenCV, FFmpeg, torch)."""
    while error is not None:
        if is_out_of_memory(error) or (isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem):
            return True
        error = error.__cause__ or error.__context__
    return False
