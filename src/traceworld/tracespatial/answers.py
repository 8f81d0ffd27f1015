"""The language of answers: traces as text, strict reading of what a model said, thinking kept apart from the answer.

A trace is written `[(u, v, d), …]` (or `(u, v)`): u and v in thousandths of the picture's width and height, d metres along the
camera axis with three decimals (RoboTracer, arXiv 2512.13660 §3.2). The strict parser here reads what is meant and names what is wrong; what
the published evaluator reads is in `answers_compat`.

Rules of the strict parser:
- thinking is never read; inside `<answer>` alone where there is one (the last);
- tuples in round or square brackets with any white space, exponents, a unit behind the depth; JSON, fenced or not, as
  lists or as objects (`x, y, d`, `u, v, depth`, `point: […]`), also inside other objects;
- several lists in one answer: the last of more than one point counts (a model that writes two has changed its mind);
- nothing is dropped or filled in silently: a NaN, an infinity, a null, a huge number, a depth that is not positive, tuples of two lengths
  are failures with a name (`FAILURES`).
Time and memory are linear in the length of the text, which is at most `MAX_CHARACTERS`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from traceworld.tracespatial.answer_values import (
    MAX_CHARACTERS,
    MAX_DEPTH_M,
    MAX_UV,
    NUMBER,
    SCALE,
    format_point,
    format_trace,
    metres_per,
    to_pixels,
    to_thousandths,
)
from traceworld.tracespatial.steps import ProcessStep, format_step, parse_steps

__all__ = [
    "FAILURES", "MAX_CHARACTERS", "MAX_DEPTH_M", "MAX_POINTS", "MAX_UV", "SCALE", "ParsedTrace", "ProcessStep", "Thinking",
    "format_answer", "format_point", "format_step", "format_trace", "parse_steps", "parse_trace", "split_thinking",
    "to_pixels", "to_thousandths",
]  # fmt: skip

MAX_POINTS = 1000

FAILURES = {
    "no_text": "there is no text",
    "thinking_only": "there is thinking but no answer",
    "no_points": "no point is in it",
    "mixed_lengths": "tuples of two and of three numbers",
    "wrong_length": "tuples of four or more numbers, or all of another length than asked for",
    "no_depth": "asked for three numbers, given two",
    "not_finite": "NaN, infinity or null in place of a number",
    "out_of_range": f"|u| or |v| above {MAX_UV:g}, a depth not above 0 or above {MAX_DEPTH_M:g} m",
    "too_many_points": f"more than {MAX_POINTS} points",
    "too_long": f"more than {MAX_CHARACTERS} characters",
}
"""Every kind of failure that `parse_trace` names."""

Form = Literal["", "tuples", "json"]

_THINK = re.compile(r"<(/?)think>", re.IGNORECASE)
_ANSWER = re.compile(r"<(/?)answer>", re.IGNORECASE)
_TAG = re.compile(r"<(/?)(think|answer)>", re.IGNORECASE)
_WORD_NUMBER = r"[-+]?(?:nan|inf|infinity|null|none)\b"
_ENTRY = rf"(?:{NUMBER}|{_WORD_NUMBER})"
_UNIT = r"(?:mm|cm|m|millimet(?:er|re)s?|centimet(?:er|re)s?|met(?:er|re)s?)\b\.?"
_TUPLE = re.compile(rf"[(\[]\s*({_ENTRY}(?:\s*,\s*{_ENTRY}){{1,7}})\s*(?:({_UNIT})\s*)?[)\]]", re.IGNORECASE)
_FENCE = re.compile(r"```([^`]*)```")
_DEPTH_NAMES = ("d", "z", "depth", "depth_m", "distance")
_PAIR_NAMES = (("u", "v"), ("x", "y"))
_POINT_NAMES = ("point", "point_2d", "point_3d", "coordinates", "position", "uvd", "xyd", "uv", "xy")
_MAX_NESTING = 64


@dataclass(frozen=True, eq=False)
class ParsedTrace:
    """What an answer says, or why it says nothing.

    Attributes:
        points: [P,2] (u, v) or [P,3] (u, v, d): thousandths of the picture and metres; [0,2] after a failure.
        failure: "" or one of `FAILURES`.
        form: how it was written: `tuples` or `json`.
    """

    points: Float[np.ndarray, "P D"]
    failure: str
    form: Form

    @property
    def ok(self) -> bool:
        return not self.failure


class Thinking(NamedTuple):
    """An answer taken apart: `think` and `answer` as text, and whether the form is exactly the one asked for."""

    think: str
    answer: str
    well_formed: bool


def split_thinking(text: str | None) -> Thinking:
    """Thinking and answer of a text; never raises.

    Without an `<answer>` everything outside of thinking is the answer; of several the last counts. Thinking that is never
    closed leaves no answer; thinking that was opened in the prompt (`…</think>` alone) is thinking. `well_formed` is the format reward
    R_OF (RoboTracer §3.2): `<think>…</think>` then `<answer>…</answer>`, each once, nothing else around them.
    """
    if not isinstance(text, str):
        return Thinking("", "", False)
    depth, opened, position = 0, False, 0
    inside: list[str] = []
    outside: list[str] = []
    for tag in _THINK.finditer(text):
        (inside if depth else outside).append(text[position : tag.start()])
        position = tag.end()
        if not tag.group(1):
            depth, opened = depth + 1, True
        elif depth:
            depth -= 1
        elif not opened:
            inside, outside = inside + outside, []
            opened = True
    (inside if depth else outside).append(text[position:])
    return Thinking("".join(inside).strip(), _answer_part("\n".join(outside)), _well_formed(text))


def _answer_part(spoken: str) -> str:
    start = end = None
    for tag in _ANSWER.finditer(spoken):
        if not tag.group(1):
            start, end = tag.end(), None
        elif start is not None and end is None:
            end = tag.start()
    return (spoken if start is None else spoken[start:end]).strip()


def _well_formed(text: str) -> bool:
    tags = list(_TAG.finditer(text))
    if [(tag.group(1), tag.group(2).lower()) for tag in tags] != [
        ("", "think"), ("/", "think"), ("", "answer"), ("/", "answer"),
    ]:  # fmt: skip
        return False
    around = text[: tags[0].start()] + text[tags[1].end() : tags[2].start()] + text[tags[3].end() :]
    return not around.strip()


def parse_trace(
    text: str | None, dims: int | None = None, form: Literal["auto", "tuples", "json"] = "auto"
) -> ParsedTrace:
    """The trace in a model's words, strictly; never raises, whatever the words.

    Args:
        text: the whole output, thinking included; None where there was none.
        dims: 2 or 3: how many numbers a point must have. A 3D answer to a 2D question loses its depth, a 2D answer to a 3D
            question is the failure `no_depth`. None: as written.
        form: read `tuples` or `json` alone; `auto`: JSON where there is some, else tuples.
    """
    if not isinstance(text, str) or not text.strip():
        return _failed("no_text")
    if len(text) > MAX_CHARACTERS:
        return _failed("too_long")
    thinking = split_thinking(text)
    if not thinking.answer:
        return _failed("thinking_only" if thinking.think else "no_text")
    found, written = _points(thinking.answer, form)
    return _checked(found, written, dims)


def _failed(failure: str, form: Form = "") -> ParsedTrace:
    return ParsedTrace(np.zeros((0, 2)), failure, form)


def _points(answer: str, form: str) -> tuple[list[list[float]], Form]:
    if form != "tuples":
        found = _json_points(answer)
        if found:
            return found, "json"
    if form == "json":
        return [], ""
    found = _last_run(answer)
    return found, "tuples" if found else ""


def _checked(found: list[list[float]], form: Form, dims: int | None) -> ParsedTrace:
    if not found:
        return _failed("no_points")
    if len(found) > MAX_POINTS:
        return _failed("too_many_points", form)
    lengths = {len(point) for point in found}
    if lengths == {2, 3}:
        return _failed("mixed_lengths", form)
    if len(lengths) > 1 or not lengths <= {2, 3}:
        return _failed("wrong_length", form)
    if dims == 3 and lengths == {2}:
        return _failed("no_depth", form)
    points = np.asarray(found, np.float64)
    if not np.isfinite(points).all():
        return _failed("not_finite", form)
    depth_m = points[:, 2:]
    if (np.abs(points[:, :2]) > MAX_UV).any() or (depth_m <= 0).any() or (depth_m > MAX_DEPTH_M).any():
        return _failed("out_of_range", form)
    return ParsedTrace(points[:, : dims or 3], "", form)


# --- tuples ----------------------------------------------------------------------------------------------------------


def _last_run(text: str) -> list[list[float]]:
    """Tuples of the last list that has more than one; lists are told apart by words between tuples.

    If words stand between all of them ("from (…) over (…) to (…)"), they are one list.
    """
    runs: list[list[re.Match[str]]] = []
    end = -1
    for match in _TUPLE.finditer(text):
        if end < 0 or _has_word(text, end, match.start()):
            runs.append([])
        runs[-1].append(match)
        end = match.end()
    long = [run for run in runs if len(run) > 1]
    chosen = long[-1] if long else [match for run in runs for match in run]
    return [_numbers(match) for match in chosen[: MAX_POINTS + 1]]  # one too many is enough to be refused


def _has_word(text: str, start: int, end: int) -> bool:
    """Two letters in a row between tuples (the `m` of a stray unit is no word)."""
    return re.search(r"[^\W\d_]{2}", text[start : min(end, start + 400)]) is not None or end - start > 400


def _numbers(match: re.Match[str]) -> list[float]:
    numbers = [_number(entry) for entry in match.group(1).split(",")]
    if match.group(2) and len(numbers) == 3:
        numbers[2] *= metres_per(match.group(2)) or 1.0
    return numbers


def _number(entry: str) -> float:
    try:
        return float(entry)
    except ValueError:  # null, none
        return math.nan


# --- JSON ------------------------------------------------------------------------------------------------------------


def _json_points(text: str) -> list[list[float]]:
    """Points of the last JSON value in the text that holds any."""
    for block in _json_blocks(text):
        value = _loaded(block)
        if value is None:
            continue
        found = _paths_in(value)
        if found:
            return found
    return []


def _json_blocks(text: str) -> Iterator[str]:
    """Candidates, best first: fenced blocks from the last, the whole text, from the first brace or bracket to the last."""
    for block in reversed(_FENCE.findall(text)[-16:]):
        yield block
        _, _, rest = block.partition("\n")
        yield rest
        yield block.lstrip()[4:] if block.lstrip()[:4].lower() == "json" else ""
    yield text
    for opened, closed in ("{}", "[]"):
        first, last = text.find(opened), text.rfind(closed)
        if 0 <= first < last:
            yield text[first : last + 1]


def _loaded(block: str) -> Any:
    block = block.strip()
    if not block or block[0] not in "{[" or _nesting(block) > _MAX_NESTING:
        return None
    try:
        return json.loads(re.sub(r",(\s{0,200}[}\]])", r"\1", block))
    except (ValueError, RecursionError):
        return None


def _nesting(text: str) -> int:
    depth = deepest = 0
    for match in re.finditer(r"[\[{]|[\]}]", text):
        depth += 1 if match.group() in "[{" else -1
        deepest = max(deepest, depth)
        if deepest > _MAX_NESTING:
            break
    return deepest


def _paths_in(value: Any) -> list[list[float]]:
    """The last list of points of more than one point, else the loose points of the value in their order."""
    whole = _point(value)
    if whole is not None:
        return [whole]
    paths: list[list[list[float]]] = []
    loose: list[list[float]] = []
    waiting = [value]
    while waiting:  # depth first, in the order written
        item = waiting.pop()
        point = _point(item)
        if point is not None:
            loose.append(point)
            continue
        path = _path(item)
        if path is not None:
            paths.append(path)
            loose.extend(path)
        elif isinstance(item, dict):
            waiting.extend(reversed([entry for entry in item.values() if isinstance(entry, (list, dict))]))
        elif isinstance(item, list):
            waiting.extend(reversed([entry for entry in item if isinstance(entry, (list, dict))]))
    long = [path for path in paths if len(path) > 1]
    return long[-1] if long else paths[-1] if paths else loose


def _path(item: Any) -> list[list[float]] | None:
    if not isinstance(item, list) or not item:
        return None
    points = []
    for entry in item:
        point = _point(entry) if isinstance(entry, (list, dict)) else None
        if point is None:
            return None
        points.append(point)
    return points


def _point(item: Any) -> list[float] | None:
    """Two or more numbers (null counts as NaN), as a list or as an object with named numbers; else None."""
    if isinstance(item, dict):
        return _named_point(item)
    if not isinstance(item, list) or not 2 <= len(item) <= 8:
        return None
    if not all(entry is None or _is_number(entry) for entry in item) or all(entry is None for entry in item):
        return None
    return [math.nan if entry is None else _float(entry) for entry in item]


def _named_point(item: dict[str, Any]) -> list[float] | None:
    named = {str(name).lower(): value for name, value in item.items()}
    for pair in _PAIR_NAMES:
        if all(name in named for name in pair):
            depth = [named[name] for name in _DEPTH_NAMES if name in named][:1]
            return _point([named[pair[0]], named[pair[1]], *depth])
    for name in _POINT_NAMES:
        if name in named:
            inner = _point(named[name]) if isinstance(named[name], list) else None
            if inner is not None and len(inner) == 2:
                depth = [named[key] for key in _DEPTH_NAMES if key in named][:1]
                return _point([*inner, *depth])
            return inner
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _float(value: float | int) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def format_answer(think: str, answer: str) -> str:
    """`<think>…</think><answer>…</answer>`: what the format reward asks for."""
    return f"<think>{think}</think><answer>{answer}</answer>"
