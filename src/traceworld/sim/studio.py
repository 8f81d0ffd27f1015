"""A stage with a wardrobe: other bodies to play the motion, props to stand about, canvases to paint.

Everything is appended to the task's model, behind what is there, so bodies, geoms, joints and sites of Meta-World keep
their numbers and its recorded states fit as they are. Nothing of it is ever stepped: a studio only shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from traceworld.errors import ConfigError
from traceworld.geometry.cameras import invert_rigid
from traceworld.sim.embodiments import PUPPETS, SAWYER, SHOWN_BODIES, check_embodiment
from traceworld.sim.puppets import Grip, Part, Shape
from traceworld.sim.rendering import load_mujoco
from traceworld.sim.worlds import Rollout, Stage, World

SHOWN_GROUP, HIDDEN_GROUP = 1, 3
"""Geom groups 0 to 2 are drawn, the others are not."""

PROPS = ("box", "cylinder", "sphere", "capsule", "ellipsoid", "box")
"""Kinds of the distractors that can be put on the table."""

CANVASES = ("floor", "table", "wall")
CANVAS_PX = 128

CHANGEABLE = (
    "body_pos",
    "geom_group",
    "geom_matid",
    "geom_rbound",
    "geom_rgba",
    "geom_size",
    "light_pos",
    "light_dir",
    "light_diffuse",
    "tex_data",
)
"""Fields of the model that an episode's look may change; loading the next episode puts them back."""


class Studio(Stage):
    """A stage that can show any embodiment and any look.

    Args:
        model: the world's model.
        xml_path: the file it was made from.

    Attributes:
        num_own: number of geoms of the task itself; those behind are the wardrobe's.
        robot: [ngeom] which geoms are of Meta-World's arm.
        embodiment: who is shown; takes effect when an episode is loaded.
    """

    def __init__(self, model: Any, xml_path: str):
        mujoco = load_mujoco()
        spec = mujoco.MjSpec.from_file(xml_path)
        for name, puppet in PUPPETS.items():
            for part in puppet.parts:
                _add_part(spec, f"{name}/{part.name}", part)
        for number, kind in enumerate(PROPS):
            _add_part(
                spec, f"prop/{number}", Part("prop", (Shape(kind, (0.03,) * 3, (1.0, 1.0, 1.0, 1.0)),), fixed=True)
            )
        for name in CANVASES:
            _add_canvas(spec, name)
        larger = spec.compile()
        if [larger.body(i).name for i in range(model.nbody)] != [model.body(i).name for i in range(model.nbody)]:
            raise ConfigError("has bodies in another order than its world", where=xml_path)
        for name in ("extent", "center", "meansize"):  # near and far planes, and with them depth, to the last bit
            setattr(larger.stat, name, getattr(model.stat, name))
        super().__init__(larger)
        self.num_own, self._num_qpos = int(model.ngeom), int(model.nq)
        self.embodiment = SAWYER
        self._body = {name: body for body, name in enumerate(self.body_names())}
        self.robot: Bool[np.ndarray, " geoms"] = np.zeros(self.model.ngeom, bool)
        self.robot[: self.num_own] = self._below("base")[model.geom_bodyid]
        self._pristine = {name: getattr(self.model, name).copy() for name in CHANGEABLE}
        self._headlight = _headlight_of(self.model)
        self._places = {name: list(self._places_of(name)) for name in PUPPETS}

    @classmethod
    def of(cls, world: World) -> Studio:
        """A studio for the episodes of a world."""
        return cls(*world.model_and_file())

    def _below(self, root: str) -> np.ndarray:
        """[bodies] which bodies hang on `root`, itself among them. (Parents come before their children.)"""
        below = np.zeros(self.model.nbody, bool)
        below[self._body[root]] = True
        for body in range(self._body[root] + 1, self.model.nbody):
            below[body] = below[self.model.body_parentid[body]]
        return below

    def _places_of(self, puppet: str) -> Iterator[tuple[str, int]]:
        for part in PUPPETS[puppet].parts:
            if not part.fixed:
                yield part.name, int(self.model.joint(f"{puppet}/{part.name}").qposadr[0])

    def geoms_of(self, prefix: str) -> np.ndarray:
        """Ids of the wardrobe's geoms whose body's name begins so."""
        mine = [body for name, body in self._body.items() if name.startswith(prefix)]
        return np.flatnonzero(np.isin(self.model.geom_bodyid, mine))

    def bodies(self, *names: str) -> list[int]:
        """MuJoCo's numbers of bodies by name; those that this task does not have are left out."""
        return [self._body[name] for name in names if name in self._body]

    def embody(self, name: str) -> None:
        """Choose who plays the episodes that are loaded from now on.

        Raises:
            ConfigError: no such embodiment.
        """
        self.embodiment = check_embodiment(name)

    def load(self, rollout: Rollout) -> None:
        """Furnish the stage for an episode: the chosen embodiment, Meta-World's own colours and lights, no props. (A renderer
        to which painted textures were given keeps them until it is given others.)"""
        for name, value in self._pristine.items():
            getattr(self.model, name)[:] = value
        _set_headlight(self.model, self._headlight)
        if self.embodiment != SAWYER:
            kept = [self._body[name] for name in SHOWN_BODIES[self.embodiment]]
            self.model.geom_group[self.robot & self._drawn() & ~np.isin(self.model.geom_bodyid, kept)] = HIDDEN_GROUP
        if self.embodiment in PUPPETS:
            self.model.geom_group[self.geoms_of(f"{self.embodiment}/")] = SHOWN_GROUP
        super().load(rollout)

    def _drawn(self) -> np.ndarray:
        return self.model.geom_group <= 2

    def put(self, qpos: Float64[np.ndarray, " nq"]) -> None:
        """Put one of the world's states on the stage; whoever is shown instead of its arm takes the same pose."""
        self.data.qpos[: self._num_qpos] = qpos
        if self.embodiment in PUPPETS:
            self._mujoco.mj_kinematics(self.model, self.data)
            posed = PUPPETS[self.embodiment].pose(self.grip())
            for name, address in self._places[self.embodiment]:
                self.data.qpos[address : address + 3] = posed[name][:3, 3]
                self._mujoco.mju_mat2Quat(self.data.qpos[address + 3 : address + 7], posed[name][:3, :3].ravel())
        self._settle()

    def grip(self) -> Grip:
        """The gripper in the state on the stage."""
        hand, left, right = (self._pose(name) for name in ("hand", "leftpad", "rightpad"))
        hand_from_world = invert_rigid(hand)
        return Grip(hand, float((hand_from_world @ left)[1, 3]), float((hand_from_world @ right)[1, 3]))

    def _pose(self, body: str) -> np.ndarray:
        pose = np.eye(4)
        pose[:3, :3] = self.data.xmat[self._body[body]].reshape(3, 3)
        pose[:3, 3] = self.data.xpos[self._body[body]]
        return pose


def _add_part(spec: Any, name: str, part: Part) -> None:
    """A body without mass to speak of and without contacts, hidden, at the end of the world's."""
    mujoco = load_mujoco()
    body = spec.worldbody.add_body(name=name)
    if not part.fixed:
        body.add_freejoint(name=name)
        body.explicitinertial, body.mass, body.inertia = True, 1.0, [1.0, 1.0, 1.0]
    for shape in part.shapes:
        size = np.zeros(3)
        size[: len(shape.size)] = shape.size
        geom = body.add_geom(
            type=getattr(mujoco.mjtGeom, f"mjGEOM_{shape.kind.upper()}"),
            size=size,
            rgba=shape.rgba,
            mass=1.0,  # the compiler asks for some
            group=HIDDEN_GROUP,
            contype=0,
            conaffinity=0,
        )
        if shape.end is None:
            geom.pos = shape.start
        else:
            geom.fromto = [*shape.start, *shape.end]


def _add_canvas(spec: Any, name: str) -> None:
    """A texture that nothing wears yet, and its material. Floors are planes, the rest takes a cube of six faces."""
    mujoco = load_mujoco()
    flat = name == "floor"
    spec.add_texture(
        name=f"canvas/{name}",
        type=mujoco.mjtTexture.mjTEXTURE_2D if flat else mujoco.mjtTexture.mjTEXTURE_CUBE,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT,
        rgb1=[1, 1, 1],
        rgb2=[1, 1, 1],
        width=CANVAS_PX,
        height=CANVAS_PX if flat else 6 * CANVAS_PX,
    )
    material = spec.add_material(name=f"canvas/{name}", texrepeat=[4, 4] if flat else [1, 1], specular=0.2)
    textures = list(material.textures)
    textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = f"canvas/{name}"
    material.textures = textures


def _headlight_of(model: Any) -> np.ndarray:
    light = model.vis.headlight
    return np.array([light.ambient, light.diffuse])


def _set_headlight(model: Any, value: np.ndarray) -> None:
    light = model.vis.headlight
    light.ambient[:], light.diffuse[:] = value
