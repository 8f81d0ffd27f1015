"""Length, width and height of an object's box, named by the faces that the viewer sees (§5.2)."""

from __future__ import annotations

import numpy as np

from traceworld.tracespatial.questions.view import SceneView, Thing

FACE_MARGIN = 0.15
"""The front face must look this much more towards the viewer than the side face (cosines) …"""
SQUARE_RATIO = 1.03
"""… unless both horizontal sides are equal to this factor."""


def sides_of(view: SceneView, thing: Thing) -> dict[str, float | None]:
    """Metres by name; None for a side that cannot be told.

    Length is the edge of the front face and the bottom, width that of the side face and the bottom, height that of front and
    side face. The front is the upright face that looks most towards the viewer; where two look alike (a box seen by its
    corner) only the height can be told, or both sides if they are equal. A box that lies askew has no named sides.
    """
    box = thing.item.box
    upright = int(np.argmax(np.abs(box.rotation[2])))
    if abs(box.rotation[2, upright]) < 0.95:
        return {"length": None, "width": None, "height": None}
    first, second = (axis for axis in range(3) if axis != upright)
    towards = view.camera_xyz - thing.center
    towards = towards[:2] / max(float(np.linalg.norm(towards[:2])), 1e-9)
    looks = np.abs(towards @ box.rotation[:2, [first, second]])
    sides = box.size_m[[first, second]]
    height = float(box.size_m[upright])
    if abs(looks[0] - looks[1]) < FACE_MARGIN and max(sides) > SQUARE_RATIO * min(sides):
        return {"length": None, "width": None, "height": height}
    front = int(np.argmax(looks))  # this axis is the front face's normal: the face's bottom edge runs along the other
    return {"length": float(sides[1 - front]), "width": float(sides[front]), "height": height}
