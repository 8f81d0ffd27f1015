"""Groups, schedule and average against hand computations."""

import math
from dataclasses import replace

import pytest
import torch
import toy

from traceworld.errors import ConfigError
from traceworld.training import TrainConfig
from traceworld.training.optim import Ema, build_optimizers, learning_rate, parameter_groups

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


@pytest.fixture
def wide() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.LayerNorm(96), torch.nn.Linear(96, 8))


def test_muon_takes_the_wide_matrices_and_adamw_the_rest(wide):
    parts = build_optimizers(wide, replace(BASE, optimizer="muon"), lambda name: False).parts
    assert [type(part).__name__ for part in parts] == ["Muon", "AdamW"]
    owned = [{id(p) for g in part.param_groups for p in g["params"]} for part in parts]
    assert owned[0] == {id(wide[0].weight)}
    assert owned[1] == {id(p) for p in wide.parameters()} - owned[0]


def test_muons_step_is_orthogonal_with_the_size_of_an_adamw_step(wide):
    optimizers = build_optimizers(wide, replace(BASE, optimizer="muon"), lambda name: False)
    before = wide[0].weight.detach().clone()
    wide[0].weight.grad = torch.randn_like(before)
    optimizers.step()
    step = (before - wide[0].weight.detach()) / BASE.lr
    # Newton–Schulz in five steps brings the singular values near 1, not to 1; scaled by 0.2 √(longer side).
    values = torch.linalg.svdvals(step) / (0.2 * math.sqrt(96))
    assert values.min() > 0.5
    assert values.max() < 1.3
    rms = float(step.square().mean().sqrt())
    assert 0.1 < rms < 0.3, "AdamW's steps have a root mean square of about 0.2"


def test_muon_without_a_wide_layer_is_refused():
    with pytest.raises(ConfigError, match="wide enough"):
        build_optimizers(torch.nn.Linear(8, 8), replace(BASE, optimizer="muon"), lambda name: False)
