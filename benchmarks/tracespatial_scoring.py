"""Scoring 3D answers of TraceSpatial-Bench: ours, in both modes, against the plain way (`tracespatial_plain.py`), in one run.

    python benchmarks/tracespatial_scoring.py                # 100 answers ours, 4 of them the plain way: about a minute
    python benchmarks/tracespatial_scoring.py --plain 100    # every answer both ways

Made-up scenes of 640×480 in the published layout: a table before a wall, a few boxes on it, one of them to be carried over the others, depth
with 2 mm of noise. It passes if a plain answer takes at least ten times as long as one of ours in strict mode (the default) and in compat
mode (the same steps as the plain way), decoding of the pictures included on both sides, and if all compat flags agree.
"""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import numpy as np
import tracespatial_plain
import tyro
from rich.console import Console
from rich.table import Table

from traceworld.evaluation.tracespatial.compat import score_compat
from traceworld.evaluation.tracespatial.strict import score_strict
from traceworld.tracespatial.answers import format_trace, to_thousandths
from traceworld.tracespatial.bench_layout import Answer, Bench
from traceworld.tracespatial.bench_writing import bench_question, encode_png
from traceworld.tracespatial.scene import OrientedBox

LIMIT = 0.1


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        answers: scored by ours. plain: of these the plain way, evenly chosen. scenes: different ones.
        width: of the pictures, in pixels, at 4:3. seed: of scenes and answers.
        json: print one JSON object instead of a table.
    """

    answers: int = 100
    plain: int = 4
    scenes: int = 10
    width: int = 640
    seed: int = 0
    json: bool = False


def ray_cast(
    boxes: list[tuple[np.ndarray, np.ndarray]], K: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Metres of depth, and the number of the box seen (from 1), over a tilted table before a wall."""
    v, u = np.mgrid[:height, :width]
    ray = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones((height, width))], axis=-1)
    slope = ray @ np.array([0.0, 0.9, 0.43])
    depth = np.minimum(np.where(slope > 0, 1.35 / np.maximum(slope, 1e-9), np.inf), 3.207)
    seen = np.zeros((height, width), int)
    for number, (center, size) in enumerate(boxes, 1):
        with np.errstate(divide="ignore"):
            one, two = (center - size / 2) / ray, (center + size / 2) / ray
        enter, leave = np.minimum(one, two).max(axis=-1), np.maximum(one, two).min(axis=-1)
        hit = (enter < leave) & (enter > 0) & (enter < depth)
        depth[hit], seen[hit] = enter[hit], number
    return depth, seen


def make_bench(options: Options) -> tuple[Bench, list[Answer]]:
    """A benchmark in memory (encoded pictures) and answers to it: the true path, disturbed."""
    rng = np.random.default_rng(options.seed)
    width, height = options.width, options.width * 3 // 4
    K = np.array([[0.9 * width, 0, (width - 1) / 2], [0, 0.9 * width, (height - 1) / 2], [0, 0, 1]])
    pictures, answers = {}, []
    pools = []
    for _ in range(options.scenes):
        thing = np.array([-0.35, 0.55, 1.63]) + rng.uniform(-0.05, 0.05, 3)
        boxes = [(thing, np.array([0.12, 0.16, 0.12]))]
        boxes += [(np.array([x, 0.5, rng.uniform(1.5, 2.2)]), rng.uniform(0.1, 0.3, 3)) for x in (0.0, 0.35, 0.7)]
        depth, seen = ray_cast(boxes, K, width, height)
        depth_mm = np.round((depth + rng.normal(0, 0.002, depth.shape)) * 1000).astype(np.uint16)
        image = np.repeat((40 * seen + 50).astype(np.uint8)[..., None], 3, axis=-1)
        mask = np.where(seen == 1, 255, 0).astype(np.uint8)
        encoded = {"image": encode_png(image), "gt_depth": encode_png(depth_mm), "mask": encode_png(mask)}
        pools.append((thing - [0, 0, 0.06], encoded))
    for number in range(options.answers):
        start, encoded = pools[number % options.scenes]
        path = start + np.array([[0, 0, 0], [0.1, -0.3, 0], [0.5, -0.35, 0.1], [0.8, -0.1, 0.1]])
        question = bench_question(
            question_id=number, prompt="carry it", target_object="the box", destination="the right", step=3,
            category="pick-and-place", data_source="made", trajectory_cam=path, K=K,
            box=OrientedBox(path[-1], np.full(3, 0.2), np.eye(3)),
        )  # fmt: skip
        pictures[number] = encoded
        said = np.concatenate([[path[0]], path[1:] + rng.normal(0, 0.1, (3, 3)), [path[-1]]])
        pixels = np.concatenate([said[:, :2] / said[:, 2:] * [K[0, 0], K[1, 1]] + K[:2, 2], said[:, 2:]], axis=1)
        answers.append(Answer(question, format_trace(to_thousandths(pixels, width, height))))
    questions = tuple(answer.question for answer in answers)
    return Bench("made", questions, lambda question, kind: pictures[question.question_id].get(kind)), answers


def measure(options: Options) -> dict[str, Any]:
    """Seconds per answer of each, and whether compat and plain agree."""
    bench, answers = make_bench(options)
    some = [answers[i] for i in np.unique(np.linspace(0, len(answers) - 1, options.plain).round().astype(int))]

    def plainly() -> list[dict[str, Any]]:
        found = []
        for answer in some:
            mask, depth = (bench.picture(answer.question, kind) for kind in ("mask", "gt_depth"))
            found.append(tracespatial_plain.score(answer.prediction, answer.question, mask, depth))
        return found

    score_strict(answers[:1], "3D", bench=bench), score_compat(answers[:1], "3D", "text", bench)  # imports, caches
    seconds, results = {}, {}
    for name, run, number in (
        ("plain", plainly, len(some)),
        ("strict", lambda: score_strict(answers, "3D", bench=bench), len(answers)),
        ("compat", lambda: score_compat(answers, "3D", "text", bench), len(answers)),
    ):
        began = time.process_time()
        results[name] = run()
        seconds[name] = (time.process_time() - began) / number
    ours = {score.question_id: score for score in results["compat"]}
    flags = [
        getattr(ours[answer.question.question_id], flag) == found[flag]
        for answer, found in zip(some, results["plain"], strict=True)
        for flag in ("start_ok", "end_ok", "collided")
    ]
    apart = max(
        abs(getattr(ours[answer.question.question_id], name) - found[name])
        for answer, found in zip(some, results["plain"], strict=True)
        for name in ("frechet", "hausdorff", "rmse", "mae", "frechet_2d", "start_distance_m", "end_distance_m")
    )
    ratios = {mode: seconds[mode] / seconds["plain"] for mode in ("strict", "compat")}
    return {
        "answers": len(answers),
        "plain_answers": len(some),
        "cpu_seconds_per_answer": seconds,
        "ratio": ratios,
        "limit": LIMIT,
        "collided": {mode: int(sum(bool(score.collided) for score in results[mode])) for mode in ("strict", "compat")},
        "flags_agree": all(flags),
        "figures_apart": apart,
        "passed": all(flags) and max(ratios.values()) <= LIMIT,
    }


def main(options: Options) -> int:
    found = measure(options)
    if options.json:
        print(json.dumps(found, indent=1))
        return 0 if found["passed"] else 1
    table = Table(title=f"{found['answers']} answers (plain: {found['plain_answers']})", title_justify="left")
    for column in ("", "CPU s per answer", "of plain"):
        table.add_column(column)
    for name, seconds in found["cpu_seconds_per_answer"].items():
        table.add_row(name, f"{seconds:.4f}", f"{found['ratio'][name]:.3f}" if name in found["ratio"] else "")
    Console().print(table)
    print(
        f"flags agree: {found['flags_agree']}; figures apart by at most {found['figures_apart']:.2g}; passed: {found['passed']}"
    )
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
