"""When to close and open the gripper, read off traces: from the fingers where they are traced, else from what moves along."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from traceworld.errors import InvalidInputError
from traceworld.geometry.cameras import invert_rigid, transform

OPENING_CHANGE = 0.12
"""Share of the stroke by which the fingers must close (or open) for it to be meant."""
_ONSET = 0.03
_ARRIVED = 0.9
_AHEAD = 2
"""Steps by which fingers are told early rather than late."""


@dataclass(frozen=True)
class ContactEvents:
    """What happens between the gripper and one part, as steps of the trace.

    Attributes:
        contact: last step before the part begins to move with the gripper near it; None if it never does.
        release: last step at which they move together; None if they stay together to the end.
        pushed: the part runs ahead of the gripper: it need not be held to be moved.
    """

    contact: int | None = None
    release: int | None = None
    pushed: bool = False


def opening_trace(
    plus_world: Float[np.ndarray, "T A 3"],
    minus_world: Float[np.ndarray, "T B 3"],
    palm_motion: Float64[np.ndarray, "T 4 4"],
    closing_axis_world: Float[np.ndarray, " 3"],
    opening: float,
    stroke_m: float,
) -> Float64[np.ndarray, " T"] | None:
    """The gripper's opening (0 to 1) at every step, from where the fingers go in the palm's frame; None without finger points.

    One finger alone is taken to mirror the other.

    Args:
        plus_world, minus_world: traces of points on the fingers at the plus and the minus end of the axis.
        palm_motion: motion of the palm from step 0 (`RigidMotion.world_from_start`).
        closing_axis_world: the axis along which the fingers part, at step 0.
        opening: at step 0, as proprioception has it.
    """
    spread = []
    back = invert_rigid(palm_motion)
    for points, side in ((plus_world, 1.0), (minus_world, -1.0)):
        if points.shape[1]:
            local = transform(back, points.astype(np.float64))  # with the palm's motion taken out
            spread.append(side * np.median((local - local[:1]) @ closing_axis_world, axis=1))
    if not spread:
        return None
    return np.clip(opening + 2 * np.mean(spread, axis=0) / stroke_m, 0.0, 1.0)


def closing_from_opening(
    opening: Float[np.ndarray, " T"],
    closed: bool,
    change: float = OPENING_CHANGE,
    stroke_steps: float | None = None,
) -> Bool[np.ndarray, " T"]:
    """Whether the gripper is to be closing at each step.

    The command changes when the opening leaves its extreme since the last change by more than `change`; fingers that
    stand still, on an object or at a stop, change nothing. It changes at the step where that began, but no earlier than the
    robot's own fingers have to set out to be there with those of the trace: predicted fingers start early and slowly (a
    spline has no corners), and a robot's that started with them would be shut before the tool has arrived.

    Args:
        closed: what is commanded now.
        stroke_steps: steps of the trace that the robot's fingers take for their whole stroke; None: unknown.
    """
    command = np.empty(len(opening), bool)
    extreme = start = 0
    for step in range(len(opening)):
        sign = 1.0 if closed else -1.0  # a closed gripper watches for rising, an open one for falling
        left = sign * (opening[extreme : step + 1] - opening[extreme])
        if left[-1] <= 0:
            extreme = step
        elif left[-1] > change:
            onset = extreme + int(np.flatnonzero(left <= _ONSET)[-1])
            if stroke_steps is not None:
                arrival, way = _arrival(sign * (opening[extreme:] - opening[extreme]), step - extreme, change)
                onset = max(onset, extreme + arrival - int(np.ceil(_ARRIVED * way * stroke_steps)) - _AHEAD)
            onset = max(onset, start - 1)
            command[start : onset + 1] = closed
            start, closed, extreme = onset + 1, not closed, step
    command[start:] = closed
    return command


def _arrival(travel: Float[np.ndarray, " n"], crossed: int, change: float) -> tuple[int, float]:
    """Where fingers that set out at 0 and were beyond `change` at `crossed` are about as far as they get, and how far that is.

    They are on their way until they come back by more than `change`, or to the end.
    """
    back = np.flatnonzero(np.maximum.accumulate(travel)[crossed:] - travel[crossed:] > change)
    going = travel[: crossed + int(back[0])] if len(back) else travel
    way = float(going.max())
    return int(np.argmax(going >= _ARRIVED * way)), way


def contact_events(
    tool_motion: Float64[np.ndarray, "T 4 4"],
    touching_world: Float[np.ndarray, " 3"],
    part_world: Float[np.ndarray, "T M 3"],
    *,
    contact_m: float = 0.05,
    onset_m: float = 0.008,
    slip_m: float = 0.02,
) -> ContactEvents:
    """When a part begins to move with the gripper, and when they part.

    Args:
        tool_motion: rigid motion of the gripper from step 0.
        touching_world: the point between the fingertips at step 0.
        part_world: traces of points of one part.
        contact_m: how near to that point one of them must be when the part starts.
        onset_m: how far the part moves before it counts as moving.
        slip_m: how much the part may move in the gripper's frame and still be held or pushed.

    Raises:
        InvalidInputError: no points.
    """
    if part_world.shape[1] == 0:
        raise InvalidInputError("no points", where="contact_events.part_world")
    part = part_world.astype(np.float64)
    grip = transform(tool_motion, np.repeat(touching_world[None].astype(np.float64), len(part), 0)[:, None])[:, 0]
    shift = np.median(part - part[:1], axis=1)
    moving = np.flatnonzero(np.linalg.norm(shift, axis=1) > onset_m)
    if not len(moving):
        return ContactEvents()
    start = max(int(moving[0]) - 1, 0)
    if np.linalg.norm(part[start] - grip[start], axis=1).min() > contact_m:
        return ContactEvents()  # it moves by itself, or something else moves it
    local = np.median(transform(invert_rigid(tool_motion), part), axis=1)
    slipped = np.linalg.norm(local - local[start], axis=1) > slip_m
    apart = np.flatnonzero(slipped[start:])
    release = None if not len(apart) else max(start + int(apart[0]) - 1, start)
    last = len(part) - 1 if release is None else release
    travel = shift[last] - shift[start]
    if np.linalg.norm(travel) < onset_m:
        return ContactEvents()  # the gripper goes on at once: it was never held
    if np.linalg.norm(grip[last] - grip[start]) < 0.5 * np.linalg.norm(travel):
        return ContactEvents()  # it leaves a gripper that stays behind
    ahead = np.median(part[start], axis=0) - grip[start]
    cosine = float(ahead @ travel) / max(float(np.linalg.norm(ahead) * np.linalg.norm(travel)), 1e-9)
    return ContactEvents(start, release, pushed=cosine > 0.7 and float(np.linalg.norm(ahead)) > 0.01)


def closing_from_contact(events: ContactEvents, steps: int, closed: bool) -> Bool[np.ndarray, " steps"]:
    """Whether the gripper is to be closing at each step: from the contact to the release of what is held.

    What is only pushed does not change the command.
    """
    command = np.full(steps, closed)
    if events.contact is None or events.pushed:
        return command
    command[events.contact :] = True
    if events.release is not None:
        command[events.release + 1 :] = False
    return command
