"""Mixtures of stores: what the options say, the shares that come out, one scale for all."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from traceworld.errors import ConfigError
from traceworld.training import TrainConfig
from traceworld.training.data import DrawOrder
from traceworld.training.mixture import Store, is_plain, read_mixture, shares_of
from traceworld.training.sources import open_training_data

sys.path.insert(0, str(Path(__file__).parents[1] / "traces"))
from trace_clips import write_dataset


def test_what_the_options_say():
    assert read_mixture(("a", "b:2", "c:0.5")) == [Store("a"), Store("b", 2.0), Store("c", 0.5)]
    assert read_mixture(("a:60%", "b:40%")) == [Store("a", None, 60.0), Store("b", None, 40.0)]
    assert read_mixture(("runs/a:2:1", "s3:bucket")) == [Store("runs/a:2"), Store("s3:bucket")]
    assert is_plain(read_mixture(("a", "b")))
    assert is_plain(read_mixture(("a:3", "b:3")))
    assert not is_plain(read_mixture(("a:3", "b")))
    assert not is_plain(read_mixture(("a:50%", "b:50%")))


@pytest.mark.parametrize(
    ("data", "message"),
    [(("a:0",), "weight of 0"), (("a:60%", "b:30%"), "90 %"), (("a:60%", "b"), "mixes"), ((), "no clip store")],
)
def test_impossible_mixtures_are_refused(data, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(data=data, out="x")


def test_a_weight_is_the_chance_of_a_window_a_percentage_that_of_the_store():
    assert shares_of(read_mixture(("a:2", "b")), [100, 300]) == pytest.approx([0.4, 0.6])
    assert shares_of(read_mixture(("a:30%", "b:70%")), [100, 300]) == pytest.approx([0.3, 0.7])


def config(**changes) -> TrainConfig:
    return replace(TrainConfig(data=("x",), out="", val_fraction=0.25, min_motion=0.0), **changes)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    base = tmp_path_factory.mktemp("stores")
    return (
        write_dataset(base / "a", clips=8, N=8),
        write_dataset(base / "b", clips=12, N=8, step_s=0.05, pictures=range(0, 60, 20)),
    )


def chances(data) -> dict[str, float]:
    """Per store: draws per window of it, over many draws."""
    order = DrawOrder([len(source) for source in data.train], data.weights, seed=0)
    drawn, windows = Counter(), Counter()
    for source in data.train:
        for index in range(len(source)):
            windows[Path(source.place(index)[0].root).name] += 1
    for number in range(4800):
        draw = order(number)
        drawn[Path(data.train[draw.source].place(draw.index)[0].root).name] += 1
    return {name: drawn[name] / windows[name] for name in windows} | {"share of a": drawn["a"] / 4800}


def test_draws_follow_the_weights(stores):
    a, b = map(str, stores)
    weighted = chances(open_training_data(config(data=(f"{a}:3", b)), (32, 24)))
    assert weighted["a"] / weighted["b"] == pytest.approx(3, rel=0.08)
    assert chances(open_training_data(config(data=(f"{a}:25%", f"{b}:75%")), (32, 24)))["share of a"] == 0.25
    plain = chances(open_training_data(config(data=(a, b)), (32, 24)))
    assert plain["a"] / plain["b"] == pytest.approx(1, rel=0.08)


def test_clocks_keep_their_shares_in_a_mixture(stores):
    a, b = map(str, stores)
    data = open_training_data(config(data=(f"{a}:25%", f"{b}:75%"), time_weight=0.6, arc_weight=0.4), (32, 24))
    clocks = [source.configs[0].clock for source in data.train]
    assert clocks == ["time", "time", "arc", "arc"]
    assert data.weights == pytest.approx([0.15, 0.45, 0.1, 0.3])


def test_there_is_one_scale_whatever_the_weights(stores):
    a, b = map(str, stores)
    plain = open_training_data(config(data=(a, b)), (32, 24))
    mixed = open_training_data(config(data=(f"{a}:90%", f"{b}:10%")), (32, 24))
    assert mixed.normalisation == plain.normalisation
    for source in [*mixed.train, *mixed.val]:
        np.testing.assert_array_equal(source.s_delta, plain.train[0].s_delta)
    apart = [open_training_data(config(data=(store,)), (32, 24)).train[0].s_delta for store in (a, b)]
    assert min(s[0] for s in apart) < plain.train[0].s_delta[0] < max(s[0] for s in apart)
    assert [len(source) for source in mixed.val] == [len(source) for source in plain.val]


def test_small_shares_are_kept_and_old_orders_are_left_alone():
    order = DrawOrder([500, 500, 500], [0.9985, 0.001, 0.0005], seed=0)
    drawn = Counter(order(number).source for number in range(24_000))
    assert drawn[1] == 24
    assert drawn[2] == 12
    assert len(order._plan) == 24_000
    assert len(DrawOrder([5, 5], [0.8, 0.2], seed=0)._plan) == 240
    with pytest.raises(ConfigError, match="too small"):
        DrawOrder([5, 5], [1.0, 1e-7], seed=0)
