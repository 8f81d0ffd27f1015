"""Policies in the one training loop: windows, cached features, validation by episode, and a run that goes on after a kill."""

import dataclasses

import numpy as np
import pytest
import torch
from policy_toys import HEAD, SPEC, A, K, P, ToyDemonstrations, make_mu0, make_policy, picture, policy_config

from traceworld.errors import CheckpointError, ConfigError, DatasetError
from traceworld.models.checkpoint import save_checkpoint
from traceworld.policies.action_expert import sizes
from traceworld.policies.action_expert.config import SceneConfig
from traceworld.policies.action_expert.policy import ActionExpertPolicy
from traceworld.policies.registry import load_policy
from traceworld.traces.lerobot import write_lerobot
from traceworld.traces.robot import RobotObservation
from traceworld.traces.windows import side
from traceworld.training import policies, policy_features
from traceworld.training.config import TrainConfig
from traceworld.training.policies import PolicyTraining, PolicyWindows, open_demonstrations, train_policy
from traceworld.training.policy_features import feature_store


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A size `tiny` beside the others."""
    monkeypatch.setitem(sizes._SIZES, "tiny", lambda state_dim, action_dim: policy_config(head=HEAD))


@pytest.fixture(scope="module")
def mu0_folder(tmp_path_factory):
    mu0 = make_mu0()
    return str(save_checkpoint(tmp_path_factory.mktemp("mu0") / "m", mu0, mu0.normalisation))


def run(tmp_path, mu0_folder, steps=4, name="run", features=True, demos=None, **what):
    config = TrainConfig(
        data=("toy",),
        out=str(tmp_path / name),
        steps=steps,
        batch=4,
        lr=1e-3,
        workers=0,
        eval_every=2,
        checkpoint_every=2,
        seed=3,
    )
    cache = str(tmp_path / "features") if features else None
    training = PolicyTraining(mu0=mu0_folder, size="tiny", chunk=K, features=cache, **{"val_fraction": 0.3, **what})
    return train_policy(config, training, demos or ToyDemonstrations())


# Windows


def test_a_window_is_the_observation_and_the_actions_that_followed():
    demos = ToyDemonstrations(3, 6)
    windows = PolicyWindows(demos, [0, 2], K, model=make_policy())
    assert len(windows) == len(demos[0]) + len(demos[2])
    number = len(demos[0]) + 1  # frame 1 of episode 2
    sample = windows.sample(number, seed=0, epoch=0)
    assert np.array_equal(sample["state"], demos[2].state[1])
    assert np.array_equal(sample["actions"], demos[2].action[1 : 1 + K])
    assert sample["action_known"].all()
    assert sample["sample_id"].endswith("episode_0_002:1")
    assert np.array_equal(sample["image"].shape, (32, 48, 3))


def test_actions_past_the_end_are_marked_and_never_from_another_episode():
    demos = ToyDemonstrations(2, 6)
    windows = PolicyWindows(demos, [0, 1], K, model=make_policy())
    last = windows.sample(len(demos[0]) - 2, seed=0, epoch=0)
    assert last["action_known"].tolist() == [True, True, False, False, False]
    assert np.array_equal(last["actions"][:2], demos[0].action[-2:])
    assert not last["actions"][2:].any()


def test_every_second_frame():
    demos = ToyDemonstrations(2, 7)
    windows = PolicyWindows(demos, [0, 1], K, every=2, model=make_policy())
    assert len(windows) == 4 + 4
    assert np.array_equal(windows.sample(1, seed=0, epoch=0)["state"], demos[0].state[2])
    assert np.array_equal(windows.sample(4, seed=0, epoch=0)["state"], demos[1].state[0])


def test_windows_without_eyes_are_refused():
    with pytest.raises(ConfigError, match="needs features"):
        PolicyWindows(ToyDemonstrations(), [0], K)


# Cached features


def test_cached_features_are_what_mu0_gives(tmp_path):
    demos, model = ToyDemonstrations(3, 5), make_policy()
    store = feature_store(demos, model, tmp_path)
    for episode, frame in ((0, 0), (1, 3), (2, 6)):
        kept = store.of(episode, frame)
        shown = demos[episode]
        look = model.frozen.glance(
            shown.read_frame("scene", frame), shown.instruction, shown.read_frame("wrist", frame)
        )
        fresh = model.features([look])
        words = fresh["words"].shape[1]
        tokens = fresh["z"].shape[1]
        assert np.allclose(kept["z"][:tokens], fresh["z"][0], atol=2e-2, rtol=1e-2)
        assert np.array_equal(kept["z_seen"][:tokens], fresh["z_seen"][0])
        assert not kept["z_seen"][tokens:].any()
        assert np.allclose(kept["trace"], fresh["trace"][0], atol=2e-2, rtol=1e-2)
        assert np.allclose(kept["gripper"], fresh["gripper"][0], atol=2e-2, rtol=1e-2)
        assert np.allclose(kept["words"][:words], fresh["words"][0], atol=1e-2)
        assert kept["words_seen"].sum() == fresh["words_seen"].sum()


def test_features_are_computed_once_and_a_killed_run_goes_on(tmp_path, monkeypatch):
    demos, model = ToyDemonstrations(4, 5), make_policy()
    asked, features = [], type(model).features
    monkeypatch.setattr(type(model), "features", lambda self, g: asked.append(len(g)) or features(self, g))

    class Killed(Exception):
        pass

    read = policy_features.glances
    calls = []

    def dying(demonstration, *rest):
        calls.append(demonstration.episode_id)
        if len(calls) == 4:
            raise Killed
        return read(demonstration, *rest)

    monkeypatch.setattr(policy_features, "glances", dying)
    with pytest.raises(Killed):
        feature_store(demos, model, tmp_path)
    monkeypatch.setattr(policy_features, "glances", read)
    asked.clear()
    store = feature_store(demos, model, tmp_path)
    assert sum(asked) == len(demos[2]) + len(demos[3])  # episodes 0 and 1 were there (the first call made the shapes)
    asked.clear()
    again = feature_store(demos, model, tmp_path)
    assert asked == []
    assert again.folder == store.folder
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))


def test_another_look_or_other_demonstrations_are_other_features(tmp_path):
    demos, model = ToyDemonstrations(2, 4), make_policy()
    folders = {feature_store(demos, model, tmp_path).folder}
    folders.add(feature_store(ToyDemonstrations(2, 4, seed=1), model, tmp_path).folder)
    folders.add(feature_store(demos, model, tmp_path, every=2).folder)
    folders.add(feature_store(demos, make_policy(seed=4), tmp_path).folder)
    folders.add(feature_store(demos, make_policy(policy_config(scene=SceneConfig("prefix"))), tmp_path).folder)
    assert len(folders) == 5
    other_head = dataclasses.replace(policy_config(), head=dataclasses.replace(HEAD, depth=2))
    assert feature_store(demos, make_policy(other_head), tmp_path).folder in folders
    repainted = ToyDemonstrations(2, 4)
    original = ToyDemonstrations.__getitem__
    repainted_class = type("Repainted", (ToyDemonstrations,), {
        "__getitem__": lambda self, i: dataclasses.replace(original(self, i), read_frame=lambda c, f: picture(f + 77))
    })  # fmt: skip
    repainted = repainted_class(2, 4)
    assert feature_store(repainted, model, tmp_path).folder not in folders


def test_the_twin_without_traces_reads_the_features_of_the_policy_with_them(tmp_path):
    demos, twin = ToyDemonstrations(2, 4), make_policy(policy_config(trace="self"))
    alone = feature_store(demos, twin, tmp_path / "alone")
    rich = feature_store(demos, make_policy(), tmp_path / "both")
    shared = feature_store(demos, twin, tmp_path / "both")
    assert shared.folder == rich.folder
    assert set(shared.rows) == set(alone.rows)
    for episode, place in ((0, 0), (1, 3)):
        one, other = alone.of(episode, place), shared.of(episode, place)
        assert all(np.array_equal(one[name], other[name]) for name in one)
    done = np.load(rich.folder / "done.npy", mmap_mode="r+")
    done[1] = False  # a store that is not whole is not gone on with for a policy that needs less
    done.flush()
    assert feature_store(demos, twin, tmp_path / "both").folder != rich.folder


def test_a_policy_without_the_finer_map_reads_the_features_of_one_with_it(tmp_path):
    demos = ToyDemonstrations(2, 4)
    finer = policy_config(scene=SceneConfig("prefix"))
    rich = feature_store(demos, make_policy(finer), tmp_path)
    for plain in (policy_config(), policy_config(trace="self")):
        shared = feature_store(demos, make_policy(plain), tmp_path)
        assert shared.folder == rich.folder
        assert "scene" not in shared.rows
    twin = feature_store(demos, make_policy(dataclasses.replace(finer, trace="self")), tmp_path)
    assert twin.folder == rich.folder
    assert "scene" in twin.rows


def seen_in_a_rollout(demonstration, frame):
    """The observation that an environment would give at a step of a demonstration."""
    read = {name: demonstration.read_frame(name, frame) for name in demonstration.cameras}
    depth = {name: demonstration.depth_m(name, frame) for name in demonstration.depth_cameras}
    return RobotObservation(read, demonstration.state[frame], demonstration.instruction, depth_m=depth, step=frame)


@pytest.mark.parametrize("depth", [False, True])
def test_what_is_trained_on_is_what_a_rollout_gives(tmp_path, depth):
    demos, model = ToyDemonstrations(2, 4, depth=True), make_policy(policy_config(depth=depth))
    policy, store = ActionExpertPolicy(model), feature_store(demos, model, tmp_path)
    fresh = PolicyWindows(demos, [0, 1], K, model=model)
    for episode, frame in ((0, 2), (1, 1)):
        given = policy.glance(seen_in_a_rollout(demos[episode], frame))
        windowed = fresh.sample(episode * len(demos[0]) + frame, seed=0, epoch=0)
        assert ("depth_m" in given) == depth
        for name, value in given.items():
            assert np.array_equal(
                np.asarray(windowed[name]), np.asarray(value), equal_nan=depth and name in ("depth_m", "query_z_m")
            ), name
        kept, shown = store.of(episode, frame), model.features([given])
        for name in ("z", "trace", "gripper", "words"):
            exact = shown[name][0].numpy()
            assert np.allclose(kept[name][: len(exact)], exact, atol=1e-3 * np.abs(exact).max(), rtol=1e-3), (
                name
            )  # float16


def test_demonstrations_without_depth_cannot_train_a_policy_with_it(tmp_path, mu0_folder):
    with pytest.raises(ConfigError, match="no depth of 'scene'"):
        run(tmp_path, mu0_folder, depth=True)


@pytest.mark.parametrize("features", [True, False])
def test_a_policy_with_depth_is_trained_and_wants_it(tmp_path, mu0_folder, features):
    demos = ToyDemonstrations(depth=True)
    policy = load_policy(run(tmp_path, mu0_folder, 2, features=features, demos=demos, depth=True).model)
    assert policy.wants_depth
    assert policy.act(seen_in_a_rollout(demos[0], 1)).actions.shape == (K, A)
    plain = run(tmp_path, mu0_folder, 1, "plain", demos=demos)
    assert not load_policy(plain.model).wants_depth  # and its features are others
    assert len(list((tmp_path / "features").iterdir())) == 1 + features


# Where demonstrations come from


def test_folders_of_both_kinds_are_opened(tmp_path):
    write_lerobot(ToyDemonstrations(2, 4, depth=True), tmp_path / "lerobot", pictures="png")
    found = open_demonstrations(tmp_path / "lerobot", cameras={"scene": "scene", "hand": "wrist"})
    assert found[0].cameras == ("scene", "hand")
    assert found[0].depth_cameras == ("scene",)
    assert found.spec.names == SPEC.names
    with pytest.raises(ConfigError, match="recorded demonstrations"):
        open_demonstrations(tmp_path / "lerobot", per_task=3)
    with pytest.raises(DatasetError, match=r"demonstrations\.json"):
        open_demonstrations(tmp_path)


# Training


def test_a_policy_is_trained_and_acts(tmp_path, mu0_folder):
    result = run(tmp_path, mu0_folder)
    assert result.status == "finished"
    assert result.step == 4
    assert np.isfinite(result.val["loss"])
    policy = load_policy(result.model)
    assert policy.config.state_dim == P
    assert policy.config.action_dim == A
    assert policy.cameras == ("scene", "wrist")
    assert result.trained_parameters == sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    assert result.parameters > result.trained_parameters


def test_cameras_that_are_not_read_are_named_and_not_asked_for(tmp_path, mu0_folder, caplog):
    write_lerobot(ToyDemonstrations(2, 8), tmp_path / "lerobot", pictures="png")
    named = {"front": "scene", "hand": "wrist"}
    demos = open_demonstrations(tmp_path / "lerobot", cameras=named)
    policy = load_policy(run(tmp_path, mu0_folder, 1, demos=demos).model)
    assert "reads 'front' as the scene; not read: hand" in caplog.text
    assert "wrist=" in caplog.text  # how to have it read
    assert policy.cameras == ("front",)
    caplog.clear()
    demos = open_demonstrations(tmp_path / "lerobot", cameras={"front": "scene", "wrist": "wrist"})
    assert load_policy(run(tmp_path, mu0_folder, 1, "both", demos=demos).model).cameras == ("front", "wrist")
    assert "not read" not in caplog.text


def test_mu0_is_the_same_to_the_last_bit_after_training(tmp_path, mu0_folder):
    result = run(tmp_path, mu0_folder, features=False)
    policy = load_policy(result.model)
    before = make_mu0().state_dict()
    assert all(torch.equal(value, before[name]) for name, value in policy.model.frozen.mu0.state_dict().items())


def test_a_stopped_run_ends_with_the_same_weights(tmp_path, mu0_folder):
    whole = load_policy(run(tmp_path, mu0_folder, 4, "whole").model).model.own_state()
    run(tmp_path, mu0_folder, 2, "parts")
    parts = load_policy(run(tmp_path, mu0_folder, 4, "parts").model).model.own_state()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_validation_is_by_episode_and_scales_are_of_the_rest(tmp_path, mu0_folder, monkeypatch):
    demos, seen = ToyDemonstrations(8), {}

    class Spy(PolicyWindows):
        def __init__(self, demonstrations, episodes, *rest):
            super().__init__(demonstrations, episodes, *rest)
            seen[tuple(episodes)] = self

    monkeypatch.setattr(policies, "PolicyWindows", Spy)
    result = run(tmp_path, mu0_folder, 1, demos=demos)
    train, val = seen
    assert not set(train) & set(val)
    assert set(train) | set(val) == set(range(8))
    assert all(side(demos[i].episode_id, 0.3) == "val" for i in val)
    states = np.concatenate([demos[i].state for i in train])
    assert np.allclose(load_policy(result.model).model.scales.state_mean, states.mean(0), atol=1e-5)


def test_a_run_of_another_policy_is_not_continued(tmp_path, mu0_folder):
    run(tmp_path, mu0_folder, 2)
    with pytest.raises(CheckpointError, match="another configuration"):
        run(tmp_path, mu0_folder, 4, trace="self")


def test_demonstrations_without_a_gripper_camera(tmp_path, mu0_folder):
    result = run(tmp_path, mu0_folder, 1, demos=ToyDemonstrations(wrist=False))
    assert load_policy(result.model).config.gripper.source == "none"


def test_what_cannot_be_trained_is_refused(tmp_path, mu0_folder):
    with pytest.raises(DatasetError, match="no episode to train on"):
        run(tmp_path, mu0_folder, demos=ToyDemonstrations(1), val_fraction=0.999999)
    with pytest.raises(ConfigError, match="val_fraction"):
        PolicyTraining(val_fraction=1.0)
    with pytest.raises(ConfigError, match="is no μ0"):
        run(tmp_path, "nothing-moves")
