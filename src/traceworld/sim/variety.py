"""How an episode looks, drawn from a seed: colours, patterns, lights, and things on the table that play no part.

Only the look is changed, in fields of the studio's model; where things are and how they move is not touched, and depth,
identity and traces stay exact for what is shown.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, fields

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from traceworld.errors import ConfigError
from traceworld.sim.rendering import load_mujoco
from traceworld.sim.studio import CANVAS_PX, CANVASES, PROPS, SHOWN_GROUP, Studio

ROOM_BODIES = {"floor": "world", "table": "tablelink", "wall": "RetainingWall"}
"""The bodies whose geoms each canvas can cover."""

DEFAULT_RGBA = 0.5
"""A geom with a material and this grey all over shows the material's colour, any other shows its own."""

PROP_AREA = ((-0.6, 0.6), (0.28, 0.92))
PROP_CLEARANCE_M = 0.03
PROP_TRIES = 30


@dataclass(frozen=True)
class Variety:
    """How much episodes may differ in their look. Each amount is 0 for as it is in Meta-World.

    Attributes:
        surfaces: chance that table, rim and floor each get a pattern of their own instead of wood, metal and planks, and
            that the sky gets another colour.
        objects, robot: how far the colours of the task's things, and of whoever plays, may go from their own
            (1: to any colour).
        lights: how far directions and strengths of the lights may go from their own.
        distractors: at most so many things stand about on the table, out of the way of everything that moves.
    """

    surfaces: float = 0.75
    objects: float = 0.7
    robot: float = 0.7
    lights: float = 1.0
    distractors: int = 4

    def __post_init__(self):
        for one in fields(self):
            most = len(PROPS) if one.name == "distractors" else 1
            if not 0 <= getattr(self, one.name) <= most:
                raise ConfigError(
                    f"{getattr(self, one.name)} is out of range", where=f"Variety.{one.name}", mend=f"give 0 to {most}"
                )

    def dress(self, studio: Studio, rng: np.random.Generator, states: Float64[np.ndarray, "T nq"]) -> tuple[int, ...]:
        """Give the episode on the studio a look. Call after `Studio.load`; the first state is on the stage afterwards.

        Args:
            studio: loaded with the episode.
            rng: decides everything.
            states: [T,nq] the states that will be shown; distractors keep clear of all of them.

        Returns:
            Textures that were painted: the renderer has to be given them (`SceneRenderer.upload_textures`).
        """
        # Every kind of change has its own generator: to switch one off leaves the others as they are.
        surfaces, objects, robot, lights, props = rng.spawn(5)
        painted = _paint_room(studio, surfaces, self.surfaces)
        player = studio.robot.copy()
        player[studio.geoms_of(f"{studio.embodiment}/")] = True
        _recolor(studio, np.flatnonzero(player), robot, self.robot)
        room = studio.bodies(*ROOM_BODIES.values())
        things = ~player & ~np.isin(studio.model.geom_bodyid, room)
        things[studio.num_own :] = False
        _recolor(studio, np.flatnonzero(things), objects, self.objects)
        _relight(studio, lights, self.lights)
        _set_out_props(studio, props, self.distractors, states)
        studio.put(states[0])
        return painted


def _any_color(rng: np.random.Generator) -> np.ndarray:
    """[3] RGB in 0 … 1: any hue, from pale to strong, not too dark."""
    hue, saturation, value = rng.uniform([0.0, 0.0, 0.25], [1.0, 0.9, 1.0])
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def _recolor(studio: Studio, geoms: np.ndarray, rng: np.random.Generator, amount: float) -> None:
    """Mix another colour into each colour that these geoms have; what had the same colour keeps having the same."""
    model = studio.model
    rgba, material = model.geom_rgba[geoms], model.geom_matid[geoms]
    shows_material = (material >= 0) & (rgba == DEFAULT_RGBA)[:, :3].all(1)
    rgba = np.where(shows_material[:, None], model.mat_rgba[material], rgba)
    known: dict[bytes, np.ndarray] = {}
    for geom, old in zip(geoms.tolist(), rgba, strict=True):
        key = np.round(old[:3], 3).tobytes()
        if key not in known:
            share = amount * rng.uniform(0.3, 1.0)
            known[key] = (1 - share) * old[:3] + share * _any_color(rng)
        if amount > 0:
            model.geom_rgba[geom] = np.append(known[key], old[3])


def _relight(studio: Studio, rng: np.random.Generator, amount: float) -> None:
    """Turn each light by up to about 35°, make it and the headlight stronger or weaker and a little coloured."""
    model = studio.model
    for light in range(model.nlight):
        direction = model.light_dir[light] + amount * 0.6 * rng.uniform(-1, 1, 3)
        direction[2] = min(direction[2], -0.2)  # from above
        model.light_dir[light] = direction / np.linalg.norm(direction)
        model.light_pos[light] += amount * rng.uniform(-0.5, 0.5, 3)
        tint = 1 + amount * rng.uniform(-0.15, 0.15, 3)
        model.light_diffuse[light] *= tint * 2.0 ** (amount * rng.uniform(-1.3, 0.8))
    headlight = model.vis.headlight
    headlight.ambient[:] = headlight.ambient * 2.0 ** (amount * rng.uniform(-0.8, 0.4))
    headlight.diffuse[:] = headlight.diffuse * 2.0 ** (amount * rng.uniform(-0.8, 0.4))


def _paint_room(studio: Studio, rng: np.random.Generator, chance: float) -> tuple[int, ...]:
    model, painted = studio.model, []
    for canvas in CANVASES:
        chosen, picture = rng.random() < chance, _pattern(rng)
        if not chosen:
            continue
        material, texture = model.material(f"canvas/{canvas}").id, model.texture(f"canvas/{canvas}").id
        covered = np.isin(model.geom_bodyid[: studio.num_own], studio.bodies(ROOM_BODIES[canvas]))
        drawn = model.geom_group[: studio.num_own] <= 2
        model.geom_matid[np.flatnonzero(covered & drawn)] = material
        _texels(studio, texture)[:] = np.tile(picture, (model.tex_height[texture] // CANVAS_PX, 1, 1))
        painted.append(int(texture))
    chosen, shade = rng.random() < chance, _any_color(rng)
    for texture in np.flatnonzero(model.tex_type == load_mujoco().mjtTexture.mjTEXTURE_SKYBOX).tolist():
        texels = _texels(studio, texture)
        if chosen:
            texels[:] = np.rint(0.35 * texels + 0.65 * 255 * shade)
        painted.append(texture)  # also as it was: the renderer may still have the last episode's
    return tuple(painted)


def _texels(studio: Studio, texture: int) -> np.ndarray:
    """[height,width,3] the pixels of a texture, to be changed in place."""
    model = studio.model
    first, shape = model.tex_adr[texture], (model.tex_height[texture], model.tex_width[texture], 3)
    return model.tex_data[first : first + int(np.prod(shape))].reshape(shape)


def _pattern(rng: np.random.Generator) -> UInt8[np.ndarray, "px px 3"]:
    """A square of two colours: plain, stripes, checks or blotches, a little rough."""
    size = CANVAS_PX
    y, x = np.mgrid[:size, :size] / size
    angle, period = rng.choice([0.0, np.pi / 2]), int(rng.choice([2, 4, 8]))  # whole periods: no seam where it repeats
    wave = np.sin(2 * np.pi * period * (np.cos(angle) * x + np.sin(angle) * y))
    checks = np.sin(2 * np.pi * period * x) * np.sin(2 * np.pi * period * y)
    grid = rng.normal(size=(8, 8)).astype(np.float32)
    blotches = cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    mix = (np.zeros((size, size)), np.sign(wave), np.sign(checks), np.clip(blotches, -1, 1))[rng.integers(4)]
    first, second = _any_color(rng), _any_color(rng)
    second = first + rng.uniform(0.2, 1.0) * (second - first)
    share = (mix[..., None] + 1) / 2
    rough = rng.normal(0, 0.02, (size, size, 1))
    return np.rint(255 * np.clip(first + share * (second - first) + rough, 0, 1)).astype(np.uint8)


def _set_out_props(studio: Studio, rng: np.random.Generator, most: int, states: np.ndarray) -> None:
    """Put up to `most` things where the table is bare and nothing that is shown ever comes near."""
    if most == 0:
        return
    model = studio.model
    taken_xyz, taken_radius = _taken(studio, states)
    studio.put(states[0])
    for prop in rng.permutation(len(PROPS))[: rng.integers(0, most + 1)]:
        (geom,) = studio.geoms_of(f"prop/{prop}")
        size, height = _prop_size(PROPS[prop], rng)
        radius = float(np.linalg.norm(size))
        color = _any_color(rng)
        for _ in range(PROP_TRIES):
            (left, right), (near, far) = PROP_AREA
            x, y = rng.uniform([left, near], [right, far])
            table_z = _bare_table(studio, x, y, radius)
            if table_z is None:
                continue
            centre = np.array([x, y, table_z + height])
            gap = np.linalg.norm(taken_xyz - centre, axis=1) - taken_radius - radius
            if gap.min() > PROP_CLEARANCE_M:
                model.body_pos[model.geom_bodyid[geom]] = centre
                model.geom_size[geom], model.geom_rgba[geom] = size, np.append(color, 1.0)
                model.geom_rbound[geom], model.geom_group[geom] = radius, SHOWN_GROUP
                taken_xyz, taken_radius = np.vstack([taken_xyz, centre]), np.append(taken_radius, radius)
                break


def _prop_size(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """MuJoCo's size of a thing a few centimetres large, and how high its middle is when it stands."""
    a, b, c = rng.uniform(0.018, 0.05, 3)
    if kind == "sphere":
        return np.array([a, 0, 0]), a
    if kind in ("cylinder", "capsule"):
        return np.array([a, b, 0]), b + a * (kind == "capsule")
    return np.array([a, b, c]), c


def _taken(studio: Studio, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Balls around everything that is shown in any of the states, and around the goals: middles [K,3], radii [K]."""
    model = studio.model
    room = studio.bodies(*ROOM_BODIES.values())
    shown = np.flatnonzero((model.geom_group <= 2) & ~np.isin(model.geom_bodyid, room) & (model.geom_rgba[:, 3] > 0))
    goals = np.flatnonzero(model.site_rgba[:, 3] > 0)
    middles, radii = [], []
    for qpos in states[::4]:
        studio.put(qpos)
        middles += [studio.data.geom_xpos[shown].copy(), studio.data.site_xpos[goals].copy()]
        radii += [model.geom_rbound[shown], np.full(len(goals), 0.08)]
    return np.concatenate(middles), np.concatenate(radii)


def _bare_table(studio: Studio, x: float, y: float, radius: float) -> float | None:
    """How high the table is there, if rays from above meet it in the middle and all round at one height and nothing
    before it; else None."""
    table, geom = studio.bodies(ROOM_BODIES["table"]), np.array([-1], np.int32)
    drawn, heights = np.array([1, 1, 1, 0, 0, 0], np.uint8), []
    for dx, dy in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        above = np.array([x + dx * radius, y + dy * radius, 0.3])
        way = load_mujoco().mj_ray(studio.model, studio.data, above, np.array([0.0, 0.0, -1.0]), drawn, 1, -1, geom)
        if geom[0] < 0 or studio.model.geom_bodyid[geom[0]] not in table:
            return None
        heights.append(0.3 - way)
    return heights[0] if np.ptp(heights) < 1e-3 else None
