"""Backends by name, third parties included."""

import sys
import types

import pytest

from traceworld.errors import ConfigError, MissingExtraError, MissingWeightsError, TraceworldError
from traceworld.extract.config import ExtractConfig
from traceworld.perception import catalogue, chunks, interfaces, registry
from traceworld.perception.backend_spec import LICENCE_CLASSES, BackendSpec
from traceworld.perception.registry import parse_choice
from traceworld.perception.weights import FOLDER_VARIABLE, Weights


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Every test gets a registry that no other test has written to."""
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))
    monkeypatch.setattr(registry, "_third_party_loaded", False)
    monkeypatch.setattr(registry, "_held", {})


@pytest.mark.parametrize("spec", catalogue.EMBEDDED, ids=lambda spec: f"{spec.kind}-{spec.name}")
def test_every_embedded_backend_can_be_made_and_keeps_its_interface(spec):
    backend = registry.create(spec.kind, spec.name)
    protocol = {
        "features": interfaces.FeatureBackend,
        "geometry": interfaces.GeometryBackend,
        "tracking": chunks.PointTracker,
        "entities": chunks.EntityBackend,
        "captions": interfaces.CaptionBackend,
    }[spec.kind]
    assert isinstance(backend, protocol)
    assert (backend.info.kind, backend.info.name) == (spec.kind, spec.name)
    assert backend.info.licence == spec.licence


def test_every_kind_has_an_embedded_backend_and_the_config_names_one_of_each():
    assert {spec.kind for spec in catalogue.EMBEDDED} == set(registry.KINDS)
    assert set(ExtractConfig().backends()) == set(registry.KINDS)
    assert ExtractConfig().backends() == catalogue.preset("embedded")


def test_available_lists_all_with_licence_and_the_command_for_what_is_missing():
    states = registry.available()
    assert {(state.kind, state.name) for state in states} == {(spec.kind, spec.name) for spec in catalogue.SPECS}
    for spec in catalogue.EMBEDDED:
        assert registry.check(spec.kind, spec.name).ok
    for state in states:
        assert state.licence
        assert state.licence_class in LICENCE_CLASSES
        assert state.ok == (state.reason == "") == (state.mend == "")
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


@pytest.mark.parametrize(
    ("text", "name", "argument", "options"),
    [
        ("dinov2", "dinov2", "", {}),
        ("dinov2:/models/mine", "dinov2", "/models/mine", {}),
        ("openai:a/b@http://host:80/v1#per-minute=30&json=true", "openai", "a/b@http://host:80/v1",
         {"per_minute": 30, "json": True}),
        ("tapip3d#trust_pickle=true&device=cuda:1", "tapip3d", "", {"trust_pickle": True, "device": "cuda:1"}),
    ],
)  # fmt: skip
def test_a_choice_is_taken_apart(text, name, argument, options):
    choice = parse_choice(text)
    assert (choice.name, choice.argument, choice.options) == (name, argument, options)


@pytest.mark.parametrize("text", ["", ":x", "dinov2#long_side"])
def test_a_malformed_choice_is_refused(text):
    with pytest.raises(ConfigError):
        parse_choice(text)


def test_missing_weights_and_code_are_typed_errors_with_the_exact_command(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "w"))
    with pytest.raises(MissingWeightsError, match="hf download nobody/nothing"):
        registry.create("features", "dinov2:nobody/nothing")
    with pytest.raises(MissingExtraError, match="git clone") as caught:
        registry.create("tracking", "tapip3d")
    assert "TRACEWORLD_TAPIP3D" in str(caught.value)
    with pytest.raises(MissingExtraError, match=r"pip install git\+https://github.com/facebookresearch/vggt"):
        registry.create("geometry", "vggt")
    registry.register(BackendSpec("tracking", "x", "json:loads", "MIT", "x", weights=Weights("https://a.b/c/d.pt")))
    assert registry.check("tracking", "x").mend == f"curl -L --create-dirs -o {tmp_path}/w/d.pt https://a.b/c/d.pt"
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "d.pt").write_bytes(b"")
    assert registry.check("tracking", "x").ok


def test_an_address_is_needed_where_there_is_no_default_and_refused_where_nothing_takes_it():
    with pytest.raises(ConfigError, match="openai:MODEL@URL"):
        registry.create("captions", "openai")
    with pytest.raises(ConfigError, match="after the colon"):
        registry.create("captions", "template:x")


def test_restricted_parts_must_be_accepted_by_name():
    chosen = catalogue.preset("paper")
    with pytest.raises(ConfigError) as caught:
        registry.require_accepted(chosen, ())
    assert "vggt" in str(caught.value)
    assert "tapip3d" in str(caught.value)
    assert "--accept-licence non-commercial" in str(caught.value)
    registry.require_accepted(chosen, ("non-commercial",))
    gated = {**chosen, "features": "dinov3"}
    with pytest.raises(ConfigError, match="dinov3"):
        registry.require_accepted(gated, ("non-commercial",))
    registry.require_accepted(gated, ("non-commercial", "gated"))
    with pytest.raises(ConfigError, match="unknown class"):
        registry.require_accepted({}, ("everything",))


@pytest.mark.parametrize("name", ["embedded", "hf", "permissive-gpu"])
def test_permissive_presets_are_permissive_throughout(name):
    chosen = catalogue.preset(name)
    registry.require_accepted(chosen, ())
    assert {registry.terms(kind, text).licence_class for kind, text in chosen.items()} == {"permissive"}
    assert set(chosen) == set(registry.KINDS)


def test_named_weights_bring_their_own_licence():
    assert registry.terms("geometry", "mapanything-apache").licence_class == "permissive"
    other = registry.terms("geometry", "mapanything-apache:facebook/map-anything")
    assert (other.licence_class, other.licence) == ("non-commercial", "CC-BY-NC-4.0")
    own = registry.terms("features", "dinov2:/models/mine")
    assert own.licence_class == "user"
    assert "/models/mine" in own.licence
    with pytest.raises(ConfigError, match="embedded"):
        catalogue.preset("everything")


def test_a_worker_keeps_the_last_backend_of_each_kind():
    first = registry.held("features", "embedded")
    assert registry.held("features", "embedded") is first
    assert registry.held("entities", "embedded", seed=1) is not registry.held("entities", "embedded", seed=2)
    assert registry.held("features", "embedded") is first  # other kinds do not push it out
    assert registry.held("features", "embedded#cells_across=10") is not first
    assert registry.held("features", "embedded") is not first


def test_a_run_is_refused_before_anything_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    registry.require_available(catalogue.preset("embedded"))
    with pytest.raises(MissingExtraError, match="vggt"):
        registry.require_available({**catalogue.preset("embedded"), "geometry": "vggt"})
    with pytest.raises(MissingWeightsError, match="hf download"):
        registry.require_available({"features": "dinov2:nobody/nothing"})
    with pytest.raises(ConfigError, match="MODEL@URL"):
        registry.require_available({"captions": "openai"})
