"""One clip as one row of a parquet table: the columns of format version 1, and the way there and back.

`docs/format.md` describes the same columns for readers without this library; a test holds the two together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from traceworld.errors import DatasetError, FormatVersionError, InvalidInputError
from traceworld.traces.types import Cameras, Clip, Event, Media, Traces

FORMAT_VERSION = 1
_VERSION_KEY = b"traceworld.format_version"

_EVENT = pa.struct(
    [
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("level", pa.int32()),
        ("caption", pa.string()),
        ("before", pa.string()),
        ("interaction", pa.string()),
        ("change", pa.string()),
    ]
)
_MEDIA = pa.struct(
    [
        ("kind", pa.string()),
        ("path", pa.string()),
        ("frame_index", pa.list_(pa.int32())),
        ("files", pa.list_(pa.string())),
        ("depth_files", pa.list_(pa.string())),
        ("depth_unit_m", pa.float64()),
    ]
)
SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("task", pa.string()),
        ("num_frames", pa.int32()),
        ("num_keypoints", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("metric", pa.bool_()),
        ("time_s", pa.list_(pa.float64())),
        ("K", pa.list_(pa.float64())),
        ("cam_from_world", pa.list_(pa.float64())),
        ("xyz_world", pa.list_(pa.float32())),
        ("visible", pa.list_(pa.bool_())),
        ("valid", pa.list_(pa.bool_())),
        ("part_id", pa.list_(pa.int32())),
        ("moving", pa.list_(pa.bool_())),
        ("query_frame", pa.list_(pa.int32())),
        ("events", pa.list_(_EVENT)),
        ("media", _MEDIA),
        ("provenance", pa.string()),
    ],
    metadata={_VERSION_KEY: str(FORMAT_VERSION).encode()},
)
_FLOAT_COLUMNS = [
    f"{f.name}.list.element" for f in SCHEMA if f.type in (pa.list_(pa.float32()), pa.list_(pa.float64()))
]


def check_version(found: object, where: str) -> int:
    """The format version as a number this library can read.

    Raises:
        FormatVersionError: it is newer than this library.
        DatasetError: it is no version at all.
    """
    try:
        version = int(found)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        version = 0
    if version > FORMAT_VERSION:
        raise FormatVersionError(
            f"has format version {version}; this traceworld reads versions up to {FORMAT_VERSION}",
            where=where,
            mend="pip install --upgrade traceworld",
        )
    if version < 1:
        raise DatasetError(f"names no format version (found {found!r})", where=where, mend="write it again")
    return version


def write_shard(path: Path, clips: Sequence[Clip]) -> None:
    """Write clips to one parquet file, a row group per clip. Equal clips give equal bytes (with one pyarrow version)."""
    with pq.ParquetWriter(
        path,
        SCHEMA,
        compression="zstd",
        use_dictionary=False,
        column_encoding=dict.fromkeys(_FLOAT_COLUMNS, "BYTE_STREAM_SPLIT"),
        write_statistics=["clip_id", "num_frames", "num_keypoints"],
        write_page_checksum=True,
    ) as writer:
        for clip in clips:
            writer.write_batch(clip_to_row(clip))


def clip_to_row(clip: Clip) -> pa.RecordBatch:
    """A clip as a batch of one row.

    Raises:
        InvalidInputError: the provenance cannot be written as JSON.
    """
    traces, cameras, media = clip.traces, clip.cameras, clip.media
    columns = {
        "clip_id": [clip.clip_id],
        "task": [clip.task],
        "num_frames": [traces.num_frames],
        "num_keypoints": [traces.num_keypoints],
        "width": [cameras.width],
        "height": [cameras.height],
        "metric": [clip.metric],
        "time_s": _one_list(clip.time_s, np.float64),
        "K": _one_list(_once_if_constant(cameras.K), np.float64),
        "cam_from_world": _one_list(_once_if_constant(cameras.cam_from_world), np.float64),
        "xyz_world": _one_list(traces.xyz_world, np.float32),
        "visible": _one_list(traces.visible, np.bool_),
        "valid": _one_list(traces.valid, np.bool_),
        "part_id": _one_list(traces.part_id, np.int32),
        "moving": _one_list(traces.moving, np.bool_),
        "query_frame": _one_list(traces.query_frame, np.int32),
        "events": [[{name: getattr(event, name) for name in _EVENT.names} for event in clip.events]],
        "media": [{name: _plain(getattr(media, name)) for name in _MEDIA.names}],
        "provenance": [provenance_to_json(clip.provenance, clip.clip_id)],
    }
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values, type=SCHEMA.field(name).type)
        for name, values in columns.items()
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _one_list(values: np.ndarray, dtype: type) -> pa.ListArray:
    flat: np.ndarray = np.ascontiguousarray(values, dtype).reshape(-1)
    return pa.ListArray.from_arrays(pa.array([0, flat.size], pa.int32()), pa.array(flat))


def _once_if_constant(per_frame: np.ndarray) -> np.ndarray:
    return per_frame[:1] if (per_frame == per_frame[:1]).all() else per_frame


def provenance_to_json(provenance: Mapping[str, Any], where: str) -> str:
    """Provenance as JSON with sorted keys; numbers that are not finite become null (JSON has no NaN).

    Raises:
        InvalidInputError: a value is of a type JSON does not have.
    """
    try:
        return json.dumps(_json_ready(provenance), sort_keys=True, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise InvalidInputError(str(error), where=f"{where}.provenance", mend="use numbers, text, lists") from error


def _json_ready(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_ready(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _json_ready(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


class Shard:
    """One parquet file of clips, open for reading.

    Raises:
        DatasetError: missing, truncated or damaged; the message names the file.
        FormatVersionError: written by a newer traceworld.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
            metadata = self._file.schema_arrow.metadata or {}
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error
        self.version = check_version(metadata.get(_VERSION_KEY), str(path))

    def __len__(self) -> int:
        return self._file.metadata.num_row_groups

    def columns(self, names: Sequence[str]) -> dict[str, list]:
        """Whole columns (small ones: ids, sizes, tasks) as Python lists, a value per clip."""
        try:
            return self._file.read(columns=list(names), use_threads=False).to_pydict()
        except (pa.ArrowException, OSError, KeyError) as error:
            raise self._damaged(error) from error

    def clip(self, row: int, root: Path) -> Clip:
        """The clip in row group `row`; `root` is the folder its relative media paths start from."""
        try:
            table = self._file.read_row_group(row, use_threads=False)
            return _ROW_READERS[self.version](table, root)
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DatasetError:
        return DatasetError(
            f"is missing or damaged: {error}", where=str(self.path), mend="delete the file and write its item again"
        )


def row_to_clip_v1(table: pa.Table, root: Path) -> Clip:
    """A clip from its row, as written by format version 1."""
    T, N = table["num_frames"][0].as_py(), table["num_keypoints"][0].as_py()

    def array(name: str, *shape: int) -> np.ndarray:
        values = table[name].combine_chunks().flatten()
        return values.to_numpy(zero_copy_only=False).reshape(shape).copy()

    def per_frame(name: str, *shape: int) -> np.ndarray:
        values = array(name, -1, *shape)
        return np.repeat(values, T, 0) if len(values) == 1 else values

    media = table["media"][0].as_py()
    return Clip(
        clip_id=table["clip_id"][0].as_py(),
        time_s=array("time_s", T),
        cameras=Cameras(
            per_frame("K", 3, 3),
            per_frame("cam_from_world", 4, 4),
            table["width"][0].as_py(),
            table["height"][0].as_py(),
        ),
        traces=Traces(
            array("xyz_world", T, N, 3),
            array("visible", T, N),
            array("valid", T, N),
            array("part_id", N),
            array("moving", N),
            array("query_frame", N),
        ),
        media=media_from_dict(media),
        events=tuple(Event(**event) for event in table["events"][0].as_py()),
        task=table["task"][0].as_py(),
        metric=table["metric"][0].as_py(),
        provenance=json.loads(table["provenance"][0].as_py()),
        root=root,
    )


def media_from_dict(fields: Mapping[str, Any]) -> Media:
    """A `Media` from its stored fields."""
    tuples: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return Media(**tuples)


# One reader per format version there has ever been: a new version adds an entry and keeps the old ones.
_ROW_READERS: dict[int, Callable[[pa.Table, Path], Clip]] = {1: row_to_clip_v1}
