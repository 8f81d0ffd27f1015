"""Embedded extraction end to end: frames per second and core, and what a second worker adds.

    python benchmarks/extract_scaling.py             # needs two idle cores; about four minutes
    python benchmarks/extract_scaling.py --cpu-only  # on a busy machine: what CPU seconds say

Whole runs of `extract_many` (executor `processes`: start of the workers, reading, extraction, writing, manifest) over made-up videos, one worker on
one core and two on two, alternating. Scaling is the ratio of wall times; it means something only while each worker has a core to itself,
so the share of a core that the workers got is measured too, and the verdict is withheld below 90 %. CPU seconds tell on any machine how much
more work two workers make of the same clips: `scaling_by_cpu` is what two cores would give if nothing but that stood in the way.
It passes at a ratio of 1.7.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before numpy: figures are per core

import tyro  # noqa: E402
from made_clips import write_clip  # noqa: E402

from traceworld.extract.config import ExtractConfig  # noqa: E402
from traceworld.extract.jobs import extract_many  # noqa: E402

LEAST, OWN_CORE = 1.7, 0.9


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        clips, frames, width, height: of the made-up videos.
        keypoints: per clip.
        rounds: each round runs one worker, then two.
        cpu_only: pass or fail by CPU seconds, wherever the wall clock cannot be trusted.
    """

    clips: int = 12
    frames: int = 120
    width: int = 640
    height: int = 480
    keypoints: int = 256
    rounds: int = 3
    cpu_only: bool = False


def run_once(clips: list[Path], out: Path, workers: int, config: ExtractConfig) -> dict[str, float]:
    """One batch with each worker on a core of its own. Seconds: wall, and CPU of this process and of the workers."""
    allowed = os.sched_getaffinity(0)
    before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    began = time.perf_counter()
    try:
        os.sched_setaffinity(0, set(sorted(allowed)[:workers]))
        report = extract_many(clips, out, config, executor="processes", workers=workers, progress=False)
    finally:
        os.sched_setaffinity(0, allowed)
    wall = time.perf_counter() - began
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(before, after, strict=True))
    if report.ok != len(clips):
        raise RuntimeError(f"{report.failed} of {len(clips)} clips failed: {report.items[0].error}")
    frames = sum(item.frames for item in report.items)
    return {
        "workers": workers,
        "wall_s": wall,
        "cpu_s": cpu,
        "frames_per_s": frames / wall,
        "frames_per_cpu_s": frames / cpu,
        "core_share": cpu / wall / workers,
    }


def verdict(runs: list[dict[str, float]], cpu_only: bool) -> dict[str, Any]:
    """Medians over rounds (a run with one worker, then one with two, and so on), and whether they pass."""
    pairs = list(zip(runs[::2], runs[1::2], strict=True))
    scaling = statistics.median(one["wall_s"] / two["wall_s"] for one, two in pairs)
    by_cpu = statistics.median(2 * one["cpu_s"] / two["cpu_s"] for one, two in pairs)
    share = {n: statistics.median(run["core_share"] for run in runs if run["workers"] == n) for n in (1, 2)}
    free = min(share.values()) >= OWN_CORE
    passed = by_cpu >= LEAST if cpu_only else (scaling >= LEAST if free else None)
    return {
        "frames_per_cpu_s": statistics.median(one["frames_per_cpu_s"] for one, _ in pairs),
        "frames_per_s": {n: statistics.median(r["frames_per_s"] for r in runs if r["workers"] == n) for n in (1, 2)},
        "scaling": scaling,
        "scaling_by_cpu": by_cpu,
        "core_share": share,
        "least": LEAST,
        "judged_by": "cpu" if cpu_only else "wall" if free else "nothing: the cores were not free",
        "passed": passed,
    }


def measure(options: Options) -> dict[str, Any]:
    config = ExtractConfig(num_keypoints=options.keypoints)
    with tempfile.TemporaryDirectory() as folder:
        size = (options.frames, options.width, options.height)
        clips = [write_clip(Path(folder) / f"clip{i}.mp4", *size, seed=10 * i) for i in range(options.clips)]
        runs = [
            run_once(clips, Path(folder) / f"out{i}-{workers}", workers, config)
            for i in range(options.rounds)
            for workers in (1, 2)
        ]
    return {"options": dataclasses.asdict(options), "runs": runs, **verdict(runs, options.cpu_only)}


def main(options: Options) -> int:
    found = measure(options)
    print(json.dumps(found, indent=1))
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
