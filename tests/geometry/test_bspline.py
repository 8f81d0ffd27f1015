"""B-splines against the recursion that defines them, and eq. 4 against a least-squares solve per keypoint."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.geometry import bspline


def cox_de_boor(i: int, k: int, knots: np.ndarray, t: float) -> float:
    if k == 0:
        last = t == knots[-1] and knots[i] < knots[i + 1] == knots[-1]
        return float(knots[i] <= t < knots[i + 1] or last)
    left, right = knots[i + k] - knots[i], knots[i + k + 1] - knots[i + 1]
    value = (t - knots[i]) / left * cox_de_boor(i, k - 1, knots, t) if left else 0.0
    return value + ((knots[i + k + 1] - t) / right * cox_de_boor(i + 1, k - 1, knots, t) if right else 0.0)


UNIFORM = np.r_[[0.0] * 4, np.arange(1, 7) / 7, [1.0] * 4]


def test_uniform_basis_is_the_clamped_uniform_cubic():
    B = bspline.basis()
    assert B.shape == (33, 10)
    expected = [[cox_de_boor(i, 3, UNIFORM, t / 32) for i in range(10)] for t in range(33)]
    np.testing.assert_allclose(B, expected, atol=1e-12)
    np.testing.assert_allclose(B, BSpline.design_matrix(np.arange(33) / 32, UNIFORM, 3).toarray())


def test_official_basis_is_three_bezier_pieces():
    B = bspline.basis(knots="official")
    expected = np.zeros((33, 10))
    for row in range(33):
        t = row / 32
        piece = min(int(t * 3), 2)
        u = t * 3 - piece
        expected[row, 3 * piece : 3 * piece + 4] = [comb(3, i) * u**i * (1 - u) ** (3 - i) for i in range(4)]
    np.testing.assert_allclose(B, expected, atol=1e-12)
    assert np.abs(B - bspline.basis()).max() == pytest.approx(0.37, abs=0.02)  # what loading the wrong knots would cost


@pytest.mark.parametrize("knots", ["uniform", "official"])
@pytest.mark.parametrize("num_controls", [4, 7, 10])
def test_basis_is_clamped_and_sums_to_one(knots, num_controls):
    B = bspline.basis(20, num_controls, knots=knots)
    np.testing.assert_array_equal(B[0], np.eye(num_controls)[0])
    np.testing.assert_array_equal(B[-1], np.eye(num_controls)[-1])
    np.testing.assert_allclose(B.sum(1), 1)
    assert (B >= 0).all()
    assert not B.flags.writeable


def test_impossible_bases_are_refused():
    for arguments in ({"num_controls": 3}, {"num_controls": 9, "knots": "official"}, {"knots": "b"}, {"horizon": 0}):
        with pytest.raises(ConfigError):
            bspline.basis(**arguments)


def lstsq_reference(future, valid, ridge, clip, knots, D):
    """Eq. 4 as printed, one keypoint at a time: stacked rows, numpy's least squares."""
    N, H, _ = future.shape
    controls, usable = np.zeros((N, D, 3)), valid.sum(1) >= D
    B, gamma = bspline.basis(H, D, knots=knots), np.diff(np.eye(D), axis=0)
    for n in np.flatnonzero(usable):
        mask = np.r_[1.0, valid[n]][:, None]
        target = np.concatenate([np.zeros((1, 3)), np.nan_to_num(future[n])])
        rows, right = np.concatenate([mask * B, ridge * gamma]), np.concatenate([mask * target, np.zeros((D - 1, 3))])
        controls[n] = np.linalg.lstsq(rows, right, rcond=None)[0]
    return np.clip(controls, -clip, clip), usable


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from(["uniform", "official"]), st.sampled_from([0.02, 0.2, 1.0]), st.booleans()
)
def test_fit_equals_least_squares_per_keypoint(seed, knots, ridge, complete):
    rng = np.random.default_rng(seed)
    N, H, D = int(rng.integers(1, 9)), int(rng.integers(12, 40)), int(rng.choice([4, 7, 10]))
    future = rng.normal(0, 0.3, (N, H, 3)).cumsum(1)
    valid = np.ones((N, H), bool) if complete else rng.random((N, H)) < rng.random((N, 1))
    future[~valid] = np.nan
    controls, usable = bspline.fit_controls(future, valid, ridge, 1.5, knots, num_controls=D)
    expected, expected_usable = lstsq_reference(future, valid, ridge, 1.5, knots, D)
    np.testing.assert_array_equal(usable, expected_usable)
    np.testing.assert_allclose(controls, expected, atol=1e-7)


def test_without_ridge_a_spline_comes_back_exactly():
    rng = np.random.default_rng(0)
    truth = rng.uniform(-1, 1, (5, 10, 3))
    truth[:, 0] = 0  # the anchor
    controls, usable = bspline.fit_controls(bspline.decode(truth), np.ones((5, 32), bool), ridge=0.0)
    assert usable.all()
    np.testing.assert_allclose(controls, truth, atol=1e-8)


def test_without_ridge_untouched_controls_take_the_least_norm():
    valid = np.arange(32) < 12  # later control points see no data
    controls, usable = bspline.fit_controls(np.ones((1, 32, 3)), valid[None], ridge=0.0, clip=None)
    assert usable.all()
    assert np.isfinite(controls).all()
    np.testing.assert_array_less(np.abs(controls[0, 8:]), 1e-6)


def test_invalid_steps_exert_no_pull_and_few_steps_are_not_usable():
    rng = np.random.default_rng(1)
    future = rng.normal(0, 0.2, (3, 32, 3)).astype(np.float32)
    valid = np.ones((3, 32), bool)
    valid[0, 20:], valid[1, 9:] = False, False
    other = future.copy()
    other[~valid] = 1e6
    a, usable = bspline.fit_controls(future, valid)
    b, _ = bspline.fit_controls(other, valid)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(usable, [True, False, True])
    assert not a[1].any()
    assert a.dtype == np.float32


def test_clip_permutation_and_faults():
    rng = np.random.default_rng(2)
    future = rng.normal(0, 1, (6, 32, 3)).cumsum(1)
    valid = rng.random((6, 32)) < 0.7
    controls, usable = bspline.fit_controls(future, valid)
    assert np.abs(controls).max() == 1.5
    free, _ = bspline.fit_controls(future, valid, clip=None)
    assert np.abs(free).max() > 1.5
    order = rng.permutation(6)
    shuffled, _ = bspline.fit_controls(future[order], valid[order])
    np.testing.assert_allclose(shuffled, controls[order], atol=1e-12)
    empty, none = bspline.fit_controls(future[:0], valid[:0])
    assert empty.shape == (0, 10, 3)
    assert none.shape == (0,)
    future[usable.argmax(), valid[usable.argmax()].argmax()] = np.nan
    with pytest.raises(InvalidInputError, match="marked valid"):
        bspline.fit_controls(future, valid)
    with pytest.raises(ConfigError):
        bspline.fit_controls(future, valid, ridge=-1.0)


@pytest.mark.parametrize("knots", ["uniform", "official"])
def test_decode_strips_the_anchor_and_torch_agrees(knots):
    rng = np.random.default_rng(3)
    controls = rng.normal(size=(2, 4, 10, 3))
    trace = bspline.decode(controls, 16, knots)
    assert trace.shape == (2, 4, 16, 3)
    np.testing.assert_allclose(trace[1, 2], bspline.basis(16, knots=knots)[1:] @ controls[1, 2])
    np.testing.assert_allclose(trace[..., -1, :], controls[..., -1, :])
    tensor = torch.tensor(controls, dtype=torch.float32, requires_grad=True)
    decoded = bspline.decode(tensor, 16, knots)
    np.testing.assert_allclose(decoded.detach().numpy(), trace, atol=1e-5)
    decoded.sum().backward()
    assert tensor.grad is not None


def test_torch_decode_stays_exact_under_autocast_and_half_precision():
    controls = torch.randn(3, 10, 3, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(bspline.decode(controls), bspline.decode(controls.clone()))
        assert bspline.decode(controls).dtype == torch.float32
    assert bspline.decode(controls.bfloat16()).dtype == torch.float32
    assert bspline.decode(controls.double()).dtype == torch.float64


def test_float32_numpy_stays_float32():
    assert bspline.decode(np.zeros((2, 10, 3), np.float32)).dtype == np.float32
