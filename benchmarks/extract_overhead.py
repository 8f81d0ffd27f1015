"""What the pipeline costs around a backend that takes 100 ms a frame: `python benchmarks/extract_overhead.py`.

The backend is a tracker, registered by name like any other, that sleeps: it takes time and no CPU, as a model on a GPU does. What remains is
the pipeline's: decoding, flow, features, entities, keypoints, events, captions, writing. Both its CPU seconds and the wall clock without the
sleep are set against the seconds slept; on an idle core it is no more than either of them, and on a busy one both are too high, so the lower
one counts. It passes at a tenth. `--instant features` also replaces that sense by one that answers at once, as one on a GPU does from the CPU's side.
"""

from __future__ import annotations

import cProfile
import dataclasses
import io
import json
import pstats
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import cv2
import tyro
from made_clips import write_clip
from sleeping_backends import SleepingTracker, register

from traceworld.extract.config import ExtractConfig
from traceworld.extract.pipeline import extract_clip
from traceworld.traces.writer import DatasetWriter

LIMIT = 0.1


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        frames, width, height: of the made-up clip.
        backend_ms: that the tracker takes per frame.
        instant: senses that answer at once.
        rounds: the median counts.
        profile: also print where the CPU seconds go.
    """

    frames: int = 150
    width: int = 640
    height: int = 480
    backend_ms: float = 100.0
    instant: tuple[Literal["features"], ...] = ()
    rounds: int = 3
    profile: bool = False


def run_once(clip: Path, out: Path, config: ExtractConfig) -> dict[str, float]:
    """Seconds of one extraction with writing: CPU, wall, slept."""
    slept, wall, cpu = SleepingTracker.slept, time.perf_counter(), time.process_time()
    found = extract_clip(clip, config, clip.stem)
    DatasetWriter(out).write_item(clip.stem, [found])
    return {
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "slept_s": SleepingTracker.slept - slept,
    }


def measure(options: Options) -> dict[str, Any]:
    register()
    cv2.setNumThreads(1)
    names = dict.fromkeys(options.instant, "instant")
    config = ExtractConfig(tracker=f"sleeping#ms_per_frame={options.backend_ms}", **names)
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder) / "clip.mp4", options.frames, options.width, options.height)
        warm = write_clip(Path(folder) / "warm.mp4", 8, options.width, options.height)
        run_once(warm, Path(folder) / "warm", config)
        profiler = cProfile.Profile(time.process_time)  # seconds of CPU, whatever else runs
        if options.profile:
            profiler.enable()
        runs = [run_once(clip, Path(folder) / str(i), config) for i in range(options.rounds)]
        profiler.disable()
    told = io.StringIO()
    if options.profile:
        pstats.Stats(profiler, stream=told).sort_stats("tottime").print_stats(25)
    by_cpu = statistics.median(run["cpu_s"] / run["slept_s"] for run in runs)
    by_wall = statistics.median(run["wall_s"] / run["slept_s"] - 1 for run in runs)
    overhead = min(by_cpu, by_wall)
    return {
        "options": dataclasses.asdict(options),
        "runs": runs,
        "cpu_ms_per_frame": 1000 * statistics.median(run["cpu_s"] for run in runs) / options.frames,
        "overhead_by_cpu": by_cpu,
        "overhead_by_wall": by_wall,
        "overhead": overhead,
        "limit": LIMIT,
        "passed": overhead <= LIMIT,
        **({"profile": told.getvalue().splitlines()} if options.profile else {}),
    }


def main(options: Options) -> int:
    found = measure(options)
    print(json.dumps(found, indent=1))
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
