"""The order of the data and the padding of batches."""

from collections import Counter

import numpy as np
import pytest
import torch
import toy

from traceworld.errors import DatasetError
from traceworld.training.data import (
    DrawOrder,
    TrainingWindows,
    collate,
    training_batches,
    validation_batches,
)


def test_each_epoch_visits_every_window_once():
    order = DrawOrder([7], [1.0], seed=3)
    draws = [order(p) for p in range(21)]
    for epoch in range(3):
        part = draws[7 * epoch : 7 * epoch + 7]
        assert sorted(d.index for d in part) == list(range(7))
        assert {d.epoch for d in part} == {epoch}
    assert [d.index for d in draws[:7]] != [d.index for d in draws[7:14]]


def test_sources_are_mixed_by_weight_and_each_is_gone_through():
    order = DrawOrder([10, 50, 5], [3.0, 1.0, 0.0], seed=0)
    draws = [order(p) for p in range(480)]
    assert Counter(d.source for d in draws) == {0: 360, 1: 120}
    for source, length in ((0, 10), (1, 50)):
        ranks = [d for d in draws if d.source == source]
        assert sorted(d.index for d in ranks[:length]) == list(range(length))
    assert {draws[p].source for p in range(8)} == {0, 1}, "not one source after the other"


def test_order_is_a_pure_function_of_seed_and_number():
    first = [DrawOrder([11, 4], [1.0, 1.0], seed=5)(p) for p in range(40)]
    order = DrawOrder([11, 4], [1.0, 1.0], seed=5)
    assert [order(p) for p in reversed(range(40))][::-1] == first
    other = DrawOrder([11, 4], [1.0, 1.0], seed=6)
    assert [other(p) for p in range(40)] != first


def test_empty_source_with_a_share_is_refused():
    with pytest.raises(DatasetError, match="source 1"):
        DrawOrder([3, 0], [1.0, 1.0], seed=0)
    assert DrawOrder([3, 0], [1.0, 0.0], seed=0)(5).source == 0


def test_collate_pads_and_marks_the_padding():
    samples = [toy.ToyWindows(9).sample(i, seed=0, epoch=0) for i in range(6)]
    batch = collate(samples)
    counts = [len(s["anchor_uvz"]) for s in samples]
    assert len(set(counts)) > 1
    assert batch["present"].sum(1).tolist() == counts
    for row, (sample, count) in enumerate(zip(samples, counts, strict=True)):
        for key in ("anchor_uvz", "history", "controls", "future_valid"):
            np.testing.assert_array_equal(batch[key][row, :count].numpy(), sample[key])
            assert not batch[key][row, count:].any(), key
    assert batch["image"].dtype == torch.uint8
    assert batch["clock"].dtype == torch.int64
    assert batch["instruction"] == ["push"] * 6


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_the_middle_are_those_of_the_whole(workers):
    windows = TrainingWindows([toy.ToyWindows(13)], DrawOrder([13], [1.0], 0), seed=0, jitter=0.3, depth_noise_m=0.01)
    whole = list(training_batches(windows, start=0, count=6, batch=3, workers=0))
    tail = list(training_batches(windows, start=4, count=2, batch=3, workers=workers))
    assert len(tail) == 2
    for a, b in zip(whole[4:], tail, strict=True):
        assert a["sample_id"] == b["sample_id"]
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["controls"], b["controls"])


def test_augmentation_differs_between_epochs_of_one_window():
    windows = TrainingWindows([toy.ToyWindows(1)], DrawOrder([1], [1.0], 0), seed=0, jitter=0.3, depth_noise_m=0.01)
    plain = TrainingWindows([toy.ToyWindows(1)], DrawOrder([1], [1.0], 0), seed=0, jitter=0.0, depth_noise_m=0.0)
    assert not np.array_equal(windows[0]["image"], plain[0]["image"])
    assert not np.array_equal(windows[0]["image"], windows[1]["image"])


def test_validation_is_the_same_spread_over_all_sources():
    sources = [toy.ToyWindows(10), toy.ToyWindows(30, offset=100)]
    first, again = (validation_batches(sources, windows=8, batch=3, seed=1) for _ in range(2))
    ids = [name for _, batch in first for name in batch["sample_id"]]
    assert len(ids) == 8
    assert len(set(ids)) == 8
    assert sum(int(name[4:]) >= 100 for name in ids) == 6
    assert all(torch.equal(a["future"], b["future"]) for (_, a), (_, b) in zip(first, again, strict=True))
    assert validation_batches([], windows=8, batch=3, seed=1) == []


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_read_the_rows_of_the_same_batches(size):
    windows = TrainingWindows([toy.ToyWindows(13)], DrawOrder([13], [1.0], 0), seed=0, jitter=0.3, depth_noise_m=0.01)
    whole = training_batches(windows, start=2, count=3, batch=5, workers=0)
    parts = [
        training_batches(windows, start=2, count=3, batch=5, workers=0, rank=rank, size=size) for rank in range(size)
    ]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert batch["sample_id"] == [name for share in shares for name in share["sample_id"]]
        assert torch.equal(batch["image"], torch.cat([share["image"] for share in shares]))


def test_ranks_validate_on_the_same_windows():
    sources = [toy.ToyWindows(10), toy.ToyWindows(30, offset=100)]
    whole = [name for _, b in validation_batches(sources, windows=7, batch=3, seed=1) for name in b["sample_id"]]
    parts = [validation_batches(sources, windows=7, batch=3, seed=1, rank=rank, size=2) for rank in (0, 1)]
    names = []
    for shares in zip(*parts, strict=True):
        names += [name for rows, batch in shares for name in batch["sample_id"][: rows.count]]
        assert sum(rows.count for rows, _ in shares) == shares[0][0].total
    assert names == whole
    assert [rows.count for rows, _ in parts[0]] == [
        1,
        1,
        0,
    ]  # the last batch has one window: the first rank only looks on
