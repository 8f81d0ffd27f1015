"""EgoVerse episodes into our clip store: pictures, camera poses and hand joints out of a Zarr store, metric and without drift.

An episode is a Zarr v3 group, `<hash>.zarr/`, with arrays over frames: `images.front_1` (a JPEG each), `obs_head_pose` [T,7],
`left|right.obs_keypoints` [T,63], `…obs_wrist_pose` and `…obs_ee_pose` [T,7], `obs_rgb_timestamps_ns` [T]; and `annotations` [N],
JSON texts with half-open frame ranges. Poses are x, y, z in metres and a quaternion with w first. For people all are in the
world of the headset, whose frame is that of the front camera with OpenCV's axes; for robots in the frame of each arm's base. The
attributes tell `total_frames` (arrays may be longer: padding), `fps`, task and calibration.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from traceworld.errors import DatasetError, InvalidInputError
from traceworld.extras import require
from traceworld.geometry.cameras import invert_rigid, transform
from traceworld.traces.datasets.pictures import store_jpegs
from traceworld.traces.datasets.skeleton import traces_of_joints
from traceworld.traces.datasets.unknown_camera import TOLD, assumed_camera
from traceworld.traces.exchange import ExchangeReport, import_episodes
from traceworld.traces.types import Cameras, Clip, Event, Traces
from traceworld.traces.writer import DatasetWriter

PICTURES, CAMERA = "images.front_1", "front_1"
SIDES = ("left", "right")
POINTS = ("obs_keypoints", "obs_wrist_pose", "obs_ee_pose")
"""What a side's points are taken from: the first that it has."""
MISSING = 1e8
"""Coordinates from here on stand for "not tracked" (1e9 is written)."""
BATCH = 64
_MEND = "download the episode again"
_ZARR_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, IndexError)


def import_egoverse(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    max_episodes: int | None = None,
    retry_failed: bool = False,
) -> ExchangeReport:
    """Read EgoVerse episodes into a clip store; repeat the call to go on after a kill. Needs zarr (3 or newer).

    A clip has the points that each side has: 21 of a hand, or its wrist, or the end of the arm (part 0 is left, 1 right).
    Where the camera's pose or calibration is not told, it has pictures and words, assumed intrinsics, and no traces.

    Args:
        folders: episodes, or folders of episodes at any height.
        out: dataset folder to write or to go on with.
        max_episodes: read at most so many of each folder.
        retry_failed: try again what failed in an earlier run.

    Raises:
        MissingExtraError: zarr is not installed.
        DatasetError: a folder holds no episode, or the dataset folder cannot be written.
    """
    require("zarr")
    episodes = (
        (path.resolve().name.removesuffix(".zarr"), functools.partial(_read, path))
        for folder in folders
        for path in _episodes(Path(folder), max_episodes)
    )
    return import_episodes(out, "import egoverse", episodes, retry_failed=retry_failed)


def _episodes(folder: Path, most: int | None) -> Iterator[Path]:
    found = 0
    for here, below, files in os.walk(folder):
        below.sort()
        if "zarr.json" in files and PICTURES in below:
            if most is not None and found >= most:
                return
            found += 1
            below.clear()
            yield Path(here)
    if not found:
        raise DatasetError(
            f"holds no EgoVerse episode (a Zarr group with {PICTURES})", where=str(folder), mend="check the path"
        )


@dataclass
class _Episode:
    """An open episode: checked access to its arrays."""

    path: Path
    group: Any
    frames: int
    warnings: list[str] = field(default_factory=list)

    def told(self, key: str) -> Any:
        return self.group.attrs.get(key)

    def numbers(self, key: str, columns: int) -> np.ndarray | None:
        """[T,columns] float64; None if the episode has no such array."""
        if key not in self.group:
            return None
        try:
            values = np.asarray(self.group[key][: self.frames], np.float64)
        except _ZARR_ERRORS as error:
            raise DatasetError(f"cannot be read: {error}", where=f"{self.path}[{key}]", mend=_MEND) from error
        if values.shape != (self.frames, columns):
            raise DatasetError(
                f"has shape {values.shape}, not {(self.frames, columns)}", where=f"{self.path}[{key}]", mend=_MEND
            )
        return values

    def blobs(self, key: str, count: int) -> Iterator[bytes]:
        """The first `count` entries of an array of byte strings, a batch in memory at a time."""
        try:
            array = self.group[key]
            for start in range(0, count, BATCH):
                yield from (_bytes(value) for value in array[start : min(start + BATCH, count)])
        except _ZARR_ERRORS as error:
            raise DatasetError(f"cannot be read: {error}", where=f"{self.path}[{key}]", mend=_MEND) from error


def _bytes(value: Any) -> bytes:
    while isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else b""
    return value.encode() if isinstance(value, str) else bytes(value)


def _read(path: Path, writer: DatasetWriter) -> Clip:
    name = path.resolve().name.removesuffix(".zarr")
    episode = _open(path)
    media, (width, height) = store_jpegs(
        writer, name, episode.blobs(PICTURES, episode.frames), where=f"{path}[{PICTURES}]"
    )
    T = episode.frames
    K = _calibration(episode, width, height)
    seen = _in_headset_world(episode) or _before_robot(episode)
    if K is None or seen is None:
        cameras, traces, points = assumed_camera(width, height, T), Traces.empty(T), []
        if K is not None:
            cameras = Cameras.still(K, width, height, T)
        episode.warnings.append(
            "no traces: " + ("the camera's pose" if K is not None else "calibration") + " is not told"
        )
    else:
        try:
            cameras = Cameras(np.repeat(K[None], T, 0), seen.cam_from_world, width, height)
        except InvalidInputError as error:
            raise DatasetError(error.message, where=f"{path}, calibration", mend=_MEND) from error
        traces = traces_of_joints(seen.xyz_world, seen.tracked, seen.part_id, cameras)
        points = seen.points
    task = _words(episode, "task_description", "task_name", "task")
    return Clip(
        name,
        _times(episode),
        cameras,
        traces,
        media,
        _events(episode, task),
        task,
        metric=bool(points),
        provenance={
            "source": "egoverse",
            "episode": name,
            "embodiment": _words(episode, "embodiment", "robot_type"),
            "task_name": _words(episode, "task_name"),
            "points": points,
            "intrinsics": TOLD if K is None else "calibrated",
            "warnings": episode.warnings,
        },
    )


def _open(path: Path) -> _Episode:
    zarr = require("zarr")
    try:
        group = zarr.open_group(str(path), mode="r")
        stored = group[PICTURES].shape[0]
        total = group.attrs.get("total_frames", stored)
    except _ZARR_ERRORS as error:
        raise DatasetError(f"is missing or damaged: {error}", where=str(path), mend=_MEND) from error
    if not isinstance(total, int) or not 1 <= total <= stored:
        raise DatasetError(f"tells of {total!r} frames and has {stored}", where=f"{path}[total_frames]", mend=_MEND)
    return _Episode(path, group, total)


def _words(episode: _Episode, *keys: str) -> str:
    """The first of these attributes that says something."""
    return next((text.strip() for key in keys if isinstance(text := episode.told(key), str) and text.strip()), "")


def _times(episode: _Episode) -> np.ndarray:
    """[T] seconds since the first frame: by the time stamps if they rise, else by the frame rate."""
    T = episode.frames
    if "obs_rgb_timestamps_ns" in episode.group:
        stamps = np.asarray(episode.group["obs_rgb_timestamps_ns"][:T])
        if stamps.shape == (T,) and stamps.dtype.kind in "iu" and (np.diff(stamps.astype(np.int64)) > 0).all():
            return (stamps.astype(np.int64) - int(stamps[0])) / 1e9
        episode.warnings.append("time stamps do not rise: the frame rate is used")
    fps = episode.told("fps")
    if not isinstance(fps, int | float) or not fps > 0:
        raise DatasetError(f"is {fps!r}", where=f"{episode.path}[fps]", mend=_MEND)
    return np.arange(T) / fps


# ---------------------------------------------------------------------------------------------------------------- cameras


def _calibration(episode: _Episode, width: int, height: int) -> np.ndarray | None:
    """K [3,3] of the front camera: from the calibration block, or from the intrinsics of older episodes."""
    camera = _mapping(_mapping(episode.told("calibration")).get("cameras")).get(CAMERA)
    matrix = None
    if isinstance(camera, Mapping):
        matrix = camera.get("K")
        size = camera.get("resolution")
        if size is not None and list(size) != [width, height]:
            raise DatasetError(
                f"is of {size} pixels; the pictures have {[width, height]}",
                where=f"{episode.path}[calibration]",
                mend="leave the episode out",
            )
        if camera.get("rectified") is False or camera.get("model", "PINHOLE") != "PINHOLE":
            episode.warnings.append("pictures are not rectified: points lie beside what they mark")
    if matrix is None:
        listed = _mapping(episode.told("intrinsics"))
        fronts = [key for key in listed if "front" in key.lower()]
        matrix = listed.get(CAMERA, listed.get(fronts[0]) if fronts else None)
    return None if matrix is None else _matrix(matrix, ((3, 3), (3, 4)), episode, "calibration")[:, :3]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _rigid(value: Any, episode: _Episode, what: str) -> np.ndarray:
    pose = _matrix(value, ((4, 4),), episode, what)
    if np.abs(pose[:3, :3] @ pose[:3, :3].T - np.eye(3)).max() > 1e-3:
        raise DatasetError("is no rigid motion", where=f"{episode.path}[{what}]", mend=_MEND)
    return pose


def _matrix(value: Any, shapes: tuple[tuple[int, int], ...], episode: _Episode, what: str) -> np.ndarray:
    try:
        matrix = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    if matrix.shape not in shapes or not np.isfinite(matrix).all():
        raise DatasetError("is no such matrix", where=f"{episode.path}[{what}]", mend=_MEND)
    return matrix


# ----------------------------------------------------------------------------------------------------------------- points


@dataclass
class _Seen:
    """Points and the camera in one world: xyz_world [T,N,3], tracked [T,N], part_id [N], cam_from_world [T,4,4]."""

    xyz_world: np.ndarray
    tracked: np.ndarray
    part_id: np.ndarray
    points: list[str]
    cam_from_world: np.ndarray


def _in_headset_world(episode: _Episode) -> _Seen | None:
    """Hands before the camera on the head; None without head poses."""
    head = episode.numbers("obs_head_pose", 7)
    if head is None:
        return None
    world_from_cam, known = _poses(head)
    if not known.any():
        return None
    # A camera must be somewhere in every frame: where it is not known it stays, and no point counts.
    last = np.maximum.accumulate(np.where(known, np.arange(len(known)), -1))
    world_from_cam = world_from_cam[np.where(last < 0, known.argmax(), last)]
    sides = [points for side in SIDES if (points := _points(episode, side)) is not None]
    if not known.all():
        episode.warnings.append(f"the camera's pose is not known in {int((~known).sum())} frames")
    return _joined(sides, known, invert_rigid(world_from_cam))


def _before_robot(episode: _Episode) -> _Seen | None:
    """Ends of robot arms before a fixed camera, whose frame is the world; None where no arm is calibrated."""
    sides = []
    for side in SIDES:
        base_from_cam = _base_from_cam(episode, side)
        points = _points(episode, side)
        if base_from_cam is not None and points is not None:
            number, name, xyz, tracked = points
            sides.append((number, name, transform(invert_rigid(base_from_cam), xyz), tracked))
    T = episode.frames
    return _joined(sides, np.ones(T, bool), np.repeat(np.eye(4)[None], T, 0)) if sides else None


def _base_from_cam(episode: _Episode, side: str) -> np.ndarray | None:
    """Camera coordinates to those of an arm's base: as older episodes store it, or from both poses in one frame."""
    listed = _mapping(episode.told("extrinsics"))
    if listed.get(side) is not None:
        return _rigid(listed[side], episode, "extrinsics")
    block = _mapping(episode.told("calibration"))
    bases = _mapping(block.get("arm_bases"))
    pose = _mapping(_mapping(block.get("cameras")).get(CAMERA)).get("ref_T_cam")
    if side not in bases or (pose is None and block.get("reference_frame") != f"camera:{CAMERA}"):
        return None
    camera = np.eye(4) if pose is None else _rigid(pose, episode, "calibration")
    return invert_rigid(_rigid(bases[side], episode, "calibration")) @ camera


def _points(episode: _Episode, side: str) -> tuple[int, str, np.ndarray, np.ndarray] | None:
    """Part number, name, coordinates [T,N,3] and where they are known [T,N]."""
    for what in POINTS:
        columns = 63 if what == "obs_keypoints" else 7
        values = episode.numbers(f"{side}.{what}", columns)
        if values is None:
            continue
        xyz = values.reshape(len(values), -1, 3) if columns == 63 else values[:, None, :3]
        tracked = np.isfinite(xyz).all(-1) & (np.abs(xyz) < MISSING).all(-1) & (xyz != 0).any(-1)
        return SIDES.index(side), f"{side}.{what}", xyz, tracked
    return None


def _joined(sides: list[tuple[int, str, np.ndarray, np.ndarray]], known: np.ndarray, cameras: np.ndarray) -> _Seen:
    T = len(known)
    xyz = np.concatenate([np.zeros((T, 0, 3)), *(side[2] for side in sides)], 1)
    tracked = np.concatenate([np.zeros((T, 0), bool), *(side[3] for side in sides)], 1)
    parts = np.concatenate([np.zeros(0, np.int64), *(np.full(side[2].shape[1], side[0]) for side in sides)])
    names = [f"{name}[{i}]" for _, name, values, _ in sides for i in range(values.shape[1])]
    return _Seen(xyz, tracked & known[:, None], parts, names, cameras)


def _poses(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[T,7] x, y, z, qw, qx, qy, qz → world-from-camera [T,4,4] and where it is known [T]."""
    length = np.linalg.norm(values[:, 3:], axis=1)
    with np.errstate(invalid="ignore"):
        known = np.isfinite(values).all(1) & (np.abs(values) < MISSING).all(1) & (np.abs(length - 1) < 0.01)
    poses = np.repeat(np.eye(4)[None], len(values), 0)
    poses[known, :3, :3] = Rotation.from_quat(values[known][:, [4, 5, 6, 3]]).as_matrix() if known.any() else np.eye(3)
    poses[known, :3, 3] = values[known, :3]
    return poses, known


# ------------------------------------------------------------------------------------------------------------------ words


def _events(episode: _Episode, task: str) -> tuple[Event, ...]:
    """The annotated spans; the whole clip is a summary above them, or the only event where none is annotated."""
    T, spans, bad = episode.frames, [], 0
    if "annotations" in episode.group:
        for data in episode.blobs("annotations", int(episode.group["annotations"].shape[0])):
            try:
                told = json.loads(data)
                start, end, text = int(told["start_idx"]), int(told["end_idx"]), str(told["text"]).strip()
                if not (0 <= start < end <= T and text):
                    raise ValueError("no span")
                spans.append(Event(start, end, text))
            except (ValueError, KeyError, TypeError):
                bad += 1
    if bad:
        episode.warnings.append(f"{bad} annotations are no texts with frames of this episode")
    whole = (Event(0, T, task, level=1 if spans else 0),) if task else ()
    return (*sorted(spans, key=lambda event: (event.start, event.end)), *whole)
