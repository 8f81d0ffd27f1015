"""Configurations from JSON: round trips, and every kind of wrong value is named with its path."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from traceworld.errors import ConfigError
from traceworld.models.config_json import read_config


@dataclass(frozen=True)
class Round:
    kind: Literal["round"] = "round"
    radius: float = 1.0


@dataclass(frozen=True)
class Square:
    kind: Literal["square"] = "square"
    side: int = 2


@dataclass(frozen=True)
class Thing:
    shape: Round | Square = field(default_factory=Round)
    inner: Round = field(default_factory=Round)
    size: tuple[int, float] = (1, 2.0)
    names: tuple[str, ...] = ()
    note: str | None = None
    mode: Literal["a", "b"] = "a"
    on: bool = True


def through_json(thing):
    return json.loads(json.dumps(dataclasses.asdict(thing)))


@pytest.mark.parametrize(
    "thing",
    [
        Thing(),
        Thing(Square(side=5), Round(radius=0.5), (3, 4.5), ("x", "y", "z"), "said", "b", False),
    ],
)
def test_what_was_written_comes_back(thing):
    assert read_config(Thing, through_json(thing)) == thing


def test_a_whole_number_is_a_float_where_one_is_wanted():
    assert read_config(Round, {"radius": 3}).radius == 3.0
    assert isinstance(read_config(Round, {"radius": 3}).radius, float)


@pytest.mark.parametrize(
    ("change", "where", "says"),
    [
        ({"shape": {"kind": "oval"}}, "config.shape", "unknown kind 'oval'"),
        ({"shape": "round"}, "config.shape", "unknown kind None"),
        ({"shape": {"kind": "square", "side": 1.5}}, "config.shape.side", "must be int"),
        ({"shape": {"kind": "square", "side": True}}, "config.shape.side", "must be int"),
        ({"inner": [1]}, "config.inner", "must be an object"),
        ({"inner": {"radios": 1.0}}, "config.inner", "unknown field radios"),
        ({"size": [1]}, "config.size", "a list of 2"),
        ({"size": 7}, "config.size", "must be a list"),
        ({"names": ["x", 3]}, "config.names", "must be str"),
        ({"note": 3}, "config.note", "must be str"),
        ({"mode": "c"}, "config.mode", "none of"),
        ({"on": 1}, "config.on", "must be bool"),
        ({"x": 1, "y": 2}, "config", "unknown fields x, y"),
    ],
)
def test_a_wrong_value_is_named_with_its_path(change, where, says):
    with pytest.raises(ConfigError, match=says) as error:
        read_config(Thing, {**through_json(Thing()), **change})
    assert where in str(error.value)
