"""The plain TraceGen decoder computes what ours does, from the same weights."""

import dataclasses

import pytest
import torch
from tracegen_plain import PlainDecoder, plain_decoder
from tracegen_toys import HUB, NANO, REFERENCE, build

TOKENS = 9


def inputs(config, R=2, seed=3):
    g = torch.Generator().manual_seed(seed)
    noisy = torch.randn(R, config.horizon, config.grid, config.grid, 3, generator=g)
    return noisy, torch.rand(R, generator=g) * 99, torch.randn(R, TOKENS, 16, generator=g)


@torch.no_grad()
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_same_velocity_as_ours(fused, layers):
    config = dataclasses.replace(REFERENCE, decoder=dataclasses.replace(REFERENCE.decoder, layers=layers))
    ours = build(config).decoder
    plain = plain_decoder(ours, config, fused)
    noisy, time, condition = inputs(config)
    clock = torch.zeros(2, dtype=torch.long)
    expected = plain(noisy.permute(0, 4, 1, 2, 3), time, condition).permute(0, 2, 3, 4, 1)
    torch.testing.assert_close(ours(noisy, time, condition, None, clock), expected, atol=2e-5, rtol=1e-4)
    assert expected.std() > 0.01


def test_every_weight_has_a_counterpart():
    """Whichever tensor of ours is changed, the plain decoder's output changes with it."""
    ours = build(REFERENCE).decoder
    noisy, time, condition = inputs(REFERENCE)
    with torch.no_grad():
        before = plain_decoder(ours, REFERENCE)(noisy.permute(0, 4, 1, 2, 3), time, condition)
        for name, parameter in ours.named_parameters():
            kept = parameter.clone()
            parameter += torch.linspace(0.1, 1, parameter.numel()).reshape(parameter.shape)
            after = plain_decoder(ours, REFERENCE)(noisy.permute(0, 4, 1, 2, 3), time, condition)
            # A constant added to all keys shifts all scores of a query alike: softmax does not see it.
            assert not torch.allclose(before, after, atol=1e-7) or "norm_k.bias" in name, name
            parameter.copy_(kept)


@pytest.mark.parametrize("config", [HUB, NANO])
def test_other_shapes_are_refused(config):
    with pytest.raises(ValueError, match="one clock"):
        PlainDecoder(config, 16)
