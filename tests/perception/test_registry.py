"""Backends by name, third parties included."""

import dataclasses
import sys
import types

import pytest

from traceworld.errors import ConfigError, TraceworldError
from traceworld.extract.config import ExtractConfig
from traceworld.perception import interfaces, registry
from traceworld.perception.registry import BackendSpec


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Every test gets a registry that no other test has written to."""
    monkeypatch.setattr(registry, "_specs", {(spec.kind, spec.name): spec for spec in registry.EMBEDDED})
    monkeypatch.setattr(registry, "_third_party_loaded", False)


@pytest.mark.parametrize("spec", registry.EMBEDDED, ids=lambda spec: f"{spec.kind}-{spec.name}")
def test_every_embedded_backend_can_be_made_and_keeps_its_interface(spec):
    backend = registry.create(spec.kind, spec.name)
    protocol = {
        "features": interfaces.FeatureBackend,
        "geometry": interfaces.GeometryBackend,
        "tracker": interfaces.TrackerBackend,
        "captions": interfaces.CaptionBackend,
    }[spec.kind]
    assert isinstance(backend, protocol)
    assert (backend.info.kind, backend.info.name) == (spec.kind, spec.name)
    assert backend.info.licence == spec.licence


def test_every_kind_has_an_embedded_backend_and_only_captions_are_chosen_by_name():
    assert {spec.kind for spec in registry.EMBEDDED} == set(registry.KINDS)
    fields = {field.name for field in dataclasses.fields(ExtractConfig)}
    assert set(registry.CHOSEN_BY_NAME) == fields & set(registry.KINDS)


def test_available_lists_all_with_licence():
    states = registry.available()
    assert {(state.kind, state.name) for state in states} >= {("features", "embedded"), ("captions", "template")}
    assert all(state.ok and state.licence and not state.reason for state in states)
    assert {state.kind for state in registry.available("captions")} == {"captions"}


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'template'"):
        registry.find("captions", "templat")
    with pytest.raises(ConfigError, match="unknown kind"):
        registry.find("caption", "template")


def test_a_missing_module_is_named_with_its_mend():
    registry.register(BackendSpec("captions", "vlm", "no_such_package.vlm:Make", "MIT", "x", mend="pip install vlm"))
    state = registry.check("captions", "vlm")
    assert not state.ok
    assert "no_such_package" in state.reason
    assert state.mend == "pip install vlm"
    with pytest.raises(TraceworldError, match="no_such_package"):
        registry.create("captions", "vlm")
    registry.register(BackendSpec("captions", "needy", "json:loads", "MIT", "x", needs=("absent_module",)))
    assert registry.check("captions", "needy").mend == "pip install absent_module"


def test_a_name_is_given_once():
    spec = BackendSpec("captions", "mine", "json:loads", "MIT", "x")
    registry.register(spec)
    registry.register(spec)  # the same again is no conflict
    with pytest.raises(ConfigError, match="already"):
        registry.register(BackendSpec("captions", "mine", "json:dumps", "MIT", "x"))


def test_a_malformed_spec_is_refused():
    with pytest.raises(ConfigError, match="unknown kind"):
        BackendSpec("smell", "a", "json:loads", "MIT", "x")
    with pytest.raises(ConfigError, match="module:factory"):
        BackendSpec("captions", "a", "json.loads", "MIT", "x")


class _Entry:
    def __init__(self, name, value, load):
        self.name, self.value, self.load = name, value, load


def test_third_parties_come_in_by_entry_point_and_a_broken_one_does_no_harm(monkeypatch, caplog):
    module = types.ModuleType("their_package")
    module.Make = lambda loud=False: ("made", loud)
    module.__spec__ = types.SimpleNamespace(name="their_package", origin=None)
    monkeypatch.setitem(sys.modules, "their_package", module)
    spec = BackendSpec("captions", "theirs", "their_package:Make", "MIT", "x")

    def broken():
        raise RuntimeError("half installed")

    entries = [_Entry("bad", "x:y", broken), _Entry("one", "a:b", lambda: spec), _Entry("many", "c:d", lambda: [spec])]
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: entries)
    assert "theirs" in [spec.name for spec in registry.specs("captions")]
    assert "half installed" in caplog.text
    assert registry.create("captions", "theirs", loud=True) == ("made", True)
    with pytest.raises(ConfigError, match=r"unexpected keyword|no_option"):
        registry.create("captions", "theirs", no_option=1)
