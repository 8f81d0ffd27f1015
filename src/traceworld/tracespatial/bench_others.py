"""Benchmarks beside TraceSpatial-Bench: RefSpatial-Bench (points in masks) and sets of 2D traces (ShareRobot, VABench-V).

RefSpatial-Bench on disk: `DIR/{Location,Placement,Unseen}/question.json`, fields `id, object, prompt, suffix, rgb_path, mask_path, category,
step`, paths relative to the split's folder. Its answers here: JSONL with `id` (or `question_id`), `split`, `model_prediction` (or `text`).

Trace sets are scored from one plain JSONL, whatever they are published as; a line is

    {"id": "7", "width": 640, "height": 480, "trajectory": [[x, y], …] in pixels, "model_prediction": "[(u, v), …]"}

with the prediction in thousandths of the picture; `"scale": "pixels"` in a line says that it is in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from traceworld.errors import DatasetError
from traceworld.tracespatial.bench_layout import PREDICTION, decode

SPLITS = ("Location", "Placement", "Unseen")


@dataclass(frozen=True)
class RefQuestion:
    """One question of RefSpatial-Bench: point at (or at free space for) what the words say.

    Attributes:
        split: Location, Placement or Unseen. prompt: the sentence; suffix: the form of the answer asked for.
        rgb_path, mask_path: relative to the split's folder.
    """

    split: str
    question_id: int | str
    object: str
    prompt: str
    suffix: str
    rgb_path: str
    mask_path: str
    category: str | None
    step: int | None

    @property
    def words(self) -> str:
        """What a model is asked."""
        return f"{self.prompt} {self.suffix}".strip()


@dataclass(frozen=True, eq=False)
class TraceAnswer:
    """A predicted 2D trace beside the true one ([T,2] pixels of a width × height picture)."""

    question_id: int | str
    width: int
    height: int
    trajectory_px: Float[np.ndarray, "T 2"]
    prediction: Any
    in_pixels: bool = False


def read_refspatial(folder: str | Path) -> list[RefQuestion]:
    """All questions of the splits that are there.

    Raises:
        DatasetError: no split, or one is damaged.
    """
    folder = Path(folder)
    found: list[RefQuestion] = []
    for split in SPLITS:
        path = folder / split / "question.json"
        if not path.is_file():
            continue
        try:
            records = json.loads(path.read_text(encoding="utf-8"))
            found += [_ref_question(split, record) for record in records]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"cannot be read: {error!r}", where=str(path), mend="download it again") from error
    if not found:
        raise DatasetError(
            f"holds none of {', '.join(f'{split}/question.json' for split in SPLITS)}",
            where=str(folder),
            mend="hf download JingkunAn/RefSpatial-Bench --repo-type dataset --local-dir DIR",
        )
    return found


def _ref_question(split: str, record: dict[str, Any]) -> RefQuestion:
    step = record.get("step")
    return RefQuestion(
        split=split,
        question_id=record["id"],
        object=str(record.get("object") or ""),
        prompt=str(record["prompt"]),
        suffix=str(record.get("suffix") or ""),
        rgb_path=str(record["rgb_path"]),
        mask_path=str(record["mask_path"]),
        category=None if record.get("category") is None else str(record["category"]),
        step=None if step is None else int(step),
    )


def ref_mask(folder: str | Path, question: RefQuestion) -> UInt8[np.ndarray, "H W"]:
    """The mask of a question.

    Raises:
        DatasetError: missing, damaged, or outside of the folder.
    """
    inside = PurePosixPath(question.mask_path)
    path = Path(folder) / question.split / inside
    if inside.is_absolute() or ".." in inside.parts or not path.is_file():
        raise DatasetError("the mask is missing", where=str(path), mend="download the benchmark's pictures")
    return decode(path.read_bytes(), "mask", str(path))


def read_ref_answers(path: str | Path) -> dict[tuple[str, int | str], Any]:
    """(split, id) → what the model said. The split is the line's, else the one in the file's name.

    Raises:
        DatasetError: a line is damaged or names no split, or an answer comes twice.
    """
    path = Path(path)
    by_name = next((split for split in SPLITS if split.lower() in path.stem.lower()), None)
    found: dict[tuple[str, int | str], Any] = {}
    for number, line in _lines(path):
        split = line.get("split", by_name)
        question_id = line.get("id", line.get("question_id"))
        key = (str(split), question_id)
        if split not in SPLITS or not isinstance(question_id, (int, str)) or key in found:
            raise DatasetError(f"line {number} names no split or id, or one twice", where=str(path))
        found[str(split), question_id] = line.get(PREDICTION, line.get("text"))
    return found


def read_trace_answers(path: str | Path) -> list[TraceAnswer]:
    """The lines of a trace set.

    Raises:
        DatasetError: a line is damaged: names the first.
    """
    path = Path(path)
    found = []
    for number, line in _lines(path):
        try:
            trajectory = np.asarray(line["trajectory"], np.float64)
            width, height, id_ = int(line["width"]), int(line["height"]), line["id"]
            usable = trajectory.ndim == 2 and trajectory.shape[1] == 2 and np.isfinite(trajectory).all()
            if (
                not usable
                or len(trajectory) == 0
                or width < 1
                or height < 1
                or line.get("scale") not in (None, "pixels")
            ):
                raise ValueError("needs width, height, trajectory [[x, y], …], scale absent or 'pixels'")
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"line {number}: {error!r}", where=str(path), mend="see tracespatial.bench_others"
            ) from error
        found.append(TraceAnswer(id_, width, height, trajectory, line.get(PREDICTION), line.get("scale") == "pixels"))
    return found


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot be read: {error}", where=str(path), mend="check the path") from error
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"line {number} is not JSON: {error}", where=str(path)) from error
        if not isinstance(line, dict):
            raise DatasetError(f"line {number} is no JSON object", where=str(path))
        yield number, line
