"""What the flow runs over: control points of a B-spline (mu0-paper eq. 4), or the future steps as they are (Table 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from traceworld.geometry.bspline import decode
from traceworld.models.mu0.config import Mu0Config


@dataclass(frozen=True)
class Target:
    """The clean end of the flow for one batch.

    Attributes:
        points: [B,N,D,3] in units of s_Δ.
        counts: what the flow loss counts: whole keypoints [B,N], or single points [B,N,D].
        whole: [B,N] keypoints whose every point is known: those that the rigidity loss compares.
    """

    points: Float[Tensor, "B N D 3"]
    counts: Bool[Tensor, "B N *D"]
    whole: Bool[Tensor, "B N"]


@runtime_checkable
class TargetKind(Protocol):
    """How a batch becomes a `Target`, and points become a trace."""

    def of(self, batch: Mapping[str, Any]) -> Target: ...

    def decode(self, points: Float32[np.ndarray, "*S D 3"]) -> Float32[np.ndarray, "*S H 3"]: ...


@dataclass(frozen=True)
class SplineTarget:
    """The fitted control points; keypoints with fewer than D valid steps do not count."""

    horizon: int
    knots: str
    degree: int

    def of(self, batch: Mapping[str, Any]) -> Target:
        usable = batch["controls_usable"] & batch["present"]
        return Target(batch["controls"], usable, usable)

    def decode(self, points: Float32[np.ndarray, "*S D 3"]) -> Float32[np.ndarray, "*S H 3"]:
        return decode(points, horizon=self.horizon, knots=self.knots, degree=self.degree)


@dataclass(frozen=True)
class RawTarget:
    """The anchor-relative steps themselves (Table 6, "w/o B-spline"); steps that are not valid do not count."""

    def of(self, batch: Mapping[str, Any]) -> Target:
        counts = batch["future_valid"] & batch["present"][..., None]
        return Target(batch["future"], counts, counts.all(-1))

    def decode(self, points: Float32[np.ndarray, "*S D 3"]) -> Float32[np.ndarray, "*S H 3"]:
        return points


def target_of(config: Mu0Config) -> TargetKind:
    """The kind of target that a config asks for."""
    if config.target == "raw":
        return RawTarget()
    return SplineTarget(config.horizon, config.knots, config.degree)
