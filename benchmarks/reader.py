"""How fast training windows are read and one training step is, on this machine: does the reader starve the trainer?

python benchmarks/reader.py runs/mu0-nano/train --batch 16 --workers 1
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import torch
import tyro

from traceworld.training import TrainConfig
from traceworld.training.data import DrawOrder, TrainingWindows, to_device, training_batches
from traceworld.training.registry import model_kind
from traceworld.training.sources import open_training_data


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        data: clip stores. batch, workers, threads, keypoints, precision: as in training. batches: timed ones.
    """

    data: tyro.conf.Positional[tuple[str, ...]]
    batch: int = 16
    workers: int = 1
    threads: int = 2
    keypoints: tuple[int, int] = (8, 64)
    precision: str = "fp32"
    batches: int = 10


def main(options: Options) -> dict[str, float]:
    """Windows per second of the reader alone, and of the step alone on batches that are already there."""
    torch.set_num_threads(options.threads)
    config = TrainConfig(data=options.data, out="", batch=options.batch, keypoints=options.keypoints)
    kind = model_kind("mu0")
    model = kind.build(config)
    data = open_training_data(config, kind.image_size(model))
    kind.set_normalisation(model, data.normalisation)
    order = DrawOrder([len(source) for source in data.train], data.weights, seed=0)
    windows = TrainingWindows(data.train, order, 0, config.colour_jitter, config.depth_noise_m)
    reader = training_batches(windows, start=0, count=options.batches + 2, batch=options.batch, workers=options.workers)
    first = next(reader)  # workers have started and the files are open
    begun = time.perf_counter()
    read = [next(reader) for _ in range(options.batches)]
    reading = (time.perf_counter() - begun) / options.batches
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(batch: dict) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            loss = model.loss(to_device(batch, torch.device("cpu")), torch.Generator().manual_seed(0))["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step(first)
    begun, cpu = time.perf_counter(), time.process_time()
    for batch in read:
        step(batch)
    stepping = (time.perf_counter() - begun) / options.batches
    return {
        "reader_windows_per_s": round(options.batch / reading, 1),
        "step_windows_per_s": round(options.batch / stepping, 1),
        "step_cpu_s_per_window": round((time.process_time() - cpu) / options.batches / options.batch, 4),
        "reader_share": round(reading / stepping, 3),
    }


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Options)), indent=1))
