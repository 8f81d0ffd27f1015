"""Joints that a device tracked in a metric world, as traces: no tracker and no depth estimate is involved."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Integer

from traceworld.geometry.cameras import project
from traceworld.geometry.motion import trace_diameter
from traceworld.traces.types import Cameras, Traces

MOVING_PX = 40.0
"""Movement threshold at 640 pixels' width (mu0-paper A.2)."""


def traces_of_joints(
    xyz_world: Float[np.ndarray, "T N 3"],
    tracked: Bool[np.ndarray, "T N"],
    part_id: Integer[np.ndarray, " N"],
    cameras: Cameras,
) -> Traces:
    """Valid where finite and tracked, visible where the joint also lies in the picture; self-occlusion is not known."""
    valid = np.isfinite(xyz_world).all(-1) & tracked
    xyz = np.where(valid[..., None], xyz_world, np.nan)
    own = project(xyz, cameras.K, cameras.cam_from_world)[..., :2]
    with np.errstate(invalid="ignore"):
        visible = valid & ((own >= -0.5) & (own <= np.array([cameras.width, cameras.height]) - 0.5)).all(-1)
    moved = trace_diameter(project(xyz, cameras.K[0], cameras.cam_from_world[0]), visible)
    return Traces(
        xyz.astype(np.float32),
        visible,
        valid,
        part_id.astype(np.int32),
        moved > MOVING_PX * cameras.width / 640,
        np.where(visible.any(0), visible.argmax(0), 0).astype(np.int32),
    )
