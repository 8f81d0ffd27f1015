"""Noise that does not depend on how many processes share a batch.

A model's loss draws from one generator, one row per window. Over several ranks each holds some rows of the batch; here its
draws become those rows of what one process with the whole batch would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from traceworld.errors import ConfigError


class RowsOfDraw(TorchFunctionMode):
    """Within the block `torch.rand` and `torch.randn` from `generator` give rows `first … first + count - 1` of `total`.

    Args:
        generator: of the step, in the same state on every rank.
        first, count: the windows of this rank. total: windows of the whole batch.

    Raises:
        ConfigError: (from the block) a draw whose first axis is not the windows, or of a kind that has no rows.
    """

    def __init__(self, generator: torch.Generator, first: int, count: int, total: int):
        super().__init__()
        self.generator, self.first, self.count, self.total = generator, first, count, total

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("generator") is not self.generator:
            return func(*args, **kwargs)
        shape: tuple[int, ...] = ()
        if func in (torch.rand, torch.randn):
            shape = tuple(kwargs.pop("size", args[0] if args and not isinstance(args[0], int) else args))
        if not shape or shape[0] != self.count:
            raise ConfigError(
                f"{getattr(func, '__name__', func)}{list(shape)} has no row for each of the {self.count} windows",
                where="the model's loss",
                mend="draw with torch.rand or torch.randn, windows first; then several processes can train it",
            )
        whole: Tensor = func((self.total, *shape[1:]), **kwargs)
        return whole[self.first : self.first + self.count]


def seed_of(*numbers: int) -> int:
    """One 63-bit seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
