"""The recipes of the shipped weights, whole but tiny: simulate, train, score, card; and again, which changes nothing."""

import json
from dataclasses import replace

import mu0_nano
import numpy as np
import pytest
import shipped
import toy_corpus
import tracegen_nano
from mu0_nano import MU0_NANO
from shipped import CARRIED, Corpora, card, data_line, described, history, origin, pack, training_episodes
from tracegen_nano import TRACEGEN_NANO

from traceworld.errors import ConfigError, DatasetError
from traceworld.models import load_predictor
from traceworld.models.checkpoint import save_checkpoint
from traceworld.sim.tasks import HELD_OUT, TRAINED
from traceworld.sim.variety import Variety
from traceworld.training import TrainConfig

TINY = {
    "episodes": 2,
    "test_episodes": 1,
    "tasks": ("drawer-open-v3",),
    "held_out": ("door-open-v3",),
    "steps": 2,
    "batch": 2,
    "arc_weight": 0.0,
    "sim_workers": 0,
    "workers": 0,
    "threads": 1,
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Made clips instead of simulated ones, and a package of its own to install into."""
    monkeypatch.setattr(shipped, "build_corpus", toy_corpus.build_corpus)
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path / "package")
    return tmp_path / "package"


def test_tracegen_after_mu0_on_its_corpus(package, tmp_path):
    mu0_nano.main(mu0_nano.Recipe(out=tmp_path / "mu0", **TINY))
    made = tracegen_nano.main(tracegen_nano.Recipe(out=tmp_path / "tracegen", corpus=tmp_path / "mu0", **TINY))
    assert not (tmp_path / "tracegen" / "train").exists()
    assert made["training"]["config"]["data"] == [str(tmp_path / "mu0" / "train")]
    assert made["data"]["episodes"] == {"drawer-open-v3": 2}
    assert set(made["cost_minutes"]) == {"simulate (in another run)", "train", "score"}
    for name, settings in (("mu0-nano", {"no_history", "history"}), ("tracegen-nano", {"no_history"})):
        folder = package / name
        assert {path.name for path in folder.iterdir()} == {
            "model.safetensors",
            "config.json",
            "README.md",
            "result.json",
        }
        assert sum(path.stat().st_size for path in folder.iterdir()) < 25e6
        figures = json.loads((folder / "result.json").read_text())
        found = figures["result"]["time"]["models"][name]
        assert settings <= set(found)
        assert np.isfinite(found["no_history"]["ratio"]["topS_ade@32"])
        assert set(found["no_history"]["by_group"]) == {"trained", "held_out"}
        text = (folder / "README.md").read_text()
        assert text.startswith(f"# {name}\n")
        assert f"{found['no_history']['ratio']['topS_ade@32']:.3f}" in text
        assert f"recipes/{name.replace('-', '_')}.py" in text
        assert load_predictor(str(folder)).name == name
    assert json.loads((package / "tracegen-nano" / "config.json").read_text())["kind"] == "tracegen"
    assert "arXiv 2511.21690" in (package / "tracegen-nano" / "README.md").read_text()


def test_a_corpus_with_held_out_tasks_or_none_at_all_is_refused(package, tmp_path):
    options = mu0_nano.Recipe(out=tmp_path / "run", corpus=tmp_path / "nowhere", **TINY)
    with pytest.raises(DatasetError, match="nowhere"):
        mu0_nano.main(options)
    for name in ("train", "unseen", "held_out"):
        toy_corpus.build_corpus(tmp_path / "leak" / name, ("door-open-v3",), 1)
    with pytest.raises(ConfigError, match="held-out door-open-v3"):
        mu0_nano.main(replace(options, corpus=tmp_path / "leak"))


def test_who_plays_reaches_the_training_corpus_alone(package, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(shipped, "build_corpus", lambda out, *args, **options: asked.update({out.name: options}))
    options = mu0_nano.Recipe(out=tmp_path, embodiments=("hand-like", "other-arm"), variety=True, **TINY)
    shipped.corpora_of(options)
    assert (asked["train"]["embodiments"], asked["train"]["variety"]) == (("hand-like", "other-arm"), Variety())
    assert "embodiments" not in asked["unseen"]
    assert "variety" not in asked["held_out"]
    shipped.corpora_of(replace(options, embodiments=("sawyer",), variety=False))
    assert (asked["train"]["embodiments"], asked["train"]["variety"]) == (("sawyer",), None)
    assert asked["train"]["seed"] != asked["unseen"]["seed"]


def test_the_data_is_described_as_the_store_has_it(tmp_path):
    toy_corpus.build_corpus(tmp_path / "train", ("reach-v3", "push-v3"), {"reach-v3": 2, "push-v3": 3})
    corpora = Corpora(tmp_path / "train", tmp_path, tmp_path)
    found = described(corpora, HELD_OUT)
    assert found["episodes"] == {"push-v3": 3, "reach-v3": 2}
    assert (found["embodiments"], found["variety"]) == (["sawyer"], False)
    assert data_line(found).startswith(
        "5 episodes of 2 tasks with exact traces (2 to 3 of each), played by sawyer; never"
    )
    toy_corpus.build_corpus(tmp_path / "cross", ("reach-v3",), 1, embodiments=("hand-like",), variety=Variety())
    varied = described(Corpora(tmp_path / "cross", tmp_path, tmp_path), HELD_OUT)
    assert "played by hand-like in varied colours" in data_line(varied)


def test_more_episodes_of_what_is_carried():
    options = mu0_nano.Recipe(out="x")
    episodes = training_episodes(options)
    assert set(CARRIED) < set(TRAINED) == set(episodes)
    assert {episodes[task] for task in CARRIED} == {options.carried_episodes}
    assert sum(episodes.values()) == 31 * 110 + 14 * 170
    assert set(training_episodes(replace(options, carried_episodes=None)).values()) == {110}


def test_both_models_train_alike_but_for_what_is_said(tmp_path):
    ours = shipped.train_config(mu0_nano.Recipe(out=tmp_path, steps=9), MU0_NANO, tmp_path / "train")
    theirs = shipped.train_config(tracegen_nano.Recipe(out=tmp_path, steps=9), TRACEGEN_NANO, tmp_path / "train")
    assert replace(theirs, model="mu0", keypoints=ours.keypoints) == ours
    assert theirs.model == "tracegen"


def test_a_model_that_is_too_large_is_not_packed(tmp_path, monkeypatch):
    model = load_predictor("mu0-nano").model
    save_checkpoint(tmp_path / "model", model, model.normalisation, {"step": 1, "training": {}})
    monkeypatch.setattr(shipped, "MOST_BYTES", 1_000_000)
    with pytest.raises(ConfigError, match="at most 1 fit"):
        pack(tmp_path / "packed", tmp_path / "model", None)


def test_the_card_says_only_what_was_measured():
    """Every number of the table is one of the figures."""
    part = {"ratio_topS_ade@32": 0.456, "keypoints": 3}
    found = {
        "metrics": {"topS_ade@32": 0.1111, "top1_ade@32": 0.2222},
        "ratio": {"topS_ade@32": 0.333, "top1_ade@32": 0.444},
        "interval95": {"topS_ade@32": [0.301, 0.366]},
        "by_group": {"trained": part, "held_out": part},
    }
    figures = {
        "data": {
            "episodes": dict.fromkeys(TRAINED, 48),
            "held_out": ["x"],
            "embodiments": ["sawyer"],
            "variety": False,
        },
        "result": {
            "time": {
                "protocol": {"main": "topS_ade@32"},
                "models": {"mu0-nano": {"no_history": found, "history": found}},
            }
        },
        "training": {"parameters": 4_900_000, "steps": 77, "config": TrainConfig(data=("x",), out="x").to_json()},
        "cost_minutes": {"train": 61.2},
        "machine": {"cpus": 2, "arch": "x86_64"},
    }
    text = card(MU0_NANO, figures)
    assert "| time | mu0-nano | no | 0.1111 | 0.333 | 0.301–0.366 | 0.2222 | 0.444 | 0.456 | 0.456 |" in text
    assert "| time | mu0-nano | yes |" in text
    assert "train 61" in text
    assert "77 steps" in text
    assert "2,160 episodes of 45 tasks with exact traces (48 of each)" in text


def test_the_card_names_every_run_the_weights_went_through():
    earlier = origin(str(shipped.WEIGHTS / "mu0-nano"))
    assert earlier["steps"] > 0
    now = {"config": {**earlier["config"], "lr": 0.5}, "steps": 7, "started_from": earlier}
    lines = history(now)
    assert len(lines) >= 2
    assert f"{earlier['steps']} steps" in lines[-2]
    assert "7 steps" in lines[-1]
    assert "0.5" in lines[-1]
    assert "started from" in lines[-1]
    assert origin(None) is None


@pytest.mark.slow
@pytest.mark.render
@pytest.mark.timeout(1800)
def test_the_whole_recipe_with_the_simulator(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path / "package")
    options = replace(
        mu0_nano.Recipe(out=tmp_path / "run", **TINY),
        steps=None,
        minutes=0.02,
        arc_weight=0.2,
        embodiments=("sawyer", "hand-like"),
        variety=True,
    )
    figures = mu0_nano.main(options)
    folder = tmp_path / "package" / "mu0-nano"
    assert json.loads((folder / "result.json").read_text()) == figures
    assert set(figures["result"]) == {"time", "arc"}
    assert (figures["data"]["embodiments"], figures["data"]["variety"]) == (["sawyer", "hand-like"], True)
    assert "door-open-v3" in (folder / "README.md").read_text()

    weights = (folder / "model.safetensors").read_bytes()
    again = mu0_nano.main(options)
    assert again["training"]["steps"] == figures["training"]["steps"]
    assert (folder / "model.safetensors").read_bytes() == weights
