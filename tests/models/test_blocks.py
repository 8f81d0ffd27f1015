"""Shared layers against independent computations."""

import cv2
import numpy as np
import pytest
import torch

from traceworld.models.blocks.attention import attend, merge_heads, split_heads
from traceworld.models.blocks.embeddings import fourier_features, time_sinusoid
from traceworld.models.blocks.layers import AdaLNZero, RMSNorm, SwiGLU, modulate
from traceworld.models.blocks.rotary import rotary_angles, rotate
from traceworld.models.blocks.turbo import log_depth_unit, turbo_picture, turbo_table


def test_rms_norm():
    x = torch.randn(3, 7)
    norm = RMSNorm(7, eps=1e-5)
    torch.nn.init.normal_(norm.weight)
    expected = x.numpy() / np.sqrt((x.numpy() ** 2).mean(-1, keepdims=True) + 1e-5) * norm.weight.detach().numpy()
    np.testing.assert_allclose(norm(x).detach().numpy(), expected, rtol=1e-5)
    assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_swiglu():
    layer = SwiGLU(4, 6)
    x = torch.randn(2, 4)
    gate, up = x @ layer.gate_proj.weight.T, x @ layer.up_proj.weight.T
    torch.testing.assert_close(layer(x), (gate / (1 + (-gate).exp()) * up) @ layer.down_proj.weight.T)


def test_adaln_starts_at_zero_and_modulate_is_affine():
    assert all(not part.any() for part in AdaLNZero(5)(torch.randn(2, 5)))
    assert len(AdaLNZero(5)(torch.randn(2, 5))) == 6
    x, shift, scale = torch.randn(3, 2, 5).unbind()
    torch.testing.assert_close(modulate(x, shift, scale), x * (1 + scale) + shift)


def test_rotary_is_multiplication_by_a_complex_phase():
    x = torch.randn(2, 3, 4, 8)
    positions = torch.tensor([[0, 1, 2, 5], [3, 3, 3, 9]])
    turned = rotate(x, *rotary_angles(positions, 8, 100.0)).numpy()
    frequency = 100.0 ** (-np.arange(4) / 4)
    phase = np.exp(1j * positions.numpy()[:, None, :, None] * frequency)
    expected = (x.numpy()[..., :4] + 1j * x.numpy()[..., 4:]) * phase
    np.testing.assert_allclose(turned[..., :4] + 1j * turned[..., 4:], expected, atol=1e-5)


def test_rotary_products_depend_on_distance_only():
    query, key = torch.randn(2, 1, 1, 1, 8).unbind()

    def product(a, b):
        angles = [rotary_angles(torch.tensor([[p]]), 8, 1e4) for p in (a, b)]
        return float((rotate(query, *angles[0]) * rotate(key, *angles[1])).sum())

    assert abs(product(3, 7) - product(13, 17)) < 1e-5
    assert abs(product(3, 7) - product(3, 8)) > 1e-5


def test_attention_with_mask_and_grouped_heads():
    query, key, value = torch.randn(2, 4, 3, 5), torch.randn(2, 2, 6, 5), torch.randn(2, 2, 6, 5)
    mask = torch.rand(2, 3, 6) > 0.4
    mask[..., 0] = True
    got = attend(query, key, value, mask).numpy()
    for b in range(2):
        for head in range(4):
            scores = query[b, head].numpy() @ key[b, head // 2].numpy().T / np.sqrt(5)
            weights = np.where(mask[b].numpy(), np.exp(scores), 0)
            expected = weights / weights.sum(-1, keepdims=True) @ value[b, head // 2].numpy()
            np.testing.assert_allclose(got[b, head], expected, atol=1e-5)


@pytest.mark.parametrize("queries", [3, 300])
def test_attention_in_bf16_agrees_with_float32_with_its_gradients(queries):
    """On a CPU, few and many queries go other ways."""
    shapes = [(2, 4, queries, 8), (2, 2, 6, 8), (2, 2, 6, 8)]
    inputs = [torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for shape in shapes]
    wide = [x.detach().float().requires_grad_() for x in inputs]
    mask = torch.rand(2, 1, 6) > 0.4
    mask[..., 0] = True
    found, exact = attend(*inputs, mask), attend(*wide, mask)
    assert found.dtype == torch.bfloat16
    with torch.no_grad():
        torch.testing.assert_close(attend(*inputs, mask).float(), exact, atol=0.03, rtol=0.03)
    torch.testing.assert_close(found.float(), exact, atol=0.03, rtol=0.03)
    pull = torch.randn_like(exact)
    found.backward(pull.bfloat16())
    exact.backward(pull)
    for ours, true in zip(inputs, wide, strict=True):
        error = (ours.grad.float() - true.grad).norm() / true.grad.norm()
        assert error < 0.02


def test_heads_split_and_merge():
    x = torch.randn(2, 3, 12)
    assert split_heads(x, 4).shape == (2, 3, 3, 4)
    assert torch.equal(split_heads(x, 4)[0, 1, 2], x[0, 2, 4:8])
    assert torch.equal(merge_heads(split_heads(x, 4)), x)


def test_fourier_features_layout():
    got = fourier_features(torch.tensor([[0.3, -0.7]]), 2)[0].numpy()
    angle = np.pi * np.array([[0.3, 0.6], [-0.7, -1.4]])
    expected = np.concatenate([np.sin(angle[0]), np.cos(angle[0]), np.sin(angle[1]), np.cos(angle[1])])
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_time_sinusoid_periods():
    got = time_sinusoid(torch.tensor([0.25]), dim=6, min_period=0.5, max_period=2.0)[0].numpy()
    angle = 2 * np.pi * 0.25 / np.array([0.5, 1.0, 2.0])
    np.testing.assert_allclose(got, np.concatenate([np.sin(angle), np.cos(angle)]), atol=1e-6)


def test_turbo_table_is_the_published_polynomial():
    """Against the degree-5 approximation of the Turbo colormap published by its author (A. Mikhailov, 2019)."""
    x = np.linspace(0, 1, 256)
    powers = x[:, None] ** np.arange(6)
    red = powers @ [0.13572138, 4.61539260, -42.66032258, 132.13108234, -152.94239396, 59.28637943]
    green = powers @ [0.09140261, 2.19418839, 4.84296658, -14.18503333, 4.27729857, 2.82956604]
    blue = powers @ [0.10667330, 12.64194608, -60.58204836, 110.36276771, -89.90310912, 27.34824973]
    difference = np.abs(turbo_table().numpy() - np.stack([red, green, blue], axis=-1))
    assert difference.max() < 0.13  # at the dark ends, where the polynomial is known to be off
    assert difference.mean() < 0.03


def test_turbo_picture_near_is_one_and_unknown_is_far():
    log_range = torch.log(torch.tensor([0.5, 4.0]))
    depth = torch.tensor([[[0.5, 4.0, np.nan, 0.0, 100.0, 0.1, np.sqrt(2.0)]]], dtype=torch.float32)
    unit, known = log_depth_unit(depth, log_range)
    np.testing.assert_allclose(unit[0, 0].numpy(), [1, 0, 0, 0, 0, 1, 0.5], atol=1e-6)
    assert known[0, 0].tolist() == [1, 1, 0, 0, 1, 1, 1]
    picture = turbo_picture(depth, log_range)[0, :, 0].numpy()
    table = cv2.applyColorMap(np.array([[255, 0, 0, 0, 0, 255, 127]], np.uint8), cv2.COLORMAP_TURBO)[0, :, ::-1] / 255
    np.testing.assert_allclose(picture.T, table, atol=1e-6)
