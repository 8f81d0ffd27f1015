"""EgoDex recordings into our clip store: calibrated cameras and the hand skeleton become cameras and traces of joints.

A recording is `<part>/<task>/<n>.mp4` with `<n>.hdf5` beside it: `camera/intrinsic` [3,3] px; `transforms/<joint>` and
`transforms/camera` [T,4,4], poses in one stationary metric world (ARKit's, y up), camera axes as OpenCV's;
`confidences/<joint>` [T] in 0 … 1 in most files; words in the attributes. 30 frames per second.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from traceworld.errors import DatasetError, InvalidInputError, MediaError
from traceworld.extras import require
from traceworld.geometry.cameras import invert_rigid
from traceworld.traces.datasets.skeleton import traces_of_joints
from traceworld.traces.exchange import ExchangeReport, import_episodes
from traceworld.traces.types import Cameras, Clip, Event, Media
from traceworld.traces.video_frames import VideoFrames
from traceworld.traces.writer import DatasetWriter

FPS = 30.0
SIDES = ("left", "right")
FINGERS = ("Thumb", "IndexFinger", "MiddleFinger", "RingFinger", "LittleFinger")
BONES = ("Metacarpal", "Knuckle", "IntermediateBase", "IntermediateTip", "Tip")
TRACKED = 0.1
"""Confidence below which ARKit did not see a joint and made its place up."""


def hand_joints(side: str) -> list[str]:
    """The 25 joints of a hand: wrist, four of the thumb (which has no metacarpal), five of each finger."""
    fingers = [f"{side}{finger}{bone}" for finger in FINGERS for bone in BONES]
    return [f"{side}Hand", *(joint for joint in fingers if joint != f"{side}ThumbMetacarpal")]


def import_egodex(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    max_episodes: int | None = None,
    retry_failed: bool = False,
) -> ExchangeReport:
    """Read EgoDex recordings into a clip store; repeat the call to go on after a kill. Needs h5py.

    A clip has 50 points, the joints of both hands (part 0 is the left hand, 1 the right), metric and without drift: no
    tracker and no depth estimate is involved. A joint is valid where its confidence is at least 0.1, visible where it also
    lies in the picture; self-occlusion is not known. Videos stay where they are and are referred to.

    Args:
        folders: recordings' folders at any height: a task, a part, or the whole dataset.
        out: dataset folder to write or to go on with.
        max_episodes: read at most so many of each folder.
        retry_failed: try again what failed in an earlier run.

    Raises:
        MissingExtraError: h5py is not installed.
        DatasetError: a folder holds no recording, or the dataset folder cannot be written.
    """
    require("h5py")
    episodes = (
        (name, functools.partial(_read, path, name))
        for name, path in _recordings([Path(folder) for folder in folders], max_episodes)
    )
    return import_episodes(out, "import egodex", episodes, retry_failed=retry_failed)


def _recordings(folders: Sequence[Path], most: int | None) -> Iterator[tuple[str, Path]]:
    for folder in folders:
        found = sorted(path for path in folder.rglob("*.hdf5") if not path.name.startswith("."))
        if not found:
            raise DatasetError(
                "holds no EgoDex recording (an .hdf5 beside an .mp4)", where=str(folder), mend="check the path"
            )
        for path in found[:most]:
            full = path.resolve()
            yield "__".join([full.parent.parent.name, full.parent.name, full.stem]), path


def _read(path: Path, name: str, _writer: DatasetWriter) -> Clip:
    K, poses, xyz, confidence, attributes = _read_hdf5(path)
    video = path.with_suffix(".mp4")
    pictures = VideoFrames(video)
    try:
        if len(pictures) != len(poses):
            raise MediaError(
                f"has {len(pictures)} frames; the poses are of {len(poses)}", where=str(video), mend="download it again"
            )
        height, width = pictures.read(0).shape[:2]
    finally:
        pictures.close()
    T = len(poses)
    try:
        cameras = Cameras(np.repeat(K[None], T, 0), invert_rigid(poses), width, height)
    except InvalidInputError as error:
        key = "camera/intrinsic" if error.where == "Cameras.K" else "transforms/camera"
        raise DatasetError(error.message, where=f"{path}[{key}]", mend="download it again") from error
    task = _task(attributes)
    return Clip(
        name,
        np.arange(T) / FPS,
        cameras,
        traces_of_joints(xyz, _tracked(xyz, confidence), np.repeat(np.arange(2), xyz.shape[1] // 2), cameras),
        Media("video", str(video.resolve())),
        (Event(0, T, task),) if task else (),
        task,
        metric=True,
        provenance={
            "source": "egodex",
            "episode": name,
            "joints": [joint for side in SIDES for joint in hand_joints(side)],
            "confidences": confidence is not None,
            "attributes": attributes,
        },
    )


def _tracked(xyz: np.ndarray, confidence: np.ndarray | None) -> np.ndarray:
    """[T,50]; without confidences all joints are taken as tracked."""
    return np.ones(xyz.shape[:2], bool) if confidence is None else confidence >= TRACKED


def _read_hdf5(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, dict[str, Any]]:
    """K [3,3], world-from-camera [T,4,4], joints [T,50,3] in the world, confidences [T,50] or None, attributes."""
    h5py = require("h5py")
    joints = [joint for side in SIDES for joint in hand_joints(side)]
    try:
        with h5py.File(path, "r") as file:
            K = _array(file, "camera/intrinsic", (3, 3), path)
            poses = _array(file, "transforms/camera", (None, 4, 4), path)
            T = len(poses)
            xyz = np.stack([_array(file, f"transforms/{j}", (T, 4, 4), path)[:, :3, 3] for j in joints], 1)
            confidence = None
            if "confidences" in file:
                confidence = np.stack([_array(file, f"confidences/{j}", (T,), path) for j in joints], 1)
            return K, poses, xyz, confidence, {str(key): _plain(value) for key, value in file.attrs.items()}
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"is missing or damaged: {error}", where=str(path), mend="download it again") from error


def _array(file: Any, key: str, shape: tuple[int | None, ...], path: Path) -> np.ndarray:
    if key not in file:
        raise DatasetError("is missing", where=f"{path}[{key}]", mend="download it again")
    values = np.asarray(file[key], np.float64)
    fits = values.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(shape, values.shape, strict=True)
    )
    if not fits or 0 in values.shape:
        raise DatasetError(f"has shape {values.shape}, not {shape}", where=f"{path}[{key}]", mend="download it again")
    return values


def _plain(value: Any) -> Any:
    """An attribute as JSON has it."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value


def _task(attributes: dict[str, Any]) -> str:
    """The description of what is done; a reversible task has two, and an attribute says which way it went."""
    backwards = attributes.get("llm_type") == "reversible" and str(attributes.get("which_llm_description")) == "2"
    for key in ("llm_description2" if backwards else "llm_description", "task"):
        said = str(attributes.get(key) or "").strip()
        if said and said != "None":
            return said
    return ""
