"""Bodies that take the gripper's part: a person's arm and hand, and a robot arm unlike Meta-World's.

Built of plain shapes, so no asset file is needed. Each replays the recorded gripper: its pose in every state is a closed
form of where the gripper and its two pads are, so it is the same however often and in whatever order states are shown.
The gripper's axes: x the way the fingers point, y the way they open, z across; the origin lies between the pads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import Float64

from traceworld.geometry.cameras import invert_rigid

Point = tuple[float, float, float]
Rgba = tuple[float, float, float, float]

Pose = Float64[np.ndarray, "4 4"]
Vector = Float64[np.ndarray, "3"]


@dataclass(frozen=True)
class Shape:
    """One geom of a part, in the part's frame, metres.

    Attributes:
        kind: MuJoCo's name: `capsule` and `cylinder` run from `start` to `end` with the radius `size[0]`; `box`,
            `ellipsoid` and `sphere` are around `start` with half extents `size`.
    """

    kind: str
    size: tuple[float, ...]
    rgba: Rgba
    start: Point = (0.0, 0.0, 0.0)
    end: Point | None = None


@dataclass(frozen=True)
class Part:
    """A rigid part; `fixed` parts stand in the world, the others are posed in every state."""

    name: str
    shapes: tuple[Shape, ...]
    fixed: bool = False


@dataclass(frozen=True, eq=False)
class Grip:
    """What is replayed of a state.

    Attributes:
        world_from_hand: the gripper's pose.
        left_m, right_m: where the pads are along the gripper's y axis (left positive, right negative).
    """

    world_from_hand: Pose
    left_m: float
    right_m: float


class Puppet(Protocol):
    """A body that follows the gripper."""

    @property
    def parts(self) -> tuple[Part, ...]: ...

    def pose(self, grip: Grip) -> dict[str, Pose]:
        """world_from_part of every part that is not fixed."""
        ...


def elbow_between(start: Vector, end: Vector, upper_m: float, fore_m: float, toward: Vector) -> Vector:
    """Where the elbow of a two-link arm is that reaches from `start` to `end`, bent as far `toward` as it can.

    An end out of reach gives a straight arm that points at it; one too near gives a folded arm.
    """
    reach = end - start
    distance = float(np.linalg.norm(reach))
    along = reach / distance
    distance = float(np.clip(distance, abs(upper_m - fore_m), upper_m + fore_m))
    foot = (upper_m**2 - fore_m**2 + distance**2) / (2 * distance)
    out = toward - (toward @ along) * along
    height = np.sqrt(max(upper_m**2 - foot**2, 0.0))
    return start + foot * along + height * out / np.linalg.norm(out)


def pose_along(start: Vector, end: Vector, side: Vector) -> Pose:
    """A frame at `start` whose x axis points at `end` and whose z axis is as near to `side` as can be."""
    x = (end - start) / np.linalg.norm(end - start)
    y = np.cross(side, x)
    y /= np.linalg.norm(y)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([x, y, np.cross(x, y)], 1)
    pose[:3, 3] = start
    return pose


def _turned(axis: int, angle: float) -> Pose:
    c, s = np.cos(angle), np.sin(angle)
    pose = np.eye(4)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    pose[first, first], pose[first, second], pose[second, first], pose[second, second] = c, -s, s, c
    return pose


def _at(x: float, y: float, z: float) -> Pose:
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    return pose


SKIN: Rgba = (0.87, 0.67, 0.55, 1.0)
SLEEVE: Rgba = (0.22, 0.33, 0.55, 1.0)
TROUSERS: Rgba = (0.2, 0.2, 0.24, 1.0)


@dataclass(frozen=True)
class Digit:
    """A finger or thumb: bent once, hinged at its knuckle about the gripper's z axis.

    Attributes:
        knuckle: in the gripper's frame.
        bones: lengths of the two parts, metres; `bend_deg` between them, inward.
        side: +1 the thumb (follows the left pad), −1 a finger (follows the right pad).
    """

    name: str
    knuckle: Point
    bones: tuple[float, float]
    bend_deg: float
    side: int
    radius: float = 0.0085

    def joints(self) -> tuple[Point, Point]:
        """Middle joint and tip, in the digit's frame (x along its first bone, y away from the opposite pad)."""
        first, second = self.bones
        bend = np.radians(self.bend_deg)
        middle = (first, 0.0, 0.0)
        return middle, (first + second * float(np.cos(bend)), -second * float(np.sin(bend)), 0.0)

    def hand_from_digit(self, pad_m: float) -> Pose:
        """The pose that brings the inside of the tip to the pad's place on the opening axis."""
        _, (x, y, _) = self.joints()
        wanted = self.side * pad_m + self.radius - self.side * self.knuckle[1]  # how far outward of the knuckle
        angle = np.arcsin(np.clip(wanted / np.hypot(x, y), -1, 1)) - np.arctan2(y, x)
        mirror = np.diag([1.0, self.side, self.side, 1.0])  # a half turn about x for the fingers' side
        return _at(*self.knuckle) @ mirror @ _turned(2, angle)

    def part(self) -> Part:
        middle, tip = self.joints()
        return Part(
            self.name,
            (
                Shape("capsule", (self.radius,), SKIN, (0.0, 0.0, 0.0), middle),
                Shape("capsule", (self.radius * 0.92,), SKIN, middle, tip),
            ),
        )


@dataclass(frozen=True)
class Person:
    """A plain figure behind the table whose right hand takes the gripper's part: four fingers for the right pad, the
    thumb for the left one. It leans forward from the hips just as far as its arm is too short."""

    hips: Point = (0.0, -0.1, -0.2)
    back_m: float = 0.66
    shoulder_x: float = 0.19
    upright_rad: float = 0.2
    upper_m: float = 0.4
    fore_m: float = 0.4
    wrist_x: float = -0.15
    digits: tuple[Digit, ...] = field(
        default_factory=lambda: (
            Digit("thumb", (-0.095, 0.022, 0.004), (0.07, 0.062), 24.0, 1, 0.0105),
            Digit("index", (-0.062, -0.016, 0.033), (0.056, 0.05), 30.0, -1),
            Digit("middle", (-0.058, -0.018, 0.011), (0.06, 0.054), 30.0, -1),
            Digit("ring", (-0.06, -0.017, -0.011), (0.057, 0.05), 30.0, -1),
            Digit("little", (-0.066, -0.015, -0.031), (0.047, 0.042), 28.0, -1, 0.0075),
        )
    )

    @property
    def parts(self) -> tuple[Part, ...]:
        x, z = self.shoulder_x, self.back_m
        legs = Part("legs", tuple(self._leg(side) for side in (-1.0, 1.0)), fixed=True)
        torso = Part(
            "torso",
            (
                Shape("capsule", (0.115,), SLEEVE, (0.0, 0.0, 0.0), (0.0, -0.02, z - 0.12)),
                Shape("capsule", (0.07,), SLEEVE, (-x, -0.01, z - 0.01), (x, -0.01, z - 0.01)),
                Shape("capsule", (0.045,), SKIN, (0.0, 0.0, z), (0.0, 0.02, z + 0.13)),
                Shape("ellipsoid", (0.08, 0.095, 0.115), SKIN, (0.0, 0.04, z + 0.23)),
                Shape("capsule", (0.05,), SLEEVE, (-x - 0.02, -0.01, z - 0.02), (-x - 0.05, -0.12, z - 0.5)),
            ),
        )
        upper = Part("upper_arm", (Shape("capsule", (0.055,), SLEEVE, (0.0, 0.0, 0.0), (self.upper_m, 0.0, 0.0)),))
        fore = Part(
            "forearm",
            (
                Shape("capsule", (0.046,), SLEEVE, (0.0, 0.0, 0.0), (0.5 * self.fore_m, 0.0, 0.0)),
                Shape("capsule", (0.034,), SKIN, (0.45 * self.fore_m, 0.0, 0.0), (self.fore_m, 0.0, 0.0)),
            ),
        )
        palm = Part(
            "palm",
            (
                Shape("ellipsoid", (0.055, 0.02, 0.044), SKIN, (-0.1, 0.0, 0.0)),
                Shape("capsule", (0.028,), SKIN, (self.wrist_x, 0.0, 0.0), (-0.11, 0.0, 0.0)),
            ),
        )
        return legs, torso, upper, fore, palm, *(digit.part() for digit in self.digits)

    def _leg(self, side: float) -> Shape:
        x, y, z = self.hips
        return Shape("capsule", (0.085,), TROUSERS, (x + 0.07 * side, y, z - 0.02), (x + 0.1 * side, y - 0.02, -0.83))

    def lean(self, wrist: Vector) -> float:
        """The least angle, from upright, at which the arm reaches the wrist; the best there is, if none does."""
        x, y, z = wrist - np.array(self.hips)
        reach = 0.96 * (self.upper_m + self.fore_m)  # not quite straight
        ahead = np.hypot(y, z)
        cosine = ((x - self.shoulder_x) ** 2 + ahead**2 + self.back_m**2 - reach**2) / (2 * self.back_m * ahead)
        return float(max(self.upright_rad, np.arctan2(y, z) - np.arccos(np.clip(cosine, -1, 1))))

    def pose(self, grip: Grip) -> dict[str, Pose]:
        hand = grip.world_from_hand
        wrist = hand[:3, 3] + self.wrist_x * hand[:3, 0]
        torso = _at(*self.hips) @ _turned(0, -self.lean(wrist))
        shoulder = (torso @ np.array([self.shoulder_x, 0.0, self.back_m, 1.0]))[:3]
        elbow = elbow_between(shoulder, wrist, self.upper_m, self.fore_m, np.array([1.0, -0.3, -0.2]))
        up = np.array([0.0, 0.0, 1.0])
        poses = {
            "torso": torso,
            "upper_arm": pose_along(shoulder, elbow, up),
            "forearm": pose_along(elbow, wrist, up),
            "palm": hand,
        }
        for digit in self.digits:
            poses[digit.name] = hand @ digit.hand_from_digit(grip.left_m if digit.side > 0 else grip.right_m)
        return poses


SHELL: Rgba = (0.86, 0.88, 0.9, 1.0)
JOINT: Rgba = (0.16, 0.42, 0.75, 1.0)
DARK: Rgba = (0.15, 0.15, 0.17, 1.0)


@dataclass(frozen=True)
class OtherArm:
    """A six-joint arm on a column: yaw, shoulder and elbow, and a wrist whose three axes meet in a point; a parallel
    gripper with thick jaws. Inverse kinematics in closed form, elbow up, so the gripper's pose is met exactly."""

    base: Point = (0.15, 0.08, 0.2)
    upper_m: float = 0.59
    fore_m: float = 0.59
    wrist_x: float = -0.2
    jaw: tuple[float, float, float] = (0.05, 0.008, 0.017)

    @property
    def parts(self) -> tuple[Part, ...]:
        x, y, z = self.base
        thick = self.jaw[1]
        column = Part(
            "column",
            (
                Shape("cylinder", (0.085,), DARK, (x, y, -0.913), (x, y, z - 0.13)),
                Shape("cylinder", (0.16,), DARK, (x, y, -0.913), (x, y, -0.87)),
            ),
            fixed=True,
        )
        turret = Part(
            "turret",
            (
                Shape("cylinder", (0.08,), JOINT, (0.0, 0.0, -0.13), (0.0, 0.0, -0.04)),
                Shape("cylinder", (0.075,), SHELL, (0.0, -0.09, 0.0), (0.0, 0.09, 0.0)),
            ),
        )
        upper = Part(
            "upper_link",
            (
                Shape("capsule", (0.052,), SHELL, (0.0, 0.0, 0.0), (self.upper_m, 0.0, 0.0)),
                Shape("cylinder", (0.068,), JOINT, (self.upper_m, 0.0, -0.075), (self.upper_m, 0.0, 0.075)),
            ),
        )
        fore = Part(
            "forearm_link", (Shape("capsule", (0.042,), SHELL, (0.0, 0.0, 0.0), (self.fore_m - 0.07, 0.0, 0.0)),)
        )
        roll = Part(
            "wrist_roll",
            (
                Shape("cylinder", (0.046,), JOINT, (-0.1, 0.0, 0.0), (-0.05, 0.0, 0.0)),
                Shape("cylinder", (0.043,), SHELL, (0.0, 0.0, -0.055), (0.0, 0.0, 0.055)),
                Shape("capsule", (0.03,), SHELL, (-0.06, 0.0, 0.0), (0.0, 0.0, 0.0)),
            ),
        )
        tool = Part(
            "tool",
            (
                Shape("cylinder", (0.034,), JOINT, (self.wrist_x, 0.0, 0.0), (-0.11, 0.0, 0.0)),
                Shape("box", (0.028, 0.075, 0.026), DARK, (-0.085, 0.0, 0.0)),
            ),
        )
        # a jaw's inside lies where the pad's inside is, 3 mm from the pad's middle
        jaws = [
            Part(name, (Shape("box", self.jaw, SHELL, (-0.005, side * (thick - 0.003), 0.0)),))
            for name, side in (("left_jaw", 1), ("right_jaw", -1))
        ]
        return column, turret, upper, fore, roll, tool, *jaws

    def pose(self, grip: Grip) -> dict[str, Pose]:
        hand, shoulder = grip.world_from_hand, np.array(self.base)
        wrist = hand[:3, 3] + self.wrist_x * hand[:3, 0]
        reach = wrist - shoulder
        yaw = float(np.arctan2(reach[1], reach[0]))
        across = np.array([np.sin(yaw), -np.cos(yaw), 0.0])  # the axis of shoulder and elbow
        elbow = elbow_between(shoulder, wrist, self.upper_m, self.fore_m, np.array([0.0, 0.0, 1.0]))
        forearm = pose_along(elbow, wrist, across)
        centre = forearm @ _at(self.fore_m, 0.0, 0.0)
        tool_x = (invert_rigid(centre) @ hand)[:3, 0]
        roll = float(np.arctan2(tool_x[2], tool_x[1]))  # the bend that follows is then between 0 and 180 degrees
        return {
            "turret": _at(*self.base) @ _turned(2, yaw),
            "upper_link": pose_along(shoulder, elbow, across),
            "forearm_link": forearm,
            "wrist_roll": centre @ _turned(0, roll),
            "tool": hand,
            "left_jaw": hand @ _at(0.0, grip.left_m, 0.0),
            "right_jaw": hand @ _at(0.0, grip.right_m, 0.0),
        }
