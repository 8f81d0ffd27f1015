"""How a trace is asked for: training prompts in our own words, in the three forms of the paper (2D, 3D, lift from 2D to 3D)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

FORMS = ("2d", "3d", "lift")
KINDS = ("object", "end-effector")
ANSWER_2D = (
    "Answer with a list of tuples [(x1, y1), (x2, y2), ...]: x and y run from 0 to 1000 over the width and the height "
    "of the picture."
)
ANSWER_3D = (
    "Answer with a list of tuples [(x1, y1, d1), (x2, y2, d2), ...]: x and y run from 0 to 1000 over the width and the "
    "height of the picture, d is the distance along the camera's axis in metres."
)
POOL: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "2d": (
            'Predict the 2D {kind}-centric waypoints that complete this task: "{task}".',
            'Point out the 2D {kind}-centric visual trace for the task "{task}".',
            'You act as a robot now. Your task is: "{task}". Mark the 2D waypoints of the {mover} in the picture.',
            'Which way does the {mover} take through the picture when you do this: "{task}"?',
        ),
        "3d": (
            'Predict the 3D {kind}-centric waypoints that complete this task: "{task}".',
            'Point out the 3D {kind}-centric visual trace for the task "{task}".',
            'You act as a robot now. Your task is: "{task}". Give the 3D waypoints of the {mover}.',
            'Which way through space does the {mover} take when you do this: "{task}"?',
        ),
        "lift": (
            'The 2D {kind}-centric trace for the task "{task}" is {trace}. Lift it to 3D: give every point its depth.',
            'For the task "{task}" the {mover} follows {trace} in the picture. Predict the same waypoints in 3D.',
            'You act as a robot now. Your task is: "{task}". The 2D waypoints of the {mover} are {trace}. Turn them into '
            "3D waypoints.",
        ),
    }
)
"""Form → prompts; the first of `2d` and `3d` follow the benchmark's single sentence in content (§1.3)."""


def trace_prompt(form: str, kind: str, task: str, rng: np.random.Generator, trace_2d: str = "") -> str:
    """A prompt drawn from the pool.

    Args:
        form: one of `FORMS`. kind: whose waypoints, one of `KINDS`. task: the instruction.
        trace_2d: for `lift`: the trace as text.
    """
    pool = POOL[form]
    mover = "object" if kind == "object" else "gripper"
    asked = pool[int(rng.integers(len(pool)))].format(kind=kind, mover=mover, task=task, trace=trace_2d)
    return f"{asked} {ANSWER_2D if form == '2d' else ANSWER_3D}"
