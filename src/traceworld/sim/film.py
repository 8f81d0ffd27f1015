"""What a simulated camera saw, exactly: identity and depth of every pixel and the pose of every body, per frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, UInt16

from traceworld.sim.rendering import SceneRenderer
from traceworld.sim.worlds import Stage
from traceworld.traces.types import Cameras

DEPTH_UNIT_M = 0.0001
"""Metres per step of the 16-bit depth pictures: up to 6.55 m."""


@dataclass(frozen=True, eq=False)
class Film:
    """What a camera saw.

    Attributes:
        cameras: one per frame.
        depth_m: [T,H,W] metres along the camera axis, NaN where there is nothing.
        object_id: [T,H,W] which object each pixel shows, −1 nothing.
        body_pose: [T,bodies,4,4] world_from_body.
        object_body: [objects] the body each object is part of.
        body_part: [bodies] the rigid part of each body, −1 for what cannot move.
    """

    cameras: Cameras
    depth_m: Float32[np.ndarray, "T H W"]
    object_id: Int[np.ndarray, "T H W"]
    body_pose: Float64[np.ndarray, "T bodies 4 4"]
    object_body: Int[np.ndarray, " objects"]
    body_part: Int[np.ndarray, " bodies"]

    @property
    def num_frames(self) -> int:
        return len(self.depth_m)


def shoot(stage: Stage, renderer: SceneRenderer, cameras: Cameras, states: Float64[np.ndarray, "T nq"]) -> Film:
    """Film the states of an episode, without colour. The stage must be loaded with it."""
    T, width, height = len(states), cameras.width, cameras.height
    depth_m, object_id = np.empty((T, height, width), np.float32), np.empty((T, height, width), np.int16)
    body_pose = np.empty((T, stage.model.nbody, 4, 4))
    for t, qpos in enumerate(states):
        stage.put(qpos)
        body_pose[t] = stage.body_poses()
        surfaces = renderer.surfaces(stage.data, cameras[t])
        depth_m[t], object_id[t] = surfaces.depth_m, surfaces.object_id
    return Film(cameras, depth_m, object_id, body_pose, stage.object_body, stage.body_part)


def depth_picture(depth_m: Float[np.ndarray, "H W"], unit_m: float) -> UInt16[np.ndarray, "H W"]:
    """Metres to 16-bit steps; 0 where nothing is known, or it is too near or too far for 16 bits."""
    steps = np.rint(np.nan_to_num(depth_m.astype(np.float64), nan=0.0) / unit_m)
    return np.where((steps > 0) & (steps <= 65535), steps, 0).astype(np.uint16)
