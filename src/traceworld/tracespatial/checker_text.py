"""What the words of a question and its answer say: mentions of objects, relation words, numbers with units, points.

Written apart from the question makers and from the parsers of model answers, and simpler than both: it reads the fixed forms
in which questions are written, and refuses what it does not understand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from traceworld.tracespatial.scene import Scene, SceneObject

CENTIMETRES = {"cm": 1.0, "m": 100.0, "inches": 2.54, "feet": 30.48}
_NUMBER_UNIT = re.compile(r"(\d+(?:\.\d+)?) (cm|m|inches|feet)\b")
_GROUP = re.compile(r"\(([^()]*)\)")
_STEP_LINE = re.compile(r"^Step (\d+): (.*) \[(Scale|Referring|Measuring)\] \[([^\[\]]+)\]: (.+)$")
_CHAIN = re.compile(r"^<think>(.*)</think><answer>(.*)</answer>$", re.DOTALL)
_PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_STATED = re.compile(r"(\d+\.\d{3})m\b")

RELATIONS_SAID = {
    "in front and to the left of": "left_front",
    "in front and to the right of": "right_front",
    "behind and to the left of": "left_behind",
    "behind and to the right of": "right_behind",
    "farther from the camera than": "farther_camera",
    "closer to the camera than": "nearer_camera",
    "directly under": "under",
    "to the right of": "right",
    "to the left of": "left",
    "in front of": "front",
    "on top of": "on",
    "next to": "next_to",
    "behind": "behind",
    "above": "above",
    "below": "below",
    "inside": "inside",
    "around": "contains",
}
"""Longest first: what is said → which relation it is."""

SUPERLATIVES_SAID = {
    "farthest to the left": "leftmost",
    "farthest to the right": "rightmost",
    "closest to the camera": "nearest_camera",
    "farthest from the camera": "farthest_camera",
    "highest up": "highest",
    "lowest down": "lowest",
    "closest to": "nearest_to",
    "farthest away from": "farthest_from_all",
}

SIZES_SAID = {
    "taller": ("height", False), "shorter": ("height", True), "tallest": ("height", False), "shortest": ("height", True),
    "wider": ("width", False), "narrower": ("width", True), "widest": ("width", False), "narrowest": ("width", True),
    "less long": ("length", True), "least long": ("length", True),
    "longer": ("length", False), "longest": ("length", False),
    "larger in volume": ("volume", False), "smaller in volume": ("volume", True),
    "largest in volume": ("volume", False), "smallest in volume": ("volume", True),
}  # fmt: skip


def mentions(scene: Scene, text: str) -> list[tuple[int, int, str]]:
    """(start, end, object id) of every caption in a text, longest captions first, none inside another."""
    lowered, taken, found = text.lower(), [False] * len(text), []
    captioned = sorted((one for one in scene.objects if one.caption), key=lambda one: -len(one.caption))
    for one in captioned:
        words = one.caption.strip().lower()
        for article in ("the ", "a ", "an "):
            words = words.removeprefix(article)
        for match in re.finditer(rf"\b(?:the|an|a) {re.escape(words)}(?!\w)", lowered):
            if not any(taken[match.start() : match.end()]):
                taken[match.start() : match.end()] = [True] * (match.end() - match.start())
                found.append((match.start(), match.end(), one.object_id))
    return sorted(found)


def ordinal(caption: str, label: str) -> tuple[int, str] | None:
    """(2, `left`) of `second mug from the left`; None for other captions."""
    match = re.fullmatch(
        rf"(?:the )?({'|'.join(_PLACES)}) {re.escape(label.lower())} from the (left|right|front|back|top|bottom)",
        caption.lower(),
    )
    return (_PLACES.index(match.group(1)) + 1, match.group(2)) if match else None


def in_order(scene: Scene, text: str) -> list[str]:
    """Object ids in the order in which a text first names them."""
    return list(dict.fromkeys(name for _, _, name in mentions(scene, text)))


def without_mentions(scene: Scene, text: str) -> str:
    """The text with `*` in place of every object it names, so that words of captions are not read as relations."""
    for start, end, _ in reversed(mentions(scene, text)):
        text = f"{text[:start]}*{text[end:]}"
    return text


def longest_said(text: str, table: dict) -> list:
    """What a text says of a table, in its order; a longer wording hides the shorter ones inside it."""
    found: list[tuple[int, object]] = []
    taken = [False] * len(text)
    for words in sorted(table, key=len, reverse=True):
        for match in re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", text):
            if not any(taken[match.start() : match.end()]):
                taken[match.start() : match.end()] = [True] * (match.end() - match.start())
                found.append((match.start(), table[words]))
    return [value for _, value in sorted(found, key=lambda item: item[0])]


def length_cm(text: str) -> tuple[float, float, str] | None:
    """(value in cm, half of its last digit in cm, unit) of the one length in a text; None if there is not exactly one."""
    found = _NUMBER_UNIT.findall(text)
    if len(found) != 1:
        return None
    number, unit = found[0]
    decimals = len(number.partition(".")[2])
    return float(number) * CENTIMETRES[unit], 0.5 * 10.0**-decimals * CENTIMETRES[unit], unit


def tuples(text: str) -> list[tuple[float, ...]] | None:
    """All groups of numbers in round brackets; None if a group holds anything else."""
    found = []
    for group in _GROUP.findall(text):
        try:
            found.append(tuple(float(part) for part in group.split(",")))
        except ValueError:
            return None
    return found


def thousandths_only(points: list[tuple[float, ...]]) -> bool:
    """Whether every u and v is a whole number within the picture."""
    return all(float(n).is_integer() and 0 <= n <= 1000 for point in points for n in point[:2])


def chain(answer: str) -> tuple[list[tuple[int, str, str, str, str]], str] | None:
    """Lines (number, words, type, target, value) of the thinking and the text of the answer; None if badly formed."""
    whole = _CHAIN.match(answer)
    if whole is None:
        return None
    lines = []
    for line in whole.group(1).splitlines():
        match = _STEP_LINE.match(line)
        if match is None:
            return None
        number, words, kind, target, value = match.groups()
        lines.append((int(number), words, kind, target, value))
    return lines, whole.group(2)


def stated_metres(text: str) -> list[float]:
    """Lengths of the form `0.153m`."""
    return [float(number) for number in _STATED.findall(text)]


def named_fault(scene: Scene, text: str, program: Mapping[str, Any], but: str = "") -> str:
    """Whether the question names the program's objects, in their order (`but` one that a label may name besides)."""
    found = [name for name in in_order(scene, text) if name != but]
    return "" if found == list(program["objects"]) else f"the question names {found}, not {list(program['objects'])}"


def items_of(scene: Scene, program: Mapping[str, Any]) -> list[SceneObject]:
    """The objects of a program."""
    return [scene.object(name) for name in program["objects"]]
