"""A grasp that traces foresee is carried out where the thing is: its place is measured now, its gripper's is predicted.

Predicted traces say that the fingers will close and what will then move, but where the gripper will be by then is off by
centimetres, and a finger is two wide. What is to be held stands still until then, so the depth picture has it to a few
millimetres. So the tool's path is bent to have the thing between the fingers when they close, they close there and not on the
way, and the tool leaves when they have closed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from traceworld.policies.follower.approach import fits
from traceworld.policies.follower.gripper import Gripper

REACH_M = 0.08
"""A part farther from where the fingers close is not what they close on."""
AT_HAND_M = 0.012
"""So near to being between the fingers a part is between them."""
_INSIDE_M = 0.01
_ARRIVED = 0.9
_ACROSS_BY = 0.6


@dataclass(frozen=True, eq=False)
class Grasp:
    """
    Attributes:
        poses: [K,4,4] of the tool, from now on. closing: [K] the grip at each.
        step: where the fingers close.
    """

    poses: Float64[np.ndarray, "K 4 4"]
    closing: Bool[np.ndarray, " K"]
    step: int


def grasp_of_part(
    poses: Float64[np.ndarray, "T 4 4"],
    opening: Float[np.ndarray, " T"],
    closing: Bool[np.ndarray, " T"],
    closed: bool,
    part_world: Float[np.ndarray, "M 3"],
    gripper: Gripper,
) -> Grasp | None:
    """The tool's path with a grasp of the part in it; None if the traces hold none.

    It is one if the fingers, open now, are to close, and the part fits between them and is not farther than `REACH_M` from where
    they are nearest to it while they close. There the grasp point is to be a centimetre inside the part's extent (of a long
    part the place that the traces chose along it stays). The tool goes across to it on a straight line and is over it before it is
    down, as the traces have it; after the fingers have closed it makes the motion that they foresee. Where the part is between
    the fingers already they close at once: a plan that is always renewed would put it off for ever.

    Args:
        poses: of the tool as traced. opening, closing: of the gripper at each, as traced and as commanded.
        closed: what is commanded now.
        part_world: points of the part where it is now.
    """
    onsets = np.flatnonzero(closing)
    if closed or not len(onsets):
        return None
    rotation = poses[0, :3, :3]
    part = part_world.astype(np.float64)
    if not fits(part, rotation @ np.array(gripper.closing_axis), gripper):
        return None
    onset, grip = int(onsets[0]), rotation @ np.array(gripper.grasp_point)
    shut, point = _shut(opening, onset), poses[:, :3, 3] + grip
    gap = _into(part, point) - point
    away = np.linalg.norm(gap, axis=1)
    if away[0] < AT_HAND_M:
        after = poses[shut:].copy()
        after[:, :3, 3] += poses[0, :3, 3] - poses[shut, :3, 3]
        return Grasp(after, np.concatenate([[True], closing[shut + 1 :]]), 0)
    step = onset + int(
        away[onset : shut + 1].argmin()
    )  # fingers of a spline are shut when the tool is off again already
    if away[step] > REACH_M:
        return None
    bent = poses.copy()
    bent[:, :3, 3] += gap[step]
    bent[:step, :3, 3] = _across(
        poses[: step + 1, :3, 3], bent[step, :3, 3], rotation @ np.array(gripper.approach_axis)
    )
    return Grasp(bent, closing & (np.arange(len(poses)) >= step), step)


def _into(part: Float64[np.ndarray, "M 3"], point: Float64[np.ndarray, "T 3"]) -> Float64[np.ndarray, "T 3"]:
    """The place nearest to each point that is a centimetre inside the part's extent, or in its middle where it is thin."""
    low, high = part.min(0), part.max(0)
    inside = np.minimum(_INSIDE_M, (high - low) / 2)
    return np.clip(point, low + inside, high - inside)


def _across(
    place: Float64[np.ndarray, "_n 3"], goal: Float64[np.ndarray, " 3"], approach: Float64[np.ndarray, " 3"]
) -> Float64[np.ndarray, "_m 3"]:
    """Places before the last one: straight across to the goal, and along the approach axis as traced, to the goal's depth."""
    count = len(place) - 1
    share = np.clip(np.arange(count) / max(_ACROSS_BY * count, 1.0), 0.0, 1.0)[:, None]
    depth = place @ approach
    deeper = depth[:-1] + share[:, 0] * (goal @ approach - depth[-1])
    line = place[0] + share * (goal - place[0])
    return line + (deeper - line @ approach)[:, None] * approach


def _shut(opening: Float[np.ndarray, " T"], onset: int) -> int:
    """The step at which fingers that begin to close at `onset` have about done so."""
    going = np.minimum.accumulate(opening[onset:])
    return onset + int(np.argmax(going <= going[0] - _ARRIVED * (going[0] - going[-1])))
