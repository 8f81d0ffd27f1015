"""The whole model: frozen means frozen, scales, the twin's size, and that it can learn a few demonstrations by heart."""

import dataclasses

import numpy as np
import pytest
import torch
from policy_toys import (
    NANO_MU0,
    SCALES,
    SMOLVLM_MU0,
    SPEC,
    A,
    K,
    P,
    filled,
    make_mu0,
    make_policy,
    picture,
    policy_config,
)

from traceworld.errors import CheckpointError, ConfigError
from traceworld.models.mu0.sizes import mu0_config
from traceworld.policies.action_expert import sizes
from traceworld.policies.action_expert.config import GripperConfig, PolicyConfig, SceneConfig
from traceworld.policies.action_expert.model import PolicyModel, feature_names
from traceworld.policies.action_expert.normalisation import ActionScales, measure_scales
from traceworld.policies.baselines.config import DiffusionHeadConfig, RegressionHeadConfig
from traceworld.traces.batching import collate
from traceworld.training.data import collate as stack

HEADS = {
    "flow": policy_config(),
    "diffusion": policy_config(head=DiffusionHeadConfig(width=24, depth=2, heads=4, mlp_hidden=32), trace="none"),
    "act": policy_config(head=RegressionHeadConfig(width=24, heads=4, mlp_hidden=32, latent=4), trace="none"),
}


def batch_of(model: PolicyModel, count=3, seed=0, cached=True) -> dict:
    rng = np.random.default_rng(seed)
    looks = [model.frozen.glance(picture(i), "push the red box", picture(i + 50)) for i in range(count)]
    batch = {
        "state": torch.from_numpy(rng.normal(size=(count, P)).astype(np.float32)),
        "actions": torch.from_numpy(rng.uniform(-1, 1, (count, K, A)).astype(np.float32)),
        "action_known": torch.ones(count, K, dtype=torch.bool),
    }
    return batch | (model.features(looks) if cached else stack(looks))


@pytest.mark.parametrize("config", HEADS.values(), ids=HEADS)
def test_gradients_into_mu0_are_exactly_zero_and_reach_all_else(config):
    model = make_policy(config).train()
    before = {name: p.clone() for name, p in model.frozen.named_parameters()}
    model.loss(batch_of(model, cached=False), torch.Generator().manual_seed(0))["loss"].backward()
    assert all(p.grad is None for p in model.frozen.parameters())
    missing = [
        n for n, p in model.named_parameters() if not n.startswith("frozen.") and (p.grad is None or not p.grad.any())
    ]
    # The k bias of an attention shifts all scores alike, so it has no gradient; the rest must learn.
    assert [n for n in missing if not n.endswith(("k_proj.bias", "in_proj_bias"))] == []
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in model.frozen.named_parameters())


def test_trainable_parameters_are_those_that_were_counted():
    model = make_policy()
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == sizes.count_policy(model.config, NANO_MU0)["total"]
    assert sum(p.numel() for p in model.own_state().values()) == trainable


def test_cached_features_and_pictures_give_the_same_loss():
    model = make_policy()
    losses = [model.loss(batch_of(model, cached=c), torch.Generator().manual_seed(4))["loss"] for c in (True, False)]
    assert torch.allclose(*losses, atol=1e-5)


def test_what_the_policy_reads():
    assert "trace" in feature_names(policy_config())
    assert "trace" not in feature_names(policy_config(trace="self"))
    assert "gripper" not in feature_names(policy_config(gripper=GripperConfig(source="none")))


@pytest.mark.parametrize(("trace", "matters"), [("expert", True), ("self", False), ("none", False)])
def test_only_the_policy_with_traces_depends_on_them(trace, matters):
    model = make_policy(policy_config(trace=trace))
    batch = batch_of(model)
    tokens = model.tokens(batch, batch["state"]).x
    batch["trace"] = torch.randn(3, 7, 20)
    assert torch.equal(tokens, model.tokens(batch, batch["state"]).x) != matters


def test_the_scene_stem_reaches_its_own_cell_and_no_word():
    model = make_policy(policy_config(scene=SceneConfig("prefix")))
    assert "scene" in feature_names(model.config)
    batch = batch_of(model)
    before = model.tokens(batch, batch["state"]).x
    batch["scene"] = batch["scene"].clone()
    batch["scene"][:, 2] += 1 + torch.arange(batch["scene"].shape[-1])
    changed = (model.tokens(batch, batch["state"]).x != before).any(-1)
    assert changed.nonzero()[:, 1].tolist() == [2, 2, 2]
    loss = model.loss(batch, torch.Generator().manual_seed(0))["loss"]
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.conditioning.scene_stem.parameters())


def test_order_of_motion_tokens_does_not_matter():
    model = make_policy()
    batch = batch_of(model)
    noise = torch.randn(3, K, A)
    one = model.sample(batch, batch["state"], noise)
    two = model.sample({**batch, "trace": batch["trace"].flip(1)}, batch["state"], noise)
    assert torch.allclose(one, two, atol=1e-5)


def test_an_absent_camera_is_not_read():
    model = make_policy()
    batch = batch_of(model) | {"gripper_seen": torch.zeros(3, dtype=torch.bool)}
    noise = torch.randn(3, K, A)
    one = model.sample(batch, batch["state"], noise)
    two = model.sample({**batch, "gripper": batch["gripper"] + 100}, batch["state"], noise)
    assert torch.allclose(one, two, atol=1e-5)


def test_actions_come_back_in_their_own_unit_and_bounds():
    model = make_policy()
    batch = batch_of(model)
    model.head.sample = lambda tokens, noise, committed: noise
    noise = torch.full((3, K, A), 1.0)
    found = model.sample(batch, batch["state"], noise)
    expected = np.clip(np.add(SCALES.action_mean, SCALES.action_std), SPEC.low, SPEC.high)
    assert np.allclose(found.numpy(), expected)


def test_states_are_normalised():
    model = make_policy()
    batch = batch_of(model)
    mean = torch.tensor(SCALES.state_mean)
    seen = []
    model.conditioning.state_stem.register_forward_pre_hook(lambda _, a: seen.append(a[0]))
    model.tokens(batch, mean.expand(3, -1) + 2 * torch.tensor(SCALES.state_std))
    assert torch.allclose(seen[0], torch.full((3, P), 2.0), atol=1e-6)


def test_scales_are_those_of_numpy_and_constants_are_not_blown_up():
    rng = np.random.default_rng(0)
    pairs = [
        (rng.normal(3, 2, (50, P)).astype(np.float32), rng.normal(size=(50, A)).astype(np.float32)) for _ in range(3)
    ]
    for state, _ in pairs:
        state[:, 1] = 7.0
    scales = measure_scales(pairs, SPEC)
    every = np.concatenate([state for state, _ in pairs])
    assert np.allclose(scales.state_mean, every.mean(0), atol=1e-4)
    assert np.allclose(np.delete(scales.state_std, 1), np.delete(every.std(0), 1), rtol=1e-4)
    assert scales.state_std[1] == 1.0
    assert ActionScales.from_dict(scales.to_dict()) == scales
    with pytest.raises(CheckpointError):
        dataclasses.replace(scales, action_std=(1.0, 0.0, 1.0))


@pytest.mark.parametrize("config", HEADS.values(), ids=HEADS)
def test_it_learns_a_few_windows_by_heart(config):
    torch.manual_seed(0)
    if config.head.kind == "act":
        config = dataclasses.replace(config, head=dataclasses.replace(config.head, kl_weight=0.1, dropout=0.0))
    if config.head.kind == "diffusion":
        config = dataclasses.replace(config, head=dataclasses.replace(config.head, train_steps=20, clip=1.0))
    model = PolicyModel(config, make_mu0(), ActionScales.unit(P, SPEC)).train()
    batch = batch_of(model, 3)
    batch["actions"] = batch["actions"].clone().clamp(-0.9, 0.9)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    wide = {n: v.repeat_interleave(8, 0) if isinstance(v, torch.Tensor) else v for n, v in batch.items()}
    for _ in range(400 if config.head.kind == "diffusion" else 150):
        loss = model.loss(wide, generator)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    found = model.sample(batch, batch["state"], torch.randn(3, K, A, generator=generator))
    error = (found - batch["actions"]).abs().mean()
    spread = (batch["actions"] - batch["actions"].mean(0)).abs().mean()
    assert error < 0.4 * spread


def test_sizes_of_the_paper_and_of_the_embedded_profile():
    large = mu0_config("large")
    found = {size: sizes.count_policy(sizes.policy_config(size, 16, 12), large) for size in ("200m", "400m")}
    assert found["200m"]["head"] == pytest.approx(200e6, rel=0.02)
    assert found["400m"]["head"] == pytest.approx(428e6, rel=0.01)  # π0.5's Gemma-300M expert with its modulation
    nano = {
        size: sizes.count_policy(sizes.policy_config(size, 4, 4), mu0_config("nano"))["total"]
        for size in ("nano", "nano-diffusion", "nano-act")
    }
    assert max(nano.values()) < 1.05 * min(nano.values())  # equal budgets
    assert nano["nano"] < 5e6


def test_the_twin_without_trace_has_the_same_size():
    mu0 = mu0_config("nano")
    ours, twin = (sizes.count_policy(sizes.policy_config("nano", 4, 4, trace=t), mu0) for t in ("expert", "self"))
    assert ours == twin
    papers = sizes.count_policy(sizes.policy_config("nano", 4, 4, trace="none"), mu0)
    assert papers["total"] == ours["total"] - ours["injection"]


def test_the_finer_map_is_a_choice_of_every_size_but_the_released_one():
    with_map, without = (sizes.policy_config("nano", 4, 4, scene=scene) for scene in (None, "none"))
    assert with_map.scene.source == "prefix"
    assert without == dataclasses.replace(with_map, scene=SceneConfig("none"))
    assert sizes.policy_config("200m", 4, 4, scene="prefix").scene.source == "prefix"
    with pytest.raises(ConfigError, match="finer map"):
        sizes.policy_config("400m-official", 16, 12, scene="prefix")


def test_unknown_sizes_name_the_nearest():
    with pytest.raises(ConfigError, match="did you mean '400m'"):
        sizes.policy_config("400mm", 4, 4)


def test_configs_survive_json():
    for config in [*HEADS.values(), sizes.policy_config("400m-official", 16, 12)]:
        assert PolicyConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="unknown field"):
        PolicyConfig.from_dict(policy_config().to_dict() | {"wings": 2})


def test_a_policy_on_smolvlm_with_dino():
    config = policy_config(gripper=GripperConfig(source="dino", grid=(2, 2)), mixer_heads=4)
    model = filled(PolicyModel(config, make_mu0(SMOLVLM_MU0), SCALES))
    batch = batch_of(model, 2)
    model.loss(batch, torch.Generator().manual_seed(0))["loss"].backward()
    assert all(p.grad is None for p in model.frozen.parameters())
    assert model.sample(batch, batch["state"], torch.randn(2, K, A)).shape == (2, K, A)


def test_batches_of_windows_need_no_keypoints():
    samples = [
        {"state": np.zeros(2, np.float32), "sample_id": "a"},
        {"state": np.ones(2, np.float32), "sample_id": "b"},
    ]
    batch = stack(samples)
    assert batch["state"].shape == (2, 2)
    assert batch["sample_id"] == ["a", "b"]
    with pytest.raises(KeyError):
        collate(samples)
