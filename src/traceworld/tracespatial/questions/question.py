"""What a question is: words, answer, and the small JSON program from which the answer can be computed again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from traceworld.errors import InvalidInputError

FAMILIES = (
    "relative_position",
    "size_comparison",
    "quantitative",
    "referring",
    "free_space",
    "trace",
    "reasoning",
)
MAX_STEPS = 9
"""Longest reasoning chain (RoboTracer §3.3)."""


@dataclass(frozen=True)
class Question:
    """One question and its answer.

    Attributes:
        family: one of `FAMILIES`.
        text: what is asked. answer: what is right.
        program: JSON-able provenance: `op`, `objects` (ids in the order in which the text first names them), `phrases` (how it
            names them) and the parameters of the operation.
        steps: reasoning steps: lines of the chain, or spatial relations and anchors in the words of what has no chain.
        metric: the answer states a length.
    """

    family: str
    text: str
    answer: str
    program: Mapping[str, Any]
    steps: int
    metric: bool

    def __post_init__(self):
        if self.family not in FAMILIES:
            raise InvalidInputError(f"no family '{self.family}'", where="Question.family", mend=f"one of {FAMILIES}")
        if not 1 <= self.steps <= MAX_STEPS:
            raise InvalidInputError(f"{self.steps} is not 1 to {MAX_STEPS}", where="Question.steps")
        if not self.text.strip() or not self.answer.strip():
            raise InvalidInputError("is empty", where="Question.text or answer")
