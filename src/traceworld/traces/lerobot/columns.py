"""The robot's own columns (states, actions, rewards, …) of an imported episode, kept in a file beside the clip.

A clip has no place for them, but they must not get lost: the export puts them back under their names and dtypes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from traceworld.errors import DatasetError
from traceworld.traces.atomic import write_atomically
from traceworld.traces.lerobot.data import as_array
from traceworld.traces.lerobot.episodes import read_table
from traceworld.traces.lerobot.layout import Feature

FILE_NAME = "robot.parquet"
PROVENANCE_KEY = "robot_columns"
"""Where a clip's provenance says which file holds them, relative to the dataset folder."""
_FEATURES = b"traceworld.lerobot_features"


def write_robot_columns(path: Path, table: pa.Table, features: Sequence[Feature]) -> None:
    """Store columns of an episode, one row per frame, with what info.json says of them."""
    about = json.dumps({feature.key: feature.to_json() for feature in features}, sort_keys=True)
    table = table.select([feature.key for feature in features]).replace_schema_metadata({_FEATURES: about})
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def read_robot_columns(path: Path) -> tuple[list[Feature], dict[str, np.ndarray | list]]:
    """What `write_robot_columns` stored: features, and a value per frame for each (arrays, or lists for text).

    Raises:
        DatasetError: the file is missing or damaged.
    """
    table = read_table(path)
    try:
        about = json.loads((table.schema.metadata or {})[_FEATURES])
        features = [
            Feature(key, entry["dtype"], tuple(entry["shape"]), entry["names"], entry.get("info") or {})
            for key, entry in about.items()
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"does not say what its columns are: {error}", where=str(path), mend="import again"
        ) from error
    values = {f.key: table[f.key].to_pylist() if f.dtype == "string" else as_array(table, f, path) for f in features}
    return features, values
