"""Frames per second on one core and peak memory of trace extraction: `python benchmarks/extract.py INPUT [--keypoints 256]`."""

from __future__ import annotations

import argparse
import json
import os
import resource
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before numpy: figures are per core


def measure(path: str, keypoints: int, repeat: int) -> dict[str, object]:
    """Run the traces part of the pipeline on one source; CPU seconds, not wall clock, so that other jobs do not count."""
    import cv2

    from traceworld.extract.config import ExtractConfig
    from traceworld.extract.tracks import build_traces
    from traceworld.perception.sources import open_source

    cv2.setNumThreads(1)
    best = None
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        with open_source(path) as source:
            result = build_traces(source, ExtractConfig(num_keypoints=keypoints))
            size = (source.width, source.height)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        best = min(best, (cpu, wall)) if best else (cpu, wall)
    frames = len(result.time_s)
    return {
        "input": path,
        "size": size,
        "frames": frames,
        "keypoints": result.traces.num_keypoints,
        "frames_per_cpu_second": round(frames / best[0], 2),
        "frames_per_second": round(frames / best[1], 2),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "status": result.status,
        "quality": result.quality,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input", help="video or RGB-D folder")
    parser.add_argument("--keypoints", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=1)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.input, arguments.keypoints, arguments.repeat), indent=2))


if __name__ == "__main__":
    main()
