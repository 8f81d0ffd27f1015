"""The independent checker: nothing is written to a dataset whose answer it cannot compute again.

It is given a scene, the words of a question and of its answer, and the question's program. It reads objects, relations,
numbers, units and points out of the words, computes the answer from the scene with its own geometry (`checker_geometry`; the
question makers are not imported), and compares within stated tolerances. Program and words must say the same: a program with
other objects, or of another scene, is as much a fault as a wrong number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from traceworld.tracespatial import checker_text as words
from traceworld.tracespatial.checker_geometry import Facts
from traceworld.tracespatial.checker_points import check_free_space, check_measure, check_refer
from traceworld.tracespatial.checker_traces import check_chain, check_trace
from traceworld.tracespatial.scene import Scene, SceneObject

ORDER_M = 0.01
"""Objects that are counted along an axis are this far apart along it."""

Check = Callable[[Facts, str, str, Mapping[str, Any]], str]


def check(scene: Scene, text: str, answer: str, program: Mapping[str, Any], facts: Facts | None = None) -> str:
    """What is wrong with a question and its answer; an empty string if nothing is.

    Args:
        scene: where it was asked. text, answer: the words. program: provenance, with the scene's fingerprint under `scene`.
        facts: the scene's facts, to save time over many questions.
    """
    facts = facts or Facts(scene)
    if program.get("scene") != facts.fingerprint:
        return "stale provenance: the scene is another"
    operation = _CHECKS.get(str(program.get("op")))
    if operation is None:
        return f"unknown operation {program.get('op')!r}"
    known = {item.object_id for item in scene.objects}
    if missing := [name for name in program["objects"] if name not in known]:
        return f"stale provenance: no object {missing[0]!r}"
    if fault := phrases_fault(facts, program):
        return fault
    return operation(facts, text, answer, program)


def phrases_fault(facts: Facts, program: Mapping[str, Any]) -> str:
    """Whether each phrase of the program means its object and no other."""
    scene = facts.scene
    for name, phrase in zip(program["objects"], program["phrases"], strict=True):
        found = words.in_order(scene, phrase)
        if found != [name]:
            return f"the phrase {phrase!r} does not mean {name!r} alone"
        if rival := _rival(scene, scene.object(name)):
            return f"the phrase {phrase!r} fits {rival!r} too"
        if not _order_is_true(facts, scene.object(name)):
            return f"the phrase {phrase!r} counts wrongly"
    return ""


def _rival(scene: Scene, item: SceneObject) -> str:
    """Another visible object of which the caption is true as well, where the caption is a label, or an attribute and a label."""
    label, caption = item.label.lower(), item.caption.lower().removeprefix("the ").strip()
    if not caption.endswith(label):
        return ""
    said = caption.removesuffix(label).strip()
    names = [name for name, value in item.attributes.items() if value.lower() == said]
    if said and not names:
        return ""  # an order (see below) or words of somebody's own
    for other in scene.objects:
        is_seen = other.object_id != item.object_id and other.mask.any()
        also_said = not said or any(other.attributes.get(name, "").lower() == said for name in names)
        if is_seen and also_said and other.label.lower() == label:
            return other.object_id
    return ""


def _order_is_true(facts: Facts, item: SceneObject) -> bool:
    """Of a caption such as `second mug from the left`, whether it is the second; other captions pass."""
    read = words.ordinal(item.caption, item.label)
    if read is None:
        return True
    place, end = read
    axis = {
        "left": [*-facts.to_right, 0], "right": [*facts.to_right, 0], "front": [*-facts.ahead, 0], "back": [*facts.ahead, 0],
        "top": [0, 0, 1], "bottom": [0, 0, -1],
    }[end]  # fmt: skip
    here = float(np.dot(axis, item.box.center_xyz))
    others = [
        float(np.dot(axis, other.box.center_xyz)) - here
        for other in facts.scene.objects
        if other.label.lower() == item.label.lower() and other.object_id != item.object_id and other.mask.any()
    ]
    return sum(away > 0 for away in others) == place - 1 and all(abs(away) >= ORDER_M for away in others)


# --- relations and sizes ----------------------------------------------------------------------------------------------


def _relation(facts: Facts, text: str, answer: str, program: Mapping[str, Any]) -> str:
    if fault := words.named_fault(facts.scene, text, program):
        return fault
    form = program["form"]
    if form == "yes_no":
        return _yes_no(facts, text, answer, program)
    if form == "either":
        return _either(facts, text, answer, program)
    if form == "choice":
        return _choice(facts, text, answer, program)
    if form == "among":
        return _among(facts, text, answer, program)
    return _which(facts, text, answer, program) if form == "which" else f"unknown form {form!r}"


def _said_yes(answer: str) -> bool | None:
    first = answer.split(",")[0]
    negated = " not " in answer
    return True if first == "Yes" and not negated else False if first == "No" and negated else None


def _yes_no(facts: Facts, text: str, answer: str, program: Mapping[str, Any]) -> str:
    items, said = words.items_of(facts.scene, program), _said_yes(answer)
    if said is None:
        return "the answer is neither a yes nor a no"
    if words.in_order(facts.scene, answer) != list(program["objects"]):
        return "the answer names other objects than the question"
    if program["relation"] == "between":
        if not all(" between " in words.without_mentions(facts.scene, part) for part in (text, answer)):
            return "the words do not say 'between'"
        verdict = facts.between(*items)
    else:
        asked, told = (
            words.longest_said(words.without_mentions(facts.scene, part), words.RELATIONS_SAID)
            for part in (text, answer)
        )
        if asked != [program["relation"]] or told != asked:
            return "the words state another relation than the program"
        verdict = facts.relation(program["relation"], *items)
    return _compared(verdict, said)


def _compared(verdict: bool | None, said: bool) -> str:
    if verdict is None:
        return "too close to call"
    return "" if verdict is said else "the answer is wrong"


def _either(facts: Facts, text: str, answer: str, program: Mapping[str, Any]) -> str:
    a, b = words.items_of(facts.scene, program)
    said = words.longest_said(words.without_mentions(facts.scene, answer), words.RELATIONS_SAID)
    options = words.longest_said(words.without_mentions(facts.scene, text), words.RELATIONS_SAID)
    if options != list(program["options"]) or len(said) != 1 or said[0] not in options:
        return "the words state other options than the program"
    if words.in_order(facts.scene, answer) != [a.object_id, b.object_id]:
        return "the answer names other objects than the question"
    other = next(option for option in options if option != said[0])
    if facts.relation(other, a, b) is not False:
        return "too close to call" if facts.relation(other, a, b) is None else "the answer is wrong"
    return _compared(facts.relation(said[0], a, b), True)


def _choice(facts: Facts, text: str, answer: str, program: Mapping[str, Any]) -> str:
    a, b = words.items_of(facts.scene, program)
    options = words.longest_said(words.without_mentions(facts.scene, text), words.RELATIONS_SAID)
    said = words.longest_said(answer, words.RELATIONS_SAID)
    letter = answer[1:2]
    if options != list(program["options"]) or len(said) != 1 or letter not in "ABCD"[: len(options)]:
        return "the words state other options than the program"
    if options["ABCD".index(letter)] != said[0]:
        return "letter and words of the answer differ"
    for option in options:
        if fault := _compared(facts.relation(option, a, b), option == said[0]):
            return fault
    return ""


def _chosen(facts: Facts, answer: str, items: list[SceneObject]) -> SceneObject | None:
    """The object that the answer names first, if it is one of those asked about."""
    found = words.in_order(facts.scene, answer)
    return next((item for item in items if found and item.object_id == found[0]), None)


def _among(facts: Facts, text: str, answer: str, program: Mapping[str, Any]) -> str:
    items = words.items_of(facts.scene, program)
    anchor = items.pop() if program["anchored"] else None
    said = [
        words.longest_said(words.without_mentions(facts.scene, part), words.SUPERLATIVES_SAID)
        for part in (text, answer)
    ]
    if said != [[program["superlative"]]] * 2:
        return "the words state another superlative than the program"
    best = _chosen(facts, answer, items)
    named = words.in_order(facts.scene, answer)
    if best is None or (anchor is not None and named != [best.object_id, anchor.object_id]):
        return "the answer names none of those asked about"
    for other in items:
        if other is not best and (fault := _compared(facts.beats(program["superlative"], best, other, anchor), True)):
            return fault
    return ""


def _which(facts: Facts, text: str, answer: str, program: Mapping[str, Any]) -> str:
    anchor, first, second = words.items_of(facts.scene, program)
    said = {"closer_to": " closer to ", "farther_from": " farther from "}[program["relation"]]
    if said not in text or said not in answer:
        return "the words state another relation than the program"
    best = _chosen(facts, answer, [first, second])
    if best is None or words.in_order(facts.scene, answer) != [best.object_id, anchor.object_id]:
        return "the answer names none of those asked about"
    other = second if best is first else first
    return _compared(facts.closer(anchor, best, other), program["relation"] == "closer_to")


def _size(facts: Facts, text: str, answer: str, program: Mapping[str, Any]) -> str:
    if fault := words.named_fault(facts.scene, text, program):
        return fault
    items = words.items_of(facts.scene, program)
    asked, told = (
        words.longest_said(words.without_mentions(facts.scene, part), words.SIZES_SAID) for part in (text, answer)
    )
    if asked != [(program["measure"], program["less"])] or told != asked:
        return "the words state another size than the program"
    if program["form"] == "yes_no":
        said = _said_yes(answer)
        if said is None or words.in_order(facts.scene, answer) != list(program["objects"]):
            return "the answer is neither a yes nor a no about these objects"
        more = facts.more(program["measure"], *items)
        return _compared(None if more is None else more is not program["less"], said)
    best = _chosen(facts, answer, items)
    if best is None or len(words.in_order(facts.scene, answer)) != 1:
        return "the answer names none of those asked about"
    for other in items:
        if other is not best and (fault := _compared(facts.more(program["measure"], best, other), not program["less"])):
            return fault
    return ""


# --- traces and chains ------------------------------------------------------------------------------------------------


def _trace(facts: Facts, text: str, answer: str, program: Mapping[str, Any]) -> str:
    if fault := words.named_fault(facts.scene, text, program):
        return fault
    return check_trace(facts, text, answer, program, program["form"])


def _reason(facts: Facts, text: str, answer: str, program: Mapping[str, Any]) -> str:
    if fault := words.named_fault(facts.scene, text, program):
        return fault
    return check_chain(facts, text, answer, program)


_CHECKS: dict[str, Check] = {
    "relation": _relation,
    "size": _size,
    "measure": check_measure,
    "refer": check_refer,
    "free_space": check_free_space,
    "trace": _trace,
    "reason": _reason,
}
