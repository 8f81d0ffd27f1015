"""The config's round trip, its strictness, and the size dial."""

import dataclasses
import json

import pytest

from traceworld.errors import ConfigError
from traceworld.models.mu0.config import ExpertConfig, LocalFeatureConfig, LossConfig, Mu0Config, NanoPrefixConfig
from traceworld.models.mu0.counting import count_parameters
from traceworld.models.mu0.sizes import SIZES, expert_mlp_hidden, mu0_config


@pytest.mark.parametrize("size", SIZES)
def test_every_size_survives_json(size):
    config = mu0_config(size)
    again = Mu0Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("expert", "widht"), 3, "config.expert: unknown field widht"),
        (("prefix", "depth"), 3, "config.prefix: unknown field depth"),
        (("future",), 3, "config: unknown field future"),
        (("expert", "width"), "wide", "config.expert.width"),
        (("expert", "width"), True, "config.expert.width"),
        (("loss", "tau"), "gamma", "config.loss.tau"),
        (("prefix", "kind"), "gpt", "config.prefix"),
        (("prefix",), 3, "config.prefix"),
        (("prefix", "stem_channels"), [1, 2], "config.prefix.stem_channels"),
        (("local", "hub_id"), None, "config.local.hub_id"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(path, value, named):
    values = json.loads(json.dumps(mu0_config("nano").to_dict()))
    target = values
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(ConfigError, match=named):
        Mu0Config.from_dict(values)


def test_whole_numbers_are_floats_too():
    values = mu0_config("nano").to_dict()
    values["loss"]["lambda_rig"] = 1
    assert isinstance(Mu0Config.from_dict(values).loss.lambda_rig, float)


@pytest.mark.parametrize(
    "change",
    [
        {"history": 7},
        {"num_controls": 8},
        {"euler_steps": 0},
        {"loss": LossConfig(draws=0)},
        {"prefix": mu0_config("small").prefix, "local": LocalFeatureConfig(source="prefix")},
        {"prefix": mu0_config("small").prefix, "local": LocalFeatureConfig(), "expert": ExpertConfig(summary=True)},
        {"prefix": dataclasses.replace(mu0_config("nano").prefix, heads=5)},
    ],
)
def test_impossible_combinations(change):
    with pytest.raises(ConfigError):
        dataclasses.replace(mu0_config("nano"), **change)


def test_unknown_size_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'small'"):
        mu0_config("smal")


def test_expert_width_rule_gives_the_published_shapes():
    assert [expert_mlp_hidden(w) for w in (288, 480, 1024)] == [768, 1280, 2816]
    assert [mu0_config(s).expert.width for s in ("small", "base", "large")] == [288, 480, 1024]


def test_nano_comes_in_three_widths_and_is_what_the_shipped_weights_are_of():
    sizes = ("nano-1m", "nano-2m", "nano")
    assert [count_parameters(size)["total"] for size in sizes] == [1_359_326, 2_309_310, 4_940_798]
    assert mu0_config("nano").prefix == NanoPrefixConfig()
    assert (mu0_config("nano").expert.width, mu0_config("nano").expert.mlp_hidden) == (192, 384)
    for config in map(mu0_config, sizes):
        assert config.prefix.width == 32 * config.prefix.heads == config.expert.width
        narrow = dataclasses.replace(
            config.prefix,
            **{name: getattr(NanoPrefixConfig(), name) for name in ("width", "heads", "mlp_hidden", "stem_channels")},
        )
        assert narrow == NanoPrefixConfig()  # nothing but the width differs


def test_image_size_is_width_and_height():
    assert mu0_config("nano").image_size == (192, 144)
    assert mu0_config("large").image_size == (512, 512)
