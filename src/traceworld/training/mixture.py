"""How several clip stores are mixed: what `TrainConfig.data` says, and the share of the draws that each store gets.

`folder`       every window of it has chance 1
`folder:2`     every window of it has chance 2: twice that of a window of a store with 1
`folder:60%`   60 % of the draws are its windows, however many it has; then all stores have a share, and they add up to 100 %
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from traceworld.errors import ConfigError

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)(%?)")


@dataclass(frozen=True)
class Store:
    """One item of a mixture.

    Attributes:
        path: of the clip store.
        weight: chance of each of its windows, relative to those of other stores; None if `percent` is given.
        percent: its part of all draws, 0–100.
    """

    path: str
    weight: float | None = 1.0
    percent: float | None = None


def read_mixture(data: Sequence[str]) -> list[Store]:
    """The stores of a mixture, in order.

    A folder whose own name ends in a colon and a number is written with its weight: `runs/a:2:1`.

    Raises:
        ConfigError: a weight of 0, shares that do not add up to 100 %, or shares beside weights.
    """
    stores = [_read(text) for text in data]
    percents = [store.percent for store in stores if store.percent is not None]
    if percents and len(percents) < len(stores):
        raise ConfigError(
            "mixes shares in % with weights", where="TrainConfig.data", mend="give every store a share, or none"
        )
    if percents and not math.isclose(sum(percents), 100, abs_tol=1e-3):
        raise ConfigError(f"has shares of {sum(percents):g} % in all", where="TrainConfig.data", mend="make it 100 %")
    return stores


def is_plain(stores: Sequence[Store]) -> bool:
    """Whether all windows have the same chance, so that the stores can be read as one."""
    return all(store.weight == stores[0].weight and store.percent is None for store in stores)


def shares_of(stores: Sequence[Store], windows: Sequence[int]) -> list[float]:
    """Each store's part of the draws, summing to 1. `windows`: how many each store has."""
    chances = [
        store.percent if store.percent is not None else (store.weight or 0.0) * count
        for store, count in zip(stores, windows, strict=True)
    ]
    return [chance / sum(chances) for chance in chances]


def _read(text: str) -> Store:
    path, _, number = text.rpartition(":")
    found = _NUMBER.fullmatch(number) if path else None
    if found is None:
        return Store(text)
    value = float(found[1])
    if value <= 0:
        raise ConfigError(f"'{text}' has a weight of 0", where="TrainConfig.data", mend="leave that store out")
    return Store(path, None, value) if found[2] else Store(path, value)
