"""Scenes from our simulator: exact boxes, surfaces, depth and masks, no download. Same seed, same scene."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from traceworld.errors import ConfigError
from traceworld.sim.tabletop import TableThing, Tabletop, TabletopConfig, set_table
from traceworld.sim.tabletop_photo import SIZES, Photo, photograph, random_camera
from traceworld.sim.tableware import surface_points
from traceworld.tracespatial.captions import captioned
from traceworld.tracespatial.scene import OrientedBox, Scene, SceneObject
from traceworld.tracespatial.sim_views import ViewVariety, drawn_scale, scaled_scene, varied_camera

UNNAMED = ("floor", "wall")
"""What is there but is never spoken of."""


@dataclass(frozen=True)
class SimSourceConfig:
    """What the simulator is to make.

    Attributes:
        table: what is set, see `TabletopConfig`.
        sizes: picture sizes (width, height) to draw from.
        views: pictures per table; each is a scene of its own.
        cloud_points: surface points per object.
        shadows: cast shadows (slower).
        variety: many lenses and scales (`sim_views`); None: one kind of camera, the world as large as it is set.
    """

    table: TabletopConfig = field(default_factory=TabletopConfig)
    sizes: tuple[tuple[int, int], ...] = SIZES
    views: int = 1
    cloud_points: int = 400
    shadows: bool = False
    variety: ViewVariety | None = None

    def __post_init__(self):
        if self.views < 1 or self.cloud_points < 8 or not self.sizes:
            raise ConfigError(f"impossible {self}", where="SimSourceConfig")


def sim_scenes(seed: int, config: SimSourceConfig = SimSourceConfig()) -> tuple[Scene, ...]:
    """The scenes of one table, `config.views` of them, named `sim-<seed>-<view>`.

    Raises:
        MissingExtraError, RenderingError: the extra `sim` or its renderer is missing.
    """
    table = set_table(seed, config.table)
    rng = np.random.default_rng([seed, 0xCA3E])
    variety = config.variety
    cameras = [
        random_camera(table, rng, config.sizes) if variety is None else varied_camera(table, rng, config.sizes, variety)
        for _ in range(config.views)
    ]
    photos = photograph(table, cameras, shadows=config.shadows)
    clouds = [_cloud(thing, table.seed, config.cloud_points) for thing in table.things]
    scenes = [_scene(table, photo, clouds, view) for view, photo in enumerate(photos)]
    return tuple(scene if variety is None else scaled_scene(scene, drawn_scale(rng, variety)) for scene in scenes)


def sim_stream(first_seed: int, number: int, config: SimSourceConfig = SimSourceConfig()) -> Iterator[Scene]:
    """The scenes of `number` tables, seeds counted up from `first_seed`."""
    for seed in range(first_seed, first_seed + number):
        yield from sim_scenes(seed, config)


def _cloud(thing: TableThing, seed: int, number: int) -> np.ndarray:
    rng = np.random.default_rng([seed, zlib.crc32(thing.name.encode())])
    local = surface_points(thing.pieces, number, rng)
    return (thing.position + local @ thing.rotation().T).astype(np.float32)


def _scene(table: Tabletop, photo: Photo, clouds: list[np.ndarray], view: int) -> Scene:
    objects = [_object(thing, photo.thing == index, clouds[index]) for index, thing in enumerate(table.things)]
    named = iter(captioned([one for one in objects if one.label not in UNNAMED], photo.camera))
    objects = [one if one.label in UNNAMED else next(named) for one in objects]
    return Scene(
        scene_id=f"sim-{table.seed}-{view}",
        source="sim",
        image=photo.image,
        depth_m=photo.depth_m,
        camera=photo.camera,
        objects=tuple(objects),
        metric=True,
    )


def _object(thing: TableThing, mask: np.ndarray, cloud: np.ndarray) -> SceneObject:
    center, size = thing.box()
    return SceneObject(
        object_id=thing.name,
        label=thing.label,
        caption="",
        box=OrientedBox(center, size, thing.rotation()),
        mask=mask,
        cloud_world=cloud,
        attributes=thing.attributes,
        movable=thing.movable,
        support_id=thing.support,
    )
