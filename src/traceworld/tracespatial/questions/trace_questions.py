"""Trace questions: every spatial trace is asked for in 2D, in 3D, and as a lift from 2D to 3D (§5.3)."""

from __future__ import annotations

import numpy as np

from traceworld.tracespatial.answers import format_trace, to_thousandths
from traceworld.tracespatial.questions.instructions import trace_program, word_trace
from traceworld.tracespatial.questions.prompts import FORMS, trace_prompt
from traceworld.tracespatial.questions.question import Question
from traceworld.tracespatial.questions.view import SceneView
from traceworld.tracespatial.scene import SpatialTrace

FAMILY = "trace"


def ask(view: SceneView, rng: np.random.Generator, limit: int) -> list[Question]:
    """Up to `limit` questions: the three forms of each trace (2D alone where the scale is unknown)."""
    questions: list[Question] = []
    forms = FORMS if view.scene.metric else ("2d",)
    for trace in view.traces:
        instruction = word_trace(view, trace, rng)
        if instruction is None:
            continue
        uv_text, uvd_text = trace_words(view, trace)
        for form in forms:
            if len(questions) >= limit:
                return questions
            text = trace_prompt(form, view.trace_kind, instruction.text.rstrip("."), rng, uv_text)
            program = {
                "op": "trace",
                "form": form,
                "objects": [thing.id for thing in instruction.things],
                "phrases": [thing.phrase for thing in instruction.things],
                **trace_program(view, trace, instruction),
            }
            answer = uv_text if form == "2d" else uvd_text
            questions.append(
                Question(FAMILY, text, answer, program, instruction.steps, form != "2d" or bool(instruction.distance_m))
            )
    return questions


def trace_words(view: SceneView, trace: SpatialTrace) -> tuple[str, str]:
    """The trace as text, without and with depth; the rounded points are the same in both."""
    points = to_thousandths(np.asarray(trace.uvd, np.float64), view.scene.camera.width, view.scene.camera.height)
    return format_trace(points[:, :2]), format_trace(points)
