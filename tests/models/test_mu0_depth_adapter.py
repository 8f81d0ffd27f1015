"""The low-rank adapter of the depth pass."""

import dataclasses

import pytest
import torch

from traceworld.models.mu0.depth_adapter import ADAPTED, DepthAdapter, LowRank
from traceworld.models.mu0.prefix_smolvlm import SmolVLMPrefix


@pytest.fixture
def prefix(smolvlm_config):
    torch.manual_seed(0)
    return SmolVLMPrefix(dataclasses.replace(smolvlm_config.prefix, depth_lora_rank=2, depth_lora_alpha=6.0))


def fill(adapter, seed=0):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.3)


def test_a_change_is_alpha_over_rank_times_b_a():
    change = LowRank(5, 4, rank=2, alpha=6.0)
    weight = torch.randn(4, 5)
    assert torch.equal(change(weight), weight)  # starts at zero
    fill(change)
    x = torch.randn(3, 5)
    expected = x @ weight.T + 3 * ((x @ change.A.T) @ change.B.T)
    torch.testing.assert_close(x @ change(weight).T, expected, atol=1e-5, rtol=1e-5)
    assert change(weight.bfloat16()).dtype == torch.bfloat16


@torch.no_grad()
def test_only_the_depth_pass_is_changed(prefix):
    picture = torch.rand(2, 3, 32, 32)
    plain = prefix._see(picture, None)
    assert torch.equal(prefix._see(picture, prefix.depth_stem), plain)  # cloned stem, zero change
    fill(prefix.depth_adapter)
    assert torch.equal(prefix._see(picture, None), plain)
    assert not torch.allclose(prefix._see(picture, prefix.depth_stem), plain, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", ADAPTED)
def test_every_adapted_layer_acts(prefix, name):
    picture = torch.rand(1, 3, 32, 32)
    before = prefix._see(picture, prefix.depth_stem)
    fill(prefix.depth_adapter.layers[-1][name])
    assert not torch.allclose(prefix._see(picture, prefix.depth_stem), before, atol=1e-5)


def test_it_equals_a_tower_with_the_changes_folded_in(prefix):
    """Independent: write the changed weights into a copy of SigLIP and run that as it is."""
    fill(prefix.depth_adapter)
    picture = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        ours = prefix._see(picture, prefix.depth_stem)
        for index, layer in enumerate(prefix.vlm.model.vision_model.encoder.layers):
            for name, within in ADAPTED.items():
                change = prefix.depth_adapter.layers[index][name]
                layer.get_submodule(within).get_submodule(name).weight += 3 * change.B @ change.A
        torch.testing.assert_close(prefix._see(picture, None), ours, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_the_adapter_and_not_the_tower(prefix, checkpointing):
    fill(prefix.depth_adapter)
    prefix.gradient_checkpointing = checkpointing
    prefix._see(torch.rand(1, 3, 32, 32), prefix.depth_stem).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in prefix.depth_adapter.parameters())
    assert all(p.grad is None for p in prefix.vlm.parameters())


def test_parameter_count():
    """§1.3: 27 layers of 1152, MLP 4304, rank 8: 4.35M."""
    with torch.device("meta"):
        adapter = DepthAdapter(27, 1152, 4304, 8, 16.0)
    per_layer = 8 * (4 * (1152 + 1152) + 2 * (1152 + 4304))
    assert sum(p.numel() for p in adapter.parameters()) == 27 * per_layer == 4_347_648
