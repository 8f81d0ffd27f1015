"""TraceSpatial-Bench on disk: the published layout, and answer files. Writing is in `bench_writing`.

    DIR/trajectory_dataset.json                  a list of questions
    DIR/raw_data/<id>/image.png|jpg, gt_depth.png (uint16 millimetres), mask.png (object 255)
    DIR/data/*.parquet                           the same with the pictures inside (the Hugging Face variant)

Traces and boxes are in the camera frame, metres, OpenCV axes. `gt_depth_intrinsics` is 3×3 or 4×4. The odd key `destination|direction` is
`destination_direction` in parquet. Picture and depth have one size. An answer file (JSONL) repeats the ground truth
of each question beside `model_prediction`, so it can be scored, pictures apart, by itself.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from traceworld.errors import DatasetError, InvalidInputError
from traceworld.tracespatial.scene import OrientedBox

Picture = Literal["image", "depth", "gt_depth", "mask"]
QUESTIONS_FILE, RAW_FOLDER, PARQUET_FOLDER = "trajectory_dataset.json", "raw_data", "data"
DESTINATION, PARQUET_DESTINATION = "destination|direction", "destination_direction"
PREDICTION = "model_prediction"
ANSWER_FIELDS = (
    "image_path", "gt_depth_path", "mask_path", "gt_depth_intrinsics", "prompt", "target_object", DESTINATION, "trajectory",
    "bbox_center", "bbox_extent", "bbox_rotation",
)  # fmt: skip
"""What an answer line repeats of its question, in the published order."""
KNOWN_SIZES = ((512, 384), (384, 512), (640, 480), (480, 640))
"""(width, height) of the published scenes: CA-1M, ScanNet."""
MAX_PICTURE_PIXELS = 64_000_000


@dataclass(frozen=True, eq=False)
class BenchQuestion:
    """One question with its ground truth.

    Attributes:
        question_id: of the benchmark.
        prompt, target_object, destination: the task in words, what moves, and where to (or in which direction).
        trajectory_cam: [T,3] one feasible path of the object, camera metres.
        K: [3,3] pixels of picture and depth; None where the file has none.
        box: where the trace must end, camera metres; None where the file has none.
        step: number of spatial relations and anchors; category: e.g. pick-and-place; data_source: None where unknown (answer files).
        record: the question as it stands in the file.
    """

    question_id: int | str
    prompt: str
    target_object: str
    destination: str
    trajectory_cam: Float[np.ndarray, "T 3"]
    K: Float[np.ndarray, "3 3"] | None
    box: OrientedBox | None
    step: int | None = None
    category: str | None = None
    data_source: str | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    def path_of(self, kind: Picture) -> str:
        """Path of a picture relative to `raw_data/`, "" where the question has none."""
        value = self.record.get(f"{kind}_path")
        return value if isinstance(value, str) else ""


@dataclass(frozen=True)
class Answer:
    """A line of an answer file. `prediction` is what the model said, None or "" where it said nothing; `error` why."""

    question: BenchQuestion
    prediction: Any
    error: str | None = None


@dataclass(frozen=True, eq=False)
class Bench:
    """A benchmark: its questions, and their pictures where they are there.

    Attributes:
        read: encoded bytes of a picture, None if it is not there.
    """

    name: str
    questions: tuple[BenchQuestion, ...]
    read: Callable[[BenchQuestion, Picture], bytes | None]

    @cached_property
    def by_id(self) -> dict[int | str, BenchQuestion]:
        return {question.question_id: question for question in self.questions}

    def picture(self, question: BenchQuestion, kind: Picture) -> np.ndarray | None:
        """A picture: `image` [H,W,3] uint8, `gt_depth` and `depth` [H,W] as stored (millimetres), `mask` [H,W] (its first channel).

        Raises:
            DatasetError: it is there but cannot be read.
        """
        data = self.read(question, kind)
        return None if data is None else decode(data, kind, f"{self.name}: question {question.question_id}: {kind}")


# --- reading ---------------------------------------------------------------------------------------------------------


def question_of(record: Mapping[str, Any], where: str) -> BenchQuestion:
    """A question from a record of the JSON file, of an answer file, or of a parquet row.

    Raises:
        DatasetError: the id, the trajectory or a text is missing or has another shape.
    """
    question_id = record.get("id", record.get("question_id"))
    if not isinstance(question_id, (int, str)) or isinstance(question_id, bool):
        raise DatasetError("has no id", where=where, mend="restore the file from the published one")
    where = f"{where}: question {question_id}"
    trajectory = _array(record.get("trajectory"), where, "trajectory", (None, 3))
    if trajectory is None or len(trajectory) == 0:
        raise DatasetError("has no trajectory", where=where, mend="restore the file from the published one")
    step = record.get("step")
    return BenchQuestion(
        question_id=question_id,
        prompt=str(record.get("prompt") or ""),
        target_object=str(record.get("target_object") or ""),
        destination=str(record.get(DESTINATION, record.get(PARQUET_DESTINATION)) or ""),
        trajectory_cam=trajectory,
        K=_intrinsics(record.get("gt_depth_intrinsics"), where),
        box=_box(record, where),
        step=None if step is None else int(step),
        category=_word(record.get("category")),
        data_source=_word(record.get("data_source")),
        record=record,
    )


def _word(value: Any) -> str | None:
    return None if value is None else str(value)


def _array(value: Any, where: str, name: str, shape: tuple[int | None, ...]) -> np.ndarray | None:
    if value is None:
        return None
    try:
        array = np.asarray(value, np.float64)
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{name} is not numbers: {error}", where=where) from error
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if not fits or not np.isfinite(array).all():
        raise DatasetError(f"{name} of shape {array.shape} is not {shape} finite numbers", where=where)
    return array


def _intrinsics(value: Any, where: str) -> np.ndarray | None:
    """The 3×3 part: of a 4×4 matrix the first three rows and columns."""
    if value is None or len(value) == 0:
        return None
    size = 4 if len(value) == 4 else 3
    matrix = _array(value, where, "gt_depth_intrinsics", (size, size))
    return None if matrix is None else matrix[:3, :3]


def _box(record: Mapping[str, Any], where: str) -> OrientedBox | None:
    shapes = {"bbox_center": (3,), "bbox_extent": (3,), "bbox_rotation": (3, 3)}
    parts = [_array(record.get(name), where, name, shape) for name, shape in shapes.items()]
    if any(part is None for part in parts):
        return None
    try:
        return OrientedBox(*parts)  # type: ignore[arg-type]
    except InvalidInputError as error:
        raise DatasetError(f"has no proper box: {error.message}", where=where) from error


def open_bench(path: str | Path) -> Bench:
    """A benchmark folder in the published layout: the JSON with `raw_data/` if it is there, else the parquet files.

    Raises:
        DatasetError: neither is there, or it is damaged.
    """
    folder = Path(path)
    if (folder / QUESTIONS_FILE).is_file():
        return _open_json(folder)
    tables = sorted((folder / PARQUET_FOLDER).glob("*.parquet")) or sorted(folder.glob("*.parquet"))
    if tables:
        return _open_parquet(folder, tables)
    raise DatasetError(
        f"holds neither {QUESTIONS_FILE} nor {PARQUET_FOLDER}/*.parquet",
        where=str(folder),
        mend="hf download JingkunAn/TraceSpatial-Bench --repo-type dataset --local-dir DIR (pictures under the terms of CA-1M, ScanNet)",
    )


def _open_json(folder: Path) -> Bench:
    path = folder / QUESTIONS_FILE
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot be read: {error}", where=str(path), mend="download it again") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DatasetError("is not a list of questions", where=str(path), mend="download it again")
    questions = tuple(question_of(record, str(path)) for record in records)
    _refuse_twins(questions, str(path))

    def read(question: BenchQuestion, kind: Picture) -> bytes | None:
        inside = PurePosixPath(question.path_of(kind))
        if not inside.name:
            return None
        if inside.is_absolute() or ".." in inside.parts:
            raise DatasetError(f"{kind} leads out of the folder: {inside}", where=str(path))
        file = folder / RAW_FOLDER / inside
        return file.read_bytes() if file.is_file() else None

    return Bench(folder.name, questions, read)


def _open_parquet(folder: Path, tables: list[Path]) -> Bench:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    for table in tables:
        try:
            rows.extend(pq.read_table(table).to_pylist())
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"cannot be read: {error}", where=str(table), mend="download it again") from error
    questions, pictures = [], {}
    for row in rows:
        embedded = {kind: row.pop(kind, None) or {} for kind in ("image", "depth", "gt_depth", "mask")}
        record = {DESTINATION if name == PARQUET_DESTINATION else name: value for name, value in row.items()}
        for kind, picture in embedded.items():
            if picture.get("bytes"):
                ending = "jpg" if picture["bytes"][:2] == b"\xff\xd8" else "png"
                record.setdefault(f"{kind}_path", picture.get("path") or f"{record.get('id')}/{kind}.{ending}")
        question = question_of(record, str(folder))
        questions.append(question)
        pictures[question.question_id] = {kind: picture.get("bytes") for kind, picture in embedded.items()}
    _refuse_twins(questions, str(folder))
    return Bench(folder.name, tuple(questions), lambda question, kind: pictures[question.question_id].get(kind))


def _refuse_twins(questions: Iterable[BenchQuestion], where: str) -> None:
    seen: set[int | str] = set()
    for question in questions:
        if question.question_id in seen:
            raise DatasetError(f"has question {question.question_id} twice", where=where, mend="keep one of them")
        seen.add(question.question_id)


def decode(data: bytes, kind: Picture, where: str) -> np.ndarray:
    """Pixels of an encoded picture (`Bench.picture`).

    Raises:
        DatasetError: no picture, larger than `MAX_PICTURE_PIXELS`, or depth that is not 16-bit.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PICTURE_PIXELS:
                raise DatasetError(f"is {picture.width}×{picture.height} pixels", where=where)
            pixels = np.array(picture.convert("RGB") if kind == "image" else picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"cannot be read: {error}", where=where, mend="download it again") from error
    if kind == "image":
        return pixels
    if kind == "mask":
        return (pixels[..., 0] if pixels.ndim == 3 else pixels).astype(np.uint8)
    if pixels.ndim != 2 or pixels.dtype == np.uint8:
        raise DatasetError(f"is {pixels.dtype} {pixels.shape}, not 16-bit millimetres", where=where)
    return pixels


def read_answers(path: str | Path) -> list[Answer]:
    """The lines of an answer file, in order; a damaged line is an error, not a shorter benchmark.

    Raises:
        DatasetError: missing, a line is not JSON or has no ground truth, a question comes twice.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot be read: {error}", where=str(path), mend="check the path") from error
    answers = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"line {number} is not JSON: {error}", where=str(path), mend="run it again") from error
        if not isinstance(record, dict):
            raise DatasetError(f"line {number} is no answer", where=str(path), mend="run it again")
        question = question_of(record, f"{path}:{number}")
        answers.append(Answer(question, record.get(PREDICTION), _word(record.get("error"))))
    _refuse_twins((answer.question for answer in answers), str(path))
    return answers


def size_of(K: Float[np.ndarray, "3 3"], tolerance_px: float = 16.0) -> tuple[int, int] | None:
    """(width, height) of the published size whose centre is nearest to the principal point; None if none is near.

    For answer files without pictures. The published principal points lie within 6 px of the centre.
    """
    off = [max(abs(K[0, 2] - (w - 1) / 2), abs(K[1, 2] - (h - 1) / 2)) for w, h in KNOWN_SIZES]
    nearest = int(np.argmin(off))
    return KNOWN_SIZES[nearest] if off[nearest] <= tolerance_px else None
