"""Stock `lerobot-train` and `lerobot-eval` train and evaluate the action expert; checkpoints go both ways."""

import json
import os
import subprocess
import sys
from pathlib import Path

import lerobot_toys as toys
import numpy as np
import pytest
import torch

pytest.importorskip("lerobot_policy_traceworld")

from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors
from lerobot_policy_traceworld import TraceworldConfig, TraceworldPolicy
from lerobot_policy_traceworld.convert import convert

from traceworld.errors import CheckpointError
from traceworld.policies.action_expert.checkpoint import load_policy_checkpoint
from traceworld.policies.action_expert.policy import ActionExpertPolicy
from traceworld.policies.registry import load_policy
from traceworld.traces.lerobot import LeRobotDemonstrations, write_lerobot
from traceworld.traces.robot import RobotObservation

HERE = Path(__file__).parent


def lerobot(module, *arguments):
    """One of LeRobot's commands, as its console script calls it."""
    paths = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", f"lerobot.scripts.{module}", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, timeout=1500
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_lerobot(toys.Demos(3), tmp_path_factory.mktemp("data") / "set", pictures="png")


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """A checkpoint of two steps of stock lerobot-train."""
    out = tmp_path_factory.mktemp("run") / "out"
    lerobot(
        "lerobot_train",
        "--dataset.repo_id=tests/set", f"--dataset.root={dataset}", "--policy.type=traceworld", "--policy.device=cpu",
        "--policy.push_to_hub=false", "--policy.chunk_size=4", "--policy.n_action_steps=3", "--policy.optimizer_warmup_steps=0",
        f"--output_dir={out}", "--steps=2", "--batch_size=2", "--num_workers=0", "--save_freq=2", "--log_freq=1",
        "--env_eval_freq=0", "--wandb.enable=false",
    )  # fmt: skip
    return out / "checkpoints/last/pretrained_model"


def observed(dataset, episode=1, frame=2):
    demo = LeRobotDemonstrations(dataset)[episode]
    images = {name: demo.read_frame(name, frame) for name in demo.cameras}
    return RobotObservation(images=images, state=demo.state[frame], instruction=demo.instruction)


def as_batch(seen):
    batch = {
        f"observation.images.{name}": torch.from_numpy(image).permute(2, 0, 1).float() / 255
        for name, image in seen.images.items()
    }
    return {**batch, "observation.state": torch.from_numpy(seen.state), "task": seen.instruction}


def chunk_of(folder, seen):
    """A chunk through LeRobot's loading, pre- and post-processing."""
    config = PreTrainedConfig.from_pretrained(folder)
    policy = TraceworldPolicy.from_pretrained(folder, config=config)
    before, after = make_pre_post_processors(config, pretrained_path=str(folder))
    policy.reset()
    return after(policy.predict_action_chunk(before(as_batch(seen))))[0].numpy(), policy


def test_the_plugin_is_found_and_trains(trained, dataset):
    assert (trained / "model.safetensors").exists()
    assert json.loads((trained / "config.json").read_text())["type"] == "traceworld"
    own = load_policy_checkpoint(trained / "traceworld")
    spec = own.model.scales.spec
    assert (spec.names, spec.state_names, spec.control_hz) == (toys.SPEC.names, toys.SPEC.state_names, 10.0)
    actions = np.concatenate([toys.demonstration(n).action for n in range(3)])
    np.testing.assert_allclose(own.model.scales.action_mean, actions.mean(0), atol=1e-5)
    np.testing.assert_allclose(own.model.scales.action_std, actions.std(0), atol=1e-5)
    assert own.model.scales.cameras == toys.CAMERAS


def test_lerobot_s_and_our_reading_of_a_checkpoint_act_alike(trained, dataset):
    seen = observed(dataset)
    theirs, policy = chunk_of(trained, seen)
    ours = load_policy(trained / "traceworld")
    ours.reset(0)
    np.testing.assert_allclose(theirs, ours.act(seen).actions, atol=1e-5)
    first = policy.select_action({**as_batch(seen), "observation.state": torch.from_numpy(seen.state)[None], **{
        key: value[None] for key, value in as_batch(seen).items() if "images" in key
    }})  # fmt: skip
    assert first.shape == (1, 3)


def test_only_what_is_not_mu0_is_trained_and_stored(trained):
    policy = TraceworldPolicy.from_pretrained(trained)
    assert not any(parameter.requires_grad for parameter in policy.model.frozen.mu0.parameters())
    assert all(parameter.requires_grad for parameter in policy.get_optim_params())
    stored = (trained / "model.safetensors").stat().st_size
    own = sum(tensor.numel() * 4 for tensor in policy.model.own_state().values())
    assert abs(stored - own) < 0.02 * own + 20_000


def test_lerobot_eval_runs_it(trained, tmp_path):
    lerobot(
        "lerobot_eval",
        f"--policy.path={trained}", "--policy.device=cpu", "--env.type=toyreach", "--env.discover_packages_path=gym_toyreach",
        "--eval.n_episodes=2", "--eval.batch_size=2", "--eval.use_async_envs=false", f"--output_dir={tmp_path / 'eval'}",
    )  # fmt: skip
    results = json.loads((tmp_path / "eval/eval_info.json").read_text())
    assert 0 <= results["overall"]["pc_success"] <= 100


def test_our_checkpoint_becomes_lerobot_s_and_can_be_gone_on_with(trained, dataset, tmp_path):
    seen = observed(dataset)
    folder = convert(trained / "traceworld", tmp_path / "converted")
    ours = ActionExpertPolicy(load_policy_checkpoint(trained / "traceworld").model)
    ours.reset(0)
    np.testing.assert_allclose(chunk_of(folder, seen)[0], ours.act(seen).actions, atol=1e-5)
    lerobot(
        "lerobot_train",
        "--dataset.repo_id=tests/set", f"--dataset.root={dataset}", f"--policy.path={folder}", "--policy.device=cpu",
        "--policy.push_to_hub=false", f"--output_dir={tmp_path / 'on'}", "--steps=3", "--batch_size=2", "--num_workers=0",  # the rate of the first is 0: it warms up
        "--env_eval_freq=0", "--wandb.enable=false",
    )  # fmt: skip
    on = load_policy_checkpoint(tmp_path / "on/checkpoints/last/pretrained_model/traceworld").model
    assert on.scales == ours.model.scales
    changed = [
        not torch.equal(a, b) for a, b in zip(on.own_state().values(), ours.model.own_state().values(), strict=True)
    ]
    assert any(changed)


def made_for(cameras, gripper):
    """A policy of random weights for a dataset with these cameras."""
    features = {f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, 24, 32)) for name in cameras}
    features["observation.state"] = PolicyFeature(FeatureType.STATE, (2,))
    unit = {name: np.full(2, value) for name, value in {"mean": 0.0, "std": 1.0, "min": -1.0, "max": 1.0}.items()}
    config = TraceworldConfig(
        input_features=features,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        chunk_size=4,
        n_action_steps=3,
        gripper_camera=gripper,
        device="cpu",
        push_to_hub=False,
    )
    policy = TraceworldPolicy(config, {"action": unit, "observation.state": unit}).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.get_optim_params():  # some begin at zero, so that what is seen would not matter yet
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return policy


@pytest.mark.parametrize(
    ("cameras", "gripper", "read"),
    [
        (["top", "hand", "side"], "observation.images.hand", ("top", "hand")),
        (["top", "wrist"], "", ("top", "wrist")),
        (["top", "side"], "", ("top",)),
    ],
)
def test_the_gripper_s_camera_may_be_called_anything(tmp_path, cameras, gripper, read):
    theirs = made_for(cameras, gripper)
    theirs.save_pretrained(tmp_path / "own")
    ours = load_policy(tmp_path / "own/traceworld")
    assert ours.cameras == read
    converted = TraceworldPolicy.from_pretrained(convert(tmp_path / "own/traceworld", tmp_path / "converted"))
    rng = np.random.default_rng(0)

    def acted(changed):
        """The same chunk, three ways."""
        images = {name: rng.integers(0, 256, (24, 32, 3), dtype=np.uint8) for name in cameras} | changed
        seen = RobotObservation(images, np.float32([0.1, 0.2]), "go")
        batch = {key: value[None] if torch.is_tensor(value) else value for key, value in as_batch(seen).items()}
        ours.reset(0)
        chunks = [ours.act(seen).actions]
        for policy in (theirs, converted):
            policy.reset()
            chunks.append(policy.predict_action_chunk(batch)[0].numpy())
        for chunk in chunks[1:]:
            np.testing.assert_allclose(chunk, chunks[0], atol=1e-5)
        return images, chunks[0]

    images, before = acted({})
    for name in cameras:
        _, after = acted({**images, name: 255 - images[name]})
        assert np.allclose(after, before, atol=1e-6) == (name not in read)


def test_damaged_weights_and_missing_features_are_refused(trained, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(trained / "model.safetensors")
    weights.pop(sorted(weights)[0])
    folder = tmp_path / "broken"
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text((trained / "config.json").read_text())
    with pytest.raises(CheckpointError, match="tensors do not fit"):
        TraceworldPolicy.from_pretrained(folder)
    with pytest.raises(ValueError, match="looks at pictures"):
        TraceworldPolicy(TraceworldConfig(device="cpu"))
    with pytest.raises(ValueError, match="n_action_steps"):
        TraceworldConfig(device="cpu", n_action_steps=20, chunk_size=8)
