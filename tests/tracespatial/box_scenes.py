"""Scenes of boxes on a table for tests of the geometric core; depth and masks by a ray per pixel, written for the tests alone."""

import numpy as np

from traceworld.sim.cameras import CameraView, intrinsics
from traceworld.traces.types import Camera
from traceworld.tracespatial.scene import OrientedBox, Scene, SceneObject

TABLE = ("table", (0.0, 0.0, 0.35), (1.6, 1.2, 0.7), {"movable": False})
"""Its top is at 0.7 m."""


def yaw_rotation(yaw):
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def any_rotation(rng):
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    q[:, 0] *= np.sign(np.linalg.det(q))
    return q


def any_box(rng, spread=0.3):
    return OrientedBox(rng.uniform(-spread, spread, 3), rng.uniform(0.05, 0.4, 3), any_rotation(rng))


def front_camera(width=160, height=120, elevation=-40.0, distance=1.4, azimuth=90.0, lookat=(0.0, 0.0, 0.72)):
    """In front of the table (−y), looking along +y: the world's x is the picture's right."""
    view = CameraView(lookat=lookat, distance=distance, azimuth_deg=azimuth, elevation_deg=elevation, fovy_deg=50.0)
    return Camera(intrinsics(50.0, width, height), view.cam_from_world(), width, height)


def cast_boxes(boxes, camera):
    """Depth (0: nothing) and index of the nearest box of each pixel, by clipping each pixel's ray to each box."""
    v, u = np.mgrid[0 : camera.height, 0 : camera.width]
    K, pose = camera.K, camera.cam_from_world
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u, float)], -1) @ pose[:3, :3]
    eye = -pose[:3, :3].T @ pose[:3, 3]
    depth, index = np.full(u.shape, np.inf), np.full(u.shape, -1)
    for i, box in enumerate(boxes):
        origin, way = (eye - box.center_xyz) @ box.rotation, rays @ box.rotation
        way = np.where(np.abs(way) < 1e-12, 1e-12, way)
        one, other = (-box.size_m / 2 - origin) / way, (box.size_m / 2 - origin) / way
        enter, leave = np.minimum(one, other).max(-1), np.maximum(one, other).min(-1)
        hit = (enter < leave) & (enter > 0) & (enter < depth)
        depth[hit], index[hit] = enter[hit], i
    return np.where(np.isfinite(depth), depth, 0).astype(np.float32), index


def box_scene(*things, camera=None, with_table=True, clouds=False):
    """A scene of (id, center or (x, y) on the table, size, {"yaw", "label", "caption", "movable", "support_id", …}) tuples."""
    camera = camera or front_camera()
    specs = [TABLE, *things] if with_table else list(things)
    boxes, rest = [], []
    for thing in specs:
        name, place, size, *more = thing
        extra = dict(more[0]) if more else {}
        center = np.array(place if len(place) == 3 else (*place, 0.7 + size[2] / 2), float)
        boxes.append(OrientedBox(center, np.array(size, float), yaw_rotation(extra.pop("yaw", 0.0))))
        extra.setdefault("label", name)
        extra.setdefault("caption", "" if name == "table" else f"the {name}")
        if with_table and name != "table":
            extra.setdefault("support_id", "table")
        rest.append((name, extra))
    depth, index = cast_boxes(boxes, camera)
    objects = []
    for i, (box, (name, extra)) in enumerate(zip(boxes, rest, strict=True)):
        cloud = surface(box) if clouds else np.zeros((0, 3), np.float32)
        objects.append(SceneObject(object_id=name, box=box, mask=index == i, cloud_world=cloud, **extra))
    image = np.zeros((camera.height, camera.width, 3), np.uint8)
    return Scene("crafted", "sim", image, depth, camera, tuple(objects), metric=True)


def surface(box, number=200):
    rng = np.random.default_rng(0)
    local = rng.uniform(-0.5, 0.5, (number, 3))
    local[np.arange(number), rng.integers(3, size=number)] = rng.choice([-0.5, 0.5], number)
    return (box.center_xyz + (local * box.size_m) @ box.rotation.T).astype(np.float32)
