"""Our clip store as a LeRobot v3.0 dataset: a clip becomes an episode, its traces flat columns with masks.

LeRobot wants the same number of points in every frame of a dataset, and its edit tools fail on columns of two axes. So
traces are written flat (x, y, z point by point) for a fixed number of points; a clip with fewer has its tail masked out,
and what a clip is besides its frames (id, events, provenance) is a line of JSON on its first frame: LeRobot's delete and
merge keep columns and nothing else.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image

from traceworld.errors import InvalidInputError
from traceworld.geometry.cameras import world_to_uvz
from traceworld.traces.lerobot.columns import PROVENANCE_KEY, read_robot_columns
from traceworld.traces.lerobot.encode import Codec, depth_feature, jpeg_bytes, millimetres, png_bytes, video_info
from traceworld.traces.lerobot.from_demonstrations import Pictures
from traceworld.traces.lerobot.language import rows_of_events
from traceworld.traces.lerobot.layout import ACTION, IMAGES, INDEX_FEATURES, PERSISTENT, STATE, Feature
from traceworld.traces.lerobot.writer import Episode, write_episodes
from traceworld.traces.media import frames_with_pictures, read_depth, read_frame
from traceworld.traces.schema import provenance_to_json
from traceworld.traces.store import Dataset
from traceworld.traces.types import Clip

XYZ, CLIP, PICTURE_FRAME = "trace.xyz_world", "trace.clip", "trace.picture_frame"
POINTS: dict[str, type] = {"part_id": np.int32, "moving": np.bool_, "query_frame": np.int32}
CAMERAS = {"trace.K": 9, "trace.cam_from_world": 16}
EXPORT_VERSION = 1


def export_lerobot(
    dataset: Dataset,
    folder: str | Path,
    *,
    pictures: Pictures = "video",
    codec: Codec = "h264",
    camera: str = "camera",
    num_points: int | None = None,
    image_size: tuple[int, int] | None = None,
    language: bool = True,
    policy_data: bool = False,
    fps: float | int | None = None,
) -> Path:
    """Write a clip store as a LeRobot v3.0 dataset.

    Columns besides pictures and depth (N points, unused ones at the end): `trace.xyz_world` [N·3] metres, 0 where unknown;
    the masks `trace.visible`, `trace.valid`, `trace.known` [N]; `trace.part_id`, `trace.moving`, `trace.query_frame` [N];
    `trace.K` [9], `trace.cam_from_world` [16]; `trace.time_s`; `trace.picture_frame` (which clip frame the picture shows:
    of frames without one, the last before is repeated; −1: none yet, black); `trace.clip` (JSON on the first frame, else
    ""). What the numbers mean stands in the `info` of `trace.xyz_world`. Captions go into `language_persistent`. Columns
    that the clips' robot had (after `import_lerobot`) come back under their own names.

    Args:
        dataset: the clips.
        folder: new, or the unfinished result of the same call, which is then gone on with.
        pictures: `video`, or `png` (lossless) or `jpeg` in the parquet files. Clips without pictures give none.
        codec: of colour videos. Depth becomes lossless 12-bit video, or with `png`/`jpeg` 16-bit TIFF in millimetres.
        camera: name of the camera: `observation.images.<camera>`, and `<camera>_depth`.
        num_points: points per frame; None: as many as the clip with the most. Two exports merge if it is equal.
        image_size: width, height to which pictures are resized; None: all must have one size.
        language: write the captions; LeRobot before 0.6 cannot load a dataset with language columns.
        policy_data: also `observation.state` (u, v, z of the points now) and `action` (those one frame later), each in
            its frame's camera, so that any LeRobot policy learns to forecast traces. Unknown points keep their last place.
        fps: frames per second; None: from the clips' time stamps, which must agree.

    Raises:
        InvalidInputError: clips of different frame rates or picture sizes, or with more points than `num_points`.
        DatasetError: the folder cannot be written, or a clip cannot be read.
    """
    plan = _Plan.of(dataset, pictures, codec, camera, num_points, image_size, language, policy_data, fps)
    return write_episodes(
        (_episode(clip, plan) for clip in dataset),
        folder,
        plan.features,
        plan.fps,
        codec=codec,
        encode_image=jpeg_bytes if pictures == "jpeg" else png_bytes,
    )


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What all clips of an export have in common."""

    features: list[Feature]
    fps: float | int
    num_points: int
    language: bool
    policy_data: bool
    image_key: str | None
    image_size: tuple[int, int]
    resize: bool
    depth_key: str | None
    robot_keys: frozenset[str]

    @staticmethod
    def of(dataset, pictures, codec, camera, num_points, image_size, language, policy_data, fps) -> _Plan:
        if not len(dataset):
            raise InvalidInputError("holds no clips", where=str(dataset.path))
        rates: dict[Any, str] = {}
        most, first, pictured = 0, dataset[0], None
        for clip in dataset:
            most = max(most, clip.traces.num_keypoints)
            rates.setdefault(_rate(clip), clip.clip_id)
            pictured = pictured or (clip if frames_with_pictures(clip) else None)
        if fps is None and len(rates) > 1:
            a, b = list(rates)[:2]
            raise InvalidInputError(
                f"clip '{rates[a]}' has {a:g} frames per second, clip '{rates[b]}' {b:g}; a LeRobot dataset has one rate",
                where=str(dataset.path),
                mend="choose one with fps= (--fps); exact times are kept in trace.time_s",
            )
        N = most if num_points is None else num_points
        rate = fps if fps is not None else next(iter(rates))
        features, image_key, depth_key, size = [], None, None, (0, 0)
        if pictured is not None:
            size, depth_shape = _sizes(pictured, image_size)
            image_key = IMAGES + camera
            features.append(_picture_feature(image_key, size, rate, pictures, codec))
            if depth_shape is not None:
                depth_key = f"{image_key}_depth"
                features.append(depth_feature(depth_key, depth_shape, rate, pictures == "video"))
        robot = _robot_features(first)
        features += robot
        if policy_data:
            features += _policy_features(N, robot)
        features += _trace_features(N, camera, pictured is not None)
        if language:
            features.append(Feature(PERSISTENT, "language", (1,)))
        return _Plan(
            features=features,
            fps=rate,
            num_points=N,
            language=language,
            policy_data=policy_data,
            image_key=image_key,
            image_size=size,
            resize=image_size is not None,
            depth_key=depth_key,
            robot_keys=frozenset(feature.key for feature in robot),
        )


def _rate(clip: Clip) -> float:
    """Frames per second, whole where the time stamps allow it."""
    if clip.num_frames < 2:
        return 30.0
    rate = (clip.num_frames - 1) / float(clip.time_s[-1] - clip.time_s[0])
    return float(round(rate)) if abs(rate - round(rate)) < 0.05 and round(rate) > 0 else round(rate, 3)


def _sizes(clip: Clip, image_size: tuple[int, int] | None) -> tuple[tuple[int, int], tuple[int, int] | None]:
    frame = frames_with_pictures(clip)[0]
    height, width = read_frame(clip, frame).shape[:2]
    depth = read_depth(clip, frame)
    return image_size or (width, height), None if depth is None else (depth.shape[0], depth.shape[1])


def _picture_feature(key: str, size: tuple[int, int], fps: float | int, pictures: Pictures, codec: Codec) -> Feature:
    info = video_info(size, fps, codec, None) if pictures == "video" else {}
    dtype = "video" if pictures == "video" else "image"
    return Feature(key, dtype, (size[1], size[0], 3), ["height", "width", "channels"], info)


def _trace_features(N: int, camera: str, pictured: bool) -> list[Feature]:
    about = {
        "traceworld_export": EXPORT_VERSION,
        "layout": "x, y, z of point 0, then of point 1, …",
        "num_points": N,
        "frame": "world",
        "axes": "OpenCV: x right, y down, z forward",
        "unit": "m",
        "normalised": False,
        "camera": IMAGES + camera,
        "intrinsics": "trace.K in pixels of the camera, row by row",
        "extrinsics": "trace.cam_from_world, row by row",
        "masks": "trace.valid: may be used; trace.visible: seen in the frame; trace.known: not a filler 0",
        "points": "the last ones are fillers where a clip has fewer: trace.known is false throughout",
    }
    features = []
    if N:
        features.append(Feature(XYZ, "float32", (3 * N,), None, about))
        features += [Feature(f"trace.{name}", "bool", (N,)) for name in ("visible", "valid", "known")]
        features += [Feature(f"trace.{name}", np.dtype(kind).name, (N,)) for name, kind in POINTS.items()]
    features += [Feature(name, "float64", (size,)) for name, size in CAMERAS.items()]
    features.append(Feature("trace.time_s", "float64", (1,)))
    if pictured:
        features.append(Feature(PICTURE_FRAME, "int64", (1,)))
    return [*features, Feature(CLIP, "string", (1,))]


def _policy_features(N: int, robot: list[Feature]) -> list[Feature]:
    if N == 0 or {STATE, ACTION} & {feature.key for feature in robot}:
        raise InvalidInputError(
            "the clips have no points" if N == 0 else "the clips' robot has states or actions of its own",
            where="policy_data",
            mend="leave it off",
        )
    names = [f"{axis}_{point}" for point in range(N) for axis in ("u", "v", "z")]
    return [Feature(STATE, "float32", (3 * N,), names), Feature(ACTION, "float32", (3 * N,), names)]


def _robot_features(clip: Clip) -> list[Feature]:
    path = _robot_file(clip)
    found = [] if path is None else read_robot_columns(path)[0]
    # Written flat: LeRobot's edit tools fail on columns of two axes.
    return [f if len(f.shape) == 1 else dataclasses.replace(f, shape=(f.size,), names=None) for f in found]


def _robot_file(clip: Clip) -> Path | None:
    name = clip.provenance.get(PROVENANCE_KEY)
    return None if name is None or clip.root is None else clip.root / name


# --- one clip ---------------------------------------------------------------------------------------------------------


def _episode(clip: Clip, plan: _Plan) -> Episode:
    if clip.traces.num_keypoints > plan.num_points:
        raise InvalidInputError(
            f"has {clip.traces.num_keypoints} points, more than {plan.num_points}",
            where=f"clip {clip.clip_id}",
            mend="raise num_points (--num-points)",
        )
    columns = _trace_columns(clip, plan.num_points)
    path = _robot_file(clip)
    robot = {} if path is None else read_robot_columns(path)[1]
    if set(robot) != plan.robot_keys:
        raise InvalidInputError("has other robot columns than the first clip", where=f"clip {clip.clip_id}")
    columns |= {key: values for key, values in robot.items() if key not in INDEX_FEATURES}
    if plan.policy_data:
        columns[STATE] = _points_uvz(clip, plan.num_points)
        columns[ACTION] = np.concatenate([columns[STATE][1:], columns[STATE][-1:]])
    if plan.language:
        columns[PERSISTENT] = [rows_of_events(clip.events, plan.fps)] * clip.num_frames
    pictures = _ClipPictures(clip, plan)
    if plan.image_key is not None:
        columns[PICTURE_FRAME] = pictures.shown
    return Episode(clip.clip_id, clip.task, clip.num_frames, columns, pictures.read)


def _trace_columns(clip: Clip, N: int) -> dict[str, Any]:
    traces, T, missing = clip.traces, clip.num_frames, N - clip.traces.num_keypoints
    columns: dict[str, Any] = {}
    if N:
        known = np.isfinite(traces.xyz_world).all(-1)
        xyz = np.where(known[..., None], traces.xyz_world, np.float32(0))
        columns[XYZ] = np.pad(xyz, ((0, 0), (0, missing), (0, 0))).reshape(T, 3 * N)
        for name, values in {"visible": traces.visible, "valid": traces.valid, "known": known}.items():
            columns[f"trace.{name}"] = np.pad(values, ((0, 0), (0, missing)))
        for name, kind in POINTS.items():
            filler = -1 if name == "part_id" else 0
            padded = np.pad(getattr(traces, name).astype(kind), (0, missing), constant_values=filler)
            columns[f"trace.{name}"] = np.repeat(padded[None], T, 0)
    columns["trace.K"] = clip.cameras.K.reshape(T, 9).astype(np.float64)
    columns["trace.cam_from_world"] = clip.cameras.cam_from_world.reshape(T, 16).astype(np.float64)
    columns["trace.time_s"] = clip.time_s.astype(np.float64)
    columns[CLIP] = [_about(clip), *[""] * (T - 1)]
    return columns


def _about(clip: Clip) -> str:
    about: Mapping[str, Any] = {
        "clip_id": clip.clip_id,
        "task": clip.task,
        "num_keypoints": clip.traces.num_keypoints,
        "width": clip.cameras.width,
        "height": clip.cameras.height,
        "metric": clip.metric,
        "events": [dataclasses.asdict(event) for event in clip.events],
        "provenance": json.loads(provenance_to_json(clip.provenance, clip.clip_id)),
    }
    return json.dumps(about, sort_keys=True, ensure_ascii=False)


def _points_uvz(clip: Clip, N: int) -> Float32[np.ndarray, "T D"]:
    """u, v, z of the points in each frame's camera, flat; unknown ones keep their last place, at first their next one."""
    T, n = clip.traces.valid.shape
    uvz = np.zeros((T, n, 3))
    for frame in range(T):
        camera = clip.cameras[frame]
        xyz = np.nan_to_num(clip.traces.xyz_world[frame].astype(np.float64))
        uvz[frame] = world_to_uvz(xyz, camera.K, camera.cam_from_world, camera.width, camera.height)
    usable = clip.traces.valid & np.isfinite(uvz).all(-1)
    last = np.maximum.accumulate(np.where(usable, np.arange(T)[:, None], -1), 0)
    first = np.where(usable.any(0), usable.argmax(0), -1)
    source = np.where(last >= 0, last, first[None])
    filled = np.where((source >= 0)[..., None], uvz[source.clip(0), np.arange(n)[None]], 0.0)
    return np.pad(filled, ((0, 0), (0, N - n), (0, 0))).reshape(T, 3 * N).astype(np.float32)


class _ClipPictures:
    """A picture for every frame of a clip: its own, or the last one stored before it."""

    def __init__(self, clip: Clip, plan: _Plan):
        self.clip, self.plan = clip, plan
        stored = np.array(frames_with_pictures(clip), np.int64)
        places = np.searchsorted(stored, np.arange(clip.num_frames), side="right") - 1
        self.shown = np.where(places >= 0, stored[places.clip(0)], -1) if len(stored) else np.full(clip.num_frames, -1)

    def read(self, key: str, frame: int) -> np.ndarray:
        shown = int(self.shown[frame])
        if key == self.plan.depth_key:
            return self._depth(key, shown)
        width, height = self.plan.image_size
        if shown < 0:
            return np.zeros((height, width, 3), np.uint8)
        image = read_frame(self.clip, shown)
        if image.shape[:2] == (height, width):
            return image
        if not self.plan.resize:
            raise InvalidInputError(
                f"is {image.shape[1]}×{image.shape[0]}, not {width}×{height} as in the first clip",
                where=f"clip {self.clip.clip_id}, picture of frame {shown}",
                mend="give one image_size for all (--image-size)",
            )
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))

    def _depth(self, key: str, shown: int) -> np.ndarray:
        feature = next(f for f in self.plan.features if f.key == key)
        depth = read_depth(self.clip, shown) if shown >= 0 else None
        if depth is None:
            depth = np.full(feature.shape[:2], np.nan, np.float32)
        if depth.shape != feature.shape[:2]:
            raise InvalidInputError(
                f"is {depth.shape}, not {feature.shape[:2]} as in the first clip",
                where=f"clip {self.clip.clip_id}, depth of frame {shown}",
            )
        return depth if feature.dtype == "video" else millimetres(depth)
