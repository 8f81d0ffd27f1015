"""Named recipes: the paper's numbers, the release's, what wins, and what the log says."""

import json
from dataclasses import replace

import pytest
import toy

from traceworld.errors import ConfigError
from traceworld.training import TrainConfig, train
from traceworld.training.recipes import RECIPES, differences, from_recipe


def test_the_papers_numbers():
    """App. B.1 and C.1: lr 1e-4, wd 1e-10, clip 10, 0.1× for the VLM, 2e5 steps, 24 windows as 6 on each of two GPUs."""
    run = from_recipe("mu0-paper", data=("x",), out="y")
    assert (run.lr, run.weight_decay, run.clip, run.vlm_lr_multiplier) == (1e-4, 1e-10, 10.0, 0.1)
    assert (run.steps, run.batch * run.grad_accumulation, run.batch) == (200_000, 24, 12)
    assert (run.gradient_checkpointing, run.keypoints, run.optimizer) == (True, (1, 256), "adamw")
    assert (run.history_drop_all, run.history_drop_each, run.depth_drop) == (0.2, 0.3, 0.7)
    assert (run.colour_jitter, run.depth_noise_m, run.size) == (0.3, 0.01, "large")
    assert (run.warmup, run.schedule, run.ema) == (0, "constant", 0.0)


def test_where_the_release_differs():
    paper, release = (from_recipe(name, data=("x",), out="y").to_json() for name in ("mu0-paper", "mu0-release"))
    assert {name for name in paper if paper[name] != release[name]} == {
        "recipe",
        "batch",
        "grad_accumulation",
        "vlm_lr_multiplier",
        "gradient_checkpointing",
        "history_drop_all",
        "precision",
        "checkpoint_every",
        "eval_every",
    }
    assert (release["history_drop_all"], release["vlm_lr_multiplier"], release["batch"]) == (0.5, 1.0, 16)


def test_given_options_win_and_are_reported():
    run = from_recipe("mu0-paper", data=("x",), out="y", lr=3e-4, batch=6, grad_accumulation=4, workers=8)
    assert (run.lr, run.recipe) == (3e-4, "mu0-paper")
    assert differences(run) == {
        "lr": {"recipe": 1e-4, "used": 3e-4},
        "batch": {"recipe": 12, "used": 6},
        "grad_accumulation": {"recipe": 2, "used": 4},
    }
    assert differences(replace(run, recipe=None)) == {}


def test_the_log_says_what_was_used(tmp_path):
    run = from_recipe("mu0-paper", data=("toy",), out=str(tmp_path), model="toy", steps=1, batch=2, workers=0)
    train(replace(run, gradient_checkpointing=False), toy.toy_data())
    start = json.loads((tmp_path / "log.jsonl").open().readline())
    assert start["kind"] == "start"
    assert start["config"]["lr"] == 1e-4
    assert set(start["recipe_differences"]) == {"model", "steps", "batch", "gradient_checkpointing"}
    assert start["recipe_differences"]["steps"] == {"recipe": 200_000, "used": 1}


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="mu0-release"):
        from_recipe("mu0-papr", data=("x",), out="y")
    with pytest.raises(ConfigError, match="colour"):
        from_recipe("mu0-paper", data=("x",), out="y", colour=1)
    with pytest.raises(ConfigError, match="data and out"):
        from_recipe("mu0-paper", out="y")
    assert all(set(recipe) <= set(TrainConfig.__dataclass_fields__) for recipe in RECIPES.values())
