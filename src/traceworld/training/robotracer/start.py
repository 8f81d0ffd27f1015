"""Where a run starts: the records of its files, and a RoboTracer from a checkpoint or new around a base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from traceworld.models.robotracer.checkpoint import is_robotracer, load_robotracer
from traceworld.models.robotracer.config import RoboTracerConfig
from traceworld.models.robotracer.model import RoboTracer, build_robotracer
from traceworld.models.robotracer.processor import RoboTracerProcessor
from traceworld.training.robotracer.records import Record, read_records


def read_all(files: Sequence[Path]) -> list[Record]:
    """The records of several files, one after another. Raises as `read_records`."""
    return [record for file in files for record in read_records(file)]


def start_model(place: str, seed: int) -> tuple[RoboTracer, RoboTracerProcessor]:
    """A RoboTracer to train.

    Args:
        place: a checkpoint folder of `save_robotracer`; or the base of a new one, by hub id or folder, its weights on this machine.
        seed: of the new parts' weights.

    Raises:
        CheckpointError, MissingWeightsError, MissingExtraError, ConfigError: as `load_robotracer` and `build_robotracer`.
    """
    if is_robotracer(Path(place)):
        loaded = load_robotracer(place)
        return loaded.model, loaded.processor
    config = RoboTracerConfig(base=place)
    processor = RoboTracerProcessor.from_base(config)
    torch.manual_seed(seed)
    return build_robotracer(config, processor), processor
