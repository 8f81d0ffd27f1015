"""The denoiser against plain computations."""

import dataclasses
import math

import pytest
import torch
from tracegen_toys import HUB, NANO, build

from traceworld.models.tracegen.decoder import place_code, sinusoid, trace_code
from traceworld.models.tracegen.patches import to_patches


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def inputs(config, model, R=2, tokens=9):
    g = generator(3)
    noisy = torch.randn(R, config.horizon, config.grid, config.grid, 3, generator=g)
    condition = torch.randn(R, tokens, model.decoder.condition_proj.in_features, generator=g)
    return noisy, torch.rand(R, generator=g) * 100, condition, torch.zeros(R, dtype=torch.long)


def test_sinusoid_by_hand():
    code = sinusoid(torch.tensor([3.0]), 8)[0]
    expected = [f(3 * 10_000 ** (-i / 4)) for f in (math.sin, math.cos) for i in range(4)]
    assert code.tolist() == pytest.approx(expected, rel=1e-5)


def test_position_code_is_a_quarter_time_then_column_then_row():
    width = 32
    code = trace_code(16, 10, width).reshape(16, 10, 10, width)
    t, y, x = 5, 2, 7
    torch.testing.assert_close(code[t, y, x, :8], sinusoid(torch.tensor(5.0), 8))
    torch.testing.assert_close(code[t, y, x, 8:20], sinusoid(torch.tensor(7 / 1.875), 12))
    torch.testing.assert_close(code[t, y, x, 20:], sinusoid(torch.tensor(2 / 1.875), 12))


def test_image_tokens_share_the_code_of_the_traces_at_their_place():
    """3 × 3 trace patches over 2 × 3 image tokens: columns fall together, rows lie at ¼ and ¾ of the picture."""
    code = build(NANO).decoder.image_code
    rows, columns = 2, 3
    assert code.shape == (rows * columns, 16)
    expected = place_code(torch.tensor([1.0]), torch.tensor([0.25 * 3 - 0.5]), 16)
    torch.testing.assert_close(code[1:2], expected)


@torch.no_grad()
def test_one_layer_against_a_plain_computation():
    config = dataclasses.replace(HUB, decoder=dataclasses.replace(HUB.decoder, layers=1))
    model = build(config)
    noisy, time, condition, clock = inputs(config, model)
    ours = model.decoder(noisy, time, condition, None, clock)
    d, layer = model.decoder, model.decoder.layers[0]
    freq = 10_000 ** (-torch.arange(8) / 8)
    temb = d.time_mlp(torch.cat([(time[:, None] * freq).cos(), (time[:, None] * freq).sin()], -1)) + d.clock_embedding(
        clock
    )
    silu = torch.nn.functional.silu(temb)
    x = d.patch_proj(to_patches(noisy, 2, 2)) + d.code
    c = d.condition_proj(condition)
    shift, scale, gate, shift_c, scale_c, _ = layer.norm_attention.proj(silu)[:, None].chunk(6, -1)
    both = torch.cat(
        [layer.norm_attention.norm(c) * (1 + scale_c) + shift_c, layer.norm_attention.norm(x) * (1 + scale) + shift], 1
    )
    out = torch.empty_like(both)
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        q, k = layer.norm_q(layer.q_proj(both)[..., part]), layer.norm_k(layer.k_proj(both)[..., part])
        out[..., part] = (q @ k.mT / math.sqrt(8)).softmax(-1) @ layer.v_proj(both)[..., part]
    x = x + gate * layer.o_proj(out)[:, 9:]
    shift, scale, gate, *_ = layer.norm_mlp.proj(silu)[:, None].chunk(6, -1)
    hidden = layer.mlp_in(layer.norm_mlp.norm(x) * (1 + scale) + shift)
    x = x + gate * layer.mlp_out(torch.nn.functional.gelu(hidden, approximate="tanh"))
    shift, scale = d.modulation_out(silu)[:, None].chunk(2, -1)
    x = d.velocity_proj(d.norm_out(d.norm(x)) * (1 + scale) + shift)
    torch.testing.assert_close(to_patches(ours, 2, 2), x, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_masked_condition_tokens_take_no_part():
    model = build(HUB)
    noisy, time, condition, clock = inputs(HUB, model)
    mask = torch.arange(9).expand(2, -1) < 6
    ours = model.decoder(noisy, time, condition, mask, clock)
    shorter = model.decoder(noisy, time, condition[:, :6], None, clock)
    torch.testing.assert_close(ours, shorter, atol=1e-5, rtol=1e-4)
    spoilt = torch.where(mask[..., None], condition, 1e4)
    torch.testing.assert_close(model.decoder(noisy, time, spoilt, mask, clock), ours, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_words_carry_no_position():
    model = build(HUB)
    noisy, time, condition, clock = inputs(HUB, model)
    order = torch.randperm(9, generator=generator())
    a, b = (model.decoder(noisy, time, x, None, clock) for x in (condition, condition[:, order]))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_fresh_model_starts_with_closed_gates():
    from traceworld.models.tracegen.model import TraceGenModel

    for layer in TraceGenModel(NANO).decoder.layers:
        assert not layer.norm_attention.proj.weight.any()
        assert not layer.norm_mlp.proj.weight.any()


def test_checkpointing_changes_no_gradient():
    model = build(NANO).train()
    noisy, time, condition, clock = inputs(NANO, model)
    grads = []
    for on in (False, True):
        model.zero_grad()
        model.enable_gradient_checkpointing(on)
        model.decoder(noisy, time, condition, None, clock).square().sum().backward()
        grads.append([p.grad.clone() for p in model.decoder.parameters() if p.grad is not None])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
@pytest.mark.parametrize("what", ["noisy", "time", "condition", "clock"])
def test_every_input_counts(what):
    model = build(NANO)
    values = dict(zip(("noisy", "time", "condition", "clock"), inputs(NANO, model), strict=True))
    a = model.decoder(**values, mask=None)
    values[what] = 1 - values[what]
    assert not torch.allclose(a, model.decoder(**values, mask=None))
