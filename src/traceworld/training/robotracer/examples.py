"""Records as examples of the model, each with a part of its geometry left out by a seeded draw (D.2: "X" is any subset of
intrinsics, depth and poses), so that any subset works later.

The draw is a function of seed, epoch and place in the list alone: it does not depend on batches, readers or where a run was cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from traceworld.errors import ConfigError, DatasetError
from traceworld.models.robotracer.processor import Example
from traceworld.perception.frame_folder import picture_size
from traceworld.training.draws import seed_of
from traceworld.training.robotracer.annotation import Annotation
from traceworld.training.robotracer.records import Record, annotation_of, largest_depth

GEOMETRY = {"intrinsics": "K", "depth_m": "depth_m", "poses": "world_from_cam"}
"""Inputs that may be left out, and the field of `Example` that holds each."""


class Ticket(NamedTuple):
    """What an input of the model is made from: a record, and the epoch of its draw. Equal tickets give equal inputs."""

    record: int
    epoch: int


class Examples(torch.utils.data.Dataset[Example]):
    """Records as examples.

    Args:
        records: at least one.
        drop: chance of each input to be left out, by name of `GEOMETRY` or one for all.
        seed: of the draws.
        most_apart: of a record with questions that stand apart, at most so many are asked at a time, others in each epoch.
    """

    def __init__(
        self,
        records: Sequence[Record],
        drop: float | Mapping[str, float] = 0.5,
        seed: int = 0,
        most_apart: int | None = None,
    ):
        if not records:
            raise DatasetError("there is no record", where="Examples", mend="give a training file with entries")
        self.records, self.seed, self.epoch = records, seed, 0
        self.most_apart = most_apart
        self.drop = dict.fromkeys(GEOMETRY, drop) if not isinstance(drop, Mapping) else {**drop}
        for name, chance in self.drop.items():
            if name not in GEOMETRY or not 0 <= chance <= 1:
                raise ConfigError(f"{name}: {chance}", where="drop", mend=f"chances of {', '.join(GEOMETRY)}")

    def __len__(self) -> int:
        return len(self.records)

    def set_epoch(self, epoch: int) -> None:
        """From now on give the examples of that epoch (the Trainer calls it)."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Example:
        return self.of(Ticket(index, self.epoch))

    def of(self, ticket: Ticket) -> Example:
        """The example of a ticket.

        Raises:
            MediaError, DepthError: a file is missing or damaged.
        """
        record = self.records[ticket.record]
        depth_m = record.read_depth()
        whole = Example(
            image=record.read_image(),
            turns=self._turns(ticket),
            K=record.intrinsics,
            depth_m=depth_m,
            world_from_cam=record.pose,
            scale_m=_scale(record, depth_m),
            apart=record.apart,
        )
        dropped: dict[str, Any] = {GEOMETRY[name]: None for name in sorted(self.left_out(ticket))}
        return dataclasses.replace(whole, **dropped)

    def _turns(self, ticket: Ticket) -> Sequence[tuple[str, str]]:
        record = self.records[ticket.record]
        if not record.apart or self.most_apart is None or len(record.turns) <= self.most_apart:
            return record.turns
        rng = np.random.default_rng([seed_of(self.seed, ticket.epoch, ticket.record), 1])
        return [record.turns[i] for i in rng.permutation(len(record.turns))[: self.most_apart]]

    def left_out(self, ticket: Ticket) -> frozenset[str]:
        """The inputs that the draw leaves out, whether or not the record has them."""
        draws = np.random.default_rng(seed_of(self.seed, ticket.epoch, ticket.record)).random(len(GEOMETRY))
        chances = [self.drop.get(name, 0.0) for name in GEOMETRY]
        return frozenset(name for name, draw, chance in zip(GEOMETRY, draws, chances, strict=True) if draw < chance)

    def annotation(self, index: int) -> Annotation:
        """What rewards compare with. Raises DatasetError: there is nothing to reward."""
        record = self.records[index]
        return annotation_of(record, picture_size(record.image), largest_depth(record.read_depth(), record.name))


def _scale(record: Record, depth_m: np.ndarray | None) -> float | None:
    """s* of a record: as given, else the mean known depth, whether or not the model will be shown it."""
    if not record.metric or record.scale_m is not None:
        return record.scale_m if record.metric else None
    known = depth_m[depth_m > 0] if depth_m is not None else np.zeros(0)
    return float(known.mean()) if len(known) else None
