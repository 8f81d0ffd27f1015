"""Waypoints out of a language model's words: JSON, fenced JSON, truncated JSON, prose with coordinate tuples.

What is accepted, in this order: thinking (`<think>…</think>`) is dropped and `<answer>…</answer>` preferred; the fenced blocks
and the outermost braces or brackets are read as JSON (trailing commas forgiven); if that gives nothing, the text is scanned
for tuples `(u, v)`, `[u, v, d]` and the last keypoint id named before each.

What does not fit is mended, and every mend is counted by name: a keypoint that is missing stays where it is (`missing`); too
few waypoints: the last one is repeated (`padded`); too many: the rest is cut (`cut`), after a leading repetition of the
current point has been dropped; outside of the picture: clipped (`clipped`); fractions instead of thousandths of the picture:
scaled (`rescaled`); a number that is not finite: the waypoint is dropped (`dropped`); an id that was not asked for
(`unknown_id`) or comes twice (`repeated_id`, the first counts); ids counted from 1 instead of 0: shifted (`shifted_ids`).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

SCALE = 1000.0
"""Waypoints are asked for in thousandths of the picture's width and height."""

MAX_CHARACTERS = 2**20
"""An answer is read no further."""
MAX_DEPTH_M = 20.0
"""A third number is clipped to ± this."""

_NUMBER = r"[-+]?(?:\d{1,12}(?:\.\d*)?|\.\d{1,12})(?:[eE][-+]?\d{1,3})?"
_GROUP = re.compile(rf"[(\[]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*(?:,\s*({_NUMBER})\s*(?:m|mm)?\s*)?[)\]]")
_ID = re.compile(
    # Whitespace is bounded throughout: runs of it next to each other would make a long blank answer take quadratic time.
    r"""\b(?:id|keypoint|point|kp|index|trajectory|trace)\b["']?\s{0,4}(?:id\s{0,4})?[:=#]?\s{0,4}["']?\#?(\d{1,6})\b  # id: 3
    | ["'](\d{1,6})["']\s{0,4}:                                # "3":
    | (?:^|\n)[ ]{0,8}(?:[-*][ ]{0,4})?\#?(\d{1,6})[ ]?[:.)](?!\d)  # 3. or - 3: at the start of a line""",
    re.IGNORECASE | re.VERBOSE,
)
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:can(?:'|no)t|cannot|can not|won't|will not)|as an ai|unable to|cannot (?:help|assist|comply))\b",
    re.IGNORECASE,
)
_ID_KEYS = ("id", "keypoint", "kp", "index", "point_id", "keypoint_id", "point")
_PATH_KEYS = ("future", "waypoints", "points", "trajectory", "trace", "path", "positions", "coordinates")
_PAIR_KEYS = (("u", "v"), ("x", "y"))
_DEPTH_KEYS = ("d", "z", "dz", "depth")

Path = list[list[float]]


@dataclass(frozen=True, eq=False)
class Waypoints:
    """What an answer says.

    Attributes:
        values: [N,P,3] thousandths of the picture (u, v) and the third number as it stands (0 where there is none).
        answered: [N] False where the answer has nothing for a keypoint (values are then meaningless).
        failure: "" or why there is nothing at all: `empty`, `refusal`, `unparsable`.
        mends: what had to be put right, by name.
    """

    values: Float[np.ndarray, "N P 3"]
    answered: Bool[np.ndarray, " N"]
    failure: str
    mends: Counter[str]


def read_waypoints(text: str, start: Float[np.ndarray, "N 2"], number: int, scale: float = SCALE) -> Waypoints:
    """The waypoints of keypoints 0..N-1 in an answer.

    Args:
        start: where the keypoints are now, in the units asked for (0..scale).
        number: P, waypoints asked for of each.
        scale: the picture's width and height in those units.
    """
    mends: Counter[str] = Counter()
    values, answered = np.zeros((len(start), number, 3)), np.zeros(len(start), bool)
    paths = find_paths(text, len(start), mends)
    if not paths:
        failure = "empty" if not text.strip() else "refusal" if _REFUSAL.search(text) else "unparsable"
        return Waypoints(values, answered, failure, mends)
    if set(paths) == set(range(1, len(start) + 1)):
        paths = {keypoint - 1: path for keypoint, path in paths.items()}
        mends["shifted_ids"] += 1
    factor = _unit_factor(paths, scale, mends)
    for keypoint in range(len(start)):
        path = _cleaned(paths.get(keypoint, []), factor, mends)
        if not len(path):
            mends["missing"] += 1
            continue
        answered[keypoint] = True
        values[keypoint] = _fitted(path, start[keypoint], number, scale, mends)
    mends["unknown_id"] += sum(not 0 <= keypoint < len(start) for keypoint in paths)
    failure = "" if answered.any() else "unparsable"
    return Waypoints(values, answered, failure, +mends)


def find_paths(text: str, num_keypoints: int, mends: Counter[str]) -> dict[int, Path]:
    """Keypoint id → list of [u, v] or [u, v, d], as they stand in the text."""
    text = _spoken(text)
    for block in _json_blocks(text):
        try:
            value = json.loads(re.sub(r",(\s*[}\]])", r"\1", block))
        except (ValueError, RecursionError):
            continue
        paths = _collect(_entries(value, num_keypoints), mends)
        if paths:
            return paths
    return _collect(_scanned(text, num_keypoints), mends)


def read_path(text: str) -> Path:
    """The one path of an answer that names no keypoints: its coordinate tuples in order, those of the answer's last list.

    A model that writes several lists has changed its mind; lists are told apart by words between them.
    """
    text = _spoken(text)
    runs: list[Path] = []
    end = -1
    for match in _GROUP.finditer(text):
        if end < 0 or re.search(r"[A-Za-z]{2}", text[end : match.start()]):
            runs.append([])
        runs[-1].append(_numbers(match))
        end = match.end()
    long = [run for run in runs if len(run) > 1]
    return (long or runs or [[]])[-1]


def _spoken(text: str) -> str:
    text = text[:MAX_CHARACTERS]
    text = re.sub(r"<think>.*?(?:</think>|\Z)", " ", text, flags=re.DOTALL | re.IGNORECASE)
    answer = re.search(r"<answer>(.*?)(?:</answer>|\Z)", text, re.DOTALL | re.IGNORECASE)
    return answer.group(1) if answer else text


def _json_blocks(text: str) -> Iterator[str]:
    yield from re.findall(r"```[^\n`]*\n(.*?)```", text, re.DOTALL)
    yield from re.findall(r"```(?:json)?(.*?)```", text, re.DOTALL)
    spans = [(text.find(opened), text.rfind(closed)) for opened, closed in ("{}", "[]")]
    for first, last in sorted(span for span in spans if 0 <= span[0] < span[1]):
        yield text[first : last + 1]


def _entries(value: Any, num_keypoints: int) -> Iterator[tuple[int, Path]]:
    """(id, path) of a parsed answer, however it is wrapped."""
    if isinstance(value, dict):
        own = next((_path(value[key]) for key in _PATH_KEYS if _path(value.get(key)) is not None), None)
        name = next((_id(value[key]) for key in _ID_KEYS if _id(value.get(key)) is not None), None)
        if own is not None and (name is not None or num_keypoints == 1):
            yield (0 if name is None else name), own
            return
        for key, inner in value.items():
            path = _path(inner)
            if path is not None and _id(key) is not None:
                yield int(key), path
            else:
                yield from _entries(inner, num_keypoints)
    elif isinstance(value, list):
        path = _path(value)
        if path is not None and num_keypoints == 1:
            yield 0, path
            return
        paths = [_path(inner) for inner in value]
        if path is None and len(value) == num_keypoints and all(inner is not None for inner in paths):
            yield from ((i, inner) for i, inner in enumerate(paths) if inner is not None)  # no ids: in the order asked
            return
        for inner in value:
            yield from _entries(inner, num_keypoints)


def _id(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    found = re.fullmatch(r"\D{0,12}?(\d{1,6})", value.strip()) if isinstance(value, str) else None
    return int(found.group(1)) if found else None


def _path(value: Any) -> Path | None:
    """A list of waypoints as lists of two or three numbers, or None if it is something else."""
    if not isinstance(value, list) or not value:
        return None
    points = [_waypoint(item) for item in value]
    return None if any(point is None for point in points) else [point for point in points if point is not None]


def _waypoint(item: Any) -> list[float] | None:
    if isinstance(item, dict):
        for pair in _PAIR_KEYS:
            if all(name in item for name in pair):
                depth = [item[name] for name in _DEPTH_KEYS if name in item][:1]
                item = [*(item[name] for name in pair), *depth]
                break
    if not isinstance(item, list) or len(item) not in (2, 3):
        return None
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in item):
        return None
    return [float(n) if abs(n) < 1e15 else math.inf for n in item]


def _scanned(text: str, num_keypoints: int) -> Iterator[tuple[int, Path]]:
    """(id, path) from tuples in running text; one run per id named."""
    if num_keypoints == 1:  # numbers in front of tuples can only count waypoints
        run = [_numbers(match) for match in _GROUP.finditer(text)]
        if run:
            yield 0, run
        return
    found = [(match.start(), is_id, match) for is_id, kind in ((1, _ID), (0, _GROUP)) for match in kind.finditer(text)]
    current: int | None = None
    run = []
    for _, is_id, match in sorted(found, key=lambda item: item[0]):
        if not is_id:
            run.append(_numbers(match))
            continue
        if current is not None and run:
            yield current, run
        current, run = int(next(n for n in match.groups() if n is not None)), []
    if current is not None and run:
        yield current, run


def _numbers(match: re.Match[str]) -> list[float]:
    return [float(n) for n in match.groups() if n is not None]


def _collect(entries: Iterator[tuple[int, Path]], mends: Counter[str]) -> dict[int, Path]:
    paths: dict[int, Path] = {}
    for keypoint, path in entries:
        if keypoint in paths:
            mends["repeated_id"] += 1
        else:
            paths[keypoint] = path
    return paths


def _unit_factor(paths: dict[int, Path], scale: float, mends: Counter[str]) -> float:
    """`scale` if the whole answer is in fractions of the picture, else 1."""
    uv = np.asarray([point[:2] for path in paths.values() for point in path])
    uv = uv[np.isfinite(uv).all(1)]
    fractions = bool((np.abs(uv) <= 1.0).all() and (uv != np.round(uv)).any())
    mends["rescaled"] += fractions
    return scale if fractions else 1.0


def _cleaned(path: Path, factor: float, mends: Counter[str]) -> np.ndarray:
    points = np.asarray([[*point, 0.0][:3] for point in path], float).reshape(-1, 3)
    finite = np.isfinite(points).all(1)
    mends["dropped"] += int((~finite).sum())
    return points[finite] * (factor, factor, 1.0)


def _fitted(points: np.ndarray, start: np.ndarray, number: int, scale: float, mends: Counter[str]) -> np.ndarray:
    """[P,3]: as many as asked for, inside of the picture."""
    if len(points) == number + 1 and np.abs(points[0, :2] - start).max() <= 0.01 * scale:
        points = points[1:]
    mends["cut"] += len(points) > number
    mends["padded"] += len(points) < number
    points = np.concatenate([points[:number], np.repeat(points[-1:], max(0, number - len(points)), axis=0)])
    inside = points.copy()
    inside[:, :2] = np.clip(points[:, :2], 0.0, scale)
    inside[:, 2] = np.clip(points[:, 2], -MAX_DEPTH_M, MAX_DEPTH_M)
    mends["clipped"] += bool((inside != points).any())
    return inside
