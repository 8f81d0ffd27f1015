"""Writing TraceSpatial-Bench's published layout (`bench_layout`): JSON and pictures, or parquet with the pictures inside; answer lines."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from traceworld.errors import DatasetError
from traceworld.traces.atomic import write_atomically
from traceworld.tracespatial.bench_layout import (
    ANSWER_FIELDS,
    DESTINATION,
    PARQUET_DESTINATION,
    PARQUET_FOLDER,
    PREDICTION,
    QUESTIONS_FILE,
    RAW_FOLDER,
    BenchQuestion,
    question_of,
)
from traceworld.tracespatial.scene import OrientedBox


@dataclass(frozen=True, eq=False)
class BenchItem:
    """A question with its pictures, to be written."""

    question: BenchQuestion
    image: UInt8[np.ndarray, "H W 3"]
    gt_depth_mm: UInt16[np.ndarray, "H W"]
    mask: UInt8[np.ndarray, "H W"]


def bench_question(
    *,
    question_id: int,
    prompt: str,
    target_object: str,
    destination: str,
    step: int,
    category: str,
    data_source: str,
    trajectory_cam: Float[np.ndarray, "T 3"],
    K: Float[np.ndarray, "3 3"],
    box: OrientedBox,
) -> BenchQuestion:
    """A question with all published fields; picture paths follow from the id."""
    matrix = K.astype(float).tolist()
    record = {
        "id": question_id,
        "prompt": prompt,
        "target_object": target_object,
        DESTINATION: destination,
        "step": step,
        "category": category,
        "data_source": data_source,
        "trajectory": trajectory_cam.astype(float).tolist(),
        "image_path": f"{question_id}/image.png",
        "depth_path": f"{question_id}/gt_depth.png",
        "gt_depth_path": f"{question_id}/gt_depth.png",
        "mask_path": f"{question_id}/mask.png",
        "intrinsics": matrix,
        "gt_depth_intrinsics": matrix,
        "bbox_center": box.center_xyz.tolist(),
        "bbox_extent": box.size_m.tolist(),
        "bbox_rotation": box.rotation.tolist(),
    }
    return question_of(record, "bench_question")


def write_bench(folder: str | Path, items: Iterable[BenchItem], parquet: bool = False) -> Path:
    """Write questions and pictures in the published layout; the same items give the same bytes.

    Args:
        parquet: write `data/train-00000-of-00001.parquet` with the pictures inside instead of JSON and `raw_data/`.

    Raises:
        DatasetError: a question comes twice, pictures of several sizes, the folder cannot be written.
    """
    folder = Path(folder)
    records, rows = [], []
    seen: set[int | str] = set()
    for item in items:
        question = item.question
        if question.question_id in seen or item.image.shape[:2] != item.gt_depth_mm.shape != item.mask.shape:
            raise DatasetError(
                f"question {question.question_id} twice, or pictures of several sizes", where=str(folder)
            )
        seen.add(question.question_id)
        encoded = {
            "image": encode_png(item.image),
            "gt_depth": encode_png(item.gt_depth_mm),
            "mask": encode_png(item.mask),
        }
        records.append(dict(question.record))
        if parquet:
            rows.append(_parquet_row(question, encoded))
            continue
        for kind, data in encoded.items():
            file = folder / RAW_FOLDER / str(question.record[f"{kind}_path"])
            write_atomically(file, partial(Path.write_bytes, data=data))
    if parquet:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = folder / PARQUET_FOLDER / "train-00000-of-00001.parquet"
        write_atomically(path, lambda temporary: pq.write_table(pa.Table.from_pylist(rows), temporary))
        return path
    text = json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(folder / QUESTIONS_FILE, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return folder / QUESTIONS_FILE


def _parquet_row(question: BenchQuestion, encoded: Mapping[str, bytes]) -> dict[str, Any]:
    row = {name: value for name, value in question.record.items() if not name.endswith("_path")}
    row[PARQUET_DESTINATION] = row.pop(DESTINATION)
    inside = {kind: {"bytes": data, "path": question.path_of(kind)} for kind, data in encoded.items()}  # type: ignore[arg-type]
    return row | inside | {"depth": inside["gt_depth"]}


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG bytes of an RGB, grey or 16-bit picture; equal pictures give equal bytes."""
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


def answer_line(question: BenchQuestion, prompt: str, prediction: str, error: str | None = None) -> dict[str, Any]:
    """A line of an answer file with the published fields; `question_of` reads it back."""
    line: dict[str, Any] = {"question_id": question.question_id, "final_prompt": prompt}
    line |= {name: question.record.get(name) for name in ANSWER_FIELDS}
    line[PREDICTION] = prediction
    return line if error is None else line | {"error": error}
