"""TAPVid-3D metrics against a count of every point by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.evaluation.tracks import tapvid3d_metrics

K = np.array([[600.0, 0, 320], [0, 560.0, 240], [0, 0, 1]])
SIZE = (640, 480)


def plain(true, true_visible, pred, pred_visible, scaling="none"):
    """The definitions of the benchmark, one point and one frame at a time."""
    if scaling == "median":
        both = true_visible & pred_visible
        pred = pred * np.median(np.linalg.norm(true[both], axis=1)) / np.median(np.linalg.norm(pred[both], axis=1))
    focal = np.sqrt(600.0 * 560.0) * 256 / 480
    jaccards, shares = [], []
    for threshold in (1, 2, 4, 8, 16):
        hits = tp = fp = p = 0
        for n, t in np.ndindex(true_visible.shape):
            near = bool(np.linalg.norm(pred[n, t] - true[n, t]) < threshold * true[n, t, 2] / focal)
            p += true_visible[n, t]
            hits += true_visible[n, t] and near
            tp += true_visible[n, t] and near and pred_visible[n, t]
            fp += pred_visible[n, t] and (not true_visible[n, t] or not near)
        jaccards.append(tp / (p + fp))
        shares.append(hits / p)
    return {"aj": np.mean(jaccards), "apd3d": np.mean(shares), "oa": np.mean(true_visible == pred_visible)}


def random_case(seed):
    rng = np.random.default_rng(seed)
    N, T = rng.integers(1, 5), rng.integers(1, 7)
    true = rng.uniform([-1, -1, 0.5], [1, 1, 3], (N, T, 3))
    pred = true + rng.normal(size=(N, T, 3)) * rng.choice([0.001, 0.01, 0.05], (N, T, 1))
    true_visible = rng.random((N, T)) < 0.7
    true_visible[0, 0] = True
    pred_visible = rng.random((N, T)) < 0.7
    pred_visible[0, 0] = True
    return true, true_visible, pred, pred_visible


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["none", "median"]))
def test_equals_the_count_by_hand(seed, scaling):
    case = random_case(seed)
    assert tapvid3d_metrics(*case, K, SIZE, scaling) == pytest.approx(plain(*case, scaling))


def test_perfect_and_hopeless():
    true, true_visible, _, _ = random_case(3)
    perfect = tapvid3d_metrics(true, true_visible, true, true_visible, K, SIZE)
    assert perfect == {"aj": 1.0, "apd3d": 1.0, "oa": 1.0}
    far = tapvid3d_metrics(true, true_visible, true + 10, ~true_visible, K, SIZE)
    assert far == {"aj": 0.0, "apd3d": 0.0, "oa": 0.0}


def test_the_distance_test_is_strict_and_scales_with_the_image():
    k = np.diag([256.0, 256.0, 1.0])
    true = np.array([[[0.0, 0.0, 1.0]]])
    seen = np.ones((1, 1), bool)
    on_the_line = true + np.array([4 / 256, 0, 0])  # exactly 4 px of a 256 px image
    assert tapvid3d_metrics(true, seen, on_the_line, seen, k, (256, 256))["apd3d"] == pytest.approx(2 / 5)
    inside = true + np.array([4 / 256 * (1 - 1e-9), 0, 0])
    assert tapvid3d_metrics(true, seen, inside, seen, k, (256, 256))["apd3d"] == pytest.approx(3 / 5)
    # The same camera at twice the resolution gives the same scores; only the smaller side decides.
    k2 = np.diag([512.0, 512.0, 1.0])
    for size in ((512, 700), (700, 512)):
        assert tapvid3d_metrics(true, seen, inside, seen, k2, size)["apd3d"] == pytest.approx(3 / 5)


def test_median_scaling_undoes_a_wrong_unit_and_none_does_not():
    true, visible, pred, pred_visible = random_case(8)
    a = tapvid3d_metrics(true, visible, pred, pred_visible, K, SIZE, "median")
    b = tapvid3d_metrics(true, visible, pred * 1000, pred_visible, K, SIZE, "median")
    assert a == pytest.approx(b)
    assert tapvid3d_metrics(true, visible, true * 1000, visible, K, SIZE)["aj"] == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_order_of_points_and_hidden_truth_do_not_matter(seed):
    true, true_visible, pred, pred_visible = random_case(seed)
    before = tapvid3d_metrics(true, true_visible, pred, pred_visible, K, SIZE)
    order = np.random.default_rng(seed).permutation(len(true))
    shuffled = tapvid3d_metrics(true[order], true_visible[order], pred[order], pred_visible[order], K, SIZE)
    assert shuffled == pytest.approx(before)
    hidden = true.copy()
    hidden[~true_visible] = np.nan
    assert tapvid3d_metrics(hidden, true_visible, pred, pred_visible, K, SIZE) == pytest.approx(before)


def test_a_missing_prediction_is_a_miss():
    true, seen = np.array([[[0.0, 0, 1], [0, 0, 1]]]), np.ones((1, 2), bool)
    pred = true.copy()
    pred[0, 1] = np.nan
    for scaling in ("none", "median"):
        result = tapvid3d_metrics(true, seen, pred, seen, K, SIZE, scaling)
        assert result["apd3d"] == 0.5
        assert result["aj"] == pytest.approx(1 / 3)  # said to be visible: a false positive too
    silent = np.array([[True, False]])
    assert tapvid3d_metrics(true, seen, pred, silent, K, SIZE)["aj"] == 0.5


def test_nothing_visible_and_nothing_at_all():
    true, none, some = np.zeros((2, 3, 3)), np.zeros((2, 3), bool), np.ones((2, 3), bool)
    result = tapvid3d_metrics(true, none, true, none, K, SIZE, "median")
    assert np.isnan(result["aj"])
    assert np.isnan(result["apd3d"])
    assert result["oa"] == 1
    assert tapvid3d_metrics(true, none, true, some, K, SIZE)["aj"] == 0
    empty = tapvid3d_metrics(true[:0], none[:0], true[:0], none[:0], K, SIZE)
    assert np.isnan(list(empty.values())).all()


def test_bad_input_is_refused():
    true, seen = np.full((1, 1, 3), np.nan), np.ones((1, 1), bool)
    with pytest.raises(InvalidInputError, match="not finite"):
        tapvid3d_metrics(true, seen, true, seen, K, SIZE)
    good = np.ones((1, 1, 3))
    with pytest.raises(ConfigError):
        tapvid3d_metrics(good, seen, good, seen, K, SIZE, "mean")
    for k, size in ((K * 0, SIZE), (K, (0, 480))):
        with pytest.raises(InvalidInputError):
            tapvid3d_metrics(good, seen, good, seen, k, size)
