"""Muon and AdamW as one optimiser: who owns what, that both step, and that a stopped run goes on."""

import copy

import pytest
import torch

from traceworld.errors import ConfigError
from traceworld.training.robotracer.optimiser import MuonWithAdamW

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch 2.9 or newer")


def model():
    torch.manual_seed(0)
    made = torch.nn.ModuleDict(
        {
            "table": torch.nn.Embedding(70, 64),
            "wide": torch.nn.Linear(64, 96),
            "head": torch.nn.Linear(64, 70, bias=False),
        }
    )
    made["head"].weight = made["table"].weight  # tied, as a language model's
    return made


def step(made, optimiser, seed):
    torch.manual_seed(seed)
    loss = made["head"](made["table"](torch.tensor([1, 2]))).square().sum()
    (loss + made["wide"](torch.randn(3, 64)).square().sum()).backward()
    optimiser.step()
    optimiser.zero_grad()


def test_muon_takes_wide_layers_and_never_a_table_of_words():
    made = model()
    muon, adamw = MuonWithAdamW(made, 1e-2, 0.0).parts
    assert [p is made["wide"].weight for g in muon.param_groups for p in g["params"]] == [True]
    others = {id(p) for g in adamw.param_groups for p in g["params"]}
    assert others == {id(made["table"].weight), id(made["wide"].bias)}


def test_a_schedule_sets_the_rate_of_both():
    optimiser = MuonWithAdamW(model(), 1e-2, 0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: 0.5**done)
    optimiser.step()
    schedule.step()
    assert {group["lr"] for part in optimiser.parts for group in part.param_groups} == {5e-3}


def test_it_goes_on_where_it_was():
    straight, cut = model(), model()
    one = MuonWithAdamW(straight, 1e-2, 0.0)
    before = MuonWithAdamW(cut, 1e-2, 0.0)
    for seed in range(2):
        step(straight, one, seed)
        step(cut, before, seed)
    after = MuonWithAdamW(cut, 1e-2, 0.0)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    step(straight, one, 5)
    step(cut, after, 5)
    for left, right in zip(straight.parameters(), cut.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_model_without_a_wide_layer_is_refused():
    with pytest.raises(ConfigError, match="wide enough"):
        MuonWithAdamW(torch.nn.Linear(8, 8), 1e-3, 0.0)
