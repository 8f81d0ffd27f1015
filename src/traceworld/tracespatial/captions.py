"""A phrase for each object that means it and no other in the picture (RoboTracer §5.1.3).

One of its class: colour and class. Several: an attribute that no other of the class has, or the place in the row along the axis (left
to right, front to back, top to bottom) on which the class is spread most: `the second mug from the left`. Below `MIN_SPREAD_M`, or
where two neighbours in the row are nearer than `MIN_STEP_M`, the order is not clear and the object gets no caption (the paper drops
the picture).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from traceworld.traces.types import Camera
from traceworld.tracespatial.directions import view_directions
from traceworld.tracespatial.scene import SceneObject

MIN_SPREAD_M = 0.05
MIN_STEP_M = 0.02
DISTINCT = ("colour", "size", "material")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
ROWS = (("left", "right"), ("front", "behind"), ("above", "below"))
"""Each axis with the end that is counted from by default and the other one."""

FROM = {"left": "left", "right": "right", "front": "front", "behind": "back", "above": "top", "below": "bottom"}


def captioned(
    objects: Sequence[SceneObject], camera: Camera, *, seen_px: int = 1, named_px: int = 25
) -> tuple[SceneObject, ...]:
    """The objects with their captions.

    Args:
        objects: of one picture.
        camera: whose left and right are meant.
        seen_px: objects with fewer visible pixels do not count as members of their class in this picture.
        named_px: objects with fewer visible pixels get no caption.
    """
    sizes = [int(thing.mask.sum()) for thing in objects]
    captions = [""] * len(objects)
    for label in sorted({thing.label for thing in objects}):
        members = [i for i, thing in enumerate(objects) if thing.label == label and sizes[i] >= seen_px]
        for i, caption in zip(members, _phrases([objects[i] for i in members], label, camera), strict=True):
            captions[i] = caption if sizes[i] >= named_px else ""
    return tuple(replace(thing, caption=caption) for thing, caption in zip(objects, captions, strict=True))


def _phrases(members: Sequence[SceneObject], label: str, camera: Camera) -> list[str]:
    if len(members) == 1:
        colour = members[0].attributes.get("colour")
        return [f"the {colour} {label}" if colour else f"the {label}"]
    return [_by_attribute(i, members, label) or _by_order(i, members, label, camera) for i in range(len(members))]


def _by_attribute(index: int, members: Sequence[SceneObject], label: str) -> str:
    """An attribute that all members are known by and only this one has."""
    for name in DISTINCT:
        values = [thing.attributes.get(name, "") for thing in members]
        if values[index] and values.count(values[index]) == 1:
            return f"the {values[index]} {label}"
    return ""


def _by_order(index: int, members: Sequence[SceneObject], label: str, camera: Camera) -> str:
    directions = view_directions(camera)
    centers = np.array([thing.box.center_xyz for thing in members])
    spreads = [float(np.ptp(centers @ directions[first])) for first, _ in ROWS]
    axis = int(np.argmax(spreads))
    if spreads[axis] < MIN_SPREAD_M:
        return ""
    return _ordinal_phrase(index, centers, label, directions, ROWS[axis])


def _ordinal_phrase(
    index: int,
    centers: Float[np.ndarray, "M 3"],
    label: str,
    directions: Mapping[str, np.ndarray],
    row: tuple[str, str],
) -> str:
    along = centers @ directions[row[1]]
    others = np.delete(along, index)
    if np.abs(others - along[index]).min() < MIN_STEP_M:
        return ""
    rank, count = int((others < along[index]).sum()), len(along)
    end = row[0]
    if rank >= (count + 1) // 2:  # count from the nearer end
        rank, end = count - 1 - rank, row[1]
    if rank >= len(ORDINALS):
        return ""
    return f"the {ORDINALS[rank]} {label} from the {FROM[end]}"
