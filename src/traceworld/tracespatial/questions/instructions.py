"""What a spatial trace is asked for in words: made from the trace's program, so that every word of it can be checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from traceworld.tracespatial.directions import view_directions
from traceworld.tracespatial.questions.view import SceneView, Thing
from traceworld.tracespatial.scene import SpatialTrace

DISTANCE_SHARE = 0.2
"""Share of instructions that carry a length (§5.3)."""
MAX_INSTRUCTION_STEPS = 8
"""The benchmark's prompts need 2 to 8."""

SIDE_WORDS: Mapping[str, str] = MappingProxyType(
    {"left": "to the left of", "right": "to the right of", "front": "in front of", "behind": "behind"}
)
WAY_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "left": "to the left",
        "right": "to the right",
        "front": "towards the camera",
        "behind": "away from the camera",
        "up": "straight up",
    }
)
_PLACE = ("Place {0} {side} {1}", "Put {0} down {side} {1}", "Move {0} so that it ends {side} {1}")
_MOVE = ("Move {0} {way}", "Shift {0} {way}")
_STACK = ("Stack {0} on top of {1}", "Put {0} on top of {1}")
RELATION_WORDS = (" left", " right", " front", " behind", " back", " nearest", " farthest", " closest", " on the ")
"""What shows that a caption itself rests on a relation; each such caption is one step more."""


@dataclass(frozen=True)
class Instruction:
    """Words, the objects in the order in which the words name them, the steps they need, and the length they state."""

    text: str
    things: tuple[Thing, ...]
    steps: int
    distance_m: float | None


def word_trace(view: SceneView, trace: SpatialTrace, rng: np.random.Generator) -> Instruction | None:
    """An instruction for the trace; None where an object that it must name may not be asked about.

    A recorded trace (`SceneView.recorded_world`) keeps the words of its recording. Steps are counted as in `primitives`:
    anchors (what moves is one) and relations, and one more for each caption that rests on a relation itself.

    Lengths: primitives 1 and 4 state how far apart the two centres end on the ground, 2 the way made along the direction, 3
    and 5 how much higher the centre ends.
    """
    if view.recorded_world is not None:
        return Instruction(trace.instruction, (), trace.steps, None) if trace.instruction else None
    moving = view.thing(trace.object_id)
    named = [view.thing(name) for name in (trace.reference_id, trace.via_id) if name is not None]
    if moving is None or any(thing is None for thing in named):
        view.reject("a trace needs an object that cannot be named")
        return None
    reference = view.thing(trace.reference_id) if trace.reference_id else None
    via = view.thing(trace.via_id) if trace.via_id else None
    said = [thing for name in trace.passed_ids if (thing := view.thing(name)) and thing not in (reference, via)]
    distance = stated_length(view, trace) if view.scene.metric and rng.random() < DISTANCE_SHARE else None
    parts = [_core(trace, moving, reference, rng)]
    if distance is not None:
        parts.append(_distance(trace, distance))
    if via is not None:
        parts.append(f"going around {via.phrase}")
    if said:
        parts.append("passing " + " and ".join(thing.phrase for thing in said))
    things = (moving, *(thing for thing in (reference, via, *said) if thing))
    own = sum(any(word in f" {thing.item.caption.lower()}" for word in RELATION_WORDS) for thing in things)
    steps = min(MAX_INSTRUCTION_STEPS, 2 + (reference is not None) + 2 * (via is not None) + 2 * len(said) + own)
    return Instruction(", ".join(parts) + ".", things, steps, distance)


def _core(trace: SpatialTrace, moving: Thing, reference: Thing | None, rng: np.random.Generator) -> str:
    if trace.primitive == 2:
        assert trace.direction is not None
        return _MOVE[int(rng.integers(len(_MOVE)))].format(moving.phrase, way=WAY_WORDS[trace.direction])
    assert reference is not None
    if trace.primitive in (3, 5):
        return _STACK[int(rng.integers(len(_STACK)))].format(moving.phrase, reference.phrase)
    assert trace.direction is not None
    form = _PLACE[int(rng.integers(len(_PLACE)))]
    return form.format(moving.phrase, reference.phrase, side=SIDE_WORDS[trace.direction])


def _distance(trace: SpatialTrace, distance_m: float) -> str:
    if trace.primitive == 2:
        return f"by {distance_m:.3f}m"
    if trace.primitive in (3, 5):
        return f"its centre ending {distance_m:.3f}m higher"
    return f"the two centres {distance_m:.3f}m apart"


def stated_length(view: SceneView, trace: SpatialTrace) -> float | None:
    """The length that the instruction may state, metres; None if it is too small to be stated or of the wrong sign."""
    start = view.scene.object(trace.object_id).box.center_xyz
    end = start + trace.points_world[-1] - trace.points_world[0]
    if trace.primitive in (3, 5):
        length = float(end[2] - start[2])
    elif trace.primitive == 2:
        assert trace.direction is not None
        length = float((end - start) @ way_axis(view, trace.direction))
    else:
        assert trace.reference_id is not None
        length = float(np.linalg.norm((end - view.scene.object(trace.reference_id).box.center_xyz)[:2]))
    return length if length >= 0.01 else None


def way_axis(view: SceneView, direction: str) -> np.ndarray:
    """Unit vector [3] in the world of a direction as the viewer says it."""
    return view_directions(view.scene.camera)["above" if direction == "up" else direction]


def trace_program(view: SceneView, trace: SpatialTrace, instruction: Instruction) -> dict[str, Any]:
    """What the checker needs to know about a trace: who moves, how it must end, through which points."""
    recorded = {} if view.recorded_world is None else {"recorded_world": rounded(view.recorded_world)}
    return recorded | {
        "primitive": trace.primitive,
        "kind": view.trace_kind,
        "moving": trace.object_id,
        "reference": trace.reference_id,
        "via": trace.via_id,
        "passed": [thing.id for thing in instruction.things if thing.id in trace.passed_ids],
        "direction": trace.direction,
        "distance_m": None if instruction.distance_m is None else round(instruction.distance_m, 6),
        "instruction": instruction.text,
        "points_world": rounded(trace.points_world),
    }


def rounded(points_world: np.ndarray) -> list[list[float]]:
    """Points as JSON, to a hundredth of a millimetre."""
    return [[round(float(number), 5) for number in point] for point in points_world]
