"""A benchmark of held-out scenes in the published layout: one trace question per scene, steps 2 to 8 as evenly as scenes allow.

The target box, in which a trace must end, is the moved object's own box where the reference trace leaves it. Nothing goes in that
the checker refuses or whose own reference trace would not score: start in the mask, end in the box, all of it in the picture.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from traceworld.errors import DatasetError, TraceworldError
from traceworld.geometry.cameras import transform
from traceworld.tracespatial.bench_writing import BenchItem, bench_question, write_bench
from traceworld.tracespatial.boxes import contains
from traceworld.tracespatial.checker import check
from traceworld.tracespatial.checker_geometry import Facts
from traceworld.tracespatial.dataset import MAX_DEPTH_MM
from traceworld.tracespatial.questions.instructions import (
    SIDE_WORDS,
    WAY_WORDS,
    Instruction,
    trace_program,
    word_trace,
)
from traceworld.tracespatial.questions.prompts import trace_prompt
from traceworld.tracespatial.questions.trace_questions import trace_words
from traceworld.tracespatial.questions.view import SceneView
from traceworld.tracespatial.scene import OrientedBox, SpatialTrace
from traceworld.tracespatial.sources import SceneSource, views

PICK, PUSH = "pick-and-place", "push-and-pull"
PUSH_RISE_M = 0.02
"""A move along the ground that rises no more than this is a push or a pull."""
FEW_SCENES = 50
"""Scenes looked at per question at most, before a source is said to have too little."""


@dataclass(frozen=True)
class BenchReport:
    """What was written: questions, scenes looked at, and questions per step and category."""

    questions: int
    scenes: int
    steps: dict[int, int]
    categories: dict[str, int]


def make_bench(
    source: SceneSource,
    out: str | Path,
    scenes: int,
    *,
    seed: int = 0,
    proposals: int = 12,
    data_source: str | None = None,
) -> BenchReport:
    """Write a benchmark of so many scenes. The same arguments give the same bytes.

    Args:
        source: give it a seed that no training set has. proposals: traces tried per scene.
        data_source: the field of that name; the scene's source where None.

    Raises:
        DatasetError: the source has too few usable scenes, or the folder cannot be written.
    """
    steps: Counter[int] = Counter()
    categories: Counter[str] = Counter()
    items: list[BenchItem] = []
    looked = 0
    for scene_id in source.scene_ids():
        if len(items) == scenes or looked >= FEW_SCENES * scenes:
            break
        looked += 1
        try:
            candidates = [
                found for view in views(source, source.load(scene_id), seed, proposals) for found in usable(view, seed)
            ]
        except TraceworldError:
            continue  # a scene that cannot be made is as good as one without a trace
        if not candidates:
            continue
        view, trace, words = min(candidates, key=lambda found: steps[found[2].steps])
        item = bench_item(view, trace, words, len(items), data_source or view.scene.source)
        steps[words.steps] += 1
        categories[str(item.question.category)] += 1
        items.append(item)
    if len(items) < scenes:
        raise DatasetError(
            f"{len(items)} usable of {looked} scenes, {scenes} asked for", where=source.name, mend="ask for fewer"
        )
    write_bench(out, items)
    return BenchReport(len(items), looked, dict(sorted(steps.items())), dict(sorted(categories.items())))


def usable(view: SceneView, seed: int) -> Iterator[tuple[SceneView, SpatialTrace, Instruction]]:
    """Traces of planned motion that the checker passes and that would score full marks themselves."""
    facts = Facts(view.scene)
    if view.recorded_world is not None:
        return
    for number, trace in enumerate(view.traces):
        rng = np.random.default_rng([seed, zlib.crc32(view.scene.scene_id.encode()), number, 0xBE])
        words = word_trace(view, trace, rng)
        if words is None or not scores_itself(view, trace):
            continue
        program = {
            "op": "trace",
            "form": "3d",
            "objects": [thing.id for thing in words.things],
            "phrases": [thing.phrase for thing in words.things],
            "scene": view.fingerprint,
            **trace_program(view, trace, words),
        }
        asked = trace_prompt("3d", "object", words.text.rstrip("."), rng)
        if not check(view.scene, asked, trace_words(view, trace)[1], program, facts):
            yield view, trace, words


def end_box(view: SceneView, trace: SpatialTrace) -> OrientedBox:
    """The object's box where the trace leaves it, in the camera's frame."""
    box = view.scene.object(trace.object_id).box
    pose = np.asarray(view.scene.camera.cam_from_world, np.float64)
    center = box.center_xyz + trace.points_world[-1] - trace.points_world[0]
    return OrientedBox(transform(pose, center), box.size_m, pose[:3, :3] @ box.rotation)


def scores_itself(view: SceneView, trace: SpatialTrace) -> bool:
    """Whether the reference trace starts on a pixel of the mask and ends in its own box."""
    x, y = np.rint(trace.uvd[0, :2]).astype(int)
    mask = view.scene.object(trace.object_id).mask
    if not (0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x]):
        return False
    last = transform(np.asarray(view.scene.camera.cam_from_world, np.float64), trace.points_world[-1:])
    return bool(contains(end_box(view, trace), last)[0])


def bench_item(view: SceneView, trace: SpatialTrace, words: Instruction, number: int, data_source: str) -> BenchItem:
    """One question with its pictures."""
    scene = view.scene
    pose = np.asarray(scene.camera.cam_from_world, np.float64)
    moving = words.things[0]
    rise = float(np.ptp(trace.points_world[:, 2]))
    question = bench_question(
        question_id=number,
        prompt=words.text,
        target_object=moving.phrase,
        destination=destination_words(trace, words),
        step=words.steps,
        category=PUSH if trace.primitive == 2 and rise <= PUSH_RISE_M else PICK,
        data_source=data_source,
        trajectory_cam=transform(pose, np.asarray(trace.points_world, np.float64)),
        K=np.asarray(scene.camera.K, np.float64),
        box=end_box(view, trace),
    )
    depth_mm = np.rint(scene.depth_m.astype(np.float64) * 1000)
    depth_mm[depth_mm > MAX_DEPTH_MM] = 0
    mask = np.where(moving.item.mask, 255, 0).astype(np.uint8)
    return BenchItem(question, scene.image, depth_mm.astype(np.uint16), mask)


def destination_words(trace: SpatialTrace, words: Instruction) -> str:
    """`to the left of the box`, `on top of the box`, `towards the camera`."""
    if trace.primitive == 2:
        return WAY_WORDS[str(trace.direction)]
    reference = words.things[1].phrase
    return f"on top of {reference}" if trace.primitive in (3, 5) else f"{SIDE_WORDS[str(trace.direction)]} {reference}"
