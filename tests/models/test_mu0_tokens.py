"""Keypoint tokens: grouping, dropped history, and eq. 5 against plain numpy."""

import numpy as np
import pytest
import torch

from traceworld.models.mu0.local_features import sample_maps
from traceworld.models.mu0.tokens import KeypointTokens

LOG_RANGE = torch.log(torch.tensor([0.3, 3.0]))
S_DELTA = torch.tensor([[0.2, 0.3, 0.1], [0.4, 0.5, 0.2]])


@pytest.fixture
def setting(tiny_config, make_batch, replaced):
    """(tokens, batch, maps) for groups of 2 history steps and 1 control."""
    config = replaced(tiny_config, "expert", history_group=2, control_group=1, history_scale="s_delta")
    torch.manual_seed(0)
    maps = (torch.randn(3, 3, 6, 8), torch.randn(3, 2, 3, 4))
    tokens = KeypointTokens(config, 5)
    for parameter in tokens.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return tokens, make_batch(config), maps


def silu(x):
    return x / (1 + np.exp(-x))


def linear(x, layer):
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def place_of(tokens, uv, z, known):
    freqs = np.pi * 2.0 ** np.arange(3)
    parts = [part for x in uv for part in (np.sin(freqs * x), np.cos(freqs * x))]
    unit = (np.log(z) - np.log(0.3)) / (np.log(3.0) - np.log(0.3)) * 2 - 1
    depth = np.concatenate([np.sin(freqs * unit / 2), np.cos(freqs * unit / 2), [unit, 1]])
    x = np.concatenate([*parts, depth * known])
    return linear(silu(linear(x, tokens.place_mlp[0])), tokens.place_mlp[2])


@torch.no_grad()
def test_tokens_and_fusion_follow_the_paper(setting):
    tokens, batch, maps = setting
    query = tokens.observe(batch, maps, S_DELTA, LOG_RANGE)
    noisy = torch.randn(3, 2, 5, 5, 3)
    controls = tokens.controls(noisy, query).numpy()
    assert query.history.shape == (3, 5 * 2, 20)
    assert controls.shape == (3, 2, 5 * 5, 20)
    b, n = 2, 3
    uv, z = batch["anchor_uvz"][b, n, :2].numpy(), batch["anchor_uvz"][b, n, 2].numpy()
    place = place_of(tokens, uv, z, bool(batch["anchor_z_known"][b, n]))
    feature = sample_maps(maps, batch["anchor_uvz"][..., :2])[b, n].numpy()
    group, segment = tokens.group_embedding.weight.numpy(), tokens.segment_embedding.weight.numpy()

    def fused(token):  # eq. 5, literally
        return linear(silu(linear(np.concatenate([token, feature]), tokens.fuse_in)), tokens.fuse_out)

    for g in range(5):
        token = linear(noisy[b, 1, n, g].numpy(), tokens.control_lift) + group[2 + g] + segment[1] + place
        np.testing.assert_allclose(controls[b, 1, n * 5 + g], fused(token), atol=1e-5)
    valid = batch["history_valid"][b, n].float().numpy()
    steps = batch["history"][b, n].numpy() / S_DELTA[batch["clock"][b]].numpy() * valid[:, None]
    for g in range(2):
        rows = np.concatenate([steps, valid[:, None]], axis=1)[2 * g : 2 * g + 2].reshape(-1)
        token = linear(rows, tokens.history_lift) + group[g] + segment[0] + place
        np.testing.assert_allclose(query.history[b, n * 2 + g].numpy(), fused(token), atol=1e-5)


@torch.no_grad()
def test_which_history_tokens_are_seen(setting):
    tokens, batch, maps = setting
    batch["present"][1, 4] = False
    seen = tokens.observe(batch, maps, S_DELTA, LOG_RANGE).history_seen.unflatten(1, (5, 2))
    expected = batch["history_valid"].unflatten(2, (2, 2)).any(-1) & batch["present"][..., None]
    assert torch.equal(seen, expected)


@torch.no_grad()
def test_hidden_values_do_not_enter(setting):
    """Invalid history, and z where it is not known, may hold anything, NaN too."""
    tokens, batch, maps = setting
    spoiled = dict(batch)
    spoiled["history"] = torch.where(batch["history_valid"][..., None], batch["history"], torch.nan)
    spoiled["anchor_uvz"] = batch["anchor_uvz"].clone()
    spoiled["anchor_uvz"][..., 2][~batch["anchor_z_known"]] = torch.nan
    a, b = (tokens.observe(x, maps, S_DELTA, LOG_RANGE) for x in (batch, spoiled))
    assert torch.equal(a.history, b.history)
    assert torch.equal(a.control_base, b.control_base)


@torch.no_grad()
def test_current_place_is_silent_at_initialisation(tiny_config, make_batch):
    tokens = KeypointTokens(tiny_config, 0)
    query = tokens.observe(make_batch(tiny_config), (), S_DELTA, LOG_RANGE)
    assert query.local is None
    assert torch.equal(query.control_base, query.control_base[:1, :1].expand_as(query.control_base))


def test_switches_change_the_inputs(tiny_config, replaced):
    plain = replaced(tiny_config, "expert", anchor_z=False, history_validity=False)
    tokens = KeypointTokens(plain, 0)
    assert tokens.place_mlp[0].in_features == 4 * 3
    assert tokens.history_lift.in_features == 3 * 4
    assert KeypointTokens(tiny_config, 0).history_lift.in_features == 4 * 4
    assert KeypointTokens(tiny_config, 0).place_mlp[0].in_features == 4 * 3 + 2 * 3 + 2


def test_maps_are_sampled_at_pixel_centres_and_edges():
    ramp = torch.arange(4.0).expand(1, 1, 2, 4)  # value = column; centres at uv −.75, −.25, .25, .75
    uv = torch.tensor([[[-0.75, 0.0], [0.25, 0.0], [0.0, 0.0], [0.75, 0.0], [3.0, 0.0]]])
    assert sample_maps((ramp,), uv)[0, :, 0].tolist() == pytest.approx([0, 2, 1.5, 3, 0])
