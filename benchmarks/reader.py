"""How fast training windows are read, on this machine: does the reader starve the trainer?

    python benchmarks/reader.py runs/mu0-nano/train                # a store of your own
    python benchmarks/reader.py                                    # a synthetic one, made in a temporary folder
    python benchmarks/reader.py runs/mu0-nano/train --profile      # and where the time goes

Seconds are CPU seconds of this process, so the figures are windows per second and core, whatever else the machine does.
"""

from __future__ import annotations

import cProfile
import io
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import tyro

from traceworld.traces.batching import collate
from traceworld.traces.media import write_pictures
from traceworld.traces.types import Cameras, Clip, Traces
from traceworld.traces.writer import DatasetWriter
from traceworld.training import TrainConfig
from traceworld.training.data import DrawOrder, TrainingWindows, to_device, training_batches
from traceworld.training.registry import model_kind
from traceworld.training.sources import open_training_data


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        data: clip stores; none: a synthetic one with `points` per clip.
        points, clips: of the synthetic store.
        keypoints: least and most per window. windows: timed ones. batch: windows per batch.
        arc: share of windows on the arc-length clock.
        step: also time training steps of mu0 nano (`threads`, `precision`).
        profile: print the functions that take most time.
    """

    data: tyro.conf.Positional[tuple[str, ...]] = ()
    points: int = 256
    clips: int = 6
    keypoints: tuple[int, int] = (64, 64)
    windows: int = 1000
    batch: int = 16
    arc: float = 0.2
    step: bool = False
    threads: int = 1
    precision: str = "fp32"
    profile: bool = False


def main(options: Options) -> dict[str, float]:
    """Windows per CPU second: traces alone, pictures alone, whole samples as the trainer reads them, training steps."""
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(0)  # as in the reader processes of a run
    with nullcontext(None) if options.data else tempfile.TemporaryDirectory() as folder:
        data = options.data or (synthetic_store(Path(str(folder)) / "clips", options.points, options.clips),)
        config = TrainConfig(
            data=data,
            out="",
            batch=options.batch,
            keypoints=options.keypoints,
            time_weight=1 - options.arc,
            arc_weight=options.arc,
            val_fraction=0.0,
        )
        kind = model_kind("mu0")
        model = kind.build(config)
        found = open_training_data(config, kind.image_size(model))
        kind.set_normalisation(model, found.normalisation)
        order = DrawOrder([len(source) for source in found.train], found.weights, seed=0)
        reader = TrainingWindows(found.train, order, 0, config.colour_jitter, config.depth_noise_m)

        def traces(first: int) -> None:
            draws = [order(number) for number in range(first, first + options.batch)]
            collate([found.train[d.source].traces(d.index, seed=0, epoch=d.epoch) for d in draws])

        def samples(first: int) -> None:
            collate([reader[number] for number in range(first, first + options.batch)])

        result = {
            "traces_windows_per_s": rate(traces, options),
            "samples_windows_per_s": rate(samples, replace(options, windows=max(64, options.windows // 10))),
        }
        if options.step:
            result["step_windows_per_s"] = step_rate(model, reader, options)
    return result


def rate(read: Callable[[int], None], options: Options) -> float:
    """Windows per CPU second of `read`, which reads the batch that begins at a draw."""
    for first in range(0, 4 * options.batch, options.batch):  # files are open, clocks and bases computed
        read(first)
    profile = cProfile.Profile(time.process_time) if options.profile else None
    begun = time.process_time()
    with profile or nullcontext():
        for first in range(0, options.windows, options.batch):
            read(first)
    spent = time.process_time() - begun
    if profile:
        text = io.StringIO()
        pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(22)
        print(text.getvalue(), file=sys.stderr)
    return round(-(-options.windows // options.batch) * options.batch / spent, 1)


def step_rate(model: torch.nn.Module, reader: TrainingWindows, options: Options, batches: int = 4) -> float:
    """Windows per CPU second of whole training steps on batches that are already there."""
    read = list(training_batches(reader, start=0, count=batches + 1, batch=options.batch, workers=0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    for number, batch in enumerate(read):
        if number == 1:
            begun = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            loss = model.loss(to_device(batch, torch.device("cpu")), torch.Generator().manual_seed(0))["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return round(batches * options.batch / (time.process_time() - begun), 1)


def synthetic_store(
    folder: Path, points: int, clips: int, frames: int = 120, size: tuple[int, int] = (640, 480)
) -> str:
    """Clips of swinging and resting points, one picture in ten frames (textured, with depth), like a simulated corpus."""
    writer = DatasetWriter(folder, source="benchmark")
    time_s = np.arange(frames) * 0.025
    K = np.array([[500.0, 0, 319.5], [0, 505.0, 239.5], [0, 0, 1]])
    for number in range(clips):
        rng = np.random.default_rng(number)
        start = rng.uniform([-0.3, -0.2, 0.8], [0.3, 0.2, 1.2], (points, 3))
        moving = np.arange(points) < points // 2
        path = np.stack([0.1 * np.sin(2 * time_s), 0.05 * np.cos(3 * time_s) - 0.05, 0.04 * time_s], -1)
        xyz = (start + moving[:, None] * path[:, None]).astype(np.float32)
        lost = rng.integers(0, frames, points)[None] + np.where(rng.random(points) < 0.1, 0, 2 * frames)
        valid = np.abs(np.arange(frames)[:, None] - lost) > 8  # one point in ten is out of sight for a while
        xyz[~valid] = np.nan
        part = (np.arange(points) % 8 - 1).astype(np.int32)
        traces = Traces(xyz, valid, valid.copy(), part, moving, np.zeros(points, np.int32))
        cameras = Cameras(np.repeat(K[None], frames, 0), np.repeat(np.eye(4)[None], frames, 0), *size)
        texture = cv2.resize(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8), (192, 144))
        images = {f: np.roll(texture, f, 1) for f in range(0, frames, 10)}
        depths = {f: np.full(texture.shape[:2], 1 + f / 1000, np.float32) + texture[..., 0] / 1000 for f in images}
        media = write_pictures(writer.media_folder(f"clip {number}"), images, depths, relative_to=folder)
        clip = Clip(f"clip-{number}", time_s, cameras, traces, media=media, task="swing")
        writer.write_item(f"clip {number}", [clip], timings={"total": 0.0})
    writer.finalise()
    return str(folder)


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Options)), indent=1))
