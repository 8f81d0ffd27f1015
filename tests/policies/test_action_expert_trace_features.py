"""What is read from a frozen μ0 (B.4): one prefix, one Euler step, once; and the features themselves against a plain forward."""

import dataclasses

import numpy as np
import pytest
import torch
from policy_toys import NANO_MU0, SMOLVLM_MU0, depth_map, make_mu0, picture, policy_config

from traceworld.errors import CheckpointError, ConfigError, InvalidInputError
from traceworld.models.mu0.expert import TraceExpert
from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.predictor import Mu0Predictor
from traceworld.policies.action_expert.config import GripperConfig, QueryConfig, SceneConfig
from traceworld.policies.action_expert.last_layer import encode_with_last_layer, inputs_of
from traceworld.policies.action_expert.trace_features import FrozenMu0, finer_cells, prefix_tokens
from traceworld.traces.types import Observation

SMOL_POLICY = policy_config(gripper=GripperConfig(source="dino", grid=(2, 2)))


def frozen(config=None, mu0=NANO_MU0) -> FrozenMu0:
    return FrozenMu0(make_mu0(mu0), config or policy_config())


def looks(module: FrozenMu0, count=2, wrist=True):
    texts = ["push the red box", "lift the blue one now"]
    return [module.glance(picture(i), texts[i % 2], picture(i + 9) if wrist else None) for i in range(count)]


@pytest.mark.parametrize(("config", "mu0"), [(policy_config(), NANO_MU0), (SMOL_POLICY, SMOLVLM_MU0)])
def test_shapes(config, mu0):
    module = frozen(config, mu0)
    found = module(looks(module))
    width = mu0.prefix.width if mu0 is NANO_MU0 else mu0.prefix.text_width
    words = found["words"].shape[1]
    assert found["z"].shape == (2, prefix_tokens(mu0) + words, width)
    assert found["trace"].shape == (2, 7, mu0.expert.width)
    assert found["words"].shape == (2, words, width)
    rows, columns = config.gripper.grid
    assert found["gripper"].shape == (2, rows * columns, module.widths.gripper)
    assert found["gripper_seen"].all()


def test_a_feature_costs_one_prefix_and_one_euler_step_once(monkeypatch):
    counts = {"encode": 0, "expert": 0}
    forward, encode = TraceExpert.forward, Mu0Model.encode

    def counted(name, call):
        def run(*args, **kwargs):
            counts[name] += 1
            return call(*args, **kwargs)

        return run

    monkeypatch.setattr(TraceExpert, "forward", counted("expert", forward))
    monkeypatch.setattr(Mu0Model, "encode", counted("encode", encode))
    module = frozen(policy_config(gripper=GripperConfig(source="none")))
    module(looks(module, wrist=False))
    assert counts == {"encode": 1, "expert": 1}  # for the whole batch
    assert module.mu0.config.euler_steps == 4  # of which a prediction would take all
    without = frozen(policy_config(gripper=GripperConfig(source="none"), trace="none"))
    assert "trace" not in without(looks(without, wrist=False))
    assert counts == {"encode": 2, "expert": 1}


def test_z_trace_is_what_the_first_of_the_solvers_steps_moves_the_controls_by():
    module = frozen()
    batch = module._batch(looks(module))
    noise = torch.randn(2, 7, 5, 3, generator=torch.Generator().manual_seed(0))
    prefix = module.mu0.encode(batch)
    hidden = module.trace_features(batch, prefix, noise)
    with torch.no_grad():
        velocity = module.mu0.velocity_proj(hidden).view(2, 7, 5, 3)
        seen = []
        original = module.mu0.denoise
        module.mu0.denoise = lambda x, tau, context: seen.append((x, tau)) or original(x, tau, context)
        module.mu0.sample_from(module.mu0.context(batch, prefix), 1, noise=noise[:, None])
    assert len(seen) == 4
    assert torch.equal(seen[0][1], torch.ones(2, 1))
    assert torch.allclose(seen[1][0], (noise - velocity / 4)[:, None], atol=1e-5)


def test_pure_noise_at_the_start_is_standard_normal():
    module = frozen(policy_config(query=QueryConfig(kind="uniform_grid", grid=(40, 40), noise_cell=1e-3)))
    noise = module.glance(picture(0), "go")["noise"]
    assert noise.shape == (1600, 5, 3)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_noise_stays_when_a_point_moves_by_a_pixel():
    module = frozen()
    one, two = (module.glance(picture(0), "go") for _ in range(2))
    assert np.array_equal(one["noise"], two["noise"])
    moved = dataclasses.replace(module.config, query=QueryConfig(kind="uniform_grid", grid=(3, 3)))
    fixed = frozen(moved).glance(picture(1), "go")
    cells = np.round(fixed["query_uv"] / 0.125)
    again = np.round((fixed["query_uv"] + 0.01) / 0.125)
    assert np.array_equal(cells, again)


def test_the_order_of_query_points_orders_the_features():
    module = frozen()
    look = looks(module, 1)[0]
    order = np.random.default_rng(0).permutation(7)
    shuffled = {**look, "query_uv": look["query_uv"][order], "noise": look["noise"][order]}
    one, two = module([look])["trace"], module([shuffled])["trace"]
    assert torch.allclose(one[:, order], two, atol=1e-5)


def test_observations_of_a_batch_do_not_mix():
    module = frozen()
    both = looks(module)
    together = module(both)
    for i, look in enumerate(both):
        alone = module([look])
        words = alone["words"].shape[1]
        assert torch.allclose(alone["trace"][0], together["trace"][i], atol=1e-5)
        tokens = prefix_tokens(NANO_MU0) + words
        assert torch.allclose(alone["z"][0], together["z"][i, :tokens], atol=1e-5)
        assert torch.allclose(alone["gripper"][0], together["gripper"][i], atol=1e-5)


def test_last_layer_of_smolvlm_is_that_of_transformers():
    mu0 = make_mu0(SMOLVLM_MU0)
    module = FrozenMu0(mu0, SMOL_POLICY)
    batch = module._batch(looks(module))
    with torch.no_grad():
        prefix, z = encode_with_last_layer(mu0, batch)
        with inputs_of(mu0.prefix.vlm.model.text_model.layers[0].input_layernorm) as first:
            mu0.encode(batch)
        text = mu0.prefix.vlm.model.text_model
        positions = (prefix.mask.cumsum(1) - 1).clamp(min=0)
        causal = torch.ones(z.shape[1], z.shape[1], dtype=torch.bool).tril()
        seen = prefix.mask[:, None] & causal | torch.eye(z.shape[1], dtype=torch.bool)
        mask = torch.zeros(seen.shape).masked_fill(~seen, -1e9)[:, None]
        x, rotary = first[0], text.rotary_emb(first[0], positions)
        for layer in text.layers:
            out = layer(x, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
            x = out[0] if isinstance(out, tuple) else out
    assert torch.allclose(z[prefix.mask], x[prefix.mask], atol=1e-4)


def test_last_layer_of_the_nano_prefix_is_what_its_maps_hold():
    mu0 = make_mu0()
    module = FrozenMu0(mu0, policy_config())
    prefix, z = encode_with_last_layer(mu0, module._batch(looks(module)))
    deepest = prefix.maps[-1]
    tokens = deepest.shape[2] * deepest.shape[3]
    assert torch.allclose(z[:, :tokens], deepest.flatten(2).mT)


def test_hooks_are_gone_afterwards():
    module = frozen()
    module(looks(module))
    assert not module.mu0.prefix.norm._forward_pre_hooks
    assert not module.mu0.expert.norm._forward_pre_hooks


def test_an_absent_gripper_camera_is_marked():
    module = frozen()
    assert not module(looks(module, wrist=False))["gripper_seen"].any()


def test_frozen_stays_frozen():
    module = frozen()
    module.train()
    assert not module.mu0.training
    module.check_frozen()
    next(module.mu0.parameters()).requires_grad_(True)
    with pytest.raises(CheckpointError, match="frozen μ0"):
        module.check_frozen()


def test_a_stem_that_this_mu0_has_not_is_refused():
    with pytest.raises(ConfigError, match="DINOv2"):
        frozen(policy_config(gripper=GripperConfig(source="dino")))
    with pytest.raises(ConfigError, match="nano prefix"):
        frozen(policy_config(), SMOLVLM_MU0)


# The scene's finer map


def test_the_four_finer_cells_lie_beside_their_coarse_one():
    coarse, finer = torch.zeros(1, 5, 2, 3), torch.arange(4 * 6.0).view(1, 1, 4, 6)
    cells = finer_cells([torch.zeros(1, 2, 8, 12), finer, coarse])
    assert cells.shape == (1, 6, 4)
    assert cells[0, 4].tolist() == [14, 15, 20, 21]  # second row, second column


def test_beyond_an_odd_edge_there_is_nothing():
    cells = finer_cells([torch.ones(1, 1, 3, 5), torch.zeros(1, 1, 2, 3)])
    assert cells[0].sum(-1).tolist() == [4, 4, 2, 2, 2, 1]


def test_the_scene_stem_reads_the_prefixs_own_map():
    module = frozen(policy_config(scene=SceneConfig("prefix")))
    shown = looks(module)
    found = module(shown)
    maps = module.mu0.encode(module._batch(shown)).maps
    rows, columns = maps[-1].shape[-2:]
    assert found["scene"].shape == (2, rows * columns, module.widths.scene)
    assert found["scene"].shape[1] <= found["z"].shape[1] - found["words"].shape[1]
    for row, column in ((0, 0), (1, 2), (rows - 1, columns - 1)):
        four = maps[-2][:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(found["scene"][:, row * columns + column].view(2, -1, 2, 2), four)
    with pytest.raises(ConfigError, match=r"scene\.source"):
        frozen(dataclasses.replace(SMOL_POLICY, scene=SceneConfig("prefix")), SMOLVLM_MU0)


# Depth


def seeing_depth(module, count=2):
    return [module.glance(picture(i), "push the red box", picture(i + 9), depth_map(i)) for i in range(count)]


def test_with_depth_mu0_is_shown_what_a_predictor_shows_it():
    module = frozen(policy_config(depth=True))
    found = module._batch(seeing_depth(module))
    uv = module.glance(picture(0), "push the red box", None, depth_map(0))["query_uv"]
    asked = Observation(picture(0), "push the red box", depth_m=depth_map(0), keypoints_uv=uv)
    _, wanted = Mu0Predictor(module.mu0)._batch(asked)
    for name in ("image", "depth_m", "depth_present", "anchor_uvz", "anchor_z_known", "history_valid", "clock"):
        assert torch.equal(torch.nan_to_num(found[name][:1]), torch.nan_to_num(wanted[name])), name
    assert found["anchor_z_known"].any()
    assert found["depth_present"].all()


def test_depth_changes_the_scene_and_not_the_grippers_picture():
    plain, deep = frozen(), frozen(policy_config(depth=True))
    without, with_depth = plain(looks(plain, 1)), deep(seeing_depth(deep, 1))
    assert not torch.allclose(without["z"], with_depth["z"], atol=1e-3)
    assert not torch.allclose(without["trace"], with_depth["trace"], atol=1e-3)
    assert torch.equal(without["gripper"], with_depth["gripper"])  # the depth is the scene camera's


def test_a_vlms_prefix_has_tokens_of_depth():
    config = dataclasses.replace(SMOL_POLICY, depth=True)
    module = frozen(config, SMOLVLM_MU0)
    found = module(seeing_depth(module))
    assert found["z"].shape[1] == prefix_tokens(SMOLVLM_MU0, depth=True) + found["words"].shape[1]
    assert prefix_tokens(SMOLVLM_MU0, depth=True) == 2 * prefix_tokens(SMOLVLM_MU0)


def test_a_policy_with_depth_must_be_given_it_and_a_mu0_that_sees_it():
    module = frozen(policy_config(depth=True))
    with pytest.raises(InvalidInputError, match="has no depth"):
        module.glance(picture(0), "go")
    blind = dataclasses.replace(NANO_MU0, use_depth=False, expert=dataclasses.replace(NANO_MU0.expert, anchor_z=False))
    with pytest.raises(ConfigError, match="no eyes for depth"):
        frozen(policy_config(depth=True), blind)
    nothing = np.full((48, 64), np.nan, np.float32)  # a camera that sees no depth this once
    assert torch.isfinite(module([module.glance(picture(0), "go", None, nothing)])["z"]).all()
