"""Photographs of a set table: MuJoCo model, random lights and cameras, colour, metric depth and which thing each pixel shows.

About 0.1 s for one 320×240 picture on one core without a GPU, most of it for the renderer's context; further pictures of the
same table cost a third.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int16, UInt8

from traceworld.sim.cameras import CameraView, intrinsics
from traceworld.sim.rendering import SceneRenderer, load_mujoco
from traceworld.sim.tabletop import Tabletop
from traceworld.sim.tableware import SHINE
from traceworld.traces.types import Camera

SIZES = ((320, 240), (256, 256), (240, 320), (352, 240), (288, 216))
ROOM_M = 3.0


@dataclass(frozen=True, eq=False)
class Photo:
    """What a camera sees.

    Attributes:
        camera: intrinsics and world pose.
        image: RGB.
        depth_m: metres along the camera axis, 0 where there is nothing.
        thing: index among the table's things, −1 where there is none of them.
    """

    camera: Camera
    image: UInt8[np.ndarray, "H W 3"]
    depth_m: Float32[np.ndarray, "H W"]
    thing: Int16[np.ndarray, "H W"]


def random_camera(table: Tabletop, rng: np.random.Generator, sizes: Sequence[tuple[int, int]] = SIZES) -> Camera:
    """A camera in front of the table, looking down at what stands on it; size, place, width of view and centre all vary."""
    main = next(thing for thing in table.things if thing.name == table.table)
    width, height = sizes[int(rng.integers(len(sizes)))]
    aim = np.array([0.0, 0.0, main.top_z()]) + rng.uniform((-0.15, -0.1, 0.0), (0.15, 0.12, 0.1))
    view = CameraView(
        lookat=(float(aim[0]), float(aim[1]), float(aim[2])),
        distance=float(rng.uniform(0.9, 1.6)),
        azimuth_deg=float(90 + rng.uniform(-50, 50)),
        elevation_deg=float(rng.uniform(-62, -22)),
        fovy_deg=float(rng.uniform(42, 62)),
    )
    K = intrinsics(view.fovy_deg, width, height)
    K[0, 0] *= rng.uniform(0.97, 1.03)
    K[:2, 2] += rng.uniform(-0.03, 0.03, 2) * (width, height)
    return Camera(K, view.cam_from_world(), width, height)


def build_model(table: Tabletop) -> tuple[Any, np.ndarray]:
    """The table as a `mujoco.MjModel`, with lights and a room around it, and the thing each geom belongs to (−1 for the room)."""
    mujoco = load_mujoco()
    rng = np.random.default_rng([table.seed, 0x1167])
    spec = mujoco.MjSpec()
    _add_lights(spec, rng)
    owner = _add_room(spec, rng)
    for index, thing in enumerate(table.things):
        body = spec.worldbody.add_body(name=thing.name, pos=thing.position.tolist(), quat=_about_z(thing.yaw))
        if thing.movable:
            body.add_freejoint()
        material = spec.add_material(name=thing.name)
        specular, shininess = SHINE.get(thing.attributes.get("material", ""), (0.1, 0.1))
        material.specular, material.shininess, material.rgba = specular, shininess, [1, 1, 1, 1]
        for piece in thing.pieces:
            kind = mujoco.mjtGeom.mjGEOM_BOX if piece.kind == "box" else mujoco.mjtGeom.mjGEOM_CYLINDER
            size = np.zeros(3)
            size[: len(piece.size)] = piece.size
            rgb = np.clip(np.array(thing.rgb) * piece.shade, 0, 1)
            body.add_geom(
                type=kind,
                size=size,
                pos=piece.pos,
                quat=_about_z(piece.yaw),
                rgba=[*rgb, 1.0],
                material=thing.name,
                density=400.0,
            )
            owner.append(index)
    spec.option.enableflags |= mujoco.mjtEnableBit.mjENBL_MULTICCD.value  # cylinders stand on a rim, not on one point
    return spec.compile(), np.array(owner, np.int16)


def photograph(table: Tabletop, cameras: Sequence[Camera], *, shadows: bool = False) -> list[Photo]:
    """One picture per camera.

    Raises:
        MissingExtraError, RenderingError: MuJoCo or its renderer is missing.
    """
    mujoco = load_mujoco()
    model, owner = build_model(table)
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
    largest = max(camera.width for camera in cameras), max(camera.height for camera in cameras)
    photos = []
    with SceneRenderer(model, *largest, shadows=shadows) as renderer:
        for camera in cameras:
            surfaces = renderer.surfaces(data, camera)
            seen = surfaces.object_id
            thing = np.where(seen >= 0, np.append(owner, -1)[seen], -1).astype(np.int16)
            depth = np.nan_to_num(surfaces.depth_m, nan=0.0)
            photos.append(Photo(camera, renderer.color(data, camera), depth, thing))
    return photos


def _about_z(angle: float) -> list[float]:
    return [float(np.cos(angle / 2)), 0.0, 0.0, float(np.sin(angle / 2))]


def _add_lights(spec: Any, rng: np.random.Generator) -> None:
    """One or two lights from above and a weaker one at the camera, a little coloured."""
    for _ in range(int(rng.integers(1, 3))):
        direction = np.append(rng.uniform(-0.8, 0.8, 2), -1.0)
        tint = rng.uniform(0.85, 1.0, 3) * rng.uniform(0.35, 0.7)
        spec.worldbody.add_light(
            pos=(
                -4.0 * direction
            ).tolist(),  # far and wide: nearly parallel (how to ask for that differs between versions)
            dir=direction.tolist(),
            cutoff=80.0,
            exponent=0.0,
            diffuse=tint.tolist(),
            specular=[0.3, 0.3, 0.3],
        )
    headlight = spec.visual.headlight
    headlight.ambient = np.full(3, rng.uniform(0.25, 0.45))
    headlight.diffuse = np.full(3, rng.uniform(0.15, 0.35))
    headlight.specular = np.full(3, 0.1)


def _add_room(spec: Any, rng: np.random.Generator) -> list[int]:
    """Three far walls, so that depth is known everywhere; returns their owners: none."""
    mujoco = load_mujoco()
    rgb = np.clip(rng.uniform(0.35, 0.9) + rng.uniform(-0.08, 0.08, 3), 0, 1)
    places = ((0, ROOM_M, 3, 0.05), (-ROOM_M, 0, 0.05, 3), (ROOM_M, 0, 0.05, 3))
    for x, y, half_x, half_y in places:
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[half_x, half_y, 1.6],
            pos=[x, y, 1.6],
            rgba=[*rgb, 1.0],
            contype=0,
            conaffinity=0,
        )
    return [-1] * len(places)
