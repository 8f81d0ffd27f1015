"""The shape of a two-finger gripper in its tool frame: which points of a scene are its palm, its fingers, or in its way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from traceworld.geometry.cameras import invert_rigid, transform

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Gripper:
    """Two fingers that close along an axis. All in the tool frame, metres.

    Attributes:
        palm_low, palm_high: box around what does not move with the fingers.
        finger_size: of the box around one finger; its centre is `stroke_m` / 2 · opening from `finger_centre` along `closing_axis`.
        finger_centre: between the two finger boxes.
        closing_axis: unit vector along which the fingers part.
        approach_axis: unit vector from the palm to the fingertips.
        grasp_point: between the fingertips.
        stroke_m: distance of the finger centres when fully open.
    """

    palm_low: Vector
    palm_high: Vector
    finger_size: Vector
    finger_centre: Vector
    closing_axis: Vector
    approach_axis: Vector
    grasp_point: Vector
    stroke_m: float

    def palm(self, xyz_tool: Float[np.ndarray, "N 3"], margin_m: float = 0.0) -> Bool[np.ndarray, " N"]:
        """Points on the palm, or at most so far off its box along an axis."""
        low, high = np.array(self.palm_low) - margin_m, np.array(self.palm_high) + margin_m
        return np.all((xyz_tool >= low) & (xyz_tool <= high), axis=1)

    def finger(self, xyz_tool: Float[np.ndarray, "N 3"], opening: float, side: int) -> Bool[np.ndarray, " N"]:
        """Points on the finger of `side` (+1 or −1 along the closing axis)."""
        centre = np.array(self.finger_centre) + side * opening * self.stroke_m / 2 * np.array(self.closing_axis)
        return np.all(np.abs(xyz_tool - centre) <= np.array(self.finger_size) / 2, axis=1)

    def behind(self, xyz_tool: Float[np.ndarray, "N 3"]) -> Bool[np.ndarray, " N"]:
        """Points behind the palm, where the arm is: nothing that the gripper could be about to touch."""
        axis = np.array(self.approach_axis)
        back = min(float(np.array(corner) @ axis) for corner in (self.palm_low, self.palm_high))
        return xyz_tool @ axis < back


@dataclass(frozen=True, eq=False)
class ToolState:
    """Where the tool is: `world_from_tool` [4,4], and its opening, 0 closed to 1 open."""

    world_from_tool: Float64[np.ndarray, "4 4"]
    opening: float

    def to_tool(self, xyz_world: Float[np.ndarray, "N 3"]) -> Float64[np.ndarray, "N 3"]:
        """World points in the tool frame."""
        return transform(invert_rigid(self.world_from_tool), xyz_world.astype(np.float64))


METAWORLD_GRIPPER = Gripper(
    palm_low=(-0.06, -0.07, 0.047),
    palm_high=(0.06, 0.07, 0.125),
    finger_size=(0.05, 0.016, 0.096),
    finger_centre=(0.0, 0.0, 0.0),
    closing_axis=(0.0, 1.0, 0.0),
    approach_axis=(0.0, 0.0, -1.0),
    grasp_point=(0.0, 0.0, -0.03),
    stroke_m=0.1,
)
"""Meta-World's gripper. Its state gives the hand's place and not its turn, which it keeps (3° off upright)."""
