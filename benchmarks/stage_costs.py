"""What each stage of extraction costs on this machine, as the JSON that `scale_plan.py` reads.

    python benchmarks/stage_costs.py VIDEO_OR_FOLDER --out measured.json
    python benchmarks/stage_costs.py VIDEO --preset hf --clock wall --out gpu.json   # on a GPU: waiting for it counts

One extraction and writing of one clip, under the profiler for the stages' shares and once without it for the total. CPU seconds hold on
a busy machine; with `--clock wall` the machine must be idle. Without an input a made-up video of four seconds is used.
"""

from __future__ import annotations

import cProfile
import dataclasses
import json
import os
import platform
import pstats
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before numpy: figures are per core

import av  # noqa: E402
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import tyro  # noqa: E402
from made_clips import write_clip  # noqa: E402

from traceworld.extract.config import ExtractConfig  # noqa: E402
from traceworld.extract.pipeline import extract_clip  # noqa: E402
from traceworld.perception.catalogue import preset  # noqa: E402
from traceworld.perception.sources import open_source  # noqa: E402
from traceworld.traces.atomic import write_atomically  # noqa: E402
from traceworld.traces.types import Clip  # noqa: E402
from traceworld.traces.writer import DatasetWriter  # noqa: E402

FINALISED = 20
"""Items of the dataset on which finalising is timed."""
STAGES = {
    ("source_base", "__iter__"): "decode",
    ("motion", "between"): "flow",
    ("odometry", "camera_is_static"): "cameras",
    ("odometry", "step"): "cameras",
    ("depth_source", "depth_of"): "geometry",
    ("hybrid", "_reconstruct"): "geometry",
    ("features", "describe"): "features",
    ("dino", "describe"): "features",
    ("entities", "find"): "entities",
    ("sam2", "find"): "entities",
    ("keypoints", "choose_keypoints"): "keypoints",
    ("passes", "follow_chunk"): "tracking",
    ("tracker_base", "track"): "tracking",
    ("events", "cut_events"): "events",
    ("captioning", "caption_events"): "captions",
    ("writer", "write_item"): "write",
}
"""(module, function) → stage. None of them calls another one, so that shares add up; flow inside `camera_is_static` does not
exist: it gets fields that were made before."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        input: video, RGB-D folder or folder of frames; none: a made-up video.
        out: file for the JSON, which is printed too.
        preset: backends. clock: `cpu` seconds of this process, or `wall`.
        max_frames: read at most so many frames.
        keypoints: per clip.
    """

    input: tyro.conf.Positional[Path | None] = None
    out: Path | None = None
    preset: Literal["embedded", "hf", "permissive-gpu", "paper"] = "embedded"
    clock: Literal["cpu", "wall"] = "cpu"
    max_frames: int | None = None
    keypoints: int = 256


def stage_shares(profile: cProfile.Profile) -> dict[str, float]:
    """Stage → share of the profiled time; `other` is the rest."""
    stats: Mapping[tuple[str, int, str], tuple[int, int, float, float, Any]] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in stats.values())
    longest: dict[tuple[str, str], float] = {}
    for (file, _, function), (_, _, _, within, _) in stats.items():
        key = (Path(file).stem, function)
        if key in STAGES and "traceworld" in file:  # of two with one name, one only hands on to the other
            longest[key] = max(longest.get(key, 0.0), within)
    shares = dict.fromkeys(dict.fromkeys(STAGES.values()), 0.0)
    for key, within in longest.items():
        shares[STAGES[key]] += within / total
    return {**shares, "other": 1 - sum(shares.values())}


def extract_and_write(path: Path, out: Path, config: ExtractConfig) -> Clip:
    clip = extract_clip(path, config, path.stem)
    if clip.traces.num_keypoints:
        DatasetWriter(out).write_item(path.stem, [clip])
    return clip


def finalise_seconds(clip: Clip, out: Path, clock: Callable[[], float]) -> float:
    """Per item: status files and shards of a dataset read once more, when everything is written."""
    writer = DatasetWriter(out)
    for number in range(FINALISED):
        clip_id = f"{clip.clip_id}-{number}"
        writer.write_item(clip_id, [dataclasses.replace(clip, clip_id=clip_id)])
    began = clock()
    writer.finalise(statistics=False)  # corpus statistics read a bounded number of clips
    return (clock() - began) / FINALISED


def measure(path: Path, options: Options, folder: Path) -> dict[str, Any]:
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    backends = preset(options.preset)
    backends["tracker"] = backends.pop("tracking")
    config = ExtractConfig(
        num_keypoints=options.keypoints,
        max_frames=options.max_frames,
        accept_licence=("non-commercial", "gated"),
        **backends,  # type: ignore[arg-type]
    )
    cv2.setNumThreads(1)
    extract_and_write(write_clip(folder / "short.mp4", 8), folder / "short", config)  # imports; models are loaded
    profile = cProfile.Profile(clock)
    profile.enable()
    extract_and_write(path, folder / "profiled", config)
    profile.disable()
    began = clock()
    clip = extract_and_write(path, folder / "out", config)
    seconds = clock() - began
    seconds_long = clip.num_frames * float(np.median(np.diff(clip.time_s)))
    shards = list((folder / "out" / "clips").glob("*.parquet"))
    return {
        "input": path.name,
        "machine": f"{platform.processor() or platform.machine()}, one core",
        "clock": options.clock,
        "backends": config.backends(),
        "size": [clip.cameras.width, clip.cameras.height],
        "frames": clip.num_frames,
        "keypoints": clip.traces.num_keypoints,
        "seconds_per_frame": seconds / clip.num_frames,
        "stages": {name: share * seconds / clip.num_frames for name, share in stage_shares(profile).items()},
        "bytes_per_frame": {
            "traces": sum(shard.stat().st_size for shard in shards) / clip.num_frames,
            "source": source_bytes_per_frame(path),
        },
        "events_per_s": {
            "fine": sum(event.level == 0 for event in clip.events) / seconds_long,
            "summaries": sum(event.level > 0 for event in clip.events) / seconds_long,
        },
        "finalise_s_per_clip": finalise_seconds(clip, folder / "many", clock),
        "files_per_clip": sum(1 for file in (folder / "out").rglob("*") if file.is_file()) - 1,  # all but dataset.json
    }


def source_bytes_per_frame(path: Path) -> float:
    """Size on disk over the number of pictures, whatever part of them was read."""
    if path.is_dir():
        with open_source(path) as source:
            frames = source.num_frames or sum(1 for _ in source)
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / frames
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
    return path.stat().st_size / frames


def main(options: Options) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = options.input or write_clip(Path(folder) / "made.mp4", 120)
        found = measure(path, options, Path(folder))
    text = json.dumps(found, indent=1)
    if options.out:
        write_atomically(options.out, lambda temporary: temporary.write_text(text + "\n"))
    print(text)
    return found


if __name__ == "__main__":
    main(tyro.cli(Options))
