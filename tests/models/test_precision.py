"""Frozen parts in bfloat16: what is made, what it predicts, what a checkpoint gives back."""

import numpy as np
import pytest
import torch
from torch import nn

from traceworld.errors import CheckpointError
from traceworld.models.checkpoint import load_checkpoint, load_weights, save_checkpoint
from traceworld.models.mu0.model import Mu0Model, check_frozen
from traceworld.models.precision import build_frugally, parameters_in

pytest.importorskip("transformers")


class Tied(nn.Module):
    """Two names for one weight, an integer parameter, a buffer, an absent bias."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
        self.count = nn.Parameter(torch.arange(3), requires_grad=False)
        self.register_buffer("table", torch.arange(5) / 7)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_parameters_are_turned_and_all_else_stays():
    with parameters_in(torch.bfloat16):
        made = Tied()
    assert made.head.weight is made.embed.weight
    assert made.embed.weight.dtype == made.frozen.weight.dtype == torch.bfloat16
    assert not made.frozen.weight.requires_grad
    assert made.embed.weight.requires_grad
    assert made.count.dtype == torch.int64
    assert made.table.dtype == torch.float32
    assert made.head.bias is None
    assert nn.Linear(2, 2).weight.dtype == torch.float32  # the block is over


def test_the_block_ends_with_an_error_too():
    with pytest.raises(RuntimeError, match="no"), parameters_in(torch.bfloat16):
        raise RuntimeError("no")
    assert nn.Linear(2, 2).weight.dtype == torch.float32


def test_no_module_waits_in_float32_for_the_others():
    """Each is turned before the next one is made."""
    made: list[nn.Parameter] = []

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1000), requires_grad=False)
            made.append(self.weight)
            assert {w.nbytes for w in made} == {2000}

    build_frugally(lambda: nn.Sequential(*(Layer() for _ in range(3))))
    assert len(made) == 3


def test_seeded(smolvlm_config):
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(build_frugally(lambda: Mu0Model(smolvlm_config)))
    first, again, other = (m.prefix.vlm.state_dict()["lm_head.weight"] for m in made)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert made[0].s_delta.dtype == made[0].depth_log_range.dtype == torch.float32
    check_frozen(made[0])


def rounded(model):
    """The same model in float32 with its frozen numbers rounded to bfloat16."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16().float()
    return model


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("rank", [0, 2])
def test_predicts_what_the_float32_model_does(smolvlm_config, build, make_batch, replaced, autocast, rank):
    """With depth (whose stem and adapters are trained), history and the local features. bfloat16 has 8 bits of fraction."""
    config = replaced(smolvlm_config, "prefix", depth_lora_rank=rank)
    plain = rounded(build(config))
    frugal = build_frugally(lambda: Mu0Model(config)).eval()
    frugal.load_state_dict(plain.state_dict())
    frugal.prefix.tokenizer = plain.prefix.tokenizer
    batch = make_batch(config)
    noise = torch.randn(3, 2, 5, 5, 3, generator=torch.Generator().manual_seed(0))
    expected, _ = plain.sample(batch, 2, noise=noise)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        controls, logits = frugal.sample(batch, 2, noise=noise)
    assert controls.dtype == logits.dtype == torch.float32
    off = (controls - expected).abs().max() / (expected - noise).std()
    assert 0 < off < 0.1
    other, _ = plain.sample(batch, 2, noise=-noise)
    assert (other - expected).abs().max() / (expected - noise).std() > 1  # the measure can fail


@pytest.mark.parametrize("kept", [True, False])
def test_checkpoints_load_straight_into_bfloat16(smolvlm_config, build, normalisation, tmp_path, kept):
    """The trained tensors come back to the bit, the frozen ones rounded once."""
    model = build(smolvlm_config)
    if not kept:
        for parameter in model.parameters():
            parameter.requires_grad_(True)  # then nothing is frozen, and all is stored in float32
    folder = save_checkpoint(tmp_path / "m", model, normalisation, keep_backbones=kept)
    found = load_checkpoint(folder, frozen_dtype="bfloat16").model
    assert {p.dtype for p in found.prefix.vlm.parameters()} == {torch.bfloat16}
    for name, parameter in found.named_parameters():
        expected = model.get_parameter(name)
        if not parameter.requires_grad:
            expected = expected.bfloat16()
        assert torch.equal(parameter, expected), name
    assert np.allclose(found.s_delta, normalisation.scale_table())


def test_a_file_that_does_not_fit_changes_nothing(smolvlm_config, tiny_config, build, normalisation, tmp_path):
    folder = save_checkpoint(tmp_path / "m", build(tiny_config), normalisation)
    model = build(smolvlm_config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="missing"):
        load_weights(folder, model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
