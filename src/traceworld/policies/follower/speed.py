"""Traces become paths in control steps: time is stretched where the robot is too slow or its fingers need time, the path kept."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64
from scipy.spatial.transform import Rotation, Slerp

from traceworld.errors import InvalidInputError


def retime(
    poses: Float64[np.ndarray, "T 4 4"],
    step_s: float | None,
    control_s: float,
    max_speed_mps: float,
    max_turn_radps: float,
    dwell_s: Float[np.ndarray, " T"] | None = None,
) -> tuple[Float64[np.ndarray, "K 4 4"], Float64[np.ndarray, " K"]]:
    """Poses at every control step, along the same path, no faster than the robot.

    A segment takes as long as in the trace, or as long as the robot needs; where the trace has no time (`step_s` None, the
    arc-length clock) the robot's own speed decides.

    Args:
        poses: of the tool at the steps of the trace, the first one now.
        step_s: seconds per step of the trace; None: only its geometry counts.
        control_s: seconds per control step.
        max_speed_mps, max_turn_radps: limits of the robot.
        dwell_s: how long to stand still at each step of the trace before going on.

    Returns:
        poses [K,4,4], the first one now, the last one the end of the trace; place [K] of each in steps of the trace.

    Raises:
        InvalidInputError: a limit or duration is not positive.
    """
    if min(control_s, max_speed_mps, max_turn_radps) <= 0 or (step_s is not None and step_s <= 0):
        raise InvalidInputError("limits and durations must be positive", where="retime")
    T = len(poses)
    rotation = Rotation.from_matrix(poses[:, :3, :3])
    length = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    turn = (rotation[:-1].inv() * rotation[1:]).magnitude() if T > 1 else np.zeros(0)
    needed = np.maximum(length / max_speed_mps, turn / max_turn_radps)
    duration = needed if step_s is None else np.maximum(needed, step_s)
    wait = np.zeros(T) if dwell_s is None else dwell_s.astype(np.float64)
    # Arrival and departure at each step; between the two the place does not change.
    arrive = np.concatenate([[0.0], np.cumsum(wait[:-1] + duration)])
    knots = np.stack([arrive, arrive + wait], 1).ravel()
    ticks = np.arange(int(np.ceil(knots[-1] / control_s - 1e-9)) + 1) * control_s
    place = np.interp(ticks, knots, np.repeat(np.arange(T, dtype=np.float64), 2))
    return poses_at(poses, place), place


def poses_at(poses: Float64[np.ndarray, "T 4 4"], place: Float[np.ndarray, " K"]) -> Float64[np.ndarray, "K 4 4"]:
    """Poses between poses: positions linear, rotations along the shortest arc. `place` in steps, clipped to the ends."""
    T = len(poses)
    place = np.clip(place.astype(np.float64), 0, T - 1)
    out = np.tile(np.eye(4), (len(place), 1, 1))
    for axis in range(3):
        out[:, axis, 3] = np.interp(place, np.arange(T), poses[:, axis, 3])
    if T == 1:
        out[:, :3, :3] = poses[0, :3, :3]
    else:
        out[:, :3, :3] = Slerp(np.arange(T), Rotation.from_matrix(poses[:, :3, :3]))(place).as_matrix()
    return out
