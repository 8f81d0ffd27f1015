"""Groups, schedule and average against hand computations."""

import math
from dataclasses import replace

import pytest
import torch
import toy

from traceworld.training import TrainConfig
from traceworld.training.optim import Ema, learning_rate, parameter_groups

BASE = TrainConfig(data=("x",), out="x", lr=1e-3, steps=110, warmup=10)


def test_groups_hold_each_trained_parameter_once_with_its_rate():
    model = toy.ToyModel()
    groups = parameter_groups(model, replace(BASE, weight_decay=0.5), toy.toy_kind().is_backbone)
    where = {p: g for g in groups for p in g["params"]}
    assert model.frozen not in where
    assert len(where) == sum(len(g["params"]) for g in groups) == 6
    assert where[model.backbone.weight]["lr_scale"] == 0.1
    assert where[model.net[0].weight]["lr_scale"] == 1.0
    assert where[model.net[0].weight]["weight_decay"] == 0.5
    assert where[model.net[0].bias]["weight_decay"] == 0.0


def test_schedule():
    cosine = replace(BASE, schedule="cosine")
    assert learning_rate(0, cosine) == pytest.approx(1e-3 / 11)
    assert learning_rate(10, cosine) == pytest.approx(1e-3)
    assert learning_rate(60, cosine) == pytest.approx(0.5e-3)
    assert learning_rate(110, cosine) == pytest.approx(0, abs=1e-12)
    assert learning_rate(35, cosine) == pytest.approx(0.5e-3 * (1 + math.cos(math.pi / 4)))
    assert learning_rate(109, BASE) == 1e-3


def test_average_follows_its_recursion_and_can_stand_in():
    model = toy.ToyModel()
    ema = Ema(model, 0.5)
    expected = model.backbone.weight.detach().clone()
    for step in range(1, 9):
        with torch.no_grad():
            model.backbone.weight.add_(1.0)
        ema.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.backbone.weight.detach()
    torch.testing.assert_close(ema.average["backbone.weight"], expected)
    assert "frozen" not in ema.average
    own = model.backbone.weight.detach().clone()
    with ema.in_place_of(model):
        torch.testing.assert_close(model.backbone.weight.detach(), expected)
    torch.testing.assert_close(model.backbone.weight.detach(), own, rtol=0, atol=0)
