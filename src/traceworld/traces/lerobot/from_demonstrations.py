"""Demonstrations into a LeRobot v3.0 dataset."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from traceworld.errors import InvalidInputError
from traceworld.traces.demonstrations import Demonstration, Demonstrations
from traceworld.traces.lerobot.encode import Codec, depth_feature, jpeg_bytes, millimetres, png_bytes, video_info
from traceworld.traces.lerobot.layout import ACTION, IMAGES, STATE, Feature
from traceworld.traces.lerobot.writer import Episode, write_episodes
from traceworld.traces.robot import ActionSpec

Pictures = Literal["video", "png", "jpeg"]
_DEPTH = "_depth"


def write_lerobot(
    demonstrations: Demonstrations | Iterable[Demonstration],
    folder: str | Path,
    *,
    spec: ActionSpec | None = None,
    pictures: Pictures = "video",
    codec: Codec = "h264",
    robot_type: str = "",
    data_mb: float | int = 100,
    video_mb: float | int = 200,
) -> Path:
    """Write demonstrations as a LeRobot v3.0 dataset that unmodified LeRobot loads, edits and trains on.

    Features: `observation.state`, `action`, one `observation.images.<camera>` per camera, `<camera>_depth` beside it where
    the first episode has depth (12-bit video to 10 m, or millimetres), and `next.success` (true on the last frame of an
    episode that succeeded) if every episode says whether it did.

    Args:
        demonstrations: a set of them, or any iterable (then with `spec`), e.g. episodes as a simulator records them. All
            must have the cameras, picture sizes, frame rate and numbers of the first one.
        folder: new, or the unfinished result of the same call, which is then gone on with.
        spec: names of the numbers; taken from `demonstrations` if it is a set.
        pictures: `video` (mp4, `codec`), or `png` (lossless) or `jpeg` inside the parquet files.
        codec: of videos: `h264` (same input, same bytes) or `av1` (LeRobot's own default; smaller).
        robot_type: name of the robot.
        data_mb, video_mb: about how large files may grow.

    Returns:
        The folder.

    Raises:
        InvalidInputError: no episode, or one that differs from the first.
        DatasetError: the folder holds something else or cannot be written.
    """
    spec = spec or getattr(demonstrations, "spec", None)
    episodes = _listed(demonstrations)
    try:
        first = next(episodes)
    except StopIteration:
        raise InvalidInputError("no episode was given", where="write_lerobot") from None
    features = _features(first, spec, pictures, codec)
    by_key = {feature.key: feature for feature in features}
    return write_episodes(
        (_episode(demonstration, first, by_key) for demonstration in itertools.chain([first], episodes)),
        folder,
        features,
        first.fps,
        robot_type=robot_type,
        codec=codec,
        encode_image=jpeg_bytes if pictures == "jpeg" else png_bytes,
        data_mb=data_mb,
        video_mb=video_mb,
    )


def _listed(demonstrations: Demonstrations | Iterable[Demonstration]) -> Iterator[Demonstration]:
    if hasattr(demonstrations, "instructions"):
        return (demonstrations[index] for index in range(len(demonstrations)))  # type: ignore[arg-type,index]
    return iter(demonstrations)  # type: ignore[arg-type]


def _features(first: Demonstration, spec: ActionSpec | None, pictures: Pictures, codec: Codec) -> list[Feature]:
    state_names = list(spec.state_names) if spec and len(spec.state_names) == first.state.shape[1] else None
    action_names = list(spec.names) if spec and spec.dim == first.action.shape[1] else None
    features = [Feature(ACTION, "float32", (first.action.shape[1],), action_names)]
    if first.state.shape[1]:
        features.insert(0, Feature(STATE, "float32", (first.state.shape[1],), state_names))
    for camera in first.cameras:
        shape = first.read_frame(camera, 0).shape
        info = video_info((shape[1], shape[0]), first.fps, codec, None) if pictures == "video" else {}
        dtype = "video" if pictures == "video" else "image"
        features.append(Feature(IMAGES + camera, dtype, shape, ["height", "width", "channels"], info))
    for camera in first.depth_cameras:
        height, width = first.depth_m(camera, 0).shape
        features.append(depth_feature(IMAGES + camera + _DEPTH, (height, width), first.fps, pictures == "video"))
    if first.success is not None:
        features.append(Feature("next.success", "bool", (1,)))
    return features


def _episode(demonstration: Demonstration, first: Demonstration, features: Mapping[str, Feature]) -> Episode:
    where = f"episode {demonstration.episode_id}"
    if demonstration.fps != first.fps or demonstration.cameras != first.cameras:
        raise InvalidInputError("has another frame rate or other cameras than the first episode", where=where)
    if demonstration.depth_cameras != first.depth_cameras:
        raise InvalidInputError("has depth of other cameras than the first episode", where=where)
    if (demonstration.success is None) != (first.success is None):
        raise InvalidInputError("only some episodes say whether they succeeded", where=where)
    columns = {ACTION: demonstration.action, STATE: demonstration.state}
    if demonstration.success is not None:
        columns["next.success"] = np.arange(len(demonstration)) == len(demonstration) - 1
        columns["next.success"] &= demonstration.success
    return Episode(
        demonstration.episode_id,
        demonstration.instruction,
        len(demonstration),
        {key: values for key, values in columns.items() if key in features},
        lambda key, frame: _picture(demonstration, features[key], frame),
    )


def _picture(demonstration: Demonstration, feature: Feature, frame: int) -> np.ndarray:
    camera = feature.key.removeprefix(IMAGES)
    if not feature.is_depth:
        return demonstration.read_frame(camera, frame)
    depth = demonstration.depth_m(camera.removesuffix(_DEPTH), frame)
    return depth if feature.dtype == "video" else millimetres(depth)
