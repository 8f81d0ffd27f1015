"""Relative position: does a relation hold, which of two holds, which option holds, who is the extreme one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from traceworld.tracespatial.questions.question import Question
from traceworld.tracespatial.questions.relations import (
    BINARY_WORDS,
    SUPERLATIVE_WORDS,
    between,
    closer_to,
    extreme,
    holds,
)
from traceworld.tracespatial.questions.view import SceneView, Thing

FAMILY = "relative_position"
OPPOSITES = (
    ("left", "right"),
    ("front", "behind"),
    ("above", "below"),
    ("nearer_camera", "farther_camera"),
)
EXCLUSIVE = ("left_front", "right_front", "left_behind", "right_behind", "above", "below")
"""Relations of which at most one can hold: options of a multiple choice."""
OPTIONS = 4
MAX_AMONG = 4


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def ask(view: SceneView, rng: np.random.Generator, limit: int) -> list[Question]:
    """Up to `limit` questions of this family, of mixed forms."""
    forms: list[Callable[[SceneView, np.random.Generator], Iterator[Question]]]
    forms = [yes_or_no, either, choice, among, between_two, closer_of_two]
    streams = [form(view, rng) for form in forms]
    questions: list[Question] = []
    while streams and len(questions) < limit:
        for stream in list(streams):
            question = next(stream, None)
            if question is None:
                streams.remove(stream)
            elif len(questions) < limit:
                questions.append(question)
    return questions


def pairs(view: SceneView, rng: np.random.Generator) -> Iterator[tuple[Thing, Thing]]:
    """Ordered pairs of different things in random order."""
    things = view.things
    count = len(things)
    if count < 2:
        return
    for code in rng.permutation(count * (count - 1)):
        first, second = divmod(int(code), count - 1)
        yield things[first], things[second + (second >= first)]


def _program(form: str, things: tuple[Thing, ...], **more: object) -> dict[str, object]:
    return {
        "op": "relation",
        "form": form,
        "objects": [thing.id for thing in things],
        "phrases": [thing.phrase for thing in things],
        **more,
    }


def yes_or_no(view: SceneView, rng: np.random.Generator) -> Iterator[Question]:
    """Every relation is drawn equally often, and about as many hold as do not."""
    names = tuple(BINARY_WORDS)
    for a, b in pairs(view, rng):
        verdicts = {name: holds(view, name, a, b) for name in names}
        wanted = bool(rng.random() < 0.5)
        fitting = [name for name in names if verdicts[name] is wanted]
        if not fitting:
            view.reject("relation margin too small")
            continue
        name = fitting[int(rng.integers(len(fitting)))]
        words = BINARY_WORDS[name]
        answer = f"Yes, {a.phrase} is {words} {b.phrase}." if wanted else f"No, {a.phrase} is not {words} {b.phrase}."
        text = f"Seen from the camera, is {a.phrase} {words} {b.phrase}?"
        yield Question(FAMILY, text, answer, _program("yes_no", (a, b), relation=name), 2, False)


def either(view: SceneView, rng: np.random.Generator) -> Iterator[Question]:
    """One of two opposite relations."""
    for a, b in pairs(view, rng):
        pair = OPPOSITES[int(rng.integers(len(OPPOSITES)))]
        true = [name for name in pair if holds(view, name, a, b)]
        if len(true) != 1:
            view.reject("relation margin too small")
            continue
        one, other = pair if rng.random() < 0.5 else pair[::-1]
        text = (
            f"Seen from the camera, where is {a.phrase} compared with {b.phrase}: "
            f'"{BINARY_WORDS[one]}" or "{BINARY_WORDS[other]}" it?'
        )
        answer = f"{capital(a.phrase)} is {BINARY_WORDS[true[0]]} {b.phrase}."
        yield Question(FAMILY, text, answer, _program("either", (a, b), options=[one, other]), 2, False)


def choice(view: SceneView, rng: np.random.Generator) -> Iterator[Question]:
    """Multiple choice: one option holds, the others clearly do not."""
    for a, b in pairs(view, rng):
        verdicts = {name: holds(view, name, a, b) for name in EXCLUSIVE}
        true = [name for name in EXCLUSIVE if verdicts[name]]
        false = [name for name in EXCLUSIVE if verdicts[name] is False]
        if len(true) != 1 or len(false) < OPTIONS - 1:
            view.reject("relation margin too small")
            continue
        options = [true[0], *(false[i] for i in rng.permutation(len(false))[: OPTIONS - 1])]
        options = [options[i] for i in rng.permutation(OPTIONS)]
        listed = " ".join(f"({letter}) {BINARY_WORDS[name]}" for letter, name in zip("ABCD", options, strict=True))
        text = f"Seen from the camera, which of these says where {a.phrase} is relative to {b.phrase}? {listed}"
        answer = f"({'ABCD'[options.index(true[0])]}) {BINARY_WORDS[true[0]]}"
        yield Question(FAMILY, text, answer, _program("choice", (a, b), options=options), 2, False)


def among(view: SceneView, rng: np.random.Generator) -> Iterator[Question]:
    """Who is farthest to the left, highest up, closest to something …"""
    kinds = tuple(SUPERLATIVE_WORDS)
    things = view.things
    for _ in range(2 * len(things)):
        kind = kinds[int(rng.integers(len(kinds)))]
        anchored = kind in ("nearest_to", "farthest_from_all")
        count = min(len(things) - anchored, int(rng.integers(3, MAX_AMONG + 1)))
        if count < 3:
            view.reject("too few objects for a superlative")
            return
        drawn = [things[i] for i in rng.permutation(len(things))[: count + anchored]]
        chosen, anchor = (drawn[:-1], drawn[-1]) if anchored else (drawn, None)
        best = extreme(view, kind, chosen, anchor)
        if best is None:
            view.reject("superlative margin too small")
            continue
        words = SUPERLATIVE_WORDS[kind] + (f" {anchor.phrase}" if anchor else "")
        listed = ", ".join(thing.phrase for thing in chosen[:-1]) + f" and {chosen[-1].phrase}"
        text = f"Seen from the camera, which of {listed} is {words}?"
        everyone = (*chosen, anchor) if anchor else tuple(chosen)
        program = _program("among", everyone, superlative=kind, anchored=anchored)
        yield Question(FAMILY, text, f"{capital(best.phrase)} is {words}.", program, len(everyone), False)


def between_two(view: SceneView, rng: np.random.Generator) -> Iterator[Question]:
    for a, b in pairs(view, rng):
        others = [thing for thing in view.things if thing.id not in (a.id, b.id)]
        if not others:
            return
        c = others[int(rng.integers(len(others)))]
        verdict = between(view, a, b, c)
        if verdict is None:
            view.reject("between margin too small")
            continue
        said = f"{a.phrase} is {'' if verdict else 'not '}between {b.phrase} and {c.phrase}"
        text = f"Is {a.phrase} between {b.phrase} and {c.phrase}?"
        answer = f"{'Yes' if verdict else 'No'}, {said}."
        yield Question(FAMILY, text, answer, _program("yes_no", (a, b, c), relation="between"), 3, False)


def closer_of_two(view: SceneView, rng: np.random.Generator) -> Iterator[Question]:
    for a, b in pairs(view, rng):
        others = [thing for thing in view.things if thing.id not in (a.id, b.id)]
        if not others:
            return
        c = others[int(rng.integers(len(others)))]
        closer = closer_to(view, a, b, c)
        if closer is None:
            view.reject("distances too alike")
            continue
        relation = "closer_to" if rng.random() < 0.5 else "farther_from"
        best = b if closer is (relation == "closer_to") else c
        words = "closer to" if relation == "closer_to" else "farther from"
        text = f"Measured from {a.phrase}, which is {words} it: {b.phrase} or {c.phrase}?"
        answer = f"{capital(best.phrase)} is {words} {a.phrase}."
        yield Question(FAMILY, text, answer, _program("which", (a, b, c), relation=relation), 3, False)
