"""Eq. 11 of the μ0 paper against torch's own multi-head attention, and what B.4 says about its gate."""

import pytest
import torch
from torch import nn

from traceworld.errors import ConfigError
from traceworld.policies.action_expert.guidance import GatedCrossAttention


@pytest.fixture
def module():
    torch.manual_seed(0)
    return GatedCrossAttention(16, 10, heads=4)


def inputs(seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, 5, 16, generator=g), torch.randn(2, 7, 10, generator=g)


def by_torch(module: GatedCrossAttention, z, trace):
    """Eq. 11 with `nn.MultiheadAttention`, the gate written out."""
    reference = nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([module.q_proj.weight, module.k_proj.weight, module.v_proj.weight]))
        reference.in_proj_bias.copy_(torch.cat([module.q_proj.bias, module.k_proj.bias, module.v_proj.bias]))
        reference.out_proj.load_state_dict(module.o_proj.state_dict())
    h = nn.functional.layer_norm(trace @ module.trace_proj.weight.T + module.trace_proj.bias, (16,))
    query = nn.functional.layer_norm(z, (16,))
    return z + 1 / (1 + torch.exp(-module.gate)) * reference(query, h, h, need_weights=False)[0]


@pytest.mark.parametrize("gate", [0.0, -3.0, 2.5])
def test_it_is_equation_11(module, gate):
    z, trace = inputs()
    nn.init.constant_(module.gate, gate)
    assert torch.allclose(module(z, trace), by_torch(module, z, trace), atol=1e-5)


def test_the_gate_is_one_scalar_that_starts_at_zero_and_passes_a_sigmoid(module):
    assert module.gate.shape == ()
    assert float(module.gate) == 0
    z, trace = inputs()
    half = module(z, trace) - z
    nn.init.constant_(module.gate, 50.0)
    assert torch.allclose(module(z, trace) - z, 2 * half, atol=1e-5)  # σ(0) = ½, σ(50) = 1
    nn.init.constant_(module.gate, -50.0)
    assert torch.allclose(module(z, trace), z, atol=1e-6)


def test_the_order_of_motion_tokens_does_not_matter(module):
    z, trace = inputs()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(module(z, trace), module(z, trace[:, order]), atol=1e-6)


def test_tokens_that_are_not_there_are_not_read(module):
    z, trace = inputs()
    seen = torch.ones(2, 9, dtype=torch.bool)
    seen[:, 7:] = False
    padded = torch.cat([trace, torch.full((2, 2, 10), 1e3)], dim=1)
    assert torch.allclose(module(z, trace), module(z, padded, seen), atol=1e-6)


def test_motion_reaches_every_place_and_the_gate_learns(module):
    z, trace = inputs()
    trace.requires_grad_()
    module(z, trace).square().sum().backward()
    assert trace.grad.abs().sum(-1).min() > 0
    assert module.gate.grad.abs() > 0


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="3 heads"):
        GatedCrossAttention(16, 10, heads=3)
