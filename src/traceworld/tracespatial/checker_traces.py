"""The checker's part for traces and reasoning chains: the points in the words against the program, and both against the scene.

A trace must begin on the object that moves, end as its instruction says, stay in the picture, run into nothing
(`strict_collision`) and state true lengths. Each line of a chain must state what the scene shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from traceworld.tracespatial import checker_text as words
from traceworld.tracespatial.checker_geometry import Facts, box_points, high, low, over
from traceworld.tracespatial.scene import SceneObject
from traceworld.tracespatial.strict_collision import check_trace as run_into

THOUSANDTH = 0.51
"""u and v are whole thousandths."""
DEPTH_M = 0.00052
"""d is written to 1 mm."""
STORED_M = 2e-5
"""Points of the program are stored to 0.01 mm."""
START_SHARE = 0.03
"""The first point lies on the object's pixels or within this part of the picture's width of them (a mug's centre may be its
hole)."""
START_DEPTH_M = 0.05
SIDE_SHARE = 0.7
"""How much of the way from the reference (of the motion) must be along the direction that is named (45° and a little)."""
STACK_GAP_M = 0.04
PASS_M, VIA_M = 0.17, 0.60
"""What is passed is so near to the moving box on the way; what is bypassed, so near and never entered."""
LENGTH_M = 0.0006
SCALE_M = 0.0006
_PATH_FIELDS = (
    "primitive", "kind", "moving", "reference", "via", "passed", "direction", "distance_m", "instruction", "points_world",
    "recorded_world",
)  # fmt: skip
MAX_POINTS = 12
RECORDED_M = 0.02
"""The key points of a recorded path lie so near to the recorded positions, and these so near to the path."""

SIDES_SAID = {"left": "to the left of", "right": "to the right of", "front": "in front of", "behind": "behind"}
WAYS_SAID = {
    "left": "to the left", "right": "to the right", "front": "towards the camera", "behind": "away from the camera",
    "up": "straight up",
}  # fmt: skip


def check_trace(facts: Facts, text: str, answer: str, program: Mapping[str, Any], form: str) -> str:
    """The first fault of a trace question, an empty string if there is none; `form` is `2d`, `3d` or `lift`."""
    points = words.tuples(answer)
    dims = 2 if form == "2d" else 3
    if not points or any(len(point) != dims for point in points):
        return "the answer is no list of points as asked for"
    if fault := _asked_for(text, program, form):
        return fault
    if form == "lift" and (fault := _quoted(text, points)):
        return fault
    world = np.asarray(program["points_world"], np.float64)
    return _written(facts, points, world) or check_path(facts, world, program)


def _asked_for(text: str, program: Mapping[str, Any], form: str) -> str:
    """Whether the question asks for the program's task, in its form, of the object or of the gripper."""
    task = program["instruction"].rstrip(".")
    if f'"{task}"' not in text:
        return "the question is about another task than the program's"
    around = text.replace(task, "")
    quotes_points = re.search(r"\[\(\d", around) is not None
    if ("d1)" in around) != (form != "2d") or quotes_points != (form == "lift"):
        return "the question asks for another form of trace"
    of_gripper = "end-effector-centric" in around or "gripper" in around
    return "" if of_gripper == (program["kind"] == "end-effector") else "the question asks for another one's path"


def _quoted(text: str, points: list[tuple[float, ...]]) -> str:
    """Whether the 2D trace in a lift question is the answer's without its depth."""
    start, end = text.find("[("), text.find(")]")
    given = words.tuples(text[start : end + 2]) if 0 <= start < end else None
    return "" if given == [point[:2] for point in points] else "the 2D trace of the question is not that of the answer"


def _written(facts: Facts, points: list[tuple[float, ...]], world: np.ndarray) -> str:
    """Whether the points in the words are the program's."""
    if len(points) != len(world) or not 2 <= len(points) <= MAX_POINTS or not words.thousandths_only(points):
        return "the points are not the program's, or outside the picture"
    px = facts.pixels(world)
    size = np.array([facts.scene.camera.width, facts.scene.camera.height])
    u_v = px[:, :2] / size * 1000
    slack = THOUSANDTH + 1000 * STORED_M * np.diag(facts.K)[:2].max() / size.min() / px[:, 2:].min()
    stated = np.array(points)
    if np.abs(stated[:, :2] - u_v).max() > slack:
        return "a point is not where the program's trace is"
    if stated.shape[1] == 3 and np.abs(stated[:, 2] - px[:, 2]).max() > DEPTH_M + STORED_M:
        return "a depth is not that of the program's trace"
    return ""


def check_path(facts: Facts, world: np.ndarray, program: Mapping[str, Any]) -> str:
    """Whether the program's path is one that the instruction asks for and the scene allows."""
    key = json.dumps([program.get(name) for name in _PATH_FIELDS])
    if key not in facts.verdicts:  # three questions and several chains are about one path
        facts.verdicts[key] = _path_fault(facts, world, program)
    return facts.verdicts[key]


def _path_fault(facts: Facts, world: np.ndarray, program: Mapping[str, Any]) -> str:
    if "recorded_world" in program or program["kind"] == "end-effector":
        return _recorded(world, program)
    item = facts.scene.object(program["moving"])
    if fault := _start(facts, world[0], item):
        return fault
    if fault := _end(facts, world, item, program) or _lengths(facts, world, item, program):
        return fault
    if fault := _neighbours(facts, world, item, program):
        return fault
    report = run_into(facts.scene, item.object_id, world)
    return f"the path runs into something ({report.with_id})" if report.collided else ""


def _recorded(world: np.ndarray, program: Mapping[str, Any]) -> str:
    """A path out of a recording against all positions recorded on the way, which the program carries."""
    recorded = np.asarray(program.get("recorded_world", ()), np.float64).reshape(-1, 3)
    if len(recorded) < 2:
        return "the program carries no recorded positions"
    nearest = [float(np.linalg.norm(recorded - point, axis=1).min()) for point in world]
    away = [_to_polyline(point, world) for point in recorded]
    ends = np.linalg.norm(recorded[[0, -1]] - world[[0, -1]], axis=1)
    return "" if max([*nearest, *away, *ends]) <= RECORDED_M else "the path is not the recorded one"


def _to_polyline(point: np.ndarray, path: np.ndarray) -> float:
    start, along = path[:-1], np.diff(path, axis=0)
    share = np.clip(((point - start) * along).sum(1) / np.maximum((along**2).sum(1), 1e-12), 0, 1)
    return float(np.linalg.norm(start + share[:, None] * along - point, axis=1).min())


def _start(facts: Facts, first: np.ndarray, item: SceneObject) -> str:
    x, y, depth = facts.pixels(first)[0]
    rows, columns = np.nonzero(item.mask)
    if not len(rows):
        return "the moving object is not seen"
    apart = float(np.sqrt((columns - x) ** 2 + (rows - y) ** 2).min())
    if apart > START_SHARE * facts.scene.camera.width:
        return "the trace does not begin on the object"
    depths = facts.camera_xyz(box_points(item, 2))[:, 2]
    if not depths.min() - START_DEPTH_M <= depth <= depths.max() + START_DEPTH_M:
        return "the trace does not begin at the object's depth"
    return ""


def _end(facts: Facts, world: np.ndarray, item: SceneObject, program: Mapping[str, Any]) -> str:
    """Whether the object ends as the instruction says, and the instruction says what the program says."""
    said, end = program["instruction"], carried(item, world)[-1]
    bare = words.without_mentions(facts.scene, said)
    if program["primitive"] == 2:
        way = WAYS_SAID[program["direction"]]
        if f" {way}" not in bare or any(f" {other} of " in bare for other in WAYS_SAID.values()):
            return "the instruction states another direction than the program"
        moved = end - item.box.center_xyz
        axis = (
            np.array([0, 0, 1.0])
            if program["direction"] == "up"
            else np.append(_axis(facts, program["direction"]), 0.0)
        )
        if program["direction"] != "up":
            moved = moved * [1, 1, 0]
        return "" if moved @ axis >= SIDE_SHARE * np.linalg.norm(moved) > 0 else "the object does not move that way"
    reference = facts.scene.object(program["reference"])
    if program["primitive"] in (3, 5):
        if "on top of *" not in bare:
            return "the instruction does not ask to stack"
        bottom = end[2] - (item.box.center_xyz[2] - low(item))
        onto = over(reference, end[None, :2])[0] and abs(bottom - high(reference)) <= STACK_GAP_M
        return "" if onto else "the object does not end on top of the reference"
    side = SIDES_SAID[program["direction"]]
    if f"{side} *" not in bare:
        return "the instruction states another side than the program"
    away = end[:2] - reference.box.center_xyz[:2]
    if away @ _axis(facts, program["direction"]) < SIDE_SHARE * np.hypot(*away):
        return "the object does not end on that side"
    return "the object ends over the reference" if over(reference, end[None, :2])[0] else ""


def carried(item: SceneObject, world: np.ndarray) -> np.ndarray:
    """Where the centre of the object is when it is moved by the difference of each point to the first."""
    return item.box.center_xyz + world - world[0]


def _axis(facts: Facts, direction: str) -> np.ndarray:
    return {"left": -facts.to_right, "right": facts.to_right, "front": -facts.ahead, "behind": facts.ahead}[direction]


def _lengths(facts: Facts, world: np.ndarray, item: SceneObject, program: Mapping[str, Any]) -> str:
    stated = words.stated_metres(program["instruction"])
    if not stated and program["distance_m"] is None:
        return ""
    if len(stated) != 1 or program["distance_m"] is None:
        return "the instruction states another length than the program"
    end, start = carried(item, world)[-1], item.box.center_xyz
    if program["primitive"] in (3, 5) or (program["primitive"] == 2 and program["direction"] == "up"):
        true = end[2] - start[2]
    elif program["primitive"] == 2:
        true = (end - start)[:2] @ _axis(facts, program["direction"])
    else:
        true = np.hypot(*(end - facts.scene.object(program["reference"]).box.center_xyz)[:2])
    return "" if abs(stated[0] - float(true)) <= LENGTH_M else "the length of the instruction is wrong"


def _neighbours(facts: Facts, world: np.ndarray, item: SceneObject, program: Mapping[str, Any]) -> str:
    """What is passed or bypassed must be named, and near the way."""
    said = words.in_order(facts.scene, program["instruction"])
    expected = [program["moving"], program["reference"], program["via"], *program["passed"]]
    if said != [name for name in expected if name]:
        return "the instruction names other objects than the program"
    for name, limit in [(program["via"], VIA_M)] + [(name, PASS_M) for name in program["passed"]]:
        if name and _nearest(world, item, facts.scene.object(name)) > limit:
            return f"{name!r} is not near the way"
    return ""


def _nearest(world: np.ndarray, item: SceneObject, other: SceneObject) -> float:
    """How near the moving box comes to another, by lattices of points, metres (too large by at most their spacing)."""
    own = box_points(item, 5) - item.box.center_xyz
    world, nearest = carried(item, world), np.inf
    for start, end in pairwise(world):
        count = max(2, int(np.linalg.norm(end - start) / 0.03) + 1)
        for share in np.linspace(0, 1, count):
            # A box's distance to a point, the clamped difference in its own axes.
            local = np.abs((own + start + share * (end - start) - other.box.center_xyz) @ other.box.rotation)
            outside = np.maximum(local - other.box.size_m / 2, 0)
            nearest = min(nearest, float(np.sqrt((outside**2).sum(1)).min()))
    return nearest


# --- reasoning chains -------------------------------------------------------------------------------------------------


def check_chain(facts: Facts, text: str, answer: str, program: Mapping[str, Any]) -> str:
    """The first fault of a reasoning chain, if any: its form, each of its lines, then the trace."""
    read = words.chain(answer)
    if read is None:
        return "thinking and answer are not in the form asked for"
    lines, trace_text = read
    if len(lines) != len(program["lines"]) or [line[0] for line in lines] != list(range(1, len(lines) + 1)):
        return "the chain has other lines than the program"
    if not 2 <= len(lines) <= 9:
        return "a chain has 2 to 9 lines"
    seen: set[tuple[str, str, str]] = set()
    for line, step in zip(lines, program["lines"], strict=True):
        if fault := _line_fault(facts, line, step, (words.tuples(trace_text) or [])[-1:]):
            return f"step {line[0]}: {fault}"
        what = "distance" if "distance" in line[1] else ""
        if (line[2], line[3], what) in seen:
            return f"step {line[0]}: says again what was said"
        seen.add((line[2], line[3], what))
    return check_trace(facts, text, trace_text, program["trace"], "3d")


def _line_fault(
    facts: Facts, line: tuple[int, str, str, str, str], step: Mapping[str, Any], end: list[tuple[float, ...]]
) -> str:
    _, said, kind, target, value = line
    wanted = {"scale": "Scale", "refer": "Referring", "destination": "Referring", "measure": "Measuring"}.get(
        step["do"]
    )
    if kind != wanted:
        return "another kind of step than the program's"
    if step["do"] == "scale":
        stated = _number(value)
        right = target == "scene" and stated is not None and abs(stated - facts.mean_depth) <= SCALE_M
        return "" if right else "the scale is wrong"
    if step["do"] == "measure":
        return _measuring_fault(facts, said, target, value, step)
    points = words.tuples(value)
    if not points or len(points) != 1 or len(points[0]) != 3:
        return "no point"
    if step["do"] == "destination":
        return "" if target == "destination" and points == end else "the destination is not the end of the trace"
    if words.in_order(facts.scene, target) != [step["object"]] or words.in_order(facts.scene, said) != [step["object"]]:
        return "names another object than the program"
    row, column = facts.pixel(*points[0][:2])
    if not facts.scene.object(step["object"]).mask[row, column]:
        return "the point is not on the object"
    measured = float(facts.scene.depth_m[row, column])
    return "" if abs(points[0][2] - measured) <= 0.0006 else "the depth is not the one measured there"


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _measuring_fault(facts: Facts, said: str, target: str, value: str, step: Mapping[str, Any]) -> str:
    named = words.in_order(facts.scene, target)
    if named != list(step["objects"]) or words.in_order(facts.scene, said) != named:
        return "names another object than the program"
    if f" {step['what']} " not in words.without_mentions(facts.scene, said):
        return "measures another thing than the program"
    items = [facts.scene.object(name) for name in named]
    if step["what"] == "distance":
        true: float | None = float(np.linalg.norm(items[0].box.center_xyz - items[1].box.center_xyz))
    else:
        true = facts.side(items[0], step["what"])
    stated = words.stated_metres(value)
    if true is None or len(stated) != 1 or value != f"{stated[0]:.3f}m":
        return "no length"
    return "" if abs(stated[0] - true) <= 0.00051 else "the length is wrong"
