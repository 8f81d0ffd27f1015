"""Which traces are thrown away, and why (`reference/robotracer.md` §5.3: more than 30 % occluded, key points outside the
picture, too short for the object's size, classes that do not move). Each rule says its reason in a word that is counted.

Decided here: L_base = 1 (a thing moves at least the cube root of its volume), and so far from where it was, too, not only in a
loop; a point is occluded when the depth map is more
than `OCCLUSION_M` nearer than the point at a pixel that does not show the moving object itself; points outside the picture
count for the frame rule, not for this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from traceworld.geometry.cameras import project
from traceworld.tracespatial.scene import Scene, SceneObject

MAX_OCCLUDED = 0.30
OCCLUSION_M = 0.02
LENGTH_BASE = 1.0
SPACING_M = 0.01
MIN_VISIBLE_PX = 25

IMMOVABLE = frozenset(
    [
        "floor",
        "wall",
        "ceiling",
        "countertop",
        "counter",
        "table",
        "desk",
        "shelf",
        "cabinet",
        "cupboard",
        "drawer",
        "door",
        "window",
        "sink",
        "bathtub",
        "toilet",
        "bed",
        "sofa",
        "couch",
        "fridge",
        "refrigerator",
        "oven",
        "stove",
        "dishwasher",
        "washer",
        "radiator",
        "column",
        "stairs",
        "fireplace",
        "blinds",
        "curtain",
        "mirror",
        "partition",
        "riser",
    ]
)
"""Classes that no trace moves, whatever an annotation says."""

Reason = Literal[
    "immovable",
    "not_visible",
    "no_partner",
    "no_free_space",
    "no_goal",
    "no_path",
    "no_via",
    "refined_path_collides",
    "out_of_frame",
    "occluded",
    "too_short",
    "strict_collision",
]


@dataclass(frozen=True)
class Rejection:
    """A trace that was not made.

    Attributes:
        reason: which rule; `detail` says more.
        scene_id, object_id, primitive: what was tried (object "" when no object was found).
    """

    reason: Reason
    detail: str
    scene_id: str
    object_id: str
    primitive: int


def is_immovable(thing: SceneObject) -> bool:
    """Whether a class or an annotation says that this does not move (the last word of a label is its class)."""
    return not thing.movable or thing.label.lower().split()[-1] in IMMOVABLE


def densified(path_xyz: Float[np.ndarray, "T 3"], spacing_m: float = SPACING_M) -> Float[np.ndarray, "N 3"]:
    """The polyline with points at most `spacing_m` apart, its own points among them."""
    pieces = [path_xyz[:1]]
    for start, end in pairwise(path_xyz):
        count = max(int(np.ceil(np.linalg.norm(end - start) / spacing_m - 1e-9)), 1)
        pieces.append(start + (end - start) * (np.arange(1, count + 1) / count)[:, None])
    return np.concatenate(pieces)


def in_frame(scene: Scene, xyz: Float[np.ndarray, "N 3"]) -> Bool[np.ndarray, " N"]:
    """Which world points project into the picture."""
    uvz = project(xyz, scene.camera.K, scene.camera.cam_from_world)
    u, v, z = np.nan_to_num(uvz, nan=-1.0).T
    return (z > 0) & (u >= -0.5) & (u < scene.camera.width - 0.5) & (v >= -0.5) & (v < scene.camera.height - 0.5)


def occluded_share(scene: Scene, thing: SceneObject, path_xyz: Float[np.ndarray, "T 3"]) -> float:
    """Which part of the path, every centimetre, lies behind something else than the object itself."""
    xyz = densified(path_xyz)
    inside = in_frame(scene, xyz)
    uvz = project(xyz[inside], scene.camera.K, scene.camera.cam_from_world)
    u, v = np.rint(uvz[:, 0]).astype(int), np.rint(uvz[:, 1]).astype(int)
    depth = scene.depth_m[v, u]
    hidden = (depth > 0) & (depth < uvz[:, 2] - OCCLUSION_M) & ~thing.mask[v, u]
    return float(hidden.sum() / len(xyz))


def frame_fault(scene: Scene, path_xyz: Float[np.ndarray, "T 3"]) -> str | None:
    """Which key point lies outside the picture, in words; None when all are inside."""
    outside = np.flatnonzero(~in_frame(scene, path_xyz))
    if len(outside) == 0:
        return None
    if outside[0] == 0:
        return "the first key point is outside the picture"
    if outside[-1] == len(path_xyz) - 1:
        return "the last key point is outside the picture"
    return f"{len(outside)} of {len(path_xyz)} key points are outside the picture"


def shortest_length(thing: SceneObject) -> float:
    """L_base ∛V: a trace shorter than this is none."""
    return LENGTH_BASE * float(np.cbrt(thing.box.volume_m3))


def judge(scene: Scene, thing: SceneObject, path_xyz: Float[np.ndarray, "T 3"]) -> tuple[Reason, str] | None:
    """The first rule that a finished path of an object breaks, with the figure; None when it may stay."""
    if is_immovable(thing):
        return "immovable", thing.label
    if thing.mask.sum() < MIN_VISIBLE_PX:
        return "not_visible", f"{int(thing.mask.sum())} pixels"
    fault = frame_fault(scene, path_xyz)
    if fault is not None:
        return "out_of_frame", fault
    length = float(np.linalg.norm(np.diff(path_xyz, axis=0), axis=1).sum())
    direct = float(np.linalg.norm(path_xyz[-1] - path_xyz[0]))
    if min(length, direct) < shortest_length(thing):
        return "too_short", f"{min(length, direct):.3f} m < {shortest_length(thing):.3f} m"
    hidden = occluded_share(scene, thing, path_xyz)
    if hidden > MAX_OCCLUDED:
        return "occluded", f"{hidden:.2f} of the path"
    return None
