"""Figures that say how far the traces of a clip can be trusted; they travel with the clip."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from traceworld.extract.tracks import point_blocks
from traceworld.geometry.cameras import project
from traceworld.geometry.motion import trace_diameter
from traceworld.traces.types import Cameras, Traces

STATUS_NOTES = {
    "static_clip": (
        "nothing moves in this clip; it has one event and no moving keypoint",
        "check that it is the right clip",
    ),
    "no_texture": ("nothing in the pictures can be followed", "check that the video is not black, blurred or uniform"),
    "no_keypoints": ("no keypoint could be placed", "check picture quality, and depth if there is any"),
}
"""What a status other than `ok` means, and what to do about it."""


def status_note(status: str) -> str:
    """One line for the manifest; "" for `ok`."""
    if status == "ok":
        return ""
    text, mend = STATUS_NOTES.get(status, ("the clip could not be used in full", "see the clip's quality figures"))
    return f"{status}: {text} ({mend})"


def trace_quality(traces: Traces, cameras: Cameras, lambda_z: float) -> dict[str, Any]:
    """Figures of one clip's traces.

    Returns:
        keypoints, moving: counts. moving_fraction. parts: entities with a moving point.
        visible_fraction, valid_fraction: over all frames from each point's query frame on.
        alive_at_end: share of the points whose position is known in the last frame.
        static_wander_px: median trace diameter of the points that do not move, pixels at 640 px width; None without any.
        jitter_px: frame-to-frame noise of a path in the picture, `path_jitter`; None if no path is long enough.
        reprojection_px: how far points that do not move are from where their mean place in the world would be seen, median
            over points and frames: what depth and camera poses disagree by. None without any.
    """
    N = traces.num_keypoints
    if N == 0:
        return {"keypoints": 0, "moving": 0}
    after = np.arange(traces.num_frames)[:, None] >= traces.query_frame[None]
    still = ~traces.moving & (traces.visible.sum(0) >= 2)
    wander, jitter, apart = [], [], []
    for some in point_blocks(traces.num_frames, np.arange(N)):
        visible, quiet = traces.visible[:, some], still[some]
        xyz = np.where(visible[..., None], traces.xyz_world[:, some].astype(np.float64), np.nan)
        seen = project(xyz, cameras.K, cameras.cam_from_world)
        reference = project(xyz[:, quiet], cameras.K[0], cameras.cam_from_world[0])
        wander.append(trace_diameter(reference, visible[:, quiet], lambda_z))
        jitter.append(_point_jitter(seen[..., :2]))
        apart.append(_off_their_place(xyz[:, quiet], seen[:, quiet], cameras))
    px = 640 / cameras.width
    return {
        "keypoints": N,
        "moving": int(traces.moving.sum()),
        "moving_fraction": round(float(traces.moving.mean()), 4),
        "parts": len(np.unique(traces.part_id[traces.moving])),
        "visible_fraction": round(float(traces.visible[after].mean()), 4),
        "valid_fraction": round(float(traces.valid[after].mean()), 4),
        "alive_at_end": round(float(traces.valid[-1].mean()), 4),
        "static_wander_px": _rounded(_median(np.concatenate(wander)) * px),
        "jitter_px": _rounded(_median(np.concatenate(jitter)) * px),
        "reprojection_px": _rounded(_median(np.concatenate([block.reshape(-1) for block in apart])) * px),
    }


def path_jitter(xy_px: Float[np.ndarray, "T N 2"]) -> float:
    """Noise of tracked positions, pixels per axis: median over points of RMS second difference / √6; NaN if there is none.

    Independent noise of standard deviation σ has second differences of √6 σ; motion that is smooth over three frames has
    none. Unknown positions are NaN.
    """
    return _median(_point_jitter(xy_px))


def _point_jitter(xy_px: Float[np.ndarray, "T N 2"]) -> Float[np.ndarray, " N"]:
    """The noise of each path; NaN with fewer than three second differences."""
    second = np.diff(xy_px, 2, axis=0)
    known = np.asarray(np.isfinite(second).all(-1))
    squares = np.where(known[..., None], second, 0.0) ** 2
    count = known.sum(0)
    return np.where(count >= 3, np.sqrt(squares.sum((0, 2)) / (2 * np.maximum(count, 1)) / 6), np.nan)


def _off_their_place(
    xyz_world: Float[np.ndarray, "T M 3"], seen: Float[np.ndarray, "T M 3"], cameras: Cameras
) -> Float32[np.ndarray, "T M"]:
    """Pixels between where points are seen and where their mean place in the world would be; NaN where they are not seen."""
    known = np.asarray(np.isfinite(xyz_world).all(-1))
    place = np.where(known[..., None], xyz_world, 0).sum(0) / np.maximum(known.sum(0), 1)[:, None]
    expected = project(np.broadcast_to(place, xyz_world.shape), cameras.K, cameras.cam_from_world)
    return np.linalg.norm(expected[..., :2] - seen[..., :2], axis=-1).astype(np.float32)


def _median(values: Float[np.ndarray, " n"]) -> float:
    """Over the values that are known; NaN if none is."""
    known = values[np.isfinite(values)]
    return float(np.median(known, overwrite_input=True)) if len(known) else float("nan")


def _rounded(value: float) -> float | None:
    return round(value, 3) if np.isfinite(value) else None
