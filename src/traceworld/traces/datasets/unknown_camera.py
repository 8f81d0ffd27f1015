"""The camera of recordings that come without calibration."""

from __future__ import annotations

import math

import numpy as np

from traceworld.traces.types import Cameras

ASSUMED_FOV_DEG = 60.0
"""Across the longer side."""
TOLD = f"assumed: {ASSUMED_FOV_DEG:g}°"
"""What `provenance["intrinsics"]` says of such a clip."""


def assumed_camera(width: int, height: int, frames: int) -> Cameras:
    """A camera at rest with `ASSUMED_FOV_DEG`, its centre in the middle of the picture."""
    focal = max(width, height) / 2 / math.tan(math.radians(ASSUMED_FOV_DEG) / 2)
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return Cameras.still(K, width, height, frames)
