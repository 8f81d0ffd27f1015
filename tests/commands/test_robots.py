"""`traceworld rollout`, `sim demos` and `train policy`, from the command line to what is printed and written."""

import json
import typing
from pathlib import Path

import pytest
from policy_toys import HEAD, ToyDemonstrations, filled, make_mu0, policy_config

from traceworld.cli import main
from traceworld.commands.robots import TrainPolicy
from traceworld.errors import ConfigError
from traceworld.evaluation import rollouts
from traceworld.models.checkpoint import save_checkpoint
from traceworld.models.mu0.counting import count_parameters
from traceworld.models.mu0.sizes import mu0_config
from traceworld.policies.action_expert import sizes
from traceworld.policies.action_expert.checkpoint import save_policy
from traceworld.policies.action_expert.config import QueryConfig
from traceworld.policies.action_expert.model import PolicyModel
from traceworld.policies.action_expert.normalisation import ActionScales
from traceworld.policies.registry import load_policy
from traceworld.sim.control import METAWORLD_SPEC
from traceworld.traces.lerobot import write_lerobot

pytest.importorskip("metaworld")

FEW = ["--max-steps", "4", "--image-size", "32", "24", "--episodes", "2", "--cameras", "corner2"]


@pytest.mark.render
def test_rollout_counts_writes_and_goes_on(tmp_path, capsys):
    words = tmp_path / "words.json"
    words.write_text('{"reach-v3": "Reach it"}')
    command = ["rollout", "--policy", "random", "--env", "metaworld:reach", "--out", str(tmp_path / "run"), *FEW]
    command += ["--instructions", str(words), "--json"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["overall"]["episodes"] == 2
    assert report["overall"]["successes"] == 0
    assert report["by_task"]["metaworld:reach-v3"]["interval95"][0] == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["policy"] == "random"
    assert "random on metaworld:reach" in (tmp_path / "run" / "results.md").read_text()
    records = (tmp_path / "run" / "episodes.jsonl").read_bytes()
    assert main(command) == 0  # nothing is left to do
    assert (tmp_path / "run" / "episodes.jsonl").read_bytes() == records
    assert main([*command, "--seed", "1"]) == 2
    assert "seed = 0, not 1" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.render
def test_distractors_are_counted(capsys):
    command = ["rollout", "--policy", "expert", "--env", "metaworld:sweep", "--posts", "1", "--episodes", "1"]
    assert main([*command, "--image-size", "32", "24", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["motion"]["touched"] == 1.0
    assert main([*command[:-4], "--episodes", "1", "--image-size", "32", "24", "--max-steps", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["motion"]["touched"] is None


def test_rollout_says_what_it_does_not_know(tmp_path, capsys):
    assert main(["rollout", "--policy", "random", "--env", "mt11"]) == 2
    assert "mt10" in capsys.readouterr().err
    bad = tmp_path / "bad.json"
    bad.write_text("[1]")
    assert main(["rollout", "--policy", "random", "--env", "mt10", "--instructions", str(bad)]) == 2
    assert main(["rollout", "--policy", "random", "--env", "atomic8", "--episodes", "1"]) == 1
    assert "download_kitchen_assets" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.render
def test_sim_demos_records_and_exports(tmp_path, capsys):
    from traceworld.traces.lerobot.reader import LeRobotDemonstrations

    command = ["sim", "demos", "reach", "--episodes", "1", "--out", str(tmp_path / "demos"), "--json"]
    command += ["--width", "48", "--height", "36", "--cameras", "corner2", "--lerobot", str(tmp_path / "lerobot")]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["task"] == "reach-v3"
    assert rows[0]["demonstrations"] == 1
    exported = LeRobotDemonstrations(tmp_path / "lerobot")
    assert len(exported) == 1
    assert main(["sim", "demos", "atomic8", "--out", str(tmp_path / "x")]) == 2


@pytest.mark.render
def test_sim_demos_with_depth(tmp_path, capsys):
    from traceworld.traces.lerobot.reader import LeRobotDemonstrations

    command = ["sim", "demos", "reach", "--episodes", "1", "--out", str(tmp_path / "demos"), "--depth", "--json"]
    command += ["--width", "48", "--height", "36", "--cameras", "corner2", "--lerobot", str(tmp_path / "lerobot")]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)[0]["demonstrations"] == 1
    assert LeRobotDemonstrations(tmp_path / "lerobot")[0].depth_m("corner2", 0).shape == (36, 48)


@pytest.fixture(scope="module")
def mu0_folder(tmp_path_factory):
    mu0 = make_mu0()
    return str(save_checkpoint(tmp_path_factory.mktemp("mu0") / "m", mu0, mu0.normalisation))


@pytest.mark.render
@pytest.mark.parametrize("depth", [False, True])
def test_a_policy_is_shown_what_it_was_trained_on_without_being_asked(tmp_path, capsys, monkeypatch, depth):
    config = policy_config(state_dim=4, action_dim=4, query=QueryConfig(count=7), depth=depth)
    scales = ActionScales.unit(4, METAWORLD_SPEC, ("corner3", "wrist"))
    folder = save_policy(tmp_path / "p", filled(PolicyModel(config, make_mu0(), scales)))
    shown, make_env = [], rollouts.make_env
    monkeypatch.setattr(rollouts, "make_env", lambda *a, **options: shown.append(options) or make_env(*a, **options))
    command = ["rollout", "--policy", str(folder), "--env", "metaworld:reach", "--episodes", "1", "--max-steps", "2"]
    command += ["--image-size", "64", "48", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["errors"] == 0
    assert main([*command, "--cameras", "corner2"]) == 0
    assert [options["cameras"] for options in shown] == [("corner3", "wrist"), ("corner2",)]
    assert [options.get("with_depth", False) for options in shown] == [depth, depth]


def words(folder, out, mu0, *more):
    command = [
        "train",
        "policy",
        str(folder),
        "--out",
        str(out),
        "--mu0",
        mu0,
        "--batch",
        "4",
        "--chunk",
        "5",
        "--warmup",
        "0",
    ]
    return [
        *command,
        "--val-fraction",
        "0.3",
        "--checkpoint-every",
        "1",
        "--eval-every",
        "1",
        "--device",
        "cpu",
        "--json",
        *more,
    ]


def test_train_policy_learns_from_a_lerobot_dataset_goes_on_and_is_described(tmp_path, mu0_folder, capsys, monkeypatch):
    monkeypatch.setitem(sizes._SIZES, "nano", lambda state_dim, action_dim: policy_config(head=HEAD))
    write_lerobot(ToyDemonstrations(), tmp_path / "data", pictures="png")
    command = words(tmp_path / "data", tmp_path / "run", mu0_folder)
    assert main([*command, "--steps", "1"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["status"], first["step"]) == ("finished", 1)
    features = list((tmp_path / "run" / "features").iterdir())
    assert main([*command, "--steps", "2"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["status"], again["step"]) == ("finished", 2)
    assert list((tmp_path / "run" / "features").iterdir()) == features
    policy = load_policy(again["model"])
    assert policy.cameras == ("scene", "wrist")
    assert policy.config.trace == "expert"
    for target in (again["model"], f"policy:{again['model']}"):
        assert main(["info", target, "--json"]) == 0
        about = json.loads(capsys.readouterr().out)
        parts = about["parameters"]
        assert parts["trained"] == again["trained_parameters"] == parts["head"] + parts["injection"] + parts["stems"]
        assert parts["total"] == again["parameters"] == parts["trained"] + parts["frozen_mu0"]
        assert about["cameras"] == ["scene", "wrist"]


def test_train_policy_says_what_it_cannot_learn_from(tmp_path, mu0_folder, capsys):
    assert main(words(tmp_path / "nowhere", tmp_path / "run", mu0_folder)) == 1
    assert "demonstrations.json" in capsys.readouterr().err
    assert main(words(tmp_path, tmp_path / "run", mu0_folder, "--no-features", "--features", "f")) in (1, 2)
    assert not (tmp_path / "run").exists()


def test_options_of_train_policy_reach_the_loop_and_the_policy():
    given = {"steps": 7, "batch": 3, "optimizer": "muon", "lr": 0.5, "weight_decay": 0.0, "schedule": "constant", "ema": 0.5, "precision": "bf16",
             "seed": 9, "device": "cpu", "workers": 2, "checkpoint_every": 4, "eval_every": 5}  # fmt: skip
    asked = {
        "chunk": 6,
        "every": 2,
        "val_fraction": 0.25,
        "depth": True,
        "trace": "self",
        "scene": "none",
        "mu0": "x",
        "size": "nano-act",
    }
    config, what = TrainPolicy(data=Path("d"), out=Path("o"), minutes=1.5, warmup=3, **given, **asked).config()
    assert {name: getattr(config, name) for name in given} == given
    assert {name: getattr(what, name) for name in asked} == asked
    assert (config.data, config.out, config.max_minutes, config.warmup) == (("d",), "o", 1.5, 3)
    assert what.features == str(Path("o") / "features")
    plain = TrainPolicy(data=Path("d"), out=Path("o"), steps=100, no_features=True).config()
    assert (plain[0].warmup, plain[1].features) == (25, None)
    with pytest.raises(ConfigError, match="exclude each other"):
        TrainPolicy(data=Path("d"), out=Path("o"), features=Path("f"), no_features=True).config()
    named = TrainPolicy(data=Path("d"), out=Path("o"), cameras=("scene=top", "hand"))._cameras()
    assert named == {"scene": "top", "hand": "hand"}


def test_every_size_can_be_asked_for():
    offered = typing.get_args(typing.get_type_hints(TrainPolicy)["size"])
    assert offered == (*sizes.SIZES, sizes.OFFICIAL)


@pytest.mark.parametrize("size", ["nano", "nano-diffusion", "nano-act"])
def test_info_counts_a_policys_size_without_making_it(size, capsys):
    assert main(["info", f"policy:{size}", "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["parameters"]
    config = sizes.policy_config(size, 4, 4)
    wanted = sizes.count_policy(config, mu0_config("nano"))
    assert parts["trained"] == wanted["total"] == parts["head"] + parts["injection"] + parts["stems"]
    assert parts["frozen_mu0"] == count_parameters("nano")["total"]
    assert 3.5e6 < parts["trained"] < 5e6


def test_info_of_policies_that_are_not_there_or_learn_nothing(capsys):
    assert main(["info", "policy:no-such-policy"]) == 2
    assert main(["info", "policy:follow:nothing-moves", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == {"total": 0, "trained": 0}
