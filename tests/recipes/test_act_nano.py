"""The recipe of act-nano: its options, its card from measured figures, and (slow) the whole of it on one task."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from traceworld.errors import ConfigError
from traceworld.policies.action_expert.checkpoint import load_mu0
from traceworld.policies.registry import load_policy

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    spec = importlib.util.spec_from_file_location("act_nano_recipe", RECIPES / "act_nano.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def report(rate, by_group=None):
    overall = {"rate": rate, "interval95": [rate - 0.1, rate + 0.1], "mean_over_groups": by_group}
    return {"overall": overall, "timing": {"act_ms": 40.0}}


def test_the_card_says_what_was_measured(recipe, tmp_path):
    options = recipe.Recipe(out=tmp_path, steps=100)
    results = {"act-nano": {"mt10": report(0.8, 0.75)}, "without-trace": {"mt10": report(0.5)}}
    text = recipe.card(options, recipe.figures(options, results))
    assert "| act-nano | mt10 | 80.0 % | 70.0–90.0 | 75.0 % | 40 |" in text
    assert "| without-trace | mt10 | 50.0 % | 40.0–60.0 | – | 40 |" in text
    assert "100 steps of 32" in text


@pytest.mark.parametrize("other", [{"suite": ("mt50",)}, {"demos": 5}, {"name": "act-nano-mt50"}])
def test_what_is_shipped_is_not_overwritten_by_something_else(recipe, tmp_path, other):
    with pytest.raises(ConfigError, match="--no-install"):
        recipe.Recipe(out=tmp_path, **other)
    assert recipe.Recipe(out=tmp_path, install=False, **other).install is False
    recipe.Recipe(out=tmp_path, suite=("mt50",), demos=25, name="act-nano-mt50")


def test_the_twin_differs_in_the_traces_only(recipe):
    assert recipe.CONTENDERS["act-nano"][0] == recipe.CONTENDERS["without-trace"][0]
    assert {trace for _, trace in recipe.CONTENDERS.values()} == {"expert", "self", "none", None}


def test_an_untrained_mu0_differs_in_its_weights_alone(recipe, tmp_path):
    options = recipe.Recipe(out=tmp_path)
    folder = recipe.untrained(options)
    trained, other = load_mu0("mu0-nano"), load_mu0(folder)
    assert (other.config, other.normalisation) == (trained.config, trained.normalisation)
    pairs = zip(trained.prefix.parameters(), other.prefix.parameters(), strict=True)
    wide = [(a, b) for a, b in pairs if a.ndim > 1]
    assert not any(torch.allclose(a, b) for a, b in wide)
    assert recipe.untrained(options) == folder
    again = load_mu0(recipe.untrained(recipe.Recipe(out=tmp_path / "again")))
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), again.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.render
def test_the_whole_recipe_on_one_task(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "SHIPPED", tmp_path / "package")
    monkeypatch.setitem(recipe.MADE_FOR, "act-nano", (("reach",), 2))
    options = recipe.Recipe(
        out=tmp_path / "run",
        suite=("reach",),
        demos=2,
        every=8,
        policies=("act-nano", "without-trace"),
        steps=2,
        batch=4,
        episodes=1,
        workers=0,
        sim_workers=0,
        rollout_workers=0,
        device="cpu",
    )
    found = recipe.main(options)
    assert found["act-nano"]["reach"]["episodes"] == 1
    shipped = tmp_path / "package" / "act-nano"
    assert sum(file.stat().st_size for file in shipped.rglob("*")) < 25e6
    assert load_policy(shipped).config.trace == "expert"
    assert json.loads((shipped / "result.json").read_text())["options"]["demos"] == 2
    before = (shipped / "model.safetensors").read_bytes()
    recipe.main(options)
    assert (shipped / "model.safetensors").read_bytes() == before
