"""Left, right, front, behind, up: directions as the one who looks at the picture means them, in the upright world.

`behind` is away from the camera along the ground, `front` towards it; `left` and `right` are the picture's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from traceworld.traces.types import Camera

HORIZONTAL = ("left", "right", "front", "behind")
UP = np.array([0.0, 0.0, 1.0])


def view_directions(camera: Camera) -> Mapping[str, Float[np.ndarray, " 3"]]:
    """Unit world vectors of `left`, `right`, `front`, `behind` (along the ground), `above` and `below`."""
    rotation = camera.cam_from_world[:3, :3].astype(np.float64)
    forward = rotation[2] * [1, 1, 0]
    if np.linalg.norm(forward) < 1e-3:  # looking straight down: what is up in the picture is behind
        forward = -rotation[1] * [1, 1, 0]
    behind = forward / np.linalg.norm(forward)
    right = np.cross(behind, UP)
    return {"left": -right, "right": right, "front": -behind, "behind": behind, "above": UP, "below": -UP}


def dominant_direction(camera: Camera, vector_world: Float[np.ndarray, " 3"]) -> str:
    """The name of the direction that a vector points along most."""
    names = view_directions(camera)
    return max(names, key=lambda name: float(names[name] @ vector_world))
