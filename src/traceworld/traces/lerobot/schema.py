"""Arrow types of what is written: data columns, the list of episodes, tasks, language rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from traceworld.traces.lerobot.layout import PERSISTENT, Feature
from traceworld.traces.lerobot.stats import Stats

_ROW = [("role", pa.string()), ("content", pa.string()), ("style", pa.string())]
_ROW_END = [("camera", pa.string()), ("tool_calls", pa.list_(pa.string()))]
PERSISTENT_TYPE = pa.list_(pa.struct([*_ROW, ("timestamp", pa.float32()), *_ROW_END]))
EVENTS_TYPE = pa.list_(pa.struct([*_ROW, *_ROW_END]))
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def arrow_schema(features: Sequence[Feature]) -> pa.Schema:
    """Columns of a data file; video features have none."""
    return pa.schema([(f.key, _arrow_type(f)) for f in features if f.dtype != "video"])


def _arrow_type(feature: Feature) -> pa.DataType:
    if feature.dtype == "image":
        return IMAGE_TYPE
    if feature.dtype == "language":
        return PERSISTENT_TYPE if feature.key == PERSISTENT else EVENTS_TYPE
    if feature.dtype == "string":
        return pa.string()
    number = pa.from_numpy_dtype(np.dtype(feature.dtype))
    return number if feature.shape == (1,) else pa.list_(number, feature.size)


def arrow_column(values: Any, type_: pa.DataType) -> pa.Array:
    """Values of one column, one entry per frame."""
    if not pa.types.is_fixed_size_list(type_):
        values = values.reshape(-1) if isinstance(values, np.ndarray) else values
        return pa.array(values, type=type_)
    flat = np.ascontiguousarray(values).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, type=type_.value_type), type_.list_size)


def episodes_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A part of the list of episodes. Types are stated, so that every file has the same ones."""
    fields = []
    for name, value in rows[0].items():
        if name == "tasks":
            kind: pa.DataType = pa.list_(pa.string())
        elif name.startswith("stats/"):
            kind = pa.int64() if name.endswith("/count") else pa.float64()
            depth = np.asarray(value).ndim
            for _ in range(depth):
                kind = pa.list_(kind)
        else:
            kind = pa.float64() if name.endswith("_timestamp") else pa.int64()
        fields.append(pa.field(name, kind))
    schema = pa.schema(fields)
    return pa.Table.from_arrays([pa.array([row[f.name] for row in rows], type=f.type) for f in schema], schema=schema)


def stats_of_rows(rows: Sequence[Mapping[str, Any]]) -> list[Stats]:
    """The statistics in a list of episodes, as they went in."""
    found: list[Stats] = []
    for row in rows:
        stats: Stats = {}
        for name, value in row.items():
            if name.startswith("stats/"):
                _, key, statistic = name.split("/")
                stats.setdefault(key, {})[statistic] = np.asarray(value)
        found.append(stats)
    return found


def tasks_table(tasks: Sequence[str]) -> pa.Table:
    """Tasks as pandas writes them with the text as index: LeRobot looks texts up in that index."""
    about = {
        "index_columns": ["task"],
        "column_indexes": [
            {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
        ],
        "columns": [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": None},
            {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
        ],
        "pandas_version": "2.0.0",
    }  # fmt: skip
    schema = pa.schema([("task_index", pa.int64()), ("task", pa.string())], metadata={"pandas": json.dumps(about)})
    return pa.Table.from_arrays([pa.array(range(len(tasks)), pa.int64()), pa.array(tasks, pa.string())], schema=schema)
