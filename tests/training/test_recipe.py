"""The recipe of the shipped weights, whole but tiny: simulate, train, score, card; and again, which changes nothing."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from traceworld.models import load_predictor

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("mu0_nano_recipe", ROOT / "recipes" / "mu0_nano.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.render
def test_the_whole_recipe_on_two_tasks(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "SHIPPED", tmp_path / "package" / "mu0-nano")
    options = recipe.Recipe(
        out=tmp_path / "run",
        episodes=2,
        test_episodes=1,
        tasks=("drawer-open-v3",),
        held_out=("door-open-v3",),
        minutes=0.02,
        batch=2,
        sim_workers=0,
        workers=0,
        threads=1,
    )
    figures = recipe.main(options)
    shipped = tmp_path / "package" / "mu0-nano"
    assert {path.name for path in shipped.iterdir()} == {"model.safetensors", "config.json", "README.md", "result.json"}
    assert sum(path.stat().st_size for path in shipped.iterdir()) < 25e6
    assert json.loads((shipped / "result.json").read_text()) == figures
    found = figures["result"]["time"]["models"]["mu0-nano"]["no_history"]
    assert np.isfinite(found["ratio"]["topS_ade@32"])
    assert set(found["by_group"]) == {"trained", "held_out"}
    text = (shipped / "README.md").read_text()
    assert f"{found['ratio']['topS_ade@32']:.3f}" in text
    assert "door-open-v3" in text
    assert load_predictor(str(shipped)).name == "mu0-nano"

    weights = (shipped / "model.safetensors").read_bytes()
    steps = figures["training"]["steps"]
    again = recipe.main(options)
    assert again["training"]["steps"] == steps
    assert (shipped / "model.safetensors").read_bytes() == weights


def test_the_card_says_only_what_was_measured(recipe, tmp_path):
    """Every number of the table is one of the figures."""
    part = {"ratio_topS_ade@32": 0.456, "keypoints": 3}
    found = {
        "metrics": {"topS_ade@32": 0.1111, "top1_ade@32": 0.2222},
        "ratio": {"topS_ade@32": 0.333, "top1_ade@32": 0.444},
        "interval95": {"topS_ade@32": [0.301, 0.366]},
        "by_group": {"trained": part, "held_out": part},
    }
    figures = {
        "result": {
            "time": {
                "protocol": {"main": "topS_ade@32"},
                "models": {"mu0-nano": {"no_history": found, "history": found}},
            }
        },
        "training": {
            "parameters": 4_900_000,
            "steps": 77,
            "config": recipe.TrainConfig(data=("x",), out="x").to_json(),
        },
        "cost_minutes": {"train": 61.2},
        "machine": {"cpus": 2, "arch": "x86_64"},
    }
    text = recipe.card(recipe.Recipe(out=tmp_path), figures)
    assert "| time | mu0-nano | no | 0.1111 | 0.333 | 0.301–0.366 | 0.2222 | 0.444 | 0.456 | 0.456 |" in text
    assert "train 61" in text
    assert "77 steps" in text
    assert f"45 tasks × {recipe.Recipe.episodes} episodes" in text


def test_the_card_names_every_run_the_weights_went_through(recipe):
    earlier = recipe.origin(str(recipe.SHIPPED))
    assert earlier["steps"] > 0
    now = {"config": {**earlier["config"], "lr": 0.5}, "steps": 7, "started_from": earlier}
    lines = recipe.history(now)
    assert len(lines) >= 2
    assert f"{earlier['steps']} steps" in lines[-2]
    assert "7 steps" in lines[-1]
    assert "0.5" in lines[-1]
    assert "started from" in lines[-1]
    assert recipe.origin(None) is None
