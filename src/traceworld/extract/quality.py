"""Figures that say how far the traces of a clip can be trusted; they travel with the clip."""

from __future__ import annotations

from typing import Any

import numpy as np

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
    """
    N = traces.num_keypoints
    if N == 0:
        return {"keypoints": 0, "moving": 0}
    after = np.arange(traces.num_frames)[:, None] >= traces.query_frame[None]
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
    }
