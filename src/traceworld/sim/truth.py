"""The folder `<episode>.truth/` beside a recording: written once, read to score what was extracted from the recording.

truth.json   format version, task, seed, settings, part names
truth.npz    K, cam_from_world, body_pose, object_body, body_part, recording_from_sim (plain arrays, no pickle)
objects/     per frame, 16-bit PNG: object id + 1, 0 = nothing
depth/       per frame, 16-bit PNG of exact depth (unit in truth.json, 0 = nothing or too far)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Int

from traceworld.errors import DatasetError, FormatVersionError, InvalidInputError
from traceworld.geometry.cameras import invert_rigid
from traceworld.sim.film import DEPTH_UNIT_M, Film, depth_picture
from traceworld.sim.glue import traces_of
from traceworld.sim.worlds import Rollout
from traceworld.traces.types import Cameras, Traces

TRUTH_SUFFIX = ".truth"
TRUTH_FILE = "truth.json"
FORMAT_VERSION = 1
ARRAYS = ("K", "cam_from_world", "body_pose", "object_body", "body_part", "recording_from_sim")


def exact_traces(truth_dir: str | Path, query_frame: Int[np.ndarray, " N"], uv_px: Float[np.ndarray, "N 2"]) -> Traces:
    """Exact traces of the points that a recording shows at pixels `uv_px` (x, y; centres at integers).

    Positions are exact in every frame, hidden or not (`valid` everywhere); `visible` is an exact depth test; `part_id`
    is the rigid part (−1 for what cannot move); `moving` is the movement filter of mu0-paper A.2, every frame counted.

    Args:
        truth_dir: the folder `<episode>.truth`, or the recording beside it.
        query_frame: [N] frame in which each point was chosen.
        uv_px: [N,2] pixels. A pixel that shows nothing gives a point that is never valid.

    Returns:
        Traces in the world frame of the recording: the simulator's if the recording has camera poses, else that of the
        first camera. (Depth is kept to 0.1 mm: a point lies up to 0.05 mm off its surface, and moves exactly with it.)

    Raises:
        DatasetError: no truth there, or damaged.
        InvalidInputError: a query frame outside the film.
    """
    film = read_truth(truth_dir)
    outside = (query_frame < 0) | (query_frame >= film.num_frames)
    if outside.any():
        raise InvalidInputError(
            f"{query_frame[outside][0]} is not one of {film.num_frames} frames", where="exact_traces.query_frame"
        )
    return traces_of(film, query_frame, uv_px)


def read_truth(truth_dir: str | Path) -> Film:
    """The exact film of a recording, in the recording's world frame.

    Raises:
        DatasetError: no truth there, or damaged.
        FormatVersionError: written by a newer traceworld.
    """
    folder = truth_folder_of(truth_dir)
    described = read_description(folder)
    try:
        with np.load(folder / "truth.npz", allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ARRAYS}
        T = len(arrays["K"])
        objects = np.stack([_read_png(folder / "objects" / f"{t:04d}.png") for t in range(T)])
        depth = np.stack([_read_png(folder / "depth" / f"{t:04d}.png") for t in range(T)])
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"is damaged: {error}", where=str(folder), mend="record the episode again") from error
    sim_from_recording = invert_rigid(arrays["recording_from_sim"])
    height, width = depth.shape[1:]
    return Film(
        cameras=Cameras(arrays["K"], arrays["cam_from_world"] @ sim_from_recording, width, height),
        depth_m=np.where(depth > 0, depth * np.float32(described["depth_unit_m"]), np.float32(np.nan)),
        object_id=objects.astype(np.int32) - 1,
        body_pose=arrays["recording_from_sim"] @ arrays["body_pose"],
        object_body=arrays["object_body"],
        body_part=arrays["body_part"],
    )


def read_description(truth_dir: str | Path) -> dict[str, Any]:
    """What `truth.json` says: task, seed, success_frame, part_names (part id → MuJoCo body name), settings.

    Raises:
        DatasetError: no truth there, or damaged.
        FormatVersionError: written by a newer traceworld.
    """
    file = truth_folder_of(truth_dir) / TRUTH_FILE
    try:
        described = json.loads(file.read_text())
        newer = described["format_version"] > FORMAT_VERSION
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"cannot be read: {error}", where=str(file), mend="record the episode again") from error
    if newer:
        raise FormatVersionError(
            f"has format {described['format_version']}, this traceworld reads up to {FORMAT_VERSION}",
            where=str(file),
            mend="update traceworld",
        )
    return described


def truth_folder_of(path: str | Path) -> Path:
    """The truth of a recording: `path` itself if it is one, else the folder beside it."""
    path = Path(path)
    return path if path.name.endswith(TRUTH_SUFFIX) else path.with_name(path.name + TRUTH_SUFFIX)


def is_complete_truth(folder: Path) -> bool:
    """Folders appear whole, so one that has its description has everything."""
    return (folder / TRUTH_FILE).is_file()


def write_truth(
    folder: Path,
    film: Film,
    recording_from_sim: np.ndarray,
    description: dict[str, Any],
    rollout: Rollout,
    names: list[str],
) -> None:
    """Fill an empty folder with the truth of a film in the simulator's world frame."""
    np.savez_compressed(
        folder / "truth.npz",
        K=film.cameras.K,
        cam_from_world=film.cameras.cam_from_world,
        body_pose=film.body_pose,
        object_body=film.object_body,
        body_part=film.body_part,
        recording_from_sim=recording_from_sim,
    )
    for name in ("objects", "depth"):
        (folder / name).mkdir()
    for t in range(film.num_frames):
        cv2.imwrite(str(folder / "objects" / f"{t:04d}.png"), (film.object_id[t] + 1).astype(np.uint16))
        cv2.imwrite(str(folder / "depth" / f"{t:04d}.png"), depth_picture(film.depth_m[t], DEPTH_UNIT_M))
    stride = description["config"]["frame_stride"]
    success = None if rollout.success_step is None else -(-rollout.success_step // stride)
    described = {
        "format_version": FORMAT_VERSION,
        "depth_unit_m": DEPTH_UNIT_M,
        "instruction": rollout.instruction,
        "success_frame": success,
        "part_names": {str(part): names[part] for part in np.unique(film.body_part) if part >= 0},
        "simulated": description,
    }
    (folder / TRUTH_FILE).write_text(json.dumps(described, indent=1, sort_keys=True))


def _read_png(file: Path) -> np.ndarray:
    pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 2:
        raise ValueError(f"{file.name} is no 16-bit picture")
    return pixels
