"""A made-up benchmark: ray-cast tables with boxes on them, exact depth and masks, in the published layout."""

from __future__ import annotations

import numpy as np

from traceworld.tracespatial.answers import format_trace, to_thousandths
from traceworld.tracespatial.bench_writing import BenchItem, bench_question
from traceworld.tracespatial.scene import OrientedBox

WIDTH, HEIGHT = 320, 240
# No face lies on the centres of the published evaluator's voxels (odd centimetres), where it does not see them.
K = np.array([[288.0, 0, 159.5], [0, 288.0, 119.5], [0, 0, 1]])
MUG, MUG_SIZE = np.array([-0.35, 0.10, 1.203]), np.array([0.10, 0.12, 0.10])
TABLE_Y, WALL_Z = 0.16, 2.0
BARRIER, BARRIER_SIZE = np.array([0.0, 0.02, 1.203]), np.array([0.16, 0.28, 0.30])
ACROSS = np.array([[0.0, 0, 0], [0.7, 0, 0]])
OVER = np.array([[0.0, 0, 0], [0, -0.35, 0], [0.7, -0.35, 0], [0.7, 0, 0]])


def rays() -> np.ndarray:
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones((HEIGHT, WIDTH))], axis=-1)


def cast(boxes, table=True) -> tuple[np.ndarray, np.ndarray]:
    """Depth in metres and which box is seen (0 none, else its number from 1)."""
    direction = rays()
    with np.errstate(divide="ignore"):
        floor = np.where(direction[..., 1] > 0, TABLE_Y / direction[..., 1], np.inf)
    depth = np.minimum(floor, WALL_Z) if table else np.full((HEIGHT, WIDTH), WALL_Z)
    seen = np.zeros((HEIGHT, WIDTH), int)
    for number, (center, size) in enumerate(boxes, 1):
        with np.errstate(divide="ignore"):
            a, b = (center - size / 2) / direction, (center + size / 2) / direction
        enter, leave = np.minimum(a, b).max(axis=-1), np.maximum(a, b).min(axis=-1)
        hit = (enter < leave) & (enter > 0) & (enter < depth)
        depth[hit], seen[hit] = enter[hit], number
    return depth, seen


def item(number=0, barrier=True, offsets=OVER, mask_value=255, step=3, category="pick-and-place", source="ScanNet"):
    """A mug to be carried beyond a solid box; the true trace goes over it."""
    boxes = [(MUG, MUG_SIZE), (BARRIER, BARRIER_SIZE)][: 2 if barrier else 1]
    depth, seen = cast(boxes)
    start = MUG - [0, 0, MUG_SIZE[2] / 2]
    path = start + offsets
    question = bench_question(
        question_id=number,
        prompt="pick up the mug and put it to the right of the box",
        target_object=f"the mug number {number}",
        destination="the right of the box",
        step=step,
        category=category,
        data_source=source,
        trajectory_cam=path,
        K=K,
        box=OrientedBox(path[-1], np.array([0.2, 0.2, 0.2]), np.eye(3)),
    )
    image = np.where(seen[..., None] == 1, 200, 60).repeat(3, axis=-1).astype(np.uint8)
    mask = np.where(seen == 1, mask_value, 0).astype(np.uint8)
    return BenchItem(question, image, np.round(depth * 1000).astype(np.uint16), mask)


def words(path_cam, dims=3) -> str:
    """A path in camera metres as a model would say it."""
    path_cam = np.asarray(path_cam, float)
    pixels = path_cam[:, :2] / path_cam[:, 2:] * [K[0, 0], K[1, 1]] + K[:2, 2]
    return format_trace(to_thousandths(np.concatenate([pixels, path_cam[:, 2:]], axis=1)[:, :dims], WIDTH, HEIGHT))


def said(item: BenchItem, offsets, dims=3) -> str:
    """The answer that moves the item's object along offsets from its true start."""
    return words(item.question.trajectory_cam[0] + np.asarray(offsets), dims)
