"""Forecast metrics against plain references and against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.evaluation import metrics
from traceworld.evaluation.metrics import (
    average_keypoints,
    dtw_reference,
    forecast_metrics,
    forecast_metrics_per_keypoint,
    frechet_reference,
)


def random_case(seed: int, S=3, K=4, T=9):
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(K, T, 3)).cumsum(1)
    pred = true + rng.normal(0, 0.7, (S, K, T, 3)).cumsum(2)
    valid = rng.random((K, T)) < rng.random((K, 1))
    return pred, true, valid


def plain(pred, true, valid, horizon, dims=3):
    """The definitions, one keypoint and one sample at a time."""
    S, K = pred.shape[:2]
    table = {name: np.full((S, K), np.nan) for name in metrics.METRICS}
    for s in range(S):
        for k in range(K):
            keep = valid[k, :horizon]
            a, b = pred[s, k, :horizon][keep][:, :dims], true[k, :horizon][keep][:, :dims]
            if not len(a):
                continue
            distance = np.linalg.norm(a - b, axis=1)
            table["ade"][s, k], table["fde"][s, k] = distance.mean(), distance[-1]
            table["dtw"][s, k], table["fd"][s, k] = dtw_reference(a, b), frechet_reference(a, b)
    return table


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["uvz", "uv"]))
def test_equals_the_plain_definitions(seed, dims):
    pred, true, valid = random_case(seed)
    true[~valid] = np.nan  # hidden truth may be anything
    fast = forecast_metrics(pred, true, valid, (1, 4, 9), dims)
    for horizon in (1, 4, 9):
        counted = valid[:, :horizon].any(1)
        assert fast[f"num_keypoints@{horizon}"] == counted.sum()
        for name, values in plain(pred, true, valid, horizon, len(dims)).items():
            expected_1 = values[0, counted].mean() if counted.any() else np.nan
            expected_S = values[:, counted].min(0).mean() if counted.any() else np.nan
            np.testing.assert_allclose(fast[f"top1_{name}@{horizon}"], expected_1)
            np.testing.assert_allclose(fast[f"topS_{name}@{horizon}"], expected_S)


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_all_prefixes_of_one_table(seed, T):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 3, T, 2))
    dtw, frechet = metrics.prefix_alignments(a, b)
    for p in range(3):
        for i in range(1, T + 1):
            assert dtw[i - 1, p] / i == pytest.approx(dtw_reference(a[p, :i], b[p, :i]))
            assert frechet[i - 1, p] == pytest.approx(frechet_reference(a[p, :i], b[p, :i]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_orders_that_must_hold(seed):
    pred, true, valid = random_case(seed, S=4, K=6, T=8)
    each = forecast_metrics_per_keypoint(pred, true, valid, (8,))
    known = valid.any(1)
    for top in ("top1", "topS"):
        ade, fde, dtw, fd = (each[f"{top}_{name}@8"][known] for name in metrics.METRICS)
        assert (dtw <= ade + 1e-12).all()
        assert (dtw <= 2 * fd + 1e-12).all()  # a warping path has fewer than 2 T steps, and DTW divides by T
        assert (fde <= fd + 1e-12).all()  # both paths end on their last steps
    for name in metrics.METRICS:
        assert (each[f"topS_{name}@8"][known] <= each[f"top1_{name}@8"][known]).all()
        assert np.isnan(each[f"top1_{name}@8"][~known]).all()


def test_dtw_forgives_a_lag_and_frechet_finds_the_excursion():
    t = np.arange(32)[None, :, None] * np.array([0.1, 0, 0])
    lag = np.maximum(t - 0.3, 0)
    result = forecast_metrics(lag[None], t, np.ones((1, 32), bool))
    assert result["top1_dtw@32"] < 0.25 * result["top1_ade@32"]
    bump = np.zeros((1, 1, 32, 3))
    bump[0, 0, 10, 1] = 5.0
    result = forecast_metrics(bump, np.zeros((1, 32, 3)), np.ones((1, 32), bool))
    assert result["top1_fd@32"] == 5.0
    assert result["top1_ade@32"] == pytest.approx(5 / 32)
    assert result["top1_fd@8"] == 0


def test_best_sample_is_chosen_per_keypoint_and_fde_at_the_last_valid_step():
    true = np.zeros((2, 8, 3))
    pred = np.zeros((2, 2, 8, 3))
    pred[0, 0], pred[1, 1] = 1.0, 1.0  # each sample is right on one keypoint
    valid = np.ones((2, 8), bool)
    result = forecast_metrics(pred, true, valid, (8,))
    assert result["topS_ade@8"] == 0
    assert result["top1_ade@8"] == pytest.approx(np.sqrt(3) / 2)
    pred[:, 0, 5:] = 9.0
    valid[0, 5:] = False
    assert forecast_metrics(pred, true, valid, (8,))["top1_fde@8"] == pytest.approx(np.sqrt(3) / 2)


def test_permutation_dtype_and_chunking(monkeypatch):
    pred, true, valid = random_case(5, S=2, K=7, T=8)
    result = forecast_metrics(pred, true, valid, (4, 8))
    order = np.random.default_rng(0).permutation(7)
    for key, value in forecast_metrics(pred[:, order], true[order], valid[order], (4, 8)).items():
        assert value == pytest.approx(result[key], nan_ok=True)
    narrow = forecast_metrics(pred.astype(np.float32), true.astype(np.float32), valid, (4, 8))
    assert narrow["topS_dtw@8"] == pytest.approx(result["topS_dtw@8"], rel=1e-5)
    monkeypatch.setattr(metrics, "_CHUNK_BYTES", 3 * 8 * 8 * 8)
    for key, value in forecast_metrics(pred, true, valid, (4, 8)).items():
        assert value == pytest.approx(result[key], nan_ok=True, rel=1e-12)


def test_averages_weigh_keypoints_not_slots():
    a = random_case(1, K=2)
    b = random_case(2, K=9)
    parts = [forecast_metrics_per_keypoint(*case, (4, 9)) for case in (a, b)]
    joined = average_keypoints(parts)
    together = forecast_metrics(
        *(np.concatenate([x, y], axis) for x, y, axis in zip(a, b, (1, 0, 0), strict=True)), (4, 9)
    )
    assert joined.keys() == together.keys()
    for key, value in joined.items():
        assert value == pytest.approx(together[key])
    assert average_keypoints([]) == {}


def test_nothing_to_score_is_nan():
    pred, true, valid = random_case(0)
    for case in ((pred, true, valid & False), (pred[:, :0], true[:0], valid[:0])):
        result = forecast_metrics(*case, (9,))
        assert result["num_keypoints@9"] == 0
        assert np.isnan(result["topS_dtw@9"])
    late = np.zeros((4, 9), bool)
    late[:, 6] = True
    result = forecast_metrics(pred, true, late, (4, 9))
    assert np.isnan(result["top1_ade@4"])
    assert result["top1_ade@9"] == pytest.approx(result["top1_fd@9"])


def test_bad_input_is_refused():
    pred, true, valid = random_case(0)
    valid[0, 0] = True
    with pytest.raises(InvalidInputError, match="horizon 16 with traces of 9"):
        forecast_metrics(pred, true, valid)
    with pytest.raises(InvalidInputError):
        forecast_metrics(pred, true, valid, (0,))
    with pytest.raises(InvalidInputError, match="samples"):
        forecast_metrics(pred[:0], true, valid, (9,))
    with pytest.raises(ConfigError):
        forecast_metrics(pred, true, valid, (9,), dims="xyz")
    pred[1, 0, 0, 2] = np.nan
    with pytest.raises(InvalidInputError, match="pred_uvz"):
        forecast_metrics(pred, true, valid, (9,))
    assert np.isfinite(forecast_metrics(pred, true, valid, (9,), dims="uv")["top1_ade@9"])  # z is not scored there
