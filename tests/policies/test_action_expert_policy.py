"""The policy in a robot's loop, and its checkpoint: same in, same out; one feature per observation; nothing lost on disk."""

import json
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from policy_toys import SCALES, SPEC, A, K, make_mu0, make_policy, observation, policy_config

from traceworld import named
from traceworld.errors import CheckpointError, ConfigError, InvalidInputError, MissingWeightsError
from traceworld.models.checkpoint import save_checkpoint
from traceworld.models.mu0.expert import TraceExpert
from traceworld.policies import registry
from traceworld.policies.action_expert.checkpoint import (
    fill_policy,
    load_policy_checkpoint,
    read_policy_record,
    save_policy,
)
from traceworld.policies.action_expert.config import GripperConfig
from traceworld.policies.action_expert.policy import ActionExpertPolicy
from traceworld.policies.baselines.config import RegressionHeadConfig
from traceworld.policies.policy import Policy
from traceworld.traces.robot import RobotObservation


@pytest.fixture(scope="module")
def policy():
    return ActionExpertPolicy(make_policy())


def test_it_is_a_policy_that_answers_within_bounds(policy):
    assert isinstance(policy, Policy)
    policy.reset(3)
    chunk = policy.act(observation())
    assert chunk.actions.shape == (K, A)
    assert chunk.actions.dtype == np.float32
    assert (np.abs(chunk.actions) <= 1).all()
    assert chunk.prediction is None
    assert set(chunk.timing) == {"prepare", "features", "actions", "total"}
    assert policy.cameras == ("scene", "wrist")
    assert policy.spec == SPEC


def test_what_it_does_follows_from_seed_and_observation_alone(policy):
    policy.reset(3)
    one = policy.act(observation(step=4)).actions
    policy.act(observation(seed=9, step=8))
    assert np.array_equal(policy.act(observation(step=4)).actions, one)
    assert not np.array_equal(policy.act(observation(step=5)).actions, one)
    policy.reset(2**40 + 5)
    assert not np.array_equal(policy.act(observation(step=4)).actions, one)


def test_many_robots_at_once_are_answered_like_each_alone(policy):
    seen = [observation(i, step=i, instruction=("go", "lift the blue one now")[i % 2]) for i in range(3)]
    together = policy.act_batch(seen, [5, 6, 7])
    for i, (look, chunk) in enumerate(zip(seen, together, strict=True)):
        policy.reset(5 + i)
        assert np.allclose(policy.act(look).actions, chunk.actions, atol=1e-4)


def test_one_euler_step_per_observation_and_none_more(policy, monkeypatch):
    calls, forward = [], TraceExpert.forward
    monkeypatch.setattr(TraceExpert, "forward", lambda self, *a: calls.append(len(a[0])) or forward(self, *a))
    policy.act(observation())
    assert calls == [1]
    policy.act_batch([observation(i) for i in range(3)], [0, 1, 2])
    assert calls == [1, 3]


def test_predictions_only_on_request(policy):
    asked = ActionExpertPolicy(policy.model, predictions=True)
    policy.reset(1)
    asked.reset(1)
    chunk = asked.act(observation())
    assert np.array_equal(chunk.actions, policy.act(observation()).actions)
    assert chunk.prediction.uvz.shape == (1, 7, 8, 3)
    assert asked.act(observation(instruction=" ")).prediction is not None


def test_committed_actions_are_kept(policy):
    policy.reset(0)
    committed = np.full((2, A), 0.25, np.float32)
    bound, free = policy.act_after(observation(), committed), policy.act(observation())
    assert np.array_equal(bound.actions[:2], committed)
    assert not np.allclose(bound.actions[2:], free.actions[2:], atol=1e-4)


def test_a_head_without_noise_is_not_random():
    model = make_policy(policy_config(head=RegressionHeadConfig(width=24, heads=4, mlp_hidden=32), trace="none"))
    act = ActionExpertPolicy(model)
    act.reset(1)
    one = act.act(observation()).actions
    act.reset(2)
    assert np.array_equal(act.act(observation()).actions, one)


def test_a_robot_without_a_gripper_camera_is_answered(policy):
    seen = observation()
    blind = RobotObservation({"scene": seen.images["scene"]}, seen.state, seen.instruction)
    assert np.isfinite(policy.act(blind).actions).all()
    assert not np.allclose(policy.act(blind).actions, policy.act(seen).actions, atol=1e-5)


def test_another_state_is_refused(policy):
    seen = observation()
    wrong = RobotObservation(seen.images, np.zeros(9, np.float32), seen.instruction)
    with pytest.raises(InvalidInputError, match="9 numbers"):
        policy.act(wrong)
    with pytest.raises(InvalidInputError, match="seeds"):
        policy.act_batch([seen], [1, 2])


# Checkpoints


def test_a_policy_that_contains_its_mu0_comes_back_the_same(policy, tmp_path):
    folder = save_policy(tmp_path / "p", policy.model, {"step": 7})
    loaded = load_policy_checkpoint(folder)
    assert loaded.extra == {"step": 7}
    assert loaded.model.config == policy.config
    assert loaded.model.scales == SCALES
    again = registry.load_policy(folder)
    assert again.name == "p"
    for each in (policy, again):
        each.reset(4)
    assert np.array_equal(again.act(observation()).actions, policy.act(observation()).actions)


def test_half_precision_halves_the_files_and_hardly_changes_the_actions(policy, tmp_path):
    whole, half = save_policy(tmp_path / "a", policy.model), save_policy(tmp_path / "b", policy.model, dtype="float16")
    sizes = [sum(f.stat().st_size for f in folder.rglob("*.safetensors")) for folder in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    again = registry.load_policy(half)
    for each in (policy, again):
        each.reset(4)
    assert np.allclose(again.act(observation()).actions, policy.act(observation()).actions, atol=0.05)


def test_a_policy_that_names_its_mu0(policy, tmp_path):
    named = save_checkpoint(tmp_path / "mu0", policy.model.frozen.mu0, policy.model.frozen.mu0.normalisation)
    folder = save_policy(tmp_path / "p", policy.model, source=str(named))
    assert not (folder / "mu0").exists()
    again = registry.load_policy(folder)
    again.reset(4)
    policy.reset(4)
    assert np.array_equal(again.act(observation()).actions, policy.act(observation()).actions)
    save_checkpoint(named, make_mu0(seed=5), policy.model.frozen.mu0.normalisation)
    with pytest.raises(CheckpointError, match="not the μ0"):
        registry.load_policy(folder)


def test_a_checkpoint_never_holds_a_mu0_that_could_be_trained(policy, tmp_path):
    model = make_policy()
    next(model.frozen.mu0.parameters()).requires_grad_(True)
    with pytest.raises(CheckpointError, match="frozen μ0"):
        save_policy(tmp_path / "p", model)


def test_damaged_and_foreign_folders_are_refused(policy, tmp_path):
    folder = save_policy(tmp_path / "p", policy.model)
    with pytest.raises(CheckpointError, match="another configuration"):
        fill_policy(folder, make_policy(policy_config(gripper=GripperConfig(source="none"))))
    record = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"format": 99}, "format 99"),
        ({"kind": "mu0"}, "does not describe a policy"),
        ({"config": record["config"] | {"wings": 2}}, "unknown field"),
    ):
        (folder / "config.json").write_text(json.dumps(record | change))
        with pytest.raises(CheckpointError, match=message):
            load_policy_checkpoint(folder)
    (folder / "config.json").write_text(json.dumps(record))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_policy_checkpoint(folder)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_policy_record(tmp_path)


# Names


def test_names(tmp_path, monkeypatch):
    assert "act-nano" in registry.policy_names()
    with pytest.raises(ConfigError, match="did you mean act-nano"):
        registry.load_policy("act-nan")
    monkeypatch.setattr(registry, "WEIGHTS", tmp_path)
    with pytest.raises(MissingWeightsError, match=r"act_nano\.py"):
        registry.load_policy("act-nano")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        registry.load_policy(tmp_path / "file")


class Still:
    """A third party's policy."""

    def __init__(self, text=""):
        self.name = f"still{text}"

    def reset(self, seed=0): ...

    def act(self, observation): ...


def broken():
    return 1 / 0


def not_one():
    return 3


def test_plug_ins(monkeypatch):
    monkeypatch.setitem(sys.modules, "third_party", sys.modules[__name__])
    names = {"still": "Still", "broken": "broken", "not-one": "not_one"}
    entries = [EntryPoint(name, f"third_party:{made}", "traceworld.policies") for name, made in names.items()]
    monkeypatch.setattr(named, "entry_points", lambda group: entries)
    assert registry.load_policy("still").name == "still"
    assert registry.load_policy("still:fast").name == "stillfast"
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        registry.load_policy("broken")
    with pytest.raises(ConfigError, match="is no policy"):
        registry.load_policy("not-one")


def test_a_policy_says_whether_it_wants_depth_and_older_files_want_none(policy, tmp_path):
    assert not policy.wants_depth
    deep = ActionExpertPolicy(make_policy(policy_config(depth=True)))
    assert deep.wants_depth
    folder = save_policy(tmp_path / "deep", deep.model)
    assert load_policy_checkpoint(folder).model.config.depth
    with pytest.raises(InvalidInputError, match="has no depth"):
        deep.act(observation())
    old = save_policy(tmp_path / "old", policy.model)
    record = json.loads((old / "config.json").read_text())
    del record["config"]["depth"]  # as it was written before there was depth
    (old / "config.json").write_text(json.dumps(record))
    assert not load_policy_checkpoint(old).model.config.depth
