"""Where the keypoints of an observation are now: the start of every baseline's traces."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from traceworld.errors import InvalidInputError
from traceworld.traces.types import Observation


def anchor_uvz(observation: Observation) -> Float32[np.ndarray, "N 3"]:
    """Current (u, v, z) of each keypoint.

    z is taken from `keypoints_z_m`, else from the depth map at the keypoint's pixel, else it is 0 (unknown).

    Raises:
        InvalidInputError: the observation has no keypoints.
    """
    uv = observation.keypoints_uv
    if uv is None:
        raise InvalidInputError(
            "no keypoints", where="Observation.keypoints_uv", mend="say which points' future is asked for"
        )
    z = np.full(len(uv), np.nan)
    if observation.depth_m is not None:
        height, width = observation.depth_m.shape
        column = np.floor((uv[:, 0] + 1) / 2 * width).astype(int)
        row = np.floor((uv[:, 1] + 1) / 2 * height).astype(int)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        z[inside] = observation.depth_m[row[inside], column[inside]]
    if observation.keypoints_z_m is not None:
        z = np.where(np.isfinite(observation.keypoints_z_m), observation.keypoints_z_m, z)
    return np.concatenate([uv, np.nan_to_num(z)[:, None]], 1).astype(np.float32)
