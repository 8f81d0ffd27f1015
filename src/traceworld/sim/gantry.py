"""A second robot for Meta-World's tasks: a gantry (portal robot) that carries the same gripper.

Where the Sawyer's seven hinges were, a bridge slides along y, a carriage along x, a telescope in two stages along z, and a wrist
turns about three axes: seven joints as well, so that Meta-World's resets, which count joints, mean what they meant. The
gripper, its pads and how it is commanded are unchanged; mass, inertia, damping, reach and looks are not. Made of plain shapes from the
task's own file, so no asset is needed; its links touch nothing, as most of the Sawyer's do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from traceworld.errors import ConfigError
from traceworld.extras import require
from traceworld.sim.embodiments import SAWYER

GANTRY = "gantry"
ROBOTS = (SAWYER, GANTRY)

START = (0.0, 0.6, 0.3)
"""Where the gripper is with all joints at zero, world metres: in the middle of the workspace."""

BEAM_Z = 0.95
"""Height of the bridge, metres: above everything that stands on the table."""

STEEL, BLUE, DARK = "0.75 0.77 0.8 1", "0.15 0.35 0.7 1", "0.2 0.2 0.22 1"

_JOINTS = (
    # body, kind, axis, range, damping, the shape that moves
    ("bridge", "slide", "0 1 0", "-0.5 0.5", "60", {"size": "0.75 0.035 0.035", "rgba": STEEL, "mass": "4"}),
    ("carriage", "slide", "1 0 0", "-0.6 0.6", "40", {"size": "0.06 0.06 0.05", "rgba": BLUE, "mass": "2"}),
    ("stage1", "slide", "0 0 1", "-0.4 0.4", "30", {"size": "0.03 0.03 0.2", "rgba": STEEL, "mass": "1"}),
    ("stage2", "slide", "0 0 1", "-0.4 0.4", "30", {"size": "0.02 0.02 0.2", "rgba": DARK, "mass": "0.7"}),
    ("wrist_yaw", "hinge", "0 0 1", "-3 3", "3", {"size": "0.03 0.03 0.02", "rgba": BLUE, "mass": "0.3"}),
    ("wrist_pitch", "hinge", "0 1 0", "-3 3", "3", {"size": "0.025 0.025 0.02", "rgba": STEEL, "mass": "0.3"}),
    ("wrist_roll", "hinge", "1 0 0", "-3 3", "3", {"size": "0.02 0.02 0.02", "rgba": DARK, "mass": "0.3"}),
)
_DROP = {
    "bridge": BEAM_Z,
    "stage1": -0.1,
    "stage2": -0.2,
    "wrist_yaw": -0.2,
    "wrist_pitch": -0.025,
    "wrist_roll": -0.02,
}
"""Height of each body above the one that carries it, metres (the bridge's above the ground frame)."""


def on_robot(environment: type, robot: str) -> type:
    """A Meta-World environment class with the wanted robot in it.

    Raises:
        ConfigError: no such robot.
    """
    if robot == SAWYER:
        return environment
    if robot != GANTRY:
        raise ConfigError(f"there is no robot '{robot}'", where="robot", mend=f"one of {', '.join(ROBOTS)}")
    return type(f"{environment.__name__}OnGantry", (environment,), {"_initialize_simulation": _with_gantry})


def _with_gantry(self: Any) -> tuple[Any, Any]:
    mujoco = require("mujoco")
    model = mujoco.MjModel.from_xml_string(gantry_xml(Path(self.fullpath)))
    return model, mujoco.MjData(model)


def gantry_xml(path: Path) -> str:
    """The task's MJCF with the gantry in the Sawyer's place.

    Raises:
        ConfigError: the file has no Sawyer.
    """
    spec = require("mujoco").MjSpec.from_file(str(path))
    spec.compile()
    root = ElementTree.fromstring(spec.to_xml())
    world = root.find("worldbody")
    base = None if world is None else world.find("body[@name='base']")
    hand = None if base is None else base.find(".//body[@name='hand']")
    if world is None or base is None or hand is None:
        raise ConfigError("has no arm to be replaced", where=str(path))
    world.insert(list(world).index(base), _gantry(hand))
    world.remove(base)
    _make_absolute(root, path.parent)
    return ElementTree.tostring(root, encoding="unicode")


def _gantry(hand: ElementTree.Element) -> ElementTree.Element:
    """The tree of bodies, the hand at its end."""
    frame = ElementTree.Element("body", name="base")
    for side in ("-0.8", "0.8"):
        for y in (-0.1, 1.2):
            _box(frame, pos=f"{side} {y} {(BEAM_Z - 0.913) / 2}", size=f"0.03 0.03 {(BEAM_Z + 0.913) / 2}", rgba=STEEL)
        _box(frame, pos=f"{side} 0.55 {BEAM_Z}", size="0.03 0.65 0.03", rgba=STEEL)
    body, height = frame, 0.0
    for name, kind, axis, reach, damping, shape in _JOINTS:
        drop = _DROP.get(name, 0.0)
        height += drop
        x, y = (START[0], START[1]) if name == "bridge" else (0.0, 0.0)
        body = ElementTree.SubElement(body, "body", name=name, pos=f"{x} {y} {drop}", gravcomp="1")
        ElementTree.SubElement(
            body, "joint", name=f"{GANTRY}/{name}", type=kind, axis=axis, range=reach, damping=damping, armature="0.05"
        )
        _box(body, **shape)
    hand.set("pos", f"0 0 {START[2] - height}")
    hand.set("quat", "1 0 1 0")  # fingers down: what Meta-World holds the gripper at
    body.append(hand)
    return frame


def _box(body: ElementTree.Element, **attributes: str) -> None:
    ElementTree.SubElement(body, "geom", {"type": "box", "contype": "0", "conaffinity": "0", "group": "1"} | attributes)


def _make_absolute(root: ElementTree.Element, folder: Path) -> None:
    """File names relative to the task's file, resolved: the text has no place of its own."""
    compiler = root.find("compiler")
    directories = (
        {} if compiler is None else {kind: compiler.attrib.pop(f"{kind}dir", "") for kind in ("mesh", "texture")}
    )
    for element in root.iter():
        if "file" in element.attrib:
            directory = directories.get(element.tag, "")
            element.set("file", str((folder / directory / element.attrib["file"]).resolve()))
