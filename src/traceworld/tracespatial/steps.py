"""Process lines of a reasoning chain: `Step k: … [Perception Type] [Target Object]: value` (RoboTracer §3.2, D.4).

Values: `Referring` a point `[(u, v, d)]`, `Measuring` a length with its unit, `Scale` a number. The paper's own figures leave the
colon out and print `[Position]` for Referring; both are read, and `exact` says whether a line is written as specified.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from traceworld.errors import InvalidInputError
from traceworld.tracespatial.answer_values import MAX_CHARACTERS, MAX_DEPTH_M, MAX_UV, NUMBER, format_point, metres_per

StepKind = Literal["Referring", "Measuring", "Scale"]
KINDS: tuple[StepKind, ...] = ("Referring", "Measuring", "Scale")
MAX_STEPS = 1000
_ALIASES: dict[str, StepKind] = {kind.lower(): kind for kind in KINDS} | {"position": "Referring"}
_HEAD = re.compile(r"\[([^\[\]\n]{1,40})\][ \t]{0,8}\[([^\[\]\n]{1,300})\][ \t]{0,8}([:：]?)")
_STEP = re.compile(r"\bstep[ \t]{0,4}(\d{1,4})\b", re.IGNORECASE)
_POINT = re.compile(rf"\(\s*({NUMBER})\s*,\s*({NUMBER})\s*,\s*({NUMBER})\s*m?\s*\)")
_LENGTH = re.compile(rf"({NUMBER})[ \t]{{0,4}}([A-Za-z]{{1,12}})?")


@dataclass(frozen=True)
class ProcessStep:
    """One step of a chain.

    Attributes:
        kind: what is perceived; None for a type that is unknown.
        target: the object's name as written.
        point: (u, v, d) of a Referring step: thousandths of the picture, metres; None if there is none.
        value: metres of a Measuring step, factor of a Scale step; None if there is none.
        number: k of `Step k`, None where it is not written.
        exact: written as specified: a known type, a colon, a value of that type (a length with its unit).
    """

    kind: StepKind | None
    target: str
    point: tuple[float, float, float] | None = None
    value: float | None = None
    number: int | None = None
    exact: bool = False


def parse_steps(text: str | None) -> list[ProcessStep]:
    """All process steps of a text, in order; never raises. Give it the thinking part of `split_thinking`.

    A value that is not finite or out of range is None. At most `MAX_STEPS` are read, of `MAX_CHARACTERS`.
    """
    if not isinstance(text, str):
        return []
    found: list[ProcessStep] = []
    for line in text[:MAX_CHARACTERS].splitlines():
        heads = list(_HEAD.finditer(line))
        ends = [*(head.start() for head in heads[1:]), len(line)]
        for head, after in zip(heads, ends, strict=False):  # a line without a head has an end all the same
            step = _read(head, line[head.end() : after])
            if step is not None:
                numbers = _STEP.findall(line[max(0, head.start() - 400) : head.start()])
                found.append(replace(step, number=int(numbers[-1])) if numbers else step)
            if len(found) == MAX_STEPS:
                return found
    return found


def _read(head: re.Match[str], rest: str) -> ProcessStep | None:
    written, target, colon = head.group(1).strip(), head.group(2).strip(), bool(head.group(3))
    if not target or target.startswith("(") or not re.search(r"[^\W\d_]", written):
        return None  # `[Referring] [(u, v, d)]` has a value in place of an object; `[1] [2]` is no step
    kind = _ALIASES.get(written.lower())
    if kind is None:
        return ProcessStep(None, target) if colon else None
    named = colon and written in KINDS
    if kind == "Referring":
        point = _point(rest[:400])
        return ProcessStep(kind, target, point=point, exact=named and point is not None)
    value, has_unit = _value(rest[:200], kind)
    return ProcessStep(kind, target, value=value, exact=named and value is not None and has_unit)


def _point(rest: str) -> tuple[float, float, float] | None:
    match = _POINT.search(rest)
    if match is None:
        return None
    u, v, d = (float(entry) for entry in match.groups())
    usable = abs(u) <= MAX_UV and abs(v) <= MAX_UV and 0 < d <= MAX_DEPTH_M  # false for NaN and infinity
    return (u, v, d) if usable else None


def _value(rest: str, kind: StepKind) -> tuple[float | None, bool]:
    match = _LENGTH.search(rest)
    if match is None:
        return None, False
    value = float(match.group(1))
    if kind == "Scale":
        return (value, True) if math.isfinite(value) else (None, False)
    factor = metres_per(match.group(2) or "")
    value *= 1.0 if factor is None else factor
    return (value, factor is not None) if abs(value) <= MAX_DEPTH_M else (None, False)


def format_step(
    number: int,
    kind: StepKind,
    target: str,
    *,
    point: tuple[float | int, float | int, float | int] | None = None,
    value: float | int | None = None,
    says: str = "",
) -> str:
    """A process line as specified, read back by `parse_steps` with `exact` true.

    Args:
        number: k, from 1. says: words before the brackets.
        point: (u, v, d) for `Referring`. value: metres for `Measuring`, the factor for `Scale`.

    Raises:
        InvalidInputError: the value of that kind is missing or not finite, or the target has brackets or line breaks.
    """
    if not target.strip() or re.search(r"[\[\]\n]", target):
        raise InvalidInputError(f"{target!r} cannot be a target", where="format_step.target")
    given = point if kind == "Referring" else value
    if given is None or not np.isfinite(given).all():
        raise InvalidInputError(f"{kind} needs its value", where="format_step", mend="give point= or value=")
    if point is not None and kind == "Referring":
        shown = f"[{format_point(np.asarray(point, np.float64))}]"
    else:
        assert value is not None
        shown = f"{value:.3f}m" if kind == "Measuring" else f"{value:.3f}"
    words = f" {says.strip()}" if says.strip() else ""
    return f"Step {number}:{words} [{kind}] [{target.strip()}]: {shown}"
