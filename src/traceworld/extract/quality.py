"""Figures that say how far the traces of a clip can be trusted; they travel with the clip."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

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
    seen = project(traces.xyz_world.astype(np.float64), cameras.K, cameras.cam_from_world)
    seen[~traces.visible] = np.nan
    reference = project(traces.xyz_world.astype(np.float64), cameras.K[0], cameras.cam_from_world[0])
    still = ~traces.moving & (traces.visible.sum(0) >= 2)
    diameters = trace_diameter(reference, traces.visible, lambda_z) * 640 / cameras.width
    return {
        "keypoints": N,
        "moving": int(traces.moving.sum()),
        "moving_fraction": round(float(traces.moving.mean()), 4),
        "parts": len(np.unique(traces.part_id[traces.moving])),
        "visible_fraction": round(float(traces.visible[after].mean()), 4),
        "valid_fraction": round(float(traces.valid[after].mean()), 4),
        "alive_at_end": round(float(traces.valid[-1].mean()), 4),
        "static_wander_px": round(float(np.median(diameters[still])), 3) if still.any() else None,
        "jitter_px": _rounded(path_jitter(seen[..., :2]) * 640 / cameras.width),
        "reprojection_px": _rounded(_reprojection(traces, cameras, seen, still) * 640 / cameras.width),
    }


def path_jitter(xy_px: Float[np.ndarray, "T N 2"]) -> float:
    """Noise of tracked positions, pixels per axis: median over points of RMS second difference / √6; NaN if there is none.

    Independent noise of standard deviation σ has second differences of √6 σ; motion that is smooth over three frames has
    none. Unknown positions are NaN.
    """
    second = np.diff(xy_px, 2, axis=0)
    known = np.asarray(np.isfinite(second).all(-1))
    enough = known.sum(0) >= 3
    if not enough.any():
        return float("nan")
    squares = np.where(known[..., None], second, 0.0)[:, enough] ** 2
    return float(np.median(np.sqrt(squares.sum((0, 2)) / (2 * known.sum(0)[enough]) / 6)))


def _reprojection(traces: Traces, cameras: Cameras, seen: np.ndarray, still: np.ndarray) -> float:
    if not still.any():
        return float("nan")
    xyz = np.where(traces.visible[:, still, None], traces.xyz_world[:, still].astype(np.float64), np.nan)
    known = np.asarray(np.isfinite(xyz).all(-1))
    place = np.where(known[..., None], xyz, 0).sum(0) / np.maximum(known.sum(0), 1)[:, None]
    expected = project(np.broadcast_to(place, xyz.shape), cameras.K, cameras.cam_from_world)
    error = np.linalg.norm(expected[..., :2] - seen[:, still, :2], axis=-1)
    return float(np.nanmedian(error)) if np.isfinite(error).any() else float("nan")


def _rounded(value: float) -> float | None:
    return round(value, 3) if np.isfinite(value) else None
