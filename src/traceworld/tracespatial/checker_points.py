"""The checker's part for quantities, pointing and free space: numbers, units and points in the words against the scene."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from traceworld.tracespatial import checker_text as words
from traceworld.tracespatial.checker_geometry import Facts, over
from traceworld.tracespatial.scene import SceneObject

ROUNDING = 1.02
"""Lengths agree to half of their last digit, times this."""
POINT_3D_M = 0.0006
"""Written to 1 mm."""
DEPTH_M = 0.0006
FREE_HEIGHT_M = 0.03
"""A free point lies this near the surface it is on."""
FREE_SECTOR_COS = 0.68
"""Within 45° of the side it is asked for, and a little."""
FREE_RADIUS_SLACK_M = 0.02
ON_SHARE = 0.85
"""Free points on top lie within this much of the top (drawn within 0.8)."""

_QUANTITIES_SAID = {
    "depth": ("deep", "depth"),
    "length": ("length", "long"),
    "width": ("width", "wide"),
    "height": ("height", "tall"),
    "distance": ("distance", "far apart"),
}


def check_measure(facts: Facts, text: str, answer: str, program: Mapping[str, Any]) -> str:
    """The fault of a question for a quantity, if any: number and unit, or point, against the scene."""
    if fault := words.named_fault(facts.scene, text, program):
        return fault
    if words.in_order(facts.scene, answer) != list(program["objects"]):
        return "the answer names other objects than the question"
    items, what = words.items_of(facts.scene, program), program["what"]
    if what == "point_2d":
        return _point_on(facts, items[0], words.tuples(answer), False)
    if what == "point_3d":
        return _point_3d(facts, items[0], answer)
    bare = [words.without_mentions(facts.scene, part) for part in (text, answer)]
    said = _QUANTITIES_SAID[what]
    if not all(any(word in part for word in said) for part in bare):
        return "the words ask for another quantity than the program"
    read = words.length_cm(answer)
    if read is None or read[2] != program["unit"]:
        return "no length in the unit of the program"
    if what == "distance":
        true = float(np.linalg.norm(items[0].box.center_xyz - items[1].box.center_xyz))
    else:
        side = facts.middle_depth(items[0]) if what == "depth" else facts.side(items[0], what)
        if side is None:
            return "too close to call"
        true = side
    value_cm, half_digit_cm, unit = read
    if (true < 1) != (unit in ("cm", "inches")):
        return "the unit does not go with the length"
    return "" if abs(value_cm - 100 * true) <= ROUNDING * half_digit_cm else "the answer is wrong"


def _point_3d(facts: Facts, item: SceneObject, answer: str) -> str:
    points = words.tuples(answer)
    if not points or len(points) != 1 or len(points[0]) != 3:
        return "no 3D point in the answer"
    true = facts.camera_xyz(item.box.center_xyz[None])[0]
    return "" if np.abs(np.array(points[0]) - true).max() <= POINT_3D_M else "the answer is wrong"


def _point_on(facts: Facts, item: SceneObject, points: list[tuple[float, ...]] | None, with_depth: bool) -> str:
    """Whether a single point lies on an object's visible pixels, and its depth is the one measured there."""
    if not points or len(points) != 1 or len(points[0]) != 2 + with_depth or not words.thousandths_only(points):
        return "not one point as asked for"
    row, column = facts.pixel(*points[0][:2])
    if not item.mask[row, column]:
        return "the point is not on the object"
    if with_depth and abs(points[0][2] - float(facts.scene.depth_m[row, column])) > DEPTH_M:
        return "the depth is not the one measured there"
    return ""


def check_refer(facts: Facts, text: str, answer: str, program: Mapping[str, Any]) -> str:
    """The fault of a question to point, if any: the phrase must fit one object, and the point lie on it."""
    form, target_id = program["form"], program["target"]
    if fault := words.named_fault(facts.scene, text, program, but="" if form == "direct" else target_id):
        return fault
    if form == "direct":
        target: SceneObject | None = facts.scene.object(program["objects"][0])
    else:
        bare = words.without_mentions(facts.scene, text).lower()
        label = program["label"].lower()
        if f"the {label} that is" not in text.lower():
            return "the question names another label than the program"
        group = [item for item in facts.scene.objects if item.label.lower() == label]
        target = _target(facts, bare, program, group)
    if target is None:
        return "no one object fits the phrase beyond doubt"
    if target.object_id != target_id:
        return "the phrase means another object"
    return _point_on(facts, target, words.tuples(answer), program["with_depth"])


def _target(facts: Facts, bare: str, program: Mapping[str, Any], group: list[SceneObject]) -> SceneObject | None:
    if program["form"] == "relation":
        if words.longest_said(bare, words.RELATIONS_SAID) != [program["relation"]]:
            return None
        anchor = facts.scene.object(program["objects"][0])
        verdicts = [facts.relation(program["relation"], item, anchor) for item in group if item is not anchor]
        fitting = (
            [item for item, verdict in zip(group, verdicts, strict=True) if verdict] if anchor not in group else []
        )
        return fitting[0] if len(fitting) == 1 and None not in verdicts else None
    if words.longest_said(bare, words.SUPERLATIVES_SAID) != [program["superlative"]] or len(group) < 2:
        return None
    for item in group:
        if all(facts.beats(program["superlative"], item, other, None) for other in group if other is not item):
            return item
    return None


def check_free_space(facts: Facts, text: str, answer: str, program: Mapping[str, Any]) -> str:
    """The fault of a question for a free place, if any: on the surface, on the asked side, with nothing else there."""
    if fault := words.named_fault(facts.scene, text, program):
        return fault
    said = words.longest_said(words.without_mentions(facts.scene, text), words.RELATIONS_SAID)
    side = "on" if program["side"] == "above" else program["side"]
    if said != [side]:
        return "the words state another side than the program"
    points = words.tuples(answer)
    if (
        not points
        or len(points) != 1
        or len(points[0]) != 2 + program["with_depth"]
        or not words.thousandths_only(points)
    ):
        return "not one point as asked for"
    row, column = facts.pixel(*points[0][:2])
    depth = float(facts.scene.depth_m[row, column])
    if depth <= 0 or (program["with_depth"] and abs(points[0][2] - depth) > DEPTH_M):
        return "the depth is not the one measured there"
    place = facts.world(points[0][0], points[0][1], depth)
    item = facts.scene.object(program["objects"][0])
    if fault := _on_free_surface(facts, place, item, side):
        return fault
    return "" if side == "on" else _in_sector(facts, place, item, program)


def _on_free_surface(facts: Facts, place: np.ndarray, item: SceneObject, side: str) -> str:
    """On the object's own top, or on the surface it rests on, with nothing else there."""
    corners = (-0.5, 0.5)
    heights = [
        (item.box.center_xyz + item.box.rotation @ (np.array([x, y, z]) * item.box.size_m))[2]
        for x in corners
        for y in corners
        for z in corners
    ]
    surface = max(heights) if side == "on" else min(heights)
    slack = 0.05 if side != "on" else FREE_HEIGHT_M  # a platform may lie up to 5 cm off the box that rests on it
    if abs(place[2] - surface) > slack * facts.unit:
        return "the point is not on the surface"
    if side == "on":
        local = np.abs((place - item.box.center_xyz) @ item.box.rotation) / item.box.size_m
        upright = int(np.argmax(np.abs(item.box.rotation[2])))
        if max(float(local[axis]) for axis in range(3) if axis != upright) > ON_SHARE / 2:
            return "the point is not on top"
    for other in facts.scene.objects:
        local = np.abs((place + np.array([0, 0, 0.03 * facts.unit]) - other.box.center_xyz) @ other.box.rotation)
        if other is not item and (local <= other.box.size_m / 2).all():
            return "the point is inside something"
    if side != "on" and over(item, place[None, :2])[0]:
        return "the point is under the object itself"
    return ""


def _in_sector(facts: Facts, place: np.ndarray, item: SceneObject, program: Mapping[str, Any]) -> str:
    axis = {"left": -facts.to_right, "right": facts.to_right, "front": -facts.ahead, "behind": facts.ahead}[
        program["side"]
    ]
    away = place[:2] - item.box.center_xyz[:2]
    distance = float(np.hypot(*away))
    if away @ axis < FREE_SECTOR_COS * distance:
        return "the point is on another side"
    size = np.abs(item.box.rotation) @ item.box.size_m
    reach = float(np.hypot(size[0], size[1])) + max(float(np.hypot(size[0], size[1])), 0.2 * facts.unit)
    return "" if distance <= reach + FREE_RADIUS_SLACK_M * facts.unit else "the point is too far away"
