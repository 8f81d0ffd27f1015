"""Configs, sizes and parameter counts."""

import dataclasses
import json

import pytest
from tracegen_toys import HUB, NANO

from traceworld.errors import ConfigError
from traceworld.models.describe import count_parameters
from traceworld.models.tracegen.compat import reference_config
from traceworld.models.tracegen.config import DecoderConfig, TraceGenConfig
from traceworld.models.tracegen.sizes import SIZES, tracegen_config


@pytest.mark.parametrize("size", SIZES)
def test_json_round_trip(size):
    config = tracegen_config(size)
    assert config.size == size
    assert TraceGenConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_size():
    with pytest.raises(ConfigError, match="did you mean '6x12'"):
        tracegen_config("6x13")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nano": None}, "either hub encoders or a nano"),
        ({"grid": 7}, "do not tile"),
        ({"horizon": 6}, "do not tile"),
        ({"horizon": 0}, "at least 1"),
        ({"decoder": DecoderConfig(heads=1, head_dim=24)}, "multiple of 16"),
        ({"condition_drop": 1.0}, "probability"),
        ({"guidance": -1.0}, "negative"),
        ({"guidance": 2.0, "condition_drop": 0.0}, "trained with its condition dropped"),
        ({"compat": True}, "reference_config"),
    ],
)
def test_contradictions(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(NANO, **changes)


def test_unknown_fields_are_named():
    values = HUB.to_dict()
    values["encoders"]["dino_with"] = 3
    with pytest.raises(ConfigError, match=r"config.encoders: unknown field dino_with"):
        TraceGenConfig.from_dict(values)


def test_the_published_size():
    """0.67B (dossier §2.1): 674,546,334 were measured on the released code, 75,486,238 of them trained."""
    ours, theirs = (count_parameters("tracegen", size) for size in ("6x12", reference_config("6x12")))
    assert abs(ours["total"] / 674_546_334 - 1) < 1e-3
    assert theirs["trainable"] == 75_486_238
    assert theirs["total"] - 674_546_334 == 1024  # transformers' DINOv3 has a mask token that timm's port has not
    assert ours["trainable"] - theirs["trainable"] == 2 * 512  # the clock
    for counts in (ours, theirs):
        assert counts["total"] == sum(n for name, n in counts.items() if name not in ("total", "trainable"))


@pytest.mark.parametrize(("size", "decoder"), [("4x8", 27_230_232), ("6x12", 73_511_960), ("12x16", 230_023_192)])
def test_decoders_are_as_large_as_the_released_ones(size, decoder):
    counts = count_parameters("tracegen", reference_config(size))
    assert counts["decoder"] + counts["null_condition"] == decoder


def test_nano_is_small_and_all_of_it_is_trained():
    counts = count_parameters("tracegen", "nano")
    assert counts["total"] == counts["trainable"] <= 5_000_000


def test_kinds_without_sizes():
    with pytest.raises(ConfigError, match="known: mu0, tracegen"):
        count_parameters("gpt", "large")
