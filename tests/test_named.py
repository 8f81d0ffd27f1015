"""Shipped weights, plug-ins and folders by name."""

from importlib.metadata import EntryPoint

import pytest

from traceworld import named
from traceworld.errors import CheckpointError, ConfigError, MissingWeightsError


def test_a_shipped_folder_must_hold_a_model(tmp_path):
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    assert named.shipped_folder(tmp_path, "good", "a recipe") == tmp_path / "good"
    with pytest.raises(MissingWeightsError, match=r"'empty'.*not in this installation(?s:.*)a recipe"):
        named.shipped_folder(tmp_path, "empty", "a recipe")


def test_a_folder_of_ones_own(tmp_path):
    assert named.own_folder(tmp_path, "policy") == tmp_path
    assert named.own_folder(tmp_path / "none", "policy") is None
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"is a file(?s:.*)the policy's folder"):
        named.own_folder(tmp_path / "file", "policy")


def test_only_the_plugin_of_that_name_is_loaded(monkeypatch):
    entries = [EntryPoint("good", "builtins:dict", "g"), EntryPoint("bad", "no_such_module:x", "g")]
    monkeypatch.setattr(named, "entry_points", lambda group: entries)
    assert named.plugin_names("g") == {"good", "bad"}
    assert named.make_plugin("g", "good", dict, "mapping", "keys") == {}
    assert named.make_plugin("g", "other", dict, "mapping", "keys") is None
    with pytest.raises(ConfigError, match=r"is no list(?s:.*)give it order"):
        named.make_plugin("g", "good", list, "list", "order")
    with pytest.raises(ConfigError, match="no_such_module"):
        named.make_plugin("g", "bad", dict, "mapping", "keys")


def test_a_plugins_own_error_comes_out_as_it_is(monkeypatch):
    entry = EntryPoint("remote", "traceworld.serving.remote_policy:load_remote", "g")
    monkeypatch.setattr(named, "entry_points", lambda group: [entry])
    with pytest.raises(ConfigError, match=r"has no address(?s:.*)ws://HOST:PORT"):
        named.make_plugin("g", "remote", object, "policy", "an address")
