"""Reasoning chains: the program that leads to a trace, written out as 2 to 9 lines with their values, then the trace.

Lines are what the process rewards read (§4.3): `Step k: words [Scale|Referring|Measuring] [target]: value`. The program is a
list of operations (scale of the scene, point at an object, measure something, point at the destination); the text is made
from it and from nothing else. Scale is the mean known depth of the picture in metres, the factor that takes geometry
normalised by its mean depth to metres.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traceworld.tracespatial.answers import format_answer, to_thousandths
from traceworld.tracespatial.questions.instructions import Instruction, trace_program, word_trace
from traceworld.tracespatial.questions.measures import sides_of
from traceworld.tracespatial.questions.pointing import point_of
from traceworld.tracespatial.questions.prompts import trace_prompt
from traceworld.tracespatial.questions.question import MAX_STEPS, Question
from traceworld.tracespatial.questions.trace_questions import trace_words
from traceworld.tracespatial.questions.view import SceneView, Thing
from traceworld.tracespatial.scene import SpatialTrace
from traceworld.tracespatial.steps import format_step

FAMILY = "reasoning"
ASK_TO_REASON = (
    "Think in numbered steps first, each of the form [Scale], [Referring] or [Measuring], then answer, as "
    "<think>...</think><answer>...</answer>."
)
SCENE, DESTINATION = "scene", "destination"


def ask(view: SceneView, rng: np.random.Generator, limit: int) -> list[Question]:
    """Up to `limit` chains, one per trace and turn; the number of lines is drawn from what the trace has to say."""
    questions: list[Question] = []
    if not view.scene.metric or view.recorded_world is not None:
        return questions
    for trace in (*view.traces, *view.traces):
        if len(questions) >= limit:
            break
        instruction = word_trace(view, trace, rng)
        if instruction is None:
            continue
        lines = _lines(view, trace, instruction, rng)
        if lines is None:
            view.reject("no point on an object of the chain")
            continue
        made = _question(view, trace, instruction, lines, rng)
        if all(made.text != known.text for known in questions):
            questions.append(made)
    return questions


def _lines(
    view: SceneView, trace: SpatialTrace, instruction: Instruction, rng: np.random.Generator
) -> list[dict[str, Any]] | None:
    """The operations of the chain, in order. Moving object and destination always, the rest as drawn."""
    moving, *others = instruction.things
    needed: list[tuple[int, dict[str, Any]]] = []
    more: list[tuple[int, dict[str, Any]]] = [(0, {"do": "scale", "value": round(view.mean_depth_m, 6)})]
    for place, thing in enumerate(instruction.things):
        at = point_of(view, thing)
        if at is None:
            return None
        line = {
            "do": "refer",
            "object": thing.id,
            "phrase": thing.phrase,
            "uvd": [int(at[0][0]), int(at[0][1]), round(at[1], 6)],
        }
        (needed if thing is moving else more).append((10 * place + 1, line))
        height = sides_of(view, thing)["height"]
        if height is not None:
            more.append((10 * place + 2, _measured("height", (thing,), height)))
    if others:
        apart = float(np.linalg.norm(moving.center - others[0].center))
        more.append((80, _measured("distance", (moving, others[0]), apart)))
    size = (view.scene.camera.width, view.scene.camera.height)
    end = to_thousandths(np.asarray(trace.uvd[-1:], np.float64), *size)[0]
    needed.append((90, {"do": "destination", "uvd": [round(float(number), 6) for number in end]}))
    room = min(len(more), MAX_STEPS - len(needed))
    drawn = [more[i] for i in rng.permutation(len(more))[: int(rng.integers(0, room + 1))]]
    return [line for _, line in sorted(needed + drawn, key=lambda item: item[0])]


def _measured(what: str, things: tuple[Thing, ...], value_m: float) -> dict[str, Any]:
    return {
        "do": "measure",
        "what": what,
        "objects": [thing.id for thing in things],
        "phrases": [thing.phrase for thing in things],
        "value_m": round(value_m, 6),
    }


def chain_text(lines: list[dict[str, Any]]) -> str:
    """The chain in words: one line per operation."""
    return "\n".join(_line(number, line) for number, line in enumerate(lines, 1))


def _line(number: int, line: dict[str, Any]) -> str:
    if line["do"] == "scale":
        says = "First I estimate the scale of the scene."
        return format_step(number, "Scale", SCENE, value=line["value"], says=says)
    if line["do"] == "measure":
        phrases = line["phrases"]
        if line["what"] == "distance":
            says = f"I measure the distance between the centres of {phrases[0]} and {phrases[1]}."
            return format_step(number, "Measuring", " to ".join(phrases), value=line["value_m"], says=says)
        says = f"I measure the height of {phrases[0]}."
        return format_step(number, "Measuring", phrases[0], value=line["value_m"], says=says)
    u, v, d = line["uvd"]
    target, says = (
        (DESTINATION, "The motion has to end here.")
        if line["do"] == "destination"
        else (line["phrase"], f"I locate {line['phrase']}.")
    )
    return format_step(number, "Referring", target, point=(u, v, d), says=says)


def _question(
    view: SceneView,
    trace: SpatialTrace,
    instruction: Instruction,
    lines: list[dict[str, Any]],
    rng: np.random.Generator,
) -> Question:
    prompt = trace_prompt("3d", view.trace_kind, instruction.text.rstrip("."), rng)
    program = {
        "op": "reason",
        "objects": [thing.id for thing in instruction.things],
        "phrases": [thing.phrase for thing in instruction.things],
        "lines": lines,
        "trace": trace_program(view, trace, instruction),
    }
    answer = format_answer(chain_text(lines), trace_words(view, trace)[1])
    return Question(FAMILY, f"{prompt} {ASK_TO_REASON}", answer, program, len(lines), True)
