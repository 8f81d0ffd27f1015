"""Referring: point at an object, named directly or by a relation to another; the answer is (u, v, d) or (u, v)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from traceworld.tracespatial.questions.pointing import point_of
from traceworld.tracespatial.questions.quantities import point_words
from traceworld.tracespatial.questions.question import Question
from traceworld.tracespatial.questions.relations import BINARY_WORDS, SUPERLATIVE_WORDS, extreme, holds
from traceworld.tracespatial.questions.relative_position import pairs
from traceworld.tracespatial.questions.view import SceneView, Thing

FAMILY = "referring"
FORMAT_3D = "Answer with [(u, v, d)]: u and v from 0 to 1000, d the depth in metres."
FORMAT_2D = "Answer with [(u, v)]: u and v from 0 to 1000."
POINTING_RELATIONS = ("left", "right", "front", "behind", "on", "under", "inside", "next_to", "above", "below")
EXTREMES = ("leftmost", "rightmost", "nearest_camera", "farthest_camera", "highest", "lowest")
_ASKS = ("Point to {0}.", "Locate {0} in the picture.", "Where is {0}? Mark one point on it.")


def ask(view: SceneView, rng: np.random.Generator, limit: int) -> list[Question]:
    """Up to `limit` questions: direct ones, ones by relation, ones by a superlative, in turn."""
    streams = [_direct(view, rng), _by_relation(view, rng), _by_extreme(view, rng)]
    questions: list[Question] = []
    while streams and len(questions) < limit:
        for stream in list(streams):
            question = next(stream, None)
            if question is None:
                streams.remove(stream)
            elif len(questions) < limit and all(question.text != known.text for known in questions):
                questions.append(question)
    return questions


def _question(
    view: SceneView,
    rng: np.random.Generator,
    target: Thing,
    named: str,
    anchors: tuple[Thing, ...],
    steps: int,
    **program: object,
) -> Question | None:
    found = point_of(view, target)
    if found is None:
        view.reject("no point on the object")
        return None
    uv, depth_m = found
    with_depth = view.scene.metric and bool(rng.random() < 0.6)
    text = _ASKS[int(rng.integers(len(_ASKS)))].format(named) + " " + (FORMAT_3D if with_depth else FORMAT_2D)
    full = {
        "op": "refer",
        "target": target.id,
        "objects": [thing.id for thing in anchors],
        "phrases": [thing.phrase for thing in anchors],
        "with_depth": with_depth,
        **program,
    }
    answer = f"[{point_words(uv, depth_m if with_depth else None)}]"
    return Question(FAMILY, text, answer, full, steps, with_depth)


def _direct(view: SceneView, rng: np.random.Generator) -> Iterator[Question]:
    for i in rng.permutation(len(view.things)):
        thing = view.things[int(i)]
        made = _question(view, rng, thing, thing.phrase, (thing,), 1, form="direct")
        if made:
            yield made


def _by_relation(view: SceneView, rng: np.random.Generator) -> Iterator[Question]:
    """ "the mug to the left of the box": exactly one mug is, all other mugs clearly are not."""
    for target, anchor in pairs(view, rng):
        rivals = same_label(view, target)
        names = [POINTING_RELATIONS[int(i)] for i in rng.permutation(len(POINTING_RELATIONS))]
        if anchor.item.label == target.item.label or any(item is None for item in rivals):
            view.reject("a rival of the same label cannot be judged")
            continue
        for name in names:
            if holds(view, name, target, anchor) is not True:
                continue
            if any(holds(view, name, rival, anchor) is not False for rival in rivals if rival):
                view.reject("two objects may fit the phrase")
                continue
            named = f"the {target.item.label} that is {BINARY_WORDS[name]} {anchor.phrase}"
            made = _question(
                view, rng, target, named, (anchor,), 2, form="relation", relation=name, label=target.item.label
            )
            if made:
                yield made
            break


def same_label(view: SceneView, target: Thing) -> list[Thing | None]:
    """The other objects of the target's label; None for each that is there but not seen well enough to be judged."""
    return [
        view.thing(item.object_id)
        for item in view.scene.objects
        if item.label == target.item.label and item.object_id != target.id
    ]


def _by_extreme(view: SceneView, rng: np.random.Generator) -> Iterator[Question]:
    labels = sorted({thing.item.label for thing in view.things})
    for i in rng.permutation(len(labels)):
        group = [thing for thing in view.things if thing.item.label == labels[i]]
        whole = sum(item.label == labels[i] for item in view.scene.objects)
        if not 2 <= len(group) == whole:
            continue
        for kind in (EXTREMES[int(j)] for j in rng.permutation(len(EXTREMES))):
            best = extreme(view, kind, group)
            if best is None:
                view.reject("superlative margin too small")
                continue
            named = f"the {labels[i]} that is {SUPERLATIVE_WORDS[kind]}"
            made = _question(view, rng, best, named, (), 2, form="extreme", superlative=kind, label=labels[i])
            if made:
                yield made
            break
