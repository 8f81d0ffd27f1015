"""Names, keys and dtypes of a TraceForge episode folder."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from traceworld.traces.traceextract.layout import Spec, damaged

FUTURE = 128
"""Samples of `traj`, and frames that a query is followed for."""
INTERVAL, TOP = 0.05, 0.02
INSTRUCTIONS = "three_instructions.json"
TEXT_KEYS = ("instruction_1", "instruction_2", "instruction_3")
DEPTH_SCALE = 10000
"""Levels per metre of depth/<name>.png; the released reader takes the npz beside it."""
PATH_LENGTH = 50
"""Characters of `image_path`: what does not fit is cut."""

SAMPLE_KEYS: dict[str, Spec] = {
    "keypoints": (np.float32, ("N", 2)),
    "traj": (np.float32, ("N", "f", 3)),
    "traj_2d": (np.float32, ("N", "S", 2)),
    "valid_steps": (np.bool_, ("f",)),
    "frame_index": (np.integer, (1,)),
}
VIDEO_KEYS: dict[str, Spec] = {
    "coords": (np.floating, ("T0", "N0", 3)),
    "extrinsics": (np.floating, ("T", 4, 4)),
    "intrinsics": (np.floating, ("T", 3, 3)),
    "height": (np.integer, ()),
    "width": (np.integer, ()),
    "visibs": (np.bool_, ("T0", "N0", 1)),
}


def query_files(folder: Path, name: str) -> list[tuple[int, Path]]:
    """(query frame, sample file) of an episode, ascending.

    Raises:
        DatasetError: a sample's name does not end in its frame's number.
    """
    found = []
    for path in (folder / "samples").glob("*.npz"):
        number = re.fullmatch(r"(.*)_(\d+)", path.stem)
        if number is None:
            raise damaged(path, f"is not named {name}_<frame>.npz")
        found.append((int(number[2]), path))
    return sorted(found)


def main_file(folder: Path) -> Path:
    """The npz of the whole video: <name>/<name>.npz, or the only one in the folder if it was renamed.

    Raises:
        DatasetError: there is none, or several.
    """
    named = folder / f"{folder.name}.npz"
    others = sorted(folder.glob("*.npz"))
    if not named.is_file() and len(others) != 1:
        raise damaged(named, "is missing")
    return named if named.is_file() else others[0]
