"""The frames of one episode: columns of numbers as arrays, pictures stored as bytes, depth stored as images."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, UInt8
from PIL import Image

from traceworld.errors import DatasetError, DepthError, MediaError
from traceworld.traces.lerobot.episodes import EpisodeRow
from traceworld.traces.lerobot.layout import Feature, Layout
from traceworld.traces.lerobot.videos import depth_from_levels, read_colour, read_depth_levels

_BAD_PICTURE = (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError)
_MEND = "restore the file from a copy of the dataset"


def read_columns(row: EpisodeRow, names: Sequence[str]) -> pa.Table:
    """Some columns of an episode, one row per frame. Reads in this thread alone, so that forked readers may call it.

    Raises:
        DatasetError: the file is missing or damaged, lacks a column, or holds another number of frames than listed.
    """
    try:
        with pq.ParquetFile(row.data_file) as file:
            if missing := sorted(set(names) - set(file.schema_arrow.names)):
                raise KeyError(f"column '{missing[0]}' is not there")
            table = _rows_of_episode(file, row.index, list(names))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DatasetError(
            f"episode {row.index} cannot be read: {error}", where=str(row.data_file), mend=_MEND
        ) from error
    if len(table) != row.length:
        raise DatasetError(
            f"holds {len(table)} frames of episode {row.index}; its 'length' in meta/ is {row.length}",
            where=str(row.data_file),
            mend=_MEND,
        )
    return table


def _rows_of_episode(file: pq.ParquetFile, index: int, names: list[str]) -> pa.Table:
    if "episode_index" not in file.schema_arrow.names:  # one file per episode
        return file.read(columns=names, use_threads=False)
    place = file.schema_arrow.names.index("episode_index")
    groups = []
    for group in range(file.num_row_groups):
        # Columns before `episode_index` may be nested, so its place among the leaves is looked up by name.
        about = file.metadata.row_group(group)
        leaf = next(i for i in range(place, about.num_columns) if about.column(i).path_in_schema == "episode_index")
        bounds = about.column(leaf).statistics
        if bounds is None or not bounds.has_min_max or bounds.min <= index <= bounds.max:
            groups.append(group)
    if not groups:
        return file.schema_arrow.empty_table().select(names)
    table = file.read_row_groups(groups, columns=[*dict.fromkeys([*names, "episode_index"])], use_threads=False)
    mine = np.flatnonzero(table["episode_index"].to_numpy() == index)
    return table.select(names).take(mine) if len(mine) < len(table) else table.select(names)


def as_array(table: pa.Table, feature: Feature, where: Path) -> np.ndarray:
    """A column of numbers as [T, *shape] ([T] for shape (1,)), in its stored dtype.

    Raises:
        DatasetError: a value is missing, or has another shape than info.json states.
    """
    column = table[feature.key].combine_chunks()
    while isinstance(column, pa.ExtensionArray):
        column = column.storage
    while (
        pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type) or pa.types.is_large_list(column.type)
    ):
        column = column.flatten()
    shape = (len(table),) if feature.shape == (1,) else (len(table), *feature.shape)
    if column.null_count or len(column) != int(np.prod(shape)):
        raise DatasetError(
            f"column '{feature.key}' has {len(column) - column.null_count} numbers for {len(table)} frames of shape "
            f"{feature.shape}",
            where=str(where),
            mend=_MEND,
        )
    return column.to_numpy(zero_copy_only=False).reshape(shape)


class EpisodePictures:
    """Pictures and depth of one episode; may be asked for in any order and from forked readers."""

    def __init__(self, layout: Layout, row: EpisodeRow, timestamps: Float32[np.ndarray, " T"] | None = None):
        self.layout, self.row = layout, row
        self._timestamps = timestamps

    def __len__(self) -> int:
        return self.row.length

    def image(self, key: str, frame: int) -> UInt8[np.ndarray, "H W 3"]:
        """RGB of a colour feature.

        Raises:
            MediaError: it cannot be read or decoded; the file is named.
        """
        if self.layout.features[key].dtype == "video":
            place = self.row.videos[key]
            return read_colour(place.file, place.from_s + self._time(frame), 0.45 / self.layout.fps)
        try:
            with Image.open(io.BytesIO(self.encoded(key, frame))) as picture:
                return np.array(picture.convert("RGB"))
        except _BAD_PICTURE as error:
            raise MediaError(self._says(key, frame, error), where=str(self.row.data_file), mend=_MEND) from error

    def depth(self, key: str, frame: int) -> Float32[np.ndarray, "H W"]:
        """Metres of a depth feature, NaN where unknown.

        Raises:
            DepthError, MediaError: it cannot be read, or its unit is not stated.
        """
        feature = self.layout.features[key]
        if feature.dtype == "video":
            place = self.row.videos[key]
            levels = read_depth_levels(place.file, place.from_s + self._time(frame), 0.45 / self.layout.fps)
            return depth_from_levels(levels, feature.info)
        values = self.stored_depth(key, frame)
        metres = values.astype(np.float32) * np.float32(depth_unit_m(feature, values.dtype))
        return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(np.nan))

    def stored_depth(self, key: str, frame: int) -> np.ndarray:
        """A depth image [H,W] as stored, in the feature's own unit and dtype."""
        try:
            with Image.open(io.BytesIO(self.encoded(key, frame))) as picture:
                values = np.asarray(picture)
        except _BAD_PICTURE as error:
            raise DepthError(self._says(key, frame, error), where=str(self.row.data_file), mend=_MEND) from error
        if values.ndim != 2:
            raise DepthError(
                self._says(key, frame, f"{values.ndim} axes instead of 2"), where=str(self.row.data_file), mend=_MEND
            )
        return values.astype(np.uint16) if values.dtype.kind == "i" else values

    def encoded(self, key: str, frame: int) -> bytes:
        """The picture file (PNG, JPEG, TIFF) that is stored in an image column."""
        if not 0 <= frame < len(self):
            raise MediaError(
                self._says(key, frame, f"the episode has {len(self)} frames"), where=str(self.row.data_file)
            )
        changed = self.row.data_file.stat().st_mtime_ns if self.row.data_file.exists() else 0
        column = _image_column(self.row.data_file, changed, self.row.index, self.row.length, key)
        cell = column[frame].as_py()
        if isinstance(cell, dict) and cell.get("bytes"):
            return cell["bytes"]
        if isinstance(cell, dict) and cell.get("path"):
            return _read_file(self.layout.folder, str(cell["path"]))
        raise MediaError(self._says(key, frame, "nothing is stored"), where=str(self.row.data_file), mend=_MEND)

    def _time(self, frame: int) -> float:
        if not 0 <= frame < len(self):
            raise MediaError(f"the episode has {len(self)} frames, not frame {frame}", where=str(self.row.data_file))
        return frame / self.layout.fps if self._timestamps is None else float(self._timestamps[frame])

    def _says(self, key: str, frame: int, error: object) -> str:
        return f"feature '{key}', episode {self.row.index}, frame {frame} cannot be read: {error}"


def depth_unit_m(feature: Feature, dtype: np.dtype) -> float:
    """Metres per unit of a depth image: as its info states, else metres for floats and millimetres for integers."""
    unit = feature.info.get("depth_unit") or ("m" if dtype.kind == "f" else "mm")
    if unit not in ("m", "mm"):
        raise DepthError(f"the unit '{unit}' is neither 'm' nor 'mm'", where=f"features/{feature.key}/info/depth_unit")
    return 1.0 if unit == "m" else 0.001


@functools.lru_cache(maxsize=4)
def _image_column(file: Path, _changed: int, index: int, length: int, key: str) -> pa.ChunkedArray:
    # One column of one episode at a time: what training reads next comes from the same few episodes.
    return read_columns(EpisodeRow(index, length, (), file), [key])[key]


def _read_file(folder: Path, relative: str) -> bytes:
    path = folder / relative
    if Path(relative).is_absolute() or ".." in Path(relative).parts:
        raise MediaError("leads out of the dataset", where=str(path))
    try:
        return path.read_bytes()
    except OSError as error:
        raise MediaError(f"cannot be read: {error.strerror}", where=str(path), mend=_MEND) from error
