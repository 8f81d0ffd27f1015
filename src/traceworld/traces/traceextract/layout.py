"""File names, keys, shapes and dtypes of an episode folder, and reading arrays with errors that name file and key."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from traceworld.errors import DatasetError

FUTURE, HISTORY = 128, 32
"""Steps that the released writer stores ahead and back; both count the frame itself."""
INTERVAL, TOP = 0.05, 0.02
"""Path between two samples of `traj` (image sizes) and the share of points whose speed is the clock."""
DEFAULT_FPS = 10.0
"""Frames per second where nothing says (the released presets give 10 to video files; the folder does not keep it)."""
DATASET_FPS = {"droid": 5.0, "agibot": 5.0}
"""Of episodes whose meta.json names the dataset."""

SAMPLES = "samples"
CAPTIONS = "curated_training_texts.json"
DESCRIPTION, META = "description.txt", "meta.json"
OWN = "traceworld"
"""Folder inside an episode with what the format has no place for: the clip itself, the track of every row."""

Spec = tuple[type, tuple[str | int, ...]]
EPISODE_FILES: dict[str, Spec] = {
    "images": (np.uint8, ("T", "H", "W", 3)),
    "depth": (np.float16, ("T", "H", "W")),
}
CAMERA_KEYS: dict[str, Spec] = {
    "intrinsics": (np.float32, ("T", 3, 3)),
    "extrinsics": (np.float32, ("T", 4, 4)),
    "height": (np.int32, ()),
    "width": (np.int32, ()),
}
SAMPLE_FILES: dict[str, Spec] = {
    "frame_indices": (np.int32, ("F",)),
    "offsets": (np.int64, ("F+1",)),
    "keypoints": (np.float16, ("N", 2)),
    "cluster_ids": (np.int32, ("N",)),
    "is_moving": (np.bool_, ("N",)),
    "visibs": (np.float16, ("N",)),
    "traj": (np.float16, ("N", "f", 3)),
    "traj_history": (np.float16, ("N", "h", 3)),
    "valid_steps": (np.bool_, ("N", "f")),
    "valid_steps_history": (np.bool_, ("N", "h")),
    "raw_traj": (np.float16, ("N", "f", 3)),
    "raw_traj_history": (np.float16, ("N", "h", 3)),
    "raw_valid_steps": (np.bool_, ("N", "f")),
    "raw_valid_steps_history": (np.bool_, ("N", "h")),
}


def damaged(path: Path, message: str, key: str | None = None) -> DatasetError:
    """The error for a file, or a key inside it, that is missing or not as the format says."""
    where = f"{path}[{key}]" if key else str(path)
    return DatasetError(message, where=where, mend="extract the episode again, or leave it out")


def read_npy(path: Path) -> np.ndarray:
    """An array, memory-mapped; never a pickle.

    Raises:
        DatasetError: missing, truncated, not an array, or one of Python objects.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise damaged(path, "is missing") from error
    except (OSError, ValueError, EOFError) as error:
        raise damaged(path, f"is damaged: {error}") from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file; never a pickle.

    Raises:
        DatasetError: missing, truncated or damaged; the message names the key where one is at fault.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {}
            for key in archive.files:
                try:
                    found[key] = archive[key]
                except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                    raise damaged(path, f"is damaged: {error}", key) from error
            return found
    except FileNotFoundError as error:
        raise damaged(path, "is missing") from error
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise damaged(path, f"is damaged: {error}") from error


def save_npz(path: Path, arrays: Mapping[str, Any], compressed: bool = False) -> None:
    """Write arrays under their keys, to exactly this path."""
    with open(path, "wb") as file:
        (np.savez_compressed if compressed else np.savez)(file, **arrays)


def check_array(array: np.ndarray, spec: Spec, sizes: dict[str, int], path: Path, key: str | None = None) -> np.ndarray:
    """The array if its dtype and shape are as `spec` says; `sizes` holds what the letters stand for and is filled.

    Raises:
        DatasetError: they are not; the message names file and key.
    """
    dtype, shape = spec
    if not np.issubdtype(array.dtype, dtype):
        raise damaged(path, f"has dtype {array.dtype}, not {dtype.__name__}", key)
    if array.ndim != len(shape):
        raise damaged(path, f"has shape {array.shape}, not {shape}", key)
    for found, wanted in zip(array.shape, shape, strict=True):
        if wanted == "F+1":
            wanted = sizes.get("F", found - 1) + 1
        size = sizes.setdefault(wanted, found) if isinstance(wanted, str) else wanted
        if found != size:
            raise damaged(path, f"has shape {array.shape}; {wanted} is {size} in the rest of the episode", key)
    return array


def take_keys(
    arrays: Mapping[str, np.ndarray], keys: Mapping[str, Spec], sizes: dict[str, int], path: Path
) -> dict[str, np.ndarray]:
    """The arrays of an npz file that `keys` asks for, checked.

    Raises:
        DatasetError: one is missing or not as it should be.
    """
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise damaged(path, "is missing", missing[0])
    return {key: check_array(arrays[key], spec, sizes, path, key) for key, spec in keys.items()}
