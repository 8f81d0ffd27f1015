"""Counted work against counts by hand; the clock against a known one."""

import time

import pytest
import torch
from roofline import Device, Work, count_work, in_turns, probe
from torch import nn
from torch.nn import functional as F


def test_a_linear_layer_by_hand():
    """[7,3] → [7,5]: 2·7·3·5 FLOPs; inputs 21, weights 15, biases 5, outputs 35 numbers."""
    work, out = count_work(nn.Linear(3, 5, device="meta"), torch.empty(7, 3, device="meta"))
    assert work == Work(210, 76)
    assert out.shape == (7, 5)


def test_attention_by_hand():
    """4 heads, 6 queries, 9 keys of 8 numbers: two products; the scores themselves are not moved."""
    query, key = torch.empty(2, 4, 6, 8, device="meta"), torch.empty(2, 4, 9, 8, device="meta")
    work, _ = count_work(F.scaled_dot_product_attention, query, key, key)
    assert work == Work(2 * (2 * 2 * 4 * 6 * 9 * 8), 2 * 4 * 8 * (6 + 9 + 9 + 6))


def test_a_convolution_by_hand():
    work, _ = count_work(nn.Conv2d(3, 4, 2, stride=2, device="meta"), torch.empty(1, 3, 8, 8, device="meta"))
    assert work == Work(2 * 4 * 16 * 12, 192 + 48 + 4 + 64)


def test_repeated_views_are_read_once():
    many = torch.empty(1, 3, device="meta").expand(100, 3)
    work, _ = count_work(F.linear, many, torch.empty(5, 3, device="meta"))
    assert work.numbers == 3 + 15 + 500


def test_what_is_not_a_matrix_operation_is_free():
    work, _ = count_work(lambda x: (x * 2 + 1).softmax(-1), torch.empty(4, 4, device="meta"))
    assert work == Work(0, 0)


def test_counted_alike_where_it_is_computed():
    """The counts of the meta device are those of a real run."""
    model, x = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 2)), torch.randn(5, 6)
    assert count_work(model, x)[0] == count_work(model.to("meta"), x.to("meta"))[0]


def test_work_adds_up():
    assert Work(2, 3) + Work(10, 20) * 4 == Work(42, 83)


@pytest.mark.parametrize(("work", "seconds"), [(Work(400, 1), 4.0), (Work(1, 100), 20.0), (Work(), 0.0)])
def test_the_roofline_is_the_slower_of_the_two(work, seconds):
    assert Device("d", 100.0, 20.0, "stated").seconds(work, 4) == seconds


def test_the_probe_is_of_this_machine():
    """Within what any machine of the last twenty years does: 1 GFLOP/s … 1 PFLOP/s, 0.1 … 2,000 GB/s."""
    found = probe("cpu", torch.float32)
    assert found.source == "measured"
    assert 1e9 < found.flops_per_s < 1e15
    assert 1e8 < found.bytes_per_s < 2e12


def test_runs_take_turns():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    found = in_turns(runs, 3, 1e9, "cpu")
    assert "".join(order) == "ab" + "ababab"  # once each unmeasured
    assert [len(times) for times in found.values()] == [3, 3]


def test_a_spent_budget_ends_the_rounds_after_one():
    found = in_turns({"nap": lambda: time.sleep(0.02)}, 50, 0.0, "cpu")
    assert len(found["nap"]) == 1
    assert found["nap"][0] >= 0.02
