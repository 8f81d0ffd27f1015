"""A hash of what answers rest on, so that a question whose scene has changed is known to be stale."""

from __future__ import annotations

import hashlib

import numpy as np

from traceworld.tracespatial.scene import Scene


def scene_fingerprint(scene: Scene) -> str:
    """16 hexadecimal digits over id, camera, depth, boxes, captions and masks of a scene."""
    digest = hashlib.sha256(scene.scene_id.encode())
    digest.update(np.asarray(scene.camera.K, np.float64).tobytes())
    digest.update(np.asarray(scene.camera.cam_from_world, np.float64).tobytes())
    digest.update(np.ascontiguousarray(scene.depth_m).tobytes())
    for thing in scene.objects:
        digest.update(f"{thing.object_id}|{thing.label}|{thing.caption}|".encode())
        digest.update(np.concatenate([thing.box.center_xyz, thing.box.size_m, thing.box.rotation.ravel()]).tobytes())
        digest.update(np.packbits(thing.mask).tobytes())
    return digest.hexdigest()[:16]
