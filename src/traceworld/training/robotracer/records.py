"""Training JSON in the field's conversation format (LLaVA's, as RoboRefer extends it): one picture and what is said about it.

A file is a JSON list of objects, or one object per line:

    image          file, or a list with one file, relative to the JSON (or to `folder`)
    depth          the same, optional: 16-bit PNG in millimetres, TIFF or NPY in metres
    intrinsics     [3][3] pixels of the picture, optional
    pose           [4][4] world_from_cam in metres, +z up, optional; or its inverse as `cam_from_world`
    conversations  [{"from": "human", "value": …}, {"from": "gpt", "value": …}, …] in pairs; `<image>` and `<depth>` are left out
    metric_depth   false: depth is only up to scale; then it is not shown and no scale is learned (default true)
    scale_m        s* in metres; default: the mean known depth
    annotation     what rewards compare with (`Annotation.to_json`); default: read from the last answer
    apart          true: the pairs are questions of their own about the picture (`Example.apart`)
    id, family, steps  as `tracespatial.dataset` writes them, all optional
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from traceworld.errors import DatasetError, DepthError
from traceworld.perception.depth_files import read_depth_file, to_metres
from traceworld.perception.frame_folder import read_image
from traceworld.tracespatial.answers import parse_trace, split_thinking
from traceworld.tracespatial.steps import parse_steps
from traceworld.training.robotracer.annotation import Annotation, KeyStep

_ASKS, _ANSWERS = ("human", "user"), ("gpt", "assistant")
_PLACEHOLDER = re.compile(r"<(?:image|depth|spatial)>[ \t]*\n?")


@dataclass(frozen=True, eq=False)
class Record:
    """One entry of a training file; pictures are still on disk.

    Attributes:
        name: file and id, for messages.
        image, depth: files. turns: (question, answer) in order.
        intrinsics, scale_m: see the module. pose: world_from_cam. metric: depth is in metres.
        annotation: as JSON; None: not given.
        family, steps: of the question; None: not said. apart: the turns are questions of their own.
    """

    name: str
    image: Path
    turns: tuple[tuple[str, str], ...]
    depth: Path | None = None
    intrinsics: Float[np.ndarray, "3 3"] | None = None
    pose: Float[np.ndarray, "4 4"] | None = None
    scale_m: float | None = None
    metric: bool = True
    annotation: Mapping[str, Any] | None = None
    family: str | None = None
    steps: int | None = None
    apart: bool = False

    def read_image(self) -> UInt8[np.ndarray, "H W 3"]:
        """Raises MediaError: missing or damaged."""
        return read_image(self.image)

    def read_depth(self) -> Float[np.ndarray, "H W"] | None:
        """Metres, 0 where unknown; None without a metric depth map.

        Raises:
            DepthError: missing or damaged.
        """
        if self.depth is None or not self.metric:
            return None
        raw = read_depth_file(self.depth)
        return np.nan_to_num(to_metres(raw, 0.001 if np.issubdtype(raw.dtype, np.integer) else 1.0))


def read_records(file: Path, folder: Path | None = None) -> list[Record]:
    """All records of a training file, in its order.

    Args:
        folder: that pictures are relative to; None: the file's own.

    Raises:
        DatasetError: the file is missing, is not JSON, is empty, or an entry lacks something; the entry is named.
    """
    entries = _entries(file)
    if not entries:
        raise DatasetError("has no entry", where=str(file), mend="make it with `traceworld tracespatial build`")
    base = folder or file.parent
    return [_record(entry, f"{file.name}[{number}]", base) for number, entry in enumerate(entries)]


def _entries(file: Path) -> list[Any]:
    try:
        text = file.read_text(encoding="utf-8")
        if text.lstrip()[:1] == "[":
            return json.loads(text)
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"cannot be read: {error}", where=str(file), mend="give a JSON list or JSON lines"
        ) from error


def _record(entry: Any, where: str, base: Path) -> Record:
    _need(isinstance(entry, dict), where, "is not an object")
    where = f"{where} {entry.get('id', '')}".strip()
    image, depth = _file(entry.get("image"), where, "image", base), _file(entry.get("depth"), where, "depth", base)
    _need(image is not None, where, "has no image", "RoboTracer sees one picture per question")
    assert image is not None
    scale = entry.get("scale_m")
    _need(scale is None or (isinstance(scale, int | float) and 0 < scale < np.inf), where, f"scale_m is {scale!r}")
    return Record(
        name=where,
        image=image,
        turns=_turns(entry.get("conversations"), where),
        depth=depth,
        intrinsics=_matrix(entry.get("intrinsics"), 3, where, "intrinsics"),
        pose=_pose(entry, where),
        scale_m=None if scale is None else float(scale),
        metric=bool(entry.get("metric_depth", True)),
        annotation=entry.get("annotation"),
        family=entry.get("family"),
        steps=entry.get("steps"),
        apart=bool(entry.get("apart", False)),
    )


def _file(value: Any, where: str, field: str, base: Path) -> Path | None:
    if isinstance(value, list):
        _need(len(value) <= 1, where, f"{field} names {len(value)} files", "one picture per question")
        value = value[0] if value else None
    if value is None or value == "":
        return None
    _need(isinstance(value, str), where, f"{field} is {value!r}")
    return base / value


def _turns(said: Any, where: str) -> tuple[tuple[str, str], ...]:
    _need(isinstance(said, list) and len(said) >= 2 and len(said) % 2 == 0, where, "conversations are not pairs")
    words = []
    for number, turn in enumerate(said):
        speakers = _ANSWERS if number % 2 else _ASKS
        fits = isinstance(turn, dict) and turn.get("from") in speakers and isinstance(turn.get("value"), str)
        _need(fits, where, f"conversations[{number}] is not said by {speakers[0]}", "questions and answers in turn")
        text = _PLACEHOLDER.sub("", turn["value"]).strip()
        _need(bool(text), where, f"conversations[{number}] is empty")
        words.append(text)
    return tuple(zip(words[::2], words[1::2], strict=True))


def _matrix(value: Any, side: int, where: str, field: str) -> np.ndarray | None:
    if value is None:
        return None
    try:
        matrix = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    _need(
        matrix.shape == (side, side) and bool(np.isfinite(matrix).all()), where, f"{field} is not {side}×{side} numbers"
    )
    return matrix


def _pose(entry: Mapping[str, Any], where: str) -> np.ndarray | None:
    pose = _matrix(entry.get("pose"), 4, where, "pose")
    if pose is not None:
        return pose
    inverse = _matrix(entry.get("cam_from_world"), 4, where, "cam_from_world")
    if inverse is None:
        return None
    _need(bool(abs(np.linalg.det(inverse)) > 1e-9), where, "cam_from_world cannot be inverted")
    return np.linalg.inv(inverse)


def _need(condition: bool, where: str, message: str, mend: str | None = None) -> None:
    if not condition:
        raise DatasetError(message, where=where, mend=mend)


def annotation_of(record: Record, size_px: tuple[int, int], max_depth_m: float | None) -> Annotation:
    """What rewards compare an answer with: the record's own annotation, else what its last answer says.

    Args:
        size_px: (width, height) of the picture.
        max_depth_m: the scene's largest depth; None (no depth map): the largest of the trace.

    Raises:
        DatasetError: the last answer has neither a trace nor a process step, so that no reward could be given.
    """
    if record.annotation is not None:
        return Annotation.from_json(record.annotation)
    answer = record.turns[-1][1]
    steps = [
        KeyStep.named(step.kind, step.target, step.point if step.point is not None else (step.value or 0.0,))
        for step in parse_steps(split_thinking(answer).think)
        if step.kind is not None and (step.point is not None or (step.value or 0) > 0)
    ]
    found = parse_trace(answer)
    trace = found.points if found.ok else None
    _need(trace is not None or bool(steps), record.name, "has no trace and no process step to reward", "leave it out")
    if max_depth_m is None and trace is not None and trace.shape[1] == 3:
        max_depth_m = float(trace[:, 2].max())
    return Annotation(trace, tuple(steps), size_px, max_depth_m)


def largest_depth(depth_m: Float[np.ndarray, "H W"] | None, where: str) -> float | None:
    """The largest known depth in metres; None without a depth map. Raises DepthError when nothing in it is known."""
    if depth_m is None:
        return None
    largest = float(depth_m.max())
    if largest <= 0:
        raise DepthError("knows no depth at all", where=where, mend="leave the depth map out")
    return largest


def choose(records: Sequence[Record], families: Sequence[str], steps: tuple[int, int]) -> list[Record]:
    """The records of these families (none named: all) whose reasoning has so many steps; what does not say stays.

    Raises:
        DatasetError: none is left.
    """
    low, high = steps
    kept = [
        record
        for record in records
        if (not families or record.family is None or record.family in families)
        and (record.steps is None or low <= record.steps <= high)
    ]
    _need(bool(kept), "records", f"none of {len(records)} is of {families or 'any family'} with {low} to {high} steps")
    return kept
