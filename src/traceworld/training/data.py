"""From windows to batches: which window comes when, its augmentation, padding, and the reader processes.

Draw number p of a run is a pure function of (seed, p): the order does not depend on the number of workers, and a run
continued at step s reads exactly what it would have read. Several ranks share each batch: every one reads its rows of it.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from traceworld.errors import ConfigError, DatasetError
from traceworld.traces import batching
from traceworld.training.augment import colour_jitter, depth_noise

Sample = Mapping[str, Any]
Batch = dict[str, Any]

_BLOCKS = (
    240,
    2400,
    24_000,
    240_000,
)  # draws per block in which every source has its share; the first that can give it
_SHARE_ERROR = 0.05
_ORDER, _MIX, _AUGMENT = 11, 12, 13  # keep the random streams of one seed apart


@runtime_checkable
class WindowSource(Protocol):
    """What is trained on: a fixed number of windows; `sample` is a pure function of its arguments."""

    def __len__(self) -> int: ...

    def sample(self, index: int, *, seed: int, epoch: int) -> Sample: ...


@dataclass(frozen=True)
class Draw:
    """One draw of a run: which source, which of its windows, and how often that source was gone through before."""

    source: int
    index: int
    epoch: int


class DrawOrder:
    """Maps the number of a draw to the window it reads.

    Each source is gone through completely, in a new random order per epoch; sources are mixed by weight, exactly so
    in every block of 240 draws (of more, where 240 cannot give some source its share to within 5 %).
    """

    def __init__(self, lengths: Sequence[int], weights: Sequence[float], seed: int):
        self.lengths, self.seed = tuple(lengths), seed
        for source, (length, weight) in enumerate(zip(lengths, weights, strict=True)):
            if weight > 0 and length == 0:
                raise DatasetError(
                    "holds no window to train on",
                    where=f"source {source}",
                    mend="clips need a frame with a picture, a point that is visible in it and where that point is next; "
                    "lower min_motion if it is set",
                )
        self._counts = counts = _plan(np.asarray(weights, float) / np.sum(weights))
        self._plan = np.repeat(np.arange(len(counts)), counts)
        self._block = functools.lru_cache(4)(self._make_block)
        self._permutation = functools.lru_cache(2 * len(counts))(self._make_permutation)

    def __call__(self, number: int) -> Draw:
        block, place = divmod(number, len(self._plan))
        sources, ranks = self._block(block)
        source = int(sources[place])
        epoch, rank = divmod(block * int(self._counts[source]) + int(ranks[place]), self.lengths[source])
        return Draw(source, int(self._permutation(source, epoch)[rank]), epoch)

    def _make_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        sources = np.random.default_rng([self.seed, _MIX, block]).permutation(self._plan)
        ranks = np.empty(len(sources), int)
        for source in range(len(self._counts)):
            here = sources == source
            ranks[here] = np.arange(here.sum())
        return sources, ranks

    def _make_permutation(self, source: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, _ORDER, source, epoch]).permutation(self.lengths[source])

    def __getstate__(self) -> dict:  # the caches do not travel to reader processes
        return {"lengths": self.lengths, "seed": self.seed, "_counts": self._counts, "_plan": self._plan}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._block = functools.lru_cache(4)(self._make_block)
        self._permutation = functools.lru_cache(2 * len(self._counts))(self._make_permutation)


def _plan(shares: np.ndarray) -> np.ndarray:
    """Draws of each source in a block: the shortest block in which all shares are right to within 5 %."""
    for size in _BLOCKS:
        wanted = shares * size
        counts = np.floor(wanted).astype(int)
        counts[np.argsort(counts - wanted, kind="stable")[: size - counts.sum()]] += 1
        if (np.abs(counts - wanted) <= _SHARE_ERROR * wanted + 1e-9).all():
            return counts
    raise ConfigError(
        f"a share of {shares[shares > 0].min():.1e} of the draws is too small to be kept",
        where="TrainConfig.data",
        mend="give that store a larger weight, or leave it out",
    )


@dataclass(frozen=True)
class Rows:
    """The rows of a batch of `total` windows that one rank has: `count` from `first` on. With more ranks than windows some
    have none; they read window `first` all the same, since every rank takes part in every pass, and count it as nothing."""

    first: int
    count: int
    total: int

    @property
    def read(self) -> range:
        return range(self.first, self.first + max(self.count, 1))


def rows_of(total: int, rank: int, size: int) -> Rows:
    """An even share of a batch."""
    first, end = total * rank // size, total * (rank + 1) // size
    return Rows(min(first, total - 1), end - first, total)


class TrainingWindows(Dataset):
    """Draw number → augmented sample."""

    def __init__(
        self, sources: Sequence[WindowSource], order: DrawOrder, seed: int, jitter: float, depth_noise_m: float
    ):
        self.sources, self.order, self.seed = list(sources), order, seed
        self.jitter, self.depth_noise_m = jitter, depth_noise_m

    def __getitem__(self, number: int) -> dict[str, Any]:
        draw = self.order(number)
        sample = dict(self.sources[draw.source].sample(draw.index, seed=self.seed, epoch=draw.epoch))
        rng = np.random.default_rng([self.seed, _AUGMENT, number])
        if "image" in sample:  # windows of features have none
            sample["image"] = colour_jitter(sample["image"], self.jitter, rng)
        if sample.get("depth_present"):
            sample["depth_m"] = depth_noise(sample["depth_m"], self.depth_noise_m, rng)
        sample.setdefault("sample_id", f"source {draw.source} window {draw.index} epoch {draw.epoch}")
        return sample


def collate(samples: Sequence[Sample]) -> Batch:
    """`traces.batching.collate` with tensors for arrays; keypoints, if any, are padded to the largest number in the batch."""
    batch = batching.collate(samples) if "anchor_uvz" in samples[0] else _stack(samples)
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in batch.items()}


def _stack(samples: Sequence[Sample]) -> Batch:
    """Samples that are all of one shape."""
    columns = {key: [sample[key] for sample in samples] for key in samples[0]}
    return {key: values if isinstance(values[0], str) else np.stack(values) for key, values in columns.items()}


def training_batches(
    windows: TrainingWindows,
    *,
    start: int,
    count: int,
    batch: int,
    workers: int,
    rank: int = 0,
    size: int = 1,
    pin: bool = False,
) -> Iterator[Batch]:
    """Batches number `start` … `start + count - 1` of the run, read ahead by `workers` processes (0: in this one).

    Args:
        batch: windows of a whole batch. rank, size: read only the rows of this rank.
        pin: into page-locked memory, from which a GPU copies without waiting.
    """
    rows = rows_of(batch, rank, size).read
    numbers = [range(b * batch + rows.start, b * batch + rows.stop) for b in range(start, start + count)]
    loader: DataLoader = DataLoader(
        windows,
        batch_sampler=numbers,  # type: ignore[arg-type]
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=_quiet_reader,
        prefetch_factor=3 if workers else None,
        multiprocessing_context="fork" if workers else None,
        pin_memory=pin,
    )
    return iter(loader)


def validation_batches(
    sources: Sequence[WindowSource], *, windows: int, batch: int, seed: int, rank: int = 0, size: int = 1
) -> list[tuple[Rows, Batch]]:
    """The same windows with the same keypoints at every call: evenly spread over the sources, without augmentation.

    Returns:
        For each batch which of its rows this rank has, and these rows.
    """
    total = sum(len(source) for source in sources)
    chosen = np.unique(np.linspace(0, total - 1, min(windows, total)).round().astype(int))
    firsts = np.cumsum([0, *(len(source) for source in sources)])
    batches = []
    for start in range(0, len(chosen), batch):
        numbers = chosen[start : start + batch]
        rows = rows_of(len(numbers), rank, size)
        samples = []
        for number in numbers[rows.read.start : rows.read.stop]:
            source = int(np.searchsorted(firsts, number, side="right") - 1)
            samples.append(sources[source].sample(int(number - firsts[source]), seed=seed, epoch=0))
        batches.append((rows, collate(samples)))
    return batches


def pad_keypoints(batch: Batch, most: int) -> Batch:
    """The batch with its keypoints padded to `most`, as `collate` pads them."""
    padded = dict(batch)
    for key, filler in batching.PADDING.items():
        if key in batch and batch[key].shape[1] < most:
            value = batch[key]
            missing = value.new_full((len(value), most - value.shape[1], *value.shape[2:]), filler)
            padded[key] = torch.cat([value, missing], dim=1)
    return padded


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on `device`."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def _quiet_reader(worker: int) -> None:
    # Ctrl-C, and the signal of a cluster that takes a machine back, reach the whole process group. Readers leave it: the
    # trainer finishes its step and ends them itself; should it be killed, torch's watchdog ends them.
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)
