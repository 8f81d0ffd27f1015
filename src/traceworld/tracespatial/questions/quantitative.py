"""Quantities: depth, 2D and 3D point, length, width, height, distance. Only in scenes whose scale is metric."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from traceworld.geometry.cameras import transform
from traceworld.tracespatial.questions.measures import sides_of
from traceworld.tracespatial.questions.pointing import point_of
from traceworld.tracespatial.questions.quantities import draw_unit, length_words, point_words, says_enough
from traceworld.tracespatial.questions.question import Question
from traceworld.tracespatial.questions.relative_position import capital, pairs
from traceworld.tracespatial.questions.view import SceneView, Thing

FAMILY = "quantitative"
KINDS = ("depth", "point_2d", "point_3d", "length", "width", "height", "distance")
METRIC_KINDS = tuple(kind for kind in KINDS if kind != "point_2d")
DEPTH_SPREAD = 0.15
"""An object whose visible depths (10th to 90th percentile) spread by more than this share has no one depth to ask for."""
COORDINATES_2D = "as (u, v), both from 0 to 1000"
COORDINATES_3D = "as (x, y, z) in metres in the camera's axes (x right, y down, z forward)"

_TEXTS: dict[str, tuple[str, ...]] = {
    "depth": (
        "How deep in the scene is {0}, measured along the camera's viewing axis?",
        "What is the depth of {0} from the camera?",
    ),
    "point_2d": (
        f"Give the image point of {{0}} {COORDINATES_2D}.",
        f"Where in the picture is {{0}}? Answer {COORDINATES_2D}.",
    ),
    "point_3d": (
        f"Give the 3D centre of {{0}} {COORDINATES_3D}.",
        f"At which 3D position is the centre of {{0}}? Answer {COORDINATES_3D}.",
    ),
    "length": (
        "What is the length of {0} (the lower edge of its front)?",
        "How long is {0} along the lower edge of its front?",
    ),
    "width": (
        "What is the width of {0} (the lower edge of its side)?",
        "How wide is {0} along the lower edge of its side?",
    ),
    "height": ("What is the height of {0}?", "How tall is {0}?"),
    "distance": (
        "How far apart are the centres of {0} and {1}?",
        "What is the distance between the centre of {0} and the centre of {1}?",
    ),
}
_ANSWERS = {
    "depth": "The depth of {0} is {value}.",
    "length": "The length of {0} is {value}.",
    "width": "The width of {0} is {value}.",
    "height": "The height of {0} is {value}.",
    "distance": "The distance between the centres of {0} and {1} is {value}.",
}


def ask(view: SceneView, rng: np.random.Generator, limit: int) -> list[Question]:
    """Up to `limit` questions of this family, kinds in equal shares as far as the scene allows."""
    kinds = KINDS if view.scene.metric else ("point_2d",)
    makers: dict[str, Callable[[SceneView, np.random.Generator, Thing], Question | None]]
    makers = {"point_2d": _point_2d, "point_3d": _point_3d}
    questions: list[Question] = []
    orders = [[(kind, thing) for thing in view.things] for kind in kinds]
    orders = [[order[i] for i in rng.permutation(len(order))] for order in orders]
    for turn in range(len(view.things)):
        for order in (orders[i] for i in rng.permutation(len(kinds))):
            if len(questions) >= limit:
                return questions
            kind, thing = order[turn]
            made = makers[kind](view, rng, thing) if kind in makers else _length(view, rng, thing, kind)
            if made is not None:
                questions.append(made)
    return questions


def _program(kind: str, things: tuple[Thing, ...], **more: object) -> dict[str, object]:
    return {
        "op": "measure",
        "what": kind,
        "objects": [thing.id for thing in things],
        "phrases": [thing.phrase for thing in things],
        **more,
    }


def _text(kind: str, rng: np.random.Generator, things: tuple[Thing, ...]) -> str:
    texts = _TEXTS[kind]
    return texts[int(rng.integers(len(texts)))].format(*(thing.phrase for thing in things))


def _length(view: SceneView, rng: np.random.Generator, thing: Thing, kind: str) -> Question | None:
    things: tuple[Thing, ...] = (thing,)
    if kind == "distance":
        other = next((b for a, b in pairs(view, rng) if a.id == thing.id), None)
        if other is None:
            return None
        things = (thing, other)
        value: float | None = float(np.linalg.norm(thing.center - other.center))
    elif kind == "depth":
        value = clear_depth(view, thing)
    else:
        value = sides_of(view, thing)[kind]
    if value is None:
        view.reject(f"{kind} cannot be told")
        return None
    unit = draw_unit(value, rng)
    if not says_enough(value, unit):
        view.reject("too small for its unit")
        return None
    answer = _ANSWERS[kind].format(*(one.phrase for one in things), value=length_words(value, unit))
    return Question(
        FAMILY, _text(kind, rng, things), answer, _program(kind, things, unit=unit, value_m=value), len(things), True
    )


def clear_depth(view: SceneView, thing: Thing) -> float | None:
    """Median visible depth in metres; None where the object reaches through too much depth to have one."""
    depths = view.scene.depth_m[thing.item.mask]
    near, far = np.percentile(depths[depths > 0], [10, 90])
    return thing.depth_m if far - near <= DEPTH_SPREAD * thing.depth_m else None


def _point_2d(view: SceneView, rng: np.random.Generator, thing: Thing) -> Question | None:
    found = point_of(view, thing)
    if found is None:
        return None
    program = _program("point_2d", (thing,), uv=[int(number) for number in found[0]])
    return Question(
        FAMILY,
        _text("point_2d", rng, (thing,)),
        f"{capital(thing.phrase)} is at {point_words(found[0])}.",
        program,
        1,
        False,
    )


def _point_3d(view: SceneView, rng: np.random.Generator, thing: Thing) -> Question | None:
    xyz = transform(np.asarray(view.scene.camera.cam_from_world, np.float64), thing.center)
    if not view.inside_picture(view.px(thing.center)[:2]):
        view.reject("centre outside the picture")
        return None
    words = "(" + ", ".join(f"{number + 0.0:.3f}" for number in xyz) + ")"
    program = _program("point_3d", (thing,), xyz_cam=[round(float(number), 6) for number in xyz])
    answer = f"The centre of {thing.phrase} is at {words}."
    return Question(FAMILY, _text("point_3d", rng, (thing,)), answer, program, 1, True)
