"""What a vision-language model is asked: where numbered keypoints will be, with the meaning of a step stated.

The released baselines ask for "the next frame"s although steps are lengths of path; a model that is not told what a step is
cannot be compared with one that was trained on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from traceworld.traces.types import Observation

IMAGE = "image"
METRIC = "metric"
SPACES = (IMAGE, METRIC)


def waypoint_steps(horizon: int, number: int) -> list[int]:
    """Steps (1..horizon) of `number` waypoints: evenly spaced, the last at the horizon."""
    return [round(horizon * (i + 1) / number) for i in range(number)]


def thousandths(uv: Float[np.ndarray, "*any 2"]) -> Float[np.ndarray, "*any 2"]:
    """[-1,1] → 0..1000 of the picture's width and height."""
    return (uv + 1) * 500


def question(observation: Observation, space: str, steps: Sequence[int], depth_m: tuple[float, float] | None) -> str:
    """The prompt for all keypoints of an observation.

    Args:
        space: `image` (u, v) or `metric` (u, v and the change of depth in metres).
        steps: at which steps waypoints are wanted.
        depth_m: nearest and farthest of the second picture; None if there is none.
    """
    uv = observation.keypoints_uv
    assert uv is not None
    metric = space == METRIC
    waypoint = "[u, v, dz]" if metric else "[u, v]"
    parts = [
        "You predict motion for robot manipulation. The picture is the present moment; the task below is about to be carried "
        "out. Say where the numbered keypoints (magenta rings) will be in this picture's frame (the camera stands still).",
        f"Task: {observation.instruction}",
        _clock(observation, steps[-1]),
        "Coordinates: u from 0 (left edge) to 1000 (right edge), v from 0 (top) to 1000 (bottom), integers."
        + (" dz: change of the distance from the camera since now, in metres (negative: nearer)." if metric else ""),
    ]
    if metric and observation.K is not None:
        fx, fy, cx, cy = _camera(observation)
        parts.append(f"Camera, in the same units: fx={fx:.0f} fy={fy:.0f} cx={cx:.0f} cy={cy:.0f}.")
    if depth_m is not None:
        near, far = depth_m
        parts.append(f"The second picture is depth: red {near:.2f} m (near) to blue {far:.2f} m (far), black unknown.")
    parts.append("Keypoints now:\n" + "\n".join(_keypoint(observation, i) for i in range(len(uv))))
    if observation.history_uvz is not None and np.isfinite(observation.history_uvz[..., :2]).any():
        parts.append(
            "Where they were, oldest first, one step apart, up to one step before now (null: unknown):\n"
            + "\n".join(_past(observation.history_uvz[i], i) for i in range(len(uv)))
        )
    when = f"steps {', '.join(map(str, steps))}" if len(steps) < steps[-1] else f"each step 1 to {steps[-1]}"
    parts.append(
        f"Give exactly {len(steps)} waypoints {waypoint} for every keypoint: its position at {when}. Keypoints on one rigid "
        "object move together; what the task does not move stays. Answer with JSON only:\n"
        f'{{"trajectories": [{{"id": 0, "future": [{waypoint}, … {len(steps)} of them]}}, … one entry for each of the '
        f"{len(uv)} keypoints]}}"
    )
    return "\n\n".join(parts)


def _clock(observation: Observation, horizon: int) -> str:
    step = observation.step
    if observation.clock == "time":
        return f"Time: one step is {step:g} s; {horizon} steps are {horizon * step:g} s."
    return (
        f"Steps are lengths of path, not times: in one step the fastest points travel {step:g} of the picture's width "
        f"({1000 * step:g} units of u); in {horizon} steps {horizon * step:g} widths along their path. All keypoints share "
        "these steps, slower ones move less in each, and pauses take no steps."
    )


def _camera(observation: Observation) -> tuple[float, float, float, float]:
    """Focal lengths and principal point in thousandths of width and height."""
    assert observation.K is not None
    height, width = observation.image.shape[:2]
    K = observation.K
    return (
        K[0, 0] * 1000 / width,
        K[1, 1] * 1000 / height,
        (K[0, 2] + 0.5) * 1000 / width,
        (K[1, 2] + 0.5) * 1000 / height,
    )


def _keypoint(observation: Observation, i: int) -> str:
    assert observation.keypoints_uv is not None
    u, v = thousandths(observation.keypoints_uv[i])
    z = None if observation.keypoints_z_m is None else observation.keypoints_z_m[i]
    return f"id={i}: [{u:.0f}, {v:.0f}]" + (f", {z:.3f} m from the camera" if z is not None and np.isfinite(z) else "")


def _past(history: np.ndarray, i: int) -> str:
    known = np.isfinite(history[:, :2]).all(1)
    points = [f"[{u:.0f}, {v:.0f}]" if ok else "null" for ok, (u, v) in zip(known, _shown(history), strict=True)]
    return f"id={i}: {', '.join(points)}"


def _shown(history: np.ndarray) -> np.ndarray:
    return thousandths(np.nan_to_num(history[:, :2]))
