"""The parsers of the published evaluators, faults included: the one place where they live.

TraceSpatial-Bench (`reference/robotracer.md` §1.4): text tuples (names with RoboTracer) and the first fenced JSON block (Gemini, Qwen).
RefSpatial-Bench (§3.3): tuples, Molmo XML, Gemini's fenced JSON. Where the published parser raises, so does the one here, with a
`ValueError` or `TypeError`; callers catch it and say what the published run would do. Time is linear in the text.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
from jaxtyping import Float

# The published expression in a form without ambiguity, so that a long run of digits takes linear time: same strings.
_PLAIN = r"[-+]?\d+(?:\.\d*)?"
_GROUP = re.compile(rf"\(({_PLAIN}(?:,\s*{_PLAIN})*)\)")
_FENCE = re.compile(r"```(?:\w+)?\n(.*?)```", re.DOTALL)
_MOLMO = re.compile(
    r"""\bx(\d{0,3})\s{0,4}=\s{0,4}"\s{0,4}(\d{1,30}(?:\.\d{0,30})?)"\s{0,8}y\1\s{0,4}=\s{0,4}"\s{0,4}(\d{1,30}(?:\.\d{0,30})?)"""
)


def text_tuples(text: Any) -> Float[np.ndarray, "P D"]:
    """Parenthesised plain numbers as [P,2] or [P,3] float32: u, v divided by 1000, depth as written.

    Thinking is read too; a lone number in parentheses is dropped, a fourth number ignored; with any depth, tuples without get NaN.
    Nothing found: [0,2].
    """
    if not isinstance(text, str) or not text.strip():
        return np.zeros((0, 2), np.float32)
    points = []
    for group in _GROUP.findall(text):
        numbers = [float(entry.strip()) for entry in group.split(",")]
        if len(numbers) >= 2:
            points.append([round(numbers[0] / 1000.0, 6), round(numbers[1] / 1000.0, 6), *numbers[2:3]])
    if not points:
        return np.zeros((0, 2), np.float32)
    found = np.full((len(points), max(len(point) for point in points)), np.nan, np.float32)
    with np.errstate(over="ignore"):  # 1e40 is infinite as float32, there as here
        for row, point in zip(found, points, strict=True):
            row[: len(point)] = point
    return found


def fenced_json(text: Any) -> np.ndarray:
    """Every list of two or three numbers in the first fenced block, u, v divided by 1000.

    No fence, or no JSON in it: shape (0, 3). JSON without a point: shape (0,).

    Raises:
        TypeError: not text. ValueError: points of two and of three numbers, JSON nested too deeply.
    """
    match = _FENCE.search(_text(text))
    if match is None:
        return np.empty((0, 3))
    try:
        value = json.loads(match.group(1).strip())
    except json.JSONDecodeError:
        return np.empty((0, 3))
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    points = [[_thousandth(point[0]), _thousandth(point[1]), *point[2:]] for point in _number_lists(value)]
    try:
        return np.array(points, dtype=float)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"points of two and of three numbers: {error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected string, got {type(value).__name__}")
    return value


def _thousandth(value: float | int) -> float:
    try:
        return round(value / 1000.0, 6)
    except OverflowError as error:
        raise ValueError(f"integer too large: {error}") from error


def _number_lists(value: Any) -> list[list[float | int]]:
    """Lists of exactly two or three numbers in the order written; booleans are numbers."""
    found: list[list[float | int]] = []
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            if len(item) in (2, 3) and all(isinstance(entry, (int, float)) for entry in item):
                found.append(item)
            else:
                waiting.extend(reversed(item))
        elif isinstance(item, dict):
            waiting.extend(reversed(list(item.values())))
    return found


# --- RefSpatial-Bench ------------------------------------------------------------------------------------------------


def referring_tuples(text: Any, width: int, height: int) -> Float[np.ndarray, "P 2"]:
    """Pixels of an answer in RoboRefer's form: any float in a tuple means shares of the picture, integers mean pixels.

    Tuples of four are boxes filled with all their pixels (the last row and column left out).
    """
    if not isinstance(text, str):
        return np.zeros((0, 2))
    found = []
    for group in _GROUP.findall(text):
        entries = [entry.strip() for entry in group.split(",")]
        shares = any("." in entry for entry in entries)
        numbers = [float(entry) for entry in entries]
        if len(numbers) not in (2, 4):
            continue
        if not all(abs(number) < 1e6 for number in numbers):
            continue
        across = [number * (width, height)[axis % 2] if shares else number for axis, number in enumerate(numbers)]
        x0, y0 = int(across[0]), int(across[1])
        if len(numbers) == 2:
            found.append(np.array([[x0, y0]], float))
            continue
        x1, y1 = int(across[2]), int(across[3])
        x1, y1 = min(x1, x0 + 4 * width), min(y1, y0 + 4 * height)  # what lies outside counts alike; bounds the work
        ys, xs = np.mgrid[y0 : max(y1, y0), x0 : max(x1, x0)]
        found.append(np.stack([xs.ravel(), ys.ravel()], axis=1).astype(float))
    return np.concatenate(found) if found else np.zeros((0, 2))


def molmo_points(text: Any, width: int, height: int) -> Float[np.ndarray, "P 2"]:
    """Pixels of Molmo's `x1="…" y1="…"` in per cent of the picture."""
    if not isinstance(text, str):
        return np.zeros((0, 2))
    points = [(float(x) / 100 * width, float(y) / 100 * height) for _, x, y in _MOLMO.findall(text)]
    return np.array(points, float).reshape(-1, 2)


def gemini_points(text: Any, width: int, height: int) -> Float[np.ndarray, "P 2"]:
    """Pixels of Gemini's fenced JSON: objects with `point: [y, x]` in 0–1000."""
    match = _FENCE.search(text) if isinstance(text, str) else None
    if match is None:
        return np.zeros((0, 2))
    try:
        value = json.loads(match.group(1).strip())
    except (ValueError, RecursionError):
        return np.zeros((0, 2))
    points = []
    for item in value if isinstance(value, list) else []:
        point = item.get("point") if isinstance(item, dict) else None
        if isinstance(point, list) and len(point) == 2 and all(isinstance(entry, (int, float)) for entry in point):
            points.append((point[1] / 1000 * width, point[0] / 1000 * height))
    return np.array(points, float).reshape(-1, 2)
