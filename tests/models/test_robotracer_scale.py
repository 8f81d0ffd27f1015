"""The scale decoder, its loss and its target; the projector."""

import math

import pytest
import torch
from torch import nn

from traceworld.errors import CheckpointError
from traceworld.models.robotracer.projector import SpatialProjector
from traceworld.models.robotracer.scale import FLOOR, ScaleDecoder, ScaleProjector, scale_loss, scale_target


def test_the_decoder_has_the_published_shape_and_floor():
    decoder = ScaleDecoder(64)
    shapes = [tuple(layer.weight.shape) for layer in decoder.modules() if isinstance(layer, nn.Linear)]
    assert shapes == [(196, 64), (196, 196), (196, 196), (1, 196)]
    torch.manual_seed(0)
    state = torch.randn(5, 64)
    by_hand = state
    for i in (0, 1, 3, 5):
        by_hand = decoder.layers[i](by_hand)
        by_hand = by_hand.relu() if i in (1, 3) else by_hand
    torch.testing.assert_close(decoder(state), by_hand[:, 0])
    nn.init.constant_(decoder.layers[-1].bias, -1000.0)
    torch.testing.assert_close(decoder(state).exp(), torch.full((5,), FLOOR))


def test_the_loss_is_the_square_of_the_log_ratio():
    log_scale = torch.tensor([0.0, math.log(2.0), 5.0, 5.0, 5.0], requires_grad=True)
    target = torch.tensor([math.e, 0.5, math.nan, 0.0, -1.0])
    loss = scale_loss(log_scale, target)
    assert loss.item() == pytest.approx((1.0 + (2 * math.log(2.0)) ** 2) / 2)
    loss.backward()
    assert log_scale.grad[2:].abs().sum() == 0, "no target, no pull"
    empty = scale_loss(log_scale, torch.full((5,), math.nan))
    assert empty.item() == 0.0
    empty.backward()


def test_the_loss_does_not_depend_on_units():
    log_scale, target = torch.randn(7), torch.rand(7) + 0.1
    in_cm = scale_loss(log_scale + math.log(100), target * 100)
    torch.testing.assert_close(in_cm, scale_loss(log_scale, target), rtol=1e-4, atol=1e-5)


def test_the_target_is_the_mean_of_known_metres():
    depth = torch.tensor([[[2.0, 4.0], [0.0, torch.nan]], [[0.0, 0.0], [0.0, 0.0]]])
    target = scale_target(depth)
    assert float(target[0]) == 3.0
    assert target[1].isnan()


def test_a_head_of_the_same_shape_can_be_taken_over():
    other, own = ScaleDecoder(16, 8), ScaleDecoder(16, 8)
    own.start_from(nn.Sequential(nn.Identity(), other))
    state = torch.randn(3, 16)
    assert torch.equal(own(state), other(state))
    with pytest.raises(CheckpointError, match="layers"):
        own.start_from(ScaleDecoder(16, 9))


def test_projectors_normalise_first():
    torch.manual_seed(0)
    for module, x in ((SpatialProjector(8, 12, 6), torch.randn(2, 5, 8)), (ScaleProjector(8, 6), torch.randn(2, 8))):
        out = module(x)
        assert out.shape == (*x.shape[:-1], 6)
        torch.testing.assert_close(module(3 * x + 1), out, atol=1e-4, rtol=1e-4)
