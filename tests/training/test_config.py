"""Options: round trip, refusals."""

import json
from dataclasses import replace

import pytest

from traceworld.errors import ConfigError
from traceworld.training import TrainConfig
from traceworld.training.config import FREE_ON_RESUME, refuse_other_run

BASE = TrainConfig(data=("a", "b"), out="x", keypoints=(4, 64), max_minutes=3.0)


def test_json_round_trip():
    assert TrainConfig.from_json(json.loads(json.dumps(BASE.to_json()))) == BASE
    with pytest.raises(ConfigError, match="colour"):
        TrainConfig.from_json({**BASE.to_json(), "colour": 1})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("data", ()),
        ("steps", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("ema", 1.0),
        ("keypoints", (5, 2)),
        ("depth_drop", 1.2),
        ("workers", -1),
        ("val_fraction", 1.0),
        ("time_weight", 0.0),
    ],
)
def test_impossible_options_are_named(option, value):
    with pytest.raises(ConfigError, match=option):
        replace(BASE, **{option: value})


def test_only_free_options_may_change_when_a_run_is_continued():
    stored = BASE.to_json()
    free = {"steps": 7, "workers": 0, "max_minutes": None, "threads": 1}
    free |= {"parallel": "fsdp", "trackers": ("wandb",), "project": "p", "recipe": "mu0-paper"}
    for name, value in free.items():
        assert name in FREE_ON_RESUME
        refuse_other_run(stored, replace(BASE, **{name: value}))
    for name, value in {"lr": 1e-5, "seed": 1, "batch": 2, "data": ("a",), "compile": True}.items():
        with pytest.raises(ConfigError, match=name):
            refuse_other_run(stored, replace(BASE, **{name: value}))


def test_a_run_from_before_an_option_existed_continues_with_its_default():
    stored = BASE.to_json()
    for name in ("optimizer", "parallel", "compile", "trackers", "project", "recipe"):
        del stored[name]
    refuse_other_run(stored, BASE)
    with pytest.raises(ConfigError, match="optimizer"):
        refuse_other_run(stored, replace(BASE, optimizer="muon"))
