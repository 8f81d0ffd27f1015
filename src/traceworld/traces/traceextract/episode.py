"""One episode folder as arrays: read with every check, written with every file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from traceworld.errors import InvalidInputError
from traceworld.traces.frames_of_clip import Frames
from traceworld.traces.traceextract import layout
from traceworld.traces.traceextract.layout import check_array, damaged, read_npy, read_npz, save_npz, take_keys
from traceworld.traces.types import Cameras

MOVEMENT_COUNTS = ("total_unique_kps", "n_above_005", "n_above_010")


@dataclass(frozen=True, eq=False)
class Episode:
    """The arrays of an episode, under the names of their files and keys.

    Attributes:
        images: [T,H,W,3] uint8; depth: [T,H,W] float16 metres or None. Memory-mapped when read.
        cameras: one per frame, `cam_from_world`.
        samples: the files of samples/ by name.
        acceleration: [T] float32 or None; statistics: keys of movement_statistics.npz, may be empty.
        description: task text, "" if there is none; meta: meta.json or None; texts: the training texts or None.
    """

    images: Frames
    depth: Frames | None
    cameras: Cameras
    samples: Mapping[str, np.ndarray]
    acceleration: np.ndarray | None = None
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict)
    description: str = ""
    meta: Mapping[str, Any] | None = None
    texts: Mapping[str, Any] | None = None

    @property
    def num_frames(self) -> int:
        return self.images.shape[0]

    def slots(self) -> Iterator[tuple[int, slice]]:
        """(frame, its rows) for every frame that has rows."""
        offsets = self.samples["offsets"].tolist()
        for index, frame in enumerate(self.samples["frame_indices"].tolist()):
            yield frame, slice(offsets[index], offsets[index + 1])


def is_episode(folder: Path) -> bool:
    """Whether the folder is meant as an episode (it may be incomplete)."""
    return (folder / layout.SAMPLES).is_dir() and any(
        (folder / name).is_file() for name in ("images.npy", "cameras.npz")
    )


def read_episode(folder: Path) -> Episode:
    """Read an episode folder; nothing in it is trusted.

    Raises:
        DatasetError: a file or key is missing, damaged, or contradicts another; the message names it.
    """
    sizes: dict[str, int] = {}
    arrays = {}
    for name, spec in layout.EPISODE_FILES.items():
        path = folder / f"{name}.npy"
        if name == "depth" and not path.exists():
            continue
        arrays[name] = check_array(read_npy(path), spec, sizes, path)
    cameras = _read_cameras(folder / "cameras.npz", sizes)
    samples = _read_samples(folder / layout.SAMPLES, sizes)
    acceleration, statistics = None, {}
    path = folder / "acceleration.npz"
    if path.exists():
        wanted: dict[str, layout.Spec] = {"acceleration": (np.float32, ("T",))}
        acceleration = take_keys(read_npz(path), wanted, sizes, path)["acceleration"]
    path = folder / "movement_statistics.npz"
    if path.exists():
        statistics = read_npz(path)
    return Episode(
        arrays["images"],
        arrays.get("depth"),
        cameras,
        samples,
        acceleration,
        statistics,
        _read_text(folder / layout.DESCRIPTION),
        _read_object(folder / layout.META),
        _read_object(folder / layout.CAPTIONS),
    )


def _read_cameras(path: Path, sizes: dict[str, int]) -> Cameras:
    keys = take_keys(read_npz(path), layout.CAMERA_KEYS, sizes, path)
    for key, size in (("height", sizes["H"]), ("width", sizes["W"])):
        if int(keys[key]) != size:
            raise damaged(path, f"is {int(keys[key])}; the pictures have {size}", key)
    try:
        K, pose = keys["intrinsics"].astype(np.float64), keys["extrinsics"].astype(np.float64)
        return Cameras(K, pose, sizes["W"], sizes["H"])
    except InvalidInputError as error:
        key = "intrinsics" if error.where == "Cameras.K" else "extrinsics"
        raise damaged(path, error.message, key) from error


def _read_samples(folder: Path, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    samples = {}
    for name, spec in layout.SAMPLE_FILES.items():
        path = folder / f"{name}.npy"
        samples[name] = check_array(read_npy(path), spec, sizes, path)
    frames, offsets = np.asarray(samples["frame_indices"]), np.asarray(samples["offsets"])
    if len(frames) and (frames[0] < 0 or frames[-1] >= sizes["T"] or (np.diff(frames) <= 0).any()):
        raise damaged(folder / "frame_indices.npy", f"must ascend within the {sizes['T']} frames")
    if offsets[0] != 0 or offsets[-1] != sizes["N"] or (np.diff(offsets) < 0).any():
        raise damaged(folder / "offsets.npy", f"must ascend from 0 to the {sizes['N']} rows")
    return samples


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, f"is damaged: {error}") from error


def _read_object(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        value = json.loads(_read_text(path))
    except ValueError as error:
        raise damaged(path, f"is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise damaged(path, "is not a JSON object")
    return value


def write_episode(folder: Path, episode: Episode) -> None:
    """Write all files of an episode into an empty folder, with the dtypes of the format, pictures one at a time."""
    for name, values in (("images", episode.images), ("depth", episode.depth)):
        if values is not None:
            _write_frames(folder / f"{name}.npy", values, layout.EPISODE_FILES[name][0])
    cameras = episode.cameras
    np.savez(
        folder / "cameras.npz",
        intrinsics=cameras.K.astype(np.float32),
        extrinsics=cameras.cam_from_world.astype(np.float32),
        height=np.int32(cameras.height),
        width=np.int32(cameras.width),
    )
    if episode.acceleration is not None:
        np.savez(folder / "acceleration.npz", acceleration=episode.acceleration.astype(np.float32))
    if episode.statistics:
        save_npz(folder / "movement_statistics.npz", episode.statistics)
    (folder / layout.SAMPLES).mkdir()
    for name, (dtype, _) in layout.SAMPLE_FILES.items():
        np.save(folder / layout.SAMPLES / f"{name}.npy", np.asarray(episode.samples[name], dtype), allow_pickle=False)
    if episode.description:
        (folder / layout.DESCRIPTION).write_text(episode.description, encoding="utf-8")
    for name, value in ((layout.META, episode.meta), (layout.CAPTIONS, episode.texts)):
        if value is not None:
            (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")


def _write_frames(path: Path, frames: Frames, dtype: type) -> None:
    out = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=frames.shape)
    for index in range(frames.shape[0]):
        out[index] = frames[index]
    out.flush()
    del out


def camera_statistics(cameras: Cameras) -> dict[str, np.ndarray]:
    """The camera keys of movement_statistics.npz: steps of the camera's place (world units) and turn (radians)."""
    if len(cameras) < 2:
        return {}
    rotation = cameras.cam_from_world[:, :3, :3]
    centre = -np.einsum("tji,tj->ti", rotation, cameras.cam_from_world[:, :3, 3])
    moved = np.linalg.norm(np.diff(centre, axis=0), axis=-1)
    trace = np.einsum("tij,tij->t", rotation[1:], rotation[:-1])
    turned = np.arccos(np.clip((trace - 1) / 2, -1, 1))
    found = {"cam_trans_step": moved.astype(np.float32), "cam_rot_step_rad": turned.astype(np.float32)}
    for name, steps, unit in (("trans", moved, ""), ("rot", turned, "_rad")):
        for figure, value in (("total", steps.sum()), ("mean", steps.mean()), ("max", steps.max())):
            found[f"cam_{name}_{figure}{unit}"] = np.asarray(value, np.float32)
    return found
