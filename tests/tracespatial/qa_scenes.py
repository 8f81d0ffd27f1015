"""Small scenes of boxes on a table, drawn by casting a ray per pixel, with everything about them known by hand."""

import numpy as np

from traceworld.traces.types import Camera
from traceworld.tracespatial.scene import OrientedBox, Scene, SceneObject, SpatialTrace

K = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])
WIDTH, HEIGHT = 320, 240


def camera(eye=(0.0, -1.2, 0.9), at=(0.0, 0.0, 0.05)):
    """Looks along +y and down: x is the viewer's right, y is away."""
    eye, at = np.asarray(eye, float), np.asarray(at, float)
    forward = (at - eye) / np.linalg.norm(at - eye)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ eye
    return Camera(K.copy(), pose, WIDTH, HEIGHT)


def box(x, y, bottom, size, yaw=0.0):
    """A box whose bottom is at a height."""
    c, s = np.cos(yaw), np.sin(yaw)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    return OrientedBox(np.array([x, y, bottom + size[2] / 2]), np.asarray(size, float), rotation)


def cast(cam, boxes):
    """(depth [H,W], index of the box seen or -1) by slabs."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    rays = np.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], np.ones((HEIGHT, WIDTH))], -1)
    rotation = cam.cam_from_world[:3, :3]
    eye = -rotation.T @ cam.cam_from_world[:3, 3]
    rays = rays @ rotation
    depth, seen = np.full((HEIGHT, WIDTH), np.inf), np.full((HEIGHT, WIDTH), -1)
    for number, each in enumerate(boxes):
        origin, along = (eye - each.center_xyz) @ each.rotation, rays @ each.rotation
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = (-each.size_m / 2 - origin) / along, (each.size_m / 2 - origin) / along
        near, far = np.minimum(low, high).max(-1), np.maximum(low, high).min(-1)
        hit = (near <= far) & (near > 0) & (near < depth)
        depth[hit], seen[hit] = near[hit], number
    return np.where(np.isfinite(depth), depth, 0).astype(np.float32), seen


def make_scene(things, scene_id="toy", metric=True, cam=None, source="sim"):
    """things: (id, label, caption, box, movable, support, attributes)."""
    cam = cam or camera()
    depth, seen = cast(cam, [thing[3] for thing in things])
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    objects = []
    for number, (name, label, caption, where, movable, support, attributes) in enumerate(things):
        mask = seen == number
        image[mask] = [(53 * number + 40) % 256, (97 * number + 80) % 256, (151 * number) % 256]
        rows, columns = np.nonzero(mask)
        cloud = np.zeros((len(rows), 3), np.float32)
        if len(rows):
            z = depth[rows, columns]
            cam_xyz = np.stack([(columns - K[0, 2]) / K[0, 0] * z, (rows - K[1, 2]) / K[1, 1] * z, z], -1)
            rotation = cam.cam_from_world[:3, :3]
            cloud = ((cam_xyz - cam.cam_from_world[:3, 3]) @ rotation).astype(np.float32)
        objects.append(SceneObject(name, label, caption, where, mask, cloud, attributes, movable, support))
    return Scene(scene_id, source, image, depth, cam, tuple(objects), metric)


def table_things():
    """A table whose top is at 0, and on it: a red mug left, a blue mug right, a green box behind, a book with a can on it."""
    return [
        ("table", "table", "table", box(0, 0.1, -0.05, (1.6, 1.2, 0.05)), False, None, {}),
        ("mug1", "mug", "red mug", box(-0.30, -0.05, 0, (0.08, 0.08, 0.10)), True, "table", {"colour": "red"}),
        ("mug2", "mug", "blue mug", box(0.30, -0.10, 0, (0.08, 0.08, 0.14)), True, "table", {"colour": "blue"}),
        ("crate", "crate", "green crate", box(0.02, 0.38, 0, (0.30, 0.20, 0.20)), True, "table", {"colour": "green"}),
        ("book", "book", "grey book", box(0.0, -0.08, 0, (0.22, 0.16, 0.03)), True, "table", {"colour": "grey"}),
        ("can", "can", "yellow can", box(0.0, -0.08, 0.03, (0.06, 0.06, 0.12)), True, "book", {"colour": "yellow"}),
    ]


def table_scene(**changed):
    return make_scene(table_things(), **changed)


def trace_of(scene, object_id, points, primitive, reference=None, via=None, passed=(), direction=None):
    """A spatial trace of the centre through world points, shifted as a whole so that it begins where the object is seen."""
    from traceworld.geometry.cameras import project, unproject

    points = np.asarray(points, np.float64)
    rows, columns = np.nonzero(scene.object(object_id).mask)
    depth = project(points[:1], scene.camera.K, scene.camera.cam_from_world)[:, 2]
    seen = np.array([[columns.mean(), rows.mean()]])
    points += unproject(seen, depth, scene.camera.K, scene.camera.cam_from_world) - points[:1]
    uvd = project(points, scene.camera.K, scene.camera.cam_from_world)
    return SpatialTrace(
        scene.scene_id, object_id, primitive, reference, via, tuple(passed), direction, "", 2, points, uvd
    )


def table_traces(scene):
    """One trace of each primitive."""
    red, can, lift = scene.object("mug1").box.center_xyz, scene.object("can").box.center_xyz, np.array([0, 0, 0.2])
    right_of_blue = np.array([0.50, -0.10, red[2]])
    on_crate = np.array([0.02, 0.38, 0.2 + 0.05])
    behind_blue = np.array([0.30, 0.12, red[2]])
    return [
        trace_of(scene, "mug1", [red, red + lift, right_of_blue + lift, right_of_blue], 1, "mug2", None, (), "right"),
        trace_of(scene, "mug1", [red, red + np.array([-0.1, 0, 0]), red + np.array([-0.2, 0, 0])], 2, None, None, (), "left"),
        trace_of(scene, "mug1", [red, red + 2 * lift, on_crate + lift, on_crate], 3, "crate"),
        trace_of(
            scene, "mug1",
            [red, red + np.array([0.1, 0.12, 0]), [0.0, 0.12, red[2]], [0.15, 0.12, red[2]], behind_blue],
            4, "mug2", "can", (), "behind",
        ),
        trace_of(
            scene, "mug1", [red, red + 1.5 * lift, can + np.array([0, 0, 0.25]), on_crate + lift, on_crate], 5, "crate", "can"
        ),
    ]  # fmt: skip
