"""Free space: a point where something can be put down beside, or on, an object (RoboRefer B.2, reused by §5.2)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Int

from traceworld.tracespatial.free_space import SEEN_M, FreeSpace, Side, free_space
from traceworld.tracespatial.questions.quantities import pixel_of, point_words, thousandths
from traceworld.tracespatial.questions.question import Question
from traceworld.tracespatial.questions.referring import FORMAT_2D, FORMAT_3D
from traceworld.tracespatial.questions.view import SceneView, Thing

FAMILY = "free_space"
WITH_DEPTH_SHARE = 0.6
TRIED_POINTS = 20
SIDES: Mapping[Side, str] = MappingProxyType(
    {
        "left": "to the left of",
        "right": "to the right of",
        "front": "in front of",
        "behind": "behind",
        "above": "on top of",
    }
)
_ASKS = ("Find a free spot {0} where something can be put down.", "Point to an empty place {0}.")


def ask(view: SceneView, rng: np.random.Generator, limit: int) -> list[Question]:
    """Up to `limit` questions, one side per object and turn. Only where the scale is metric: the paper's limits are in metres."""
    questions: list[Question] = []
    if not view.scene.metric:
        return questions
    sides = tuple(SIDES)
    pairs = [(thing, side) for thing in view.things for side in sides]
    for i in rng.permutation(len(pairs))[: 4 * limit]:  # a side without room costs as much to find out as one with it
        if len(questions) >= limit:
            break
        thing, side = pairs[int(i)]
        found = free_space(view.scene, thing.item, side, rng)
        if isinstance(found, str):
            view.reject("no free space: " + " ".join(word for word in found.split() if not word[0].isdigit()))
            continue
        made = _question(view, rng, thing, side, found)
        if made is not None:
            questions.append(made)
    return questions


def _question(view: SceneView, rng: np.random.Generator, thing: Thing, side: Side, found: FreeSpace) -> Question | None:
    point = written_point(view, found)
    if point is None:
        view.reject("free point at an edge of something")
        return None
    uv, depth_m = point
    with_depth = bool(rng.random() < WITH_DEPTH_SHARE)
    place = f"{SIDES[side]} {thing.phrase}" + ("" if side == "above" else " on the same surface")
    asked = _ASKS[int(rng.integers(len(_ASKS)))].format(place)
    program = {
        "op": "free_space",
        "side": side,
        "objects": [thing.id],
        "phrases": [thing.phrase],
        "with_depth": with_depth,
        "platform": found.platform_id,
    }
    answer = f"[{point_words(uv, depth_m if with_depth else None)}]"
    text = f"Seen from the camera: {asked} {FORMAT_3D if with_depth else FORMAT_2D}"
    return Question(FAMILY, text, answer, program, 2, with_depth)


def written_point(view: SceneView, found: FreeSpace) -> tuple[Int[np.ndarray, 2], float] | None:
    """(u, v) in thousandths and the depth there: the seen point nearest to their mean whose rounded pixel still shows it."""
    width, height = view.scene.camera.width, view.scene.camera.height
    near = np.argsort(np.linalg.norm(found.seen_xyz - found.point_xyz, axis=1), kind="stable")[:TRIED_POINTS]
    for x, y, z in view.px(found.seen_xyz[near]):
        uv = thousandths(np.array([x, y]), width, height)
        column, row = pixel_of(uv, width, height)
        depth_m = float(view.scene.depth_m[row, column])
        if abs(depth_m - z) <= SEEN_M:
            return uv, depth_m
    return None
