"""Confidence intervals of shares of successes."""

from __future__ import annotations

from math import sqrt

from traceworld.errors import InvalidInputError

Z_95 = 1.959963984540054


def wilson_interval(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """The Wilson score interval of a success rate: 95 % by default. Without a trial nothing is known: (0, 1).

    Raises:
        InvalidInputError: more successes than trials, or negative numbers.
    """
    if not 0 <= successes <= trials:
        raise InvalidInputError(f"{successes} successes of {trials} trials", where="wilson_interval")
    if trials == 0:
        return 0.0, 1.0
    rate, z2 = successes / trials, z * z / trials
    middle = (rate + z2 / 2) / (1 + z2)
    half = z / (1 + z2) * sqrt(rate * (1 - rate) / trials + z2 / (4 * trials))
    low = 0.0 if successes == 0 else max(middle - half, 0.0)  # exactly, whatever the rounding
    high = 1.0 if successes == trials else min(middle + half, 1.0)
    return low, high
