"""The numbers that tie a model to its corpus. They live inside every checkpoint (`normalisation` of config.json)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from traceworld.errors import CheckpointError

CLOCKS = ("time", "arc")
"""Index = the value of `batch["clock"]`."""


@dataclass(frozen=True)
class Normalisation:
    """
    Attributes:
        s_delta: per clock, the scale of (u, v, z) displacements (mu0-paper eq. 3): [3] floats. A clock that is absent was
            not trained on.
        steps: per clock, what one step of the horizon is: seconds (`time`) or image widths of path (`arc`).
        depth_log_min: natural log of the corpus' near depth in metres (1st percentile).
        depth_log_max: natural log of its far depth (99th percentile).
    """

    s_delta: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: {"time": (1.0, 1.0, 1.0)})
    steps: Mapping[str, float] = field(default_factory=lambda: {"time": 0.025})
    depth_log_min: float = float(np.log(0.2))
    depth_log_max: float = float(np.log(5.0))

    def __post_init__(self):
        where = "normalisation"
        if not self.s_delta:
            raise CheckpointError("has no s_delta", where=where, mend="compute it over the corpus (eq. 3)")
        if set(self.s_delta) != set(self.steps):
            raise CheckpointError(f"s_delta of {sorted(self.s_delta)} but steps of {sorted(self.steps)}", where=where)
        for clock, scale in self.s_delta.items():
            if clock not in CLOCKS:
                raise CheckpointError(f"unknown clock '{clock}', known are {CLOCKS}", where=where)
            if len(scale) != 3 or not np.isfinite(scale).all() or min(scale) <= 0:
                raise CheckpointError(f"s_delta of '{clock}' must be three positive numbers, not {scale}", where=where)
            if not self.steps[clock] > 0:
                raise CheckpointError(f"the step of '{clock}' must be positive", where=where)
        if not self.depth_log_min < self.depth_log_max:
            raise CheckpointError("depth_log_min must be below depth_log_max", where=where)

    def scale_table(self) -> np.ndarray:
        """[2,3] float32: row 0 for the time clock, row 1 for arc length; ones for a clock that was not trained on."""
        return np.array([self.s_delta.get(clock, (1.0, 1.0, 1.0)) for clock in CLOCKS], np.float32)

    def to_dict(self) -> dict[str, Any]:
        return {
            "s_delta": {clock: [float(x) for x in scale] for clock, scale in self.s_delta.items()},
            "steps": {clock: float(step) for clock, step in self.steps.items()},
            "depth_log_min": float(self.depth_log_min),
            "depth_log_max": float(self.depth_log_max),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Normalisation:
        """
        Raises:
            CheckpointError: a field is missing, unknown, or not a number that can be used.
        """
        known = {"s_delta", "steps", "depth_log_min", "depth_log_max"}
        if unknown := set(values) - known:
            raise CheckpointError(f"unknown fields {sorted(unknown)}", where="normalisation")
        if missing := known - set(values):
            raise CheckpointError(f"missing fields {sorted(missing)}", where="normalisation")
        try:
            return Normalisation(
                {clock: tuple(float(x) for x in scale) for clock, scale in values["s_delta"].items()},
                {clock: float(step) for clock, step in values["steps"].items()},
                float(values["depth_log_min"]),
                float(values["depth_log_max"]),
            )
        except (TypeError, ValueError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"is not readable: {error}", where="normalisation") from error
