"""The processes of a run: one, or those that torchrun started. What they tell each other beside gradients goes through here.

`torchrun --nproc-per-node K -m traceworld.cli train …` (or `torchrun … --no-python traceworld train …`) sets RANK, WORLD_SIZE,
LOCAL_RANK and MASTER_ADDR/PORT; without them a run is one process. Collectives of CPU tensors use gloo, those of CUDA
tensors NCCL. Numbers are exchanged as CPU float64, so asking for them never waits for a GPU.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float64

from traceworld.errors import ConfigError, TraceworldError

_TIMEOUT = timedelta(minutes=30)
"""For a rank that lives and is silent (a long first read of the data); one that dies is noticed at once."""
_SIGNS_OF_LOSS = ("gloo", "nccl", "connection", "peer", "socket", "timed out", "timeout", "process group")


class RankLostError(TraceworldError):
    """Another process of the run died or cannot be reached."""


@dataclass(frozen=True)
class World:
    """Who this process is among those of the run. All methods are collective: every rank calls them, in the same order.

    Attributes:
        rank, size: number of this process, and how many there are.
        device: where this process computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Rank 0 alone writes: log, checkpoints, result."""
        return self.rank == 0

    def gather(self, numbers: Sequence[float | int]) -> Float64[np.ndarray, "ranks n"]:
        """Every rank's numbers, the same array everywhere."""
        mine = torch.tensor(numbers, dtype=torch.float64)
        if self.size == 1:
            return mine[None].numpy()
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine)
        return torch.stack(found).numpy()

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's value (anything small), in the order of ranks."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def any(self, *flags: bool) -> list[bool]:
        """For each flag: whether some rank raised it."""
        return [bool(column.any()) for column in self.gather([float(flag) for flag in flags]).T]

    def wait(self) -> None:
        """Go on when all ranks are here."""
        if self.size > 1:
            self.gather([0.0])

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[None]:
        """Rank 0 runs the block before the others do (it builds a cache, they find it)."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()


@contextlib.contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """The world of this process; within the block the process group exists.

    Args:
        device: `auto` (CUDA where there is one), `cpu`, `cuda`, …; with several ranks each takes the CUDA device of its
            LOCAL_RANK.

    Raises:
        ConfigError: no such device, or WORLD_SIZE is set without the rest of what torchrun sets.
        RankLostError: (from the block) another rank died; torchrun ends or restarts all of them.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device=_device(device, None))
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(f"is not set, but WORLD_SIZE is {size}", where=", ".join(missing), mend="start with torchrun")
    world = World(int(os.environ["RANK"]), size, _device(device, int(os.environ["LOCAL_RANK"])))
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    owned = not dist.is_initialized()
    if owned:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield world
    except RuntimeError as error:
        if any(sign in str(error).lower() for sign in _SIGNS_OF_LOSS):
            raise RankLostError(
                f"another of the {size} ranks died or cannot be reached: {str(error).splitlines()[0]}",
                where=f"rank {world.rank}",
                mend="look at that rank's output; start again with the same command, the run goes on at its last checkpoint",
            ) from error
        raise
    if owned:  # after an error the others may be gone, and taking leave of them would wait for nothing
        gc.collect()  # wrapped models sit in reference cycles and hold on to the group
        dist.destroy_process_group()


def _device(name: str, local_rank: int | None) -> torch.device:
    try:
        found = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    except RuntimeError as error:
        raise ConfigError(f"'{name}' is no device", where="TrainConfig.device", mend="auto, cpu, cuda") from error
    if found.type == "cuda" and found.index is None and local_rank is not None:
        return torch.device("cuda", local_rank)
    return found
