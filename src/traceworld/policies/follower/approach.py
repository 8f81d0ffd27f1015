"""What happens before contact when no trace shows it: from the gripper to a part that is to move, and along with it.

A trace of an object says where it goes and not how a gripper gets hold of it. Where the gripper's own traces say nothing (it is
not seen, or the predictor moves the object only), the way there is made up from geometry alone:

1. The part's extent along the closing axis, from its points with depth, decides: narrower than the open fingers, it is
   grasped at its middle; wider, it is pushed from the side opposite to where it goes, with the fingers closed.
2. The tool withdraws against its approach axis to a clear height above the part, travels across at that height (or its own,
   if that is higher), and comes down along the axis (a grasp) or beside the part (a push). A plan that is made on the way goes
   on from there.
3. The fingers close, and the tool then makes the part's rigid motion.
4. After a grasp whose trace ends, the fingers open.

The tool keeps its turn until the part is held, then turns with it. Obstacles other than the part are not seen; clearance is
all there is against them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from traceworld.errors import InvalidInputError
from traceworld.policies.follower.gripper import Gripper, ToolState

ABOVE_M = 0.012
"""So near to the axis through its goal the tool is above it."""


@dataclass(frozen=True, eq=False)
class Way:
    """Poses [W,4,4] of the tool with the grip at each, to be gone through at the robot's own speed.

    Attributes:
        grip_step: pose at which the fingers change to closing; None: they do not.
    """

    poses: Float64[np.ndarray, "W 4 4"]
    closing: Bool[np.ndarray, " W"]
    grip_step: int | None


def way_to_part(
    tool: ToolState,
    gripper: Gripper,
    part_world: Float[np.ndarray, "M 3"],
    part_motion: Float64[np.ndarray, "T 4 4"],
    *,
    clearance_m: float = 0.06,
    margin_m: float = 0.01,
    let_go: bool = False,
) -> Way:
    """The whole way of the tool to move a part along its trace (see the module for the rule).

    Args:
        part_world: points of the part where it is now.
        part_motion: its rigid motion from now on, the identity first.
        clearance_m: height above the part at which the tool travels, at least.
        margin_m: how far from the part a push begins; the fingers' own thickness is in the gripper's shape.
        let_go: open the fingers at the end.

    Raises:
        InvalidInputError: no points.
    """
    if not len(part_world):
        raise InvalidInputError("the part has no points", where="way_to_part")
    part = part_world.astype(np.float64)
    rotation = tool.world_from_tool[:3, :3]
    approach = rotation @ np.array(gripper.approach_axis)
    closing_axis = rotation @ np.array(gripper.closing_axis)
    held = fits(part, closing_axis, gripper)
    middle = (part.min(0) + part.max(0)) / 2
    target = middle if held else _pushing_point(part, middle, part_motion, approach, gripper, margin_m)
    at_part = tool.world_from_tool.copy()
    at_part[:3, 3] = target - rotation @ np.array(gripper.grasp_point)
    top = float((part @ approach).min()) - float(rotation @ np.array(gripper.grasp_point) @ approach)
    down = _over(tool.world_from_tool, at_part, approach, top - clearance_m)
    along = part_motion[1:] @ at_part
    poses = np.concatenate([tool.world_from_tool[None], down, along])
    arrive = len(down)
    closing = np.arange(len(poses)) >= arrive if held else np.ones(len(poses), bool)
    if let_go and held:
        closing[-1] = False
    return Way(poses, closing, arrive if held else None)


def fits(part_world: Float[np.ndarray, "M 3"], closing_axis_world: Float[np.ndarray, " 3"], gripper: Gripper) -> bool:
    """Whether the part goes between the open fingers."""
    finger = abs(float(np.array(gripper.finger_size) @ np.array(gripper.closing_axis)))
    extent = float(np.ptp(part_world @ closing_axis_world))
    return extent < gripper.stroke_m - finger


def _pushing_point(
    part: np.ndarray, middle: np.ndarray, motion: np.ndarray, approach: np.ndarray, gripper: Gripper, margin_m: float
) -> np.ndarray:
    """Behind the part, seen in the direction in which it goes (across the approach axis, unless it goes along that)."""
    shift = motion[-1, :3, :3] @ middle + motion[-1, :3, 3] - middle
    length = float(np.linalg.norm(shift))
    if length < 1e-6:
        return middle
    direction = shift / length
    behind = float(((part - middle) @ direction).min())
    if direction @ approach > 0.7:  # pressed in the direction in which the tool comes: from on top
        return middle + (behind - margin_m) * direction
    thickness = max(gripper.finger_size) / 4
    return middle + (behind - thickness - margin_m) * direction


def _over(start: np.ndarray, goal: np.ndarray, approach: np.ndarray, level: float) -> np.ndarray:
    """[3,4,4] up to a level, across and down. From where it is on this way already it goes on, it does not begin again.

    Levels are places along the approach axis: what is smaller is higher.
    """
    from_, to = float(start[:3, 3] @ approach), float(goal[:3, 3] @ approach)
    sideways = goal[:3, 3] - start[:3, 3] - (to - from_) * approach
    if float(np.linalg.norm(sideways)) < ABOVE_M:
        return np.stack([start, start, goal])
    up, across = start.copy(), goal.copy()
    height = min(from_, level)
    up[:3, 3] += (height - from_) * approach
    across[:3, 3] += (height - to) * approach
    return np.stack([up, across, goal])
