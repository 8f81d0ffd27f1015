"""A clip back from an episode that `export_lerobot` wrote, also after LeRobot deleted, merged or re-captioned episodes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from traceworld.errors import DatasetError
from traceworld.traces.lerobot.columns import FILE_NAME, PROVENANCE_KEY, write_robot_columns
from traceworld.traces.lerobot.data import EpisodePictures, as_array
from traceworld.traces.lerobot.from_clips import CAMERAS, CLIP, PICTURE_FRAME, POINTS, XYZ
from traceworld.traces.lerobot.language import events_of_rows, rows_of_events, same_rows
from traceworld.traces.lerobot.layout import INDEX_FEATURES, PERSISTENT, Feature, Layout
from traceworld.traces.lerobot.picture_files import store_pictures
from traceworld.traces.types import Cameras, Clip, Event, Media, Traces


def clip_of_export(
    table: pa.Table,
    layout: Layout,
    pictures: EpisodePictures,
    key: str | None,
    depth_key: str | None,
    folder: Path,
    root: Path,
) -> Clip:
    """The clip that an episode was made of: equal in everything but where its pictures are.

    Captions come from the language column where somebody changed them there; without a change the events come back whole,
    with the ends, levels and parts that LeRobot's rows have no place for.

    Args:
        table: the episode's columns.
        pictures: its pictures; `key` and `depth_key` say which, None for none.
        folder: where to store them, below the dataset folder `root`.

    Raises:
        DatasetError: the columns are not those of an export.
    """
    where = pictures.row.data_file
    try:
        about = json.loads(table[CLIP][0].as_py())
        provenance: dict[str, Any] = dict(about["provenance"])
        T, N = len(table), int(about["num_keypoints"])
        columns = {
            name: as_array(table, feature, where)
            for name, feature in layout.features.items()
            if name.startswith("trace.") and feature.dtype != "string"
        }
        K, pose = (columns[name].reshape(T, -1) for name in CAMERAS)
        clip = Clip(
            clip_id=about["clip_id"],
            time_s=columns["trace.time_s"].reshape(T).copy(),
            cameras=Cameras(K.reshape(T, 3, 3).copy(), pose.reshape(T, 4, 4).copy(), about["width"], about["height"]),
            traces=_traces(columns, T, N),
            media=_media(columns, pictures, key, depth_key, folder, root),
            events=_events(about, table, layout, T),
            task=about["task"],
            metric=about["metric"],
            provenance=_keep_robot_columns(provenance, table, layout, folder, root),
            root=root,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"episode {pictures.row.index} is not as `traceworld export lerobot` writes it: {error}",
            where=str(where),
            mend="export it again",
        ) from error
    return clip


def _traces(columns: Mapping[str, np.ndarray], T: int, N: int) -> Traces:
    if XYZ not in columns:
        return Traces.empty(T)
    xyz = columns[XYZ].reshape(T, -1, 3)[:, :N].copy()
    masks = {name: columns[f"trace.{name}"].reshape(T, -1)[:, :N].copy() for name in ("visible", "valid", "known")}
    xyz[~masks["known"]] = np.nan
    points: dict[str, Any] = {
        name: columns[f"trace.{name}"].reshape(T, -1)[0, :N].astype(kind) for name, kind in POINTS.items()
    }
    return Traces(xyz, masks["visible"], masks["valid"], **points)


def _media(
    columns: Mapping[str, np.ndarray],
    pictures: EpisodePictures,
    key: str | None,
    depth_key: str | None,
    folder: Path,
    root: Path,
) -> Media:
    if key is None or PICTURE_FRAME not in columns:
        return Media()
    shown = columns[PICTURE_FRAME].reshape(-1)
    frames = np.flatnonzero(shown == np.arange(len(shown))).tolist()
    return store_pictures(pictures, key, depth_key, frames, folder, root) if frames else Media()


def _events(about: Mapping[str, Any], table: pa.Table, layout: Layout, T: int) -> tuple[Event, ...]:
    events = tuple(Event(**event) for event in about["events"])
    if PERSISTENT not in table.column_names:
        return events
    rows = table[PERSISTENT][0].as_py()
    unchanged = same_rows(rows, rows_of_events(events, layout.fps))
    return events if unchanged else events_of_rows(rows, T, layout.fps)


def _keep_robot_columns(
    provenance: dict[str, Any], table: pa.Table, layout: Layout, folder: Path, root: Path
) -> dict[str, Any]:
    if PROVENANCE_KEY not in provenance:
        return provenance
    write_robot_columns(folder / FILE_NAME, table, robot_features(layout))
    return provenance | {PROVENANCE_KEY: (folder / FILE_NAME).relative_to(root).as_posix()}


def robot_features(layout: Layout) -> list[Feature]:
    """The features that are the robot's own: no pictures, no index, no captions, nothing of ours."""
    return [
        feature
        for key, feature in layout.features.items()
        if not feature.is_picture
        and feature.dtype != "language"
        and key not in INDEX_FEATURES
        and not key.startswith("trace.")
    ]
