"""Pictures of a set table that do not give its size away: many focal lengths, the camera as far as each needs, many scales.

With one lens at one distance a picture tells metres by itself, and a model never learns to look at depth. Here the field of view is
drawn and the camera stands where the table fills the picture equally (a dolly zoom), and the whole world is drawn larger or smaller,
which no picture shows: only intrinsics and metric depth say how far things are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from traceworld.errors import ConfigError
from traceworld.sim.cameras import CameraView, intrinsics
from traceworld.sim.tabletop import Tabletop
from traceworld.traces.types import Camera
from traceworld.tracespatial.scene import OrientedBox, Scene, SceneObject


@dataclass(frozen=True)
class ViewVariety:
    """What is drawn for each picture, uniformly; `scale` uniformly in its logarithm.

    Attributes:
        fovy_deg: vertical field of view.
        half_height_m: half of what the picture shows in height where the camera looks, before scaling; with the field of view it
            gives the distance.
        azimuth_deg: to either side of the table's front. elevation_deg: of the line of sight.
        scale: factor on every length of the world, camera included.
    """

    fovy_deg: tuple[float, float] = (32.0, 72.0)
    half_height_m: tuple[float, float] = (0.45, 0.72)
    azimuth_deg: float = 50.0
    elevation_deg: tuple[float, float] = (-62.0, -22.0)
    scale: tuple[float, float] = (0.75, 1.35)

    def __post_init__(self):
        low, high = self.fovy_deg
        if not (0 < low <= high < 120 and 0 < self.half_height_m[0] <= self.half_height_m[1]):
            raise ConfigError(f"impossible {self}", where="ViewVariety")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"scale {self.scale}", where="ViewVariety.scale", mend="two factors above 0")


def varied_camera(
    table: Tabletop, rng: np.random.Generator, sizes: Sequence[tuple[int, int]], variety: ViewVariety
) -> Camera:
    """A camera before the table, drawn as `variety` says; metres of the table as it is set, not yet scaled."""
    main = next(thing for thing in table.things if thing.name == table.table)
    width, height = sizes[int(rng.integers(len(sizes)))]
    aim = np.array([0.0, 0.0, main.top_z()]) + rng.uniform((-0.15, -0.1, 0.0), (0.15, 0.12, 0.1))
    fovy = float(rng.uniform(*variety.fovy_deg))
    view = CameraView(
        lookat=(float(aim[0]), float(aim[1]), float(aim[2])),
        distance=float(rng.uniform(*variety.half_height_m) / np.tan(np.radians(fovy) / 2)),
        azimuth_deg=float(90 + rng.uniform(-1, 1) * variety.azimuth_deg),
        elevation_deg=float(rng.uniform(*variety.elevation_deg)),
        fovy_deg=fovy,
    )
    K = intrinsics(fovy, width, height)
    K[0, 0] *= rng.uniform(0.97, 1.03)
    K[:2, 2] += rng.uniform(-0.03, 0.03, 2) * (width, height)
    return Camera(K, view.cam_from_world(), width, height)


def drawn_scale(rng: np.random.Generator, variety: ViewVariety) -> float:
    """A factor on every length."""
    return float(np.exp(rng.uniform(*np.log(variety.scale))))


def scaled_scene(scene: Scene, factor: float) -> Scene:
    """The same scene with every length times `factor`: the picture stays as it is to the pixel."""
    pose = np.array(scene.camera.cam_from_world, np.float64)
    pose[:3, 3] *= factor
    camera = dataclasses.replace(scene.camera, cam_from_world=pose)
    return dataclasses.replace(
        scene,
        depth_m=(scene.depth_m * factor).astype(scene.depth_m.dtype),
        camera=camera,
        objects=tuple(_scaled(one, factor) for one in scene.objects),
    )


def _scaled(thing: SceneObject, factor: float) -> SceneObject:
    box = OrientedBox(thing.box.center_xyz * factor, thing.box.size_m * factor, thing.box.rotation)
    return dataclasses.replace(thing, box=box, cloud_world=(thing.cloud_world * factor).astype(np.float32))
