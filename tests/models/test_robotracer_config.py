"""The configuration: what fits together, and that it comes back from JSON strictly."""

import dataclasses
import json

import pytest

from traceworld.errors import ConfigError
from traceworld.models.robotracer.config import (
    MapAnythingConfig,
    NoEncoderConfig,
    OwnEncoderConfig,
    Prompts,
    RoboTracerConfig,
)


@pytest.mark.parametrize("spatial", [OwnEncoderConfig(dim=48, heads=3), MapAnythingConfig(), NoEncoderConfig()])
def test_configs_survive_json(spatial):
    config = RoboTracerConfig(
        base="folder", spatial=spatial, scale_loss_weight=0.2, prompts=Prompts(system="Be brief.")
    )
    assert RoboTracerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_defaults_are_the_papers():
    config = RoboTracerConfig()
    assert (config.scale_loss_weight, config.scale_hidden) == (0.1, 196)
    assert "0 and 1000" in config.prompts.trace_3d
    assert config.num_spatial_tokens == 8 * 8 + 1
    assert config.spatial_size == (224, 224)
    none = dataclasses.replace(config, spatial=NoEncoderConfig())
    assert (none.num_spatial_tokens, none.spatial_size) == (0, None)


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1}, {"scale_width": "wide"}, {"spatial": {"kind": "nvila"}}, {"space": "4d"},
        {"spatial": {"kind": "own", "height": 25}}, {"spatial": {"kind": "own", "dim": 7}}, {"scale_loss_weight": -1.0},
        {"scale_loss_weight": float("nan")}, {"max_tokens": 0}, {"prompts": {"trace_2d": "no place"}}, {"projector_hidden": 0},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(change):
    with pytest.raises(ConfigError):
        RoboTracerConfig.from_dict({**RoboTracerConfig().to_dict(), **change})
