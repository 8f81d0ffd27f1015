"""Recorded paths as spatial traces: what a hand or a robot did, in the picture that came before it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, UInt8

from traceworld.geometry.cameras import project
from traceworld.traces.types import Camera
from traceworld.tracespatial.directions import dominant_direction
from traceworld.tracespatial.gravity import align_camera, align_to_gravity, gravity_rotation
from traceworld.tracespatial.scene import Scene, SpatialTrace
from traceworld.tracespatial.sources import TraceSet
from traceworld.tracespatial.video_rules import key_points

RECORDED_STEPS = 2
"""What moves and where to: a recording says no more about the relations in its words."""
_WAYS = {"above": "up", "below": "down"}


def upright(camera: Camera, up_world: Float[np.ndarray, 3]) -> tuple[Camera, Float[np.ndarray, "3 3"]]:
    """The camera in a world whose z is up, and the rotation that takes points there."""
    turn = gravity_rotation(up_world)
    return align_camera(camera, turn), turn


def recorded_scene(
    scene_id: str, image: UInt8[np.ndarray, "H W 3"], depth_m: Float32[np.ndarray, "H W"] | None, camera: Camera
) -> Scene:
    """The picture before the motion; nothing is known of objects in it. Depth may be missing: lengths come from the calibration."""
    depth = np.zeros(image.shape[:2], np.float32) if depth_m is None else np.nan_to_num(depth_m, posinf=0.0, neginf=0.0)
    return Scene(scene_id, "video", image, np.maximum(depth, 0).astype(np.float32), camera, (), True)


def recorded_set(scene: Scene, path_xyz: Float[np.ndarray, "T 3"], instruction: str, kind: str) -> TraceSet | str:
    """A recorded path as a set of one trace, or why it is dropped (`video_rules.key_points`).

    Args:
        path_xyz: [T,3] in the scene's world. kind: whose path, `object` or `end-effector`.
    """
    if not instruction.strip():
        return "no words"
    points = key_points(path_xyz, scene.camera)
    if isinstance(points, str):
        return points
    way = dominant_direction(scene.camera, points[-1] - points[0])
    trace = SpatialTrace(
        scene_id=scene.scene_id,
        object_id=kind,
        primitive=2,
        reference_id=None,
        via_id=None,
        passed_ids=(),
        direction=_WAYS.get(way, way),
        instruction=instruction.strip(),
        steps=RECORDED_STEPS,
        points_world=points,
        uvd=project(points, scene.camera.K, scene.camera.cam_from_world),
    )
    return TraceSet([trace], kind, path_xyz)


def turned(path_xyz: Float[np.ndarray, "T 3"], turn: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "T 3"]:
    """A path in the upright world."""
    return align_to_gravity(np.asarray(path_xyz, np.float64), turn)
