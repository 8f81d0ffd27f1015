"""What a reward compares an answer with: the true trace, the key steps of the reasoning, and what normalises them (D.4)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from traceworld.errors import InvalidInputError
from traceworld.tracespatial.answers import SCALE
from traceworld.tracespatial.steps import KINDS, StepKind

_MAX_TARGET = 200
"""Characters of a target object that are looked at: more is no name, and a regular expression may be slow on it."""


@dataclass(frozen=True)
class KeyStep:
    """A step that a good chain of reasoning contains.

    Attributes:
        kind: `Referring` (where something is), `Measuring` (how large or far), `Scale` (the scene's metric factor).
        target: regular expression for the object's name; matched as a whole, case ignored.
        value: Referring: (u, v) or (u, v, d), thousandths and metres. Measuring: (metres,). Scale: (factor,).
    """

    kind: StepKind
    target: str
    value: tuple[float | int, ...]

    def __post_init__(self):
        where = f"KeyStep {self.target!r}"
        _refuse(self.kind not in KINDS, where, f"kind '{self.kind}' is none of {', '.join(KINDS)}")
        lengths = (2, 3) if self.kind == "Referring" else (1,)
        _refuse(len(self.value) not in lengths, where, f"{self.kind} with {len(self.value)} numbers")
        _refuse(not all(math.isfinite(number) for number in self.value), where, "value holds NaN or infinity")
        metric = self.value[2:] if self.kind == "Referring" else self.value
        _refuse(any(number <= 0 for number in metric), where, "a depth, length or scale is not positive")
        try:
            re.compile(self.target)
        except re.error as error:
            raise InvalidInputError(f"is no regular expression: {error}", where=where) from error

    @staticmethod
    def named(kind: StepKind, name: str, value: tuple[float | int, ...]) -> KeyStep:
        """A step on the object of exactly this name."""
        return KeyStep(kind, re.escape(plain_name(name)), value)

    def matches(self, kind: str | None, name: str) -> bool:
        """Whether an answer's step is about this. An article before the name and its case do not matter."""
        name = plain_name(name)
        return kind == self.kind and bool(re.fullmatch(self.target, name[:_MAX_TARGET], re.IGNORECASE))


def plain_name(name: str) -> str:
    """A name without article and with single spaces."""
    return re.sub(r"^(?:the|an|a) (?=.)", "", " ".join(name.split()), flags=re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Annotation:
    """The truth about one question.

    Attributes:
        trace: [T,2] (u, v) in thousandths, or [T,3] with d in metres; None for a question without a trace.
        key_steps: may be none.
        max_depth_m: the scene's largest depth; divides d in the distances of traces. Needed when the trace has d.
        size_px: (width, height) of the picture, for the tolerance of Referring.
    """

    trace: Float[np.ndarray, "T d"] | None
    key_steps: tuple[KeyStep, ...]
    size_px: tuple[int, int]
    max_depth_m: float | None = None

    def __post_init__(self):
        where = "Annotation"
        _refuse(min(self.size_px) < 1, f"{where}.size_px", f"is {self.size_px}")
        if self.max_depth_m is not None:
            _refuse(
                not (math.isfinite(self.max_depth_m) and self.max_depth_m > 0), f"{where}.max_depth_m", "not positive"
            )
        if self.trace is None:
            return
        trace = np.asarray(self.trace, np.float64)
        object.__setattr__(self, "trace", trace)
        _refuse(trace.ndim != 2 or trace.shape[1] not in (2, 3) or not len(trace), f"{where}.trace", f"{trace.shape}")
        _refuse(not np.isfinite(trace).all(), f"{where}.trace", "holds NaN or infinity")
        _refuse(trace.shape[1] == 3 and self.max_depth_m is None, f"{where}.max_depth_m", "is needed for depths")

    def unit_trace(self) -> Float[np.ndarray, "T d"] | None:
        """The trace with u and v in [0,1] and d divided by the scene's largest depth."""
        return None if self.trace is None else self.to_unit(self.trace)

    def to_unit(self, trace: Float[np.ndarray, "T d"]) -> Float[np.ndarray, "T d"]:
        """Any trace of this picture, in the units of `unit_trace`."""
        unit = np.array(trace, np.float64)
        unit[:, :2] /= SCALE
        if unit.shape[1] == 3 and self.max_depth_m is not None:
            unit[:, 2] /= self.max_depth_m
        return unit

    def to_json(self) -> dict[str, Any]:
        """What JSON keeps; `from_json` reads it."""
        return {
            "trace": None if self.trace is None else self.trace.tolist(),
            "key_steps": [{"kind": s.kind, "target": s.target, "value": list(s.value)} for s in self.key_steps],
            "size_px": list(self.size_px),
            "max_depth_m": self.max_depth_m,
        }

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Annotation:
        """Raises InvalidInputError when a field is missing or wrong."""
        try:
            steps = tuple(KeyStep(s["kind"], s["target"], tuple(map(float, s["value"]))) for s in fields["key_steps"])
            trace = None if fields["trace"] is None else np.asarray(fields["trace"], np.float64)
            width, height = fields["size_px"]
            depth = fields.get("max_depth_m")
            return Annotation(trace, steps, (int(width), int(height)), None if depth is None else float(depth))
        except InvalidInputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(f"is no annotation: {error!r}", where="Annotation.from_json") from error


def _refuse(condition: bool | np.bool_, where: str, message: str) -> None:
    if condition:
        raise InvalidInputError(message, where=where)
