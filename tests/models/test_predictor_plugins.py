"""Predictors of other packages, by entry point."""

import sys
import types
from importlib.metadata import EntryPoint

import pytest

from traceworld import doctor, named
from traceworld.errors import ConfigError
from traceworld.models import load_predictor, predictor, predictor_names
from traceworld.models.baselines import NothingMoves


@pytest.fixture
def plugins(monkeypatch):
    module = types.ModuleType("someones_package")
    module.Mover = type("Mover", (NothingMoves,), {"__init__": lambda self, text="": setattr(self, "text", text)})
    module.Broken = lambda: 1 / 0
    module.Nothing = lambda: object()
    monkeypatch.setitem(sys.modules, "someones_package", module)
    found = [
        EntryPoint(name.lower(), f"someones_package:{name}", predictor.ENTRY_POINT_GROUP)
        for name in ("Mover", "Broken", "Nothing", "Absent")
    ]
    monkeypatch.setattr(named, "entry_points", lambda group: found)
    monkeypatch.setattr(doctor.importlib.metadata, "entry_points", lambda group: found)
    return module


def test_a_plugin_is_found_by_name_and_may_take_a_text(plugins):
    assert isinstance(load_predictor("mover"), plugins.Mover)
    assert load_predictor("mover:best.ckpt").text == "best.ckpt"
    assert "mover" in predictor_names()
    with pytest.raises(ConfigError, match="mover"):
        load_predictor("movr")


@pytest.mark.parametrize(
    ("name", "why"), [("broken", "ZeroDivisionError"), ("absent", "Absent"), ("nothing", "predict")]
)
def test_a_bad_plugin_is_named(plugins, name, why):
    with pytest.raises(ConfigError, match=rf"traceworld.predictors: {name}(?s:.*){why}"):
        load_predictor(name)


def test_the_doctor_looks_at_them(plugins):
    found = {finding.name: finding.ok for finding in doctor._predictors()}
    assert found == {"mover": True, "broken": True, "nothing": True, "absent": False}
