"""Size comparison: taller, wider, longer, larger, and who is the extreme one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from traceworld.tracespatial.questions.measures import sides_of
from traceworld.tracespatial.questions.question import Question
from traceworld.tracespatial.questions.relative_position import capital, pairs
from traceworld.tracespatial.questions.view import SceneView, Thing

FAMILY = "size_comparison"
SIZE_RATIO = 1.2
"""Sizes must differ by this factor at least …"""
SIZE_MARGIN_M = 0.01
"""… and by this much (volumes: by the factor cubed)."""
WORDS: Mapping[str, tuple[str, str, str, str]] = MappingProxyType(
    {
        "height": ("taller", "shorter", "tallest", "shortest"),
        "width": ("wider", "narrower", "widest", "narrowest"),
        "length": ("longer", "less long", "longest", "least long"),
        "volume": ("larger in volume", "smaller in volume", "largest in volume", "smallest in volume"),
    }
)
"""Measure → more, less, most, least. Width and length are of the box around the object (see `measures`)."""


def size_of(view: SceneView, thing: Thing, measure: str) -> float | None:
    """Metres (volume: m³); None where the side cannot be told."""
    return thing.item.box.volume_m3 if measure == "volume" else sides_of(view, thing)[measure]


def clearly_more(view: SceneView, measure: str, a: Thing, b: Thing) -> bool | None:
    """Whether a has more of the measure than b; None where too alike or where a side cannot be told."""
    one, two = size_of(view, a, measure), size_of(view, b, measure)
    if one is None or two is None:
        return None
    ratio = SIZE_RATIO**3 if measure == "volume" else SIZE_RATIO
    margin = 0.0 if measure == "volume" else SIZE_MARGIN_M * view.unit_m
    return one > two if max(one, two) >= ratio * min(one, two) and abs(one - two) >= margin else None


def ask(view: SceneView, rng: np.random.Generator, limit: int) -> list[Question]:
    """Up to `limit` questions of this family: alternately of two objects and of three or more."""
    questions: list[Question] = []
    measures = tuple(WORDS)
    for turn, (a, b) in enumerate(pairs(view, rng)):
        if len(questions) >= limit:
            break
        measure = measures[int(rng.integers(len(measures)))]
        less = bool(rng.random() < 0.5)
        made = _extreme(view, rng, measure, less) if turn % 3 == 2 else _two(view, rng, measure, less, a, b)
        if made is None:
            view.reject("sizes too alike")
        elif all(made.text != known.text for known in questions):
            questions.append(made)
    return questions


def _program(form: str, things: list[Thing], measure: str, less: bool) -> dict[str, object]:
    return {
        "op": "size",
        "form": form,
        "measure": measure,
        "less": less,
        "objects": [thing.id for thing in things],
        "phrases": [thing.phrase for thing in things],
    }


def _two(view: SceneView, rng: np.random.Generator, measure: str, less: bool, a: Thing, b: Thing) -> Question | None:
    more = clearly_more(view, measure, a, b)
    if more is None:
        return None
    word = WORDS[measure][less]
    holds = more is not less
    if rng.random() < 0.5:
        answer = f"{'Yes' if holds else 'No'}, {a.phrase} is {'' if holds else 'not '}{word} compared with {b.phrase}."
        text = f"Is {a.phrase} {word} compared with {b.phrase}?"
        return Question(FAMILY, text, answer, _program("yes_no", [a, b], measure, less), 2, False)
    best = a if holds else b
    text = f"Which one is {word}: {a.phrase} or {b.phrase}?"
    return Question(
        FAMILY, text, f"{capital(best.phrase)} is {word}.", _program("which", [a, b], measure, less), 2, False
    )


def _extreme(view: SceneView, rng: np.random.Generator, measure: str, less: bool) -> Question | None:
    things = view.things
    if len(things) < 3:
        return None
    chosen = [things[i] for i in rng.permutation(len(things))[: min(len(things), int(rng.integers(3, 5)))]]
    for one in chosen:
        if all(clearly_more(view, measure, one, other) is (not less) for other in chosen if other is not one):
            word = WORDS[measure][2 + less]
            listed = ", ".join(thing.phrase for thing in chosen[:-1]) + f" and {chosen[-1].phrase}"
            program = _program("among", chosen, measure, less)
            answer = f"{capital(one.phrase)} is the {word}."
            return Question(FAMILY, f"Which of {listed} is the {word}?", answer, program, len(chosen), False)
    return None
