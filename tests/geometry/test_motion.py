"""Trace diameter against all pairwise distances."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from traceworld.geometry.motion import EXACT_UP_TO, SHORTFALL, trace_diameter


@given(st.integers(0, 1000), st.integers(0, 12), st.integers(0, 6))
def test_equals_the_largest_pairwise_distance(seed, T, N):
    rng = np.random.default_rng(seed)
    path = rng.normal(0, 50, (T, N, 3))
    visible = rng.random((T, N)) < 0.6
    path[~visible] = np.nan  # hidden positions may be anything
    found = trace_diameter(path, visible, lambda_z=0.3)
    for n in range(N):
        seen = path[visible[:, n], n] * [1, 1, 0.3]
        expected = pdist(seen).max() if len(seen) > 1 else 0.0
        np.testing.assert_allclose(found[n], expected)


def test_default_weight_visibility_and_unfinite_positions():
    path = np.zeros((3, 2, 3), np.float32)
    path[1, 0] = [30, 40, 0]
    path[2, 0] = [0, 0, 10]
    path[1, 1] = np.inf
    np.testing.assert_allclose(trace_diameter(path, np.ones((3, 2), bool)), [np.sqrt(2501), 0])
    visible = np.array([[True, True], [False, True], [True, True]])
    np.testing.assert_allclose(trace_diameter(path, visible), [1.0, 0])  # 10 m · 0.1, the far frame being hidden


def test_there_and_back_counts_the_full_way():
    x = np.concatenate([np.linspace(0, 60, 20), np.linspace(60, 0, 20)])
    path = np.stack([x, 0 * x, 0 * x], -1)[:, None]
    np.testing.assert_allclose(trace_diameter(path, np.ones((40, 1), bool)), [60])


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_long_traces_are_within_the_stated_shortfall(seed):
    rng = np.random.default_rng(seed)
    T = EXACT_UP_TO + 50
    walk = np.cumsum(rng.normal(0, 1, (T, 3, 3)), 0) * rng.uniform(0.1, 3, 3)
    walk[:, 1] = rng.normal(0, 1, (T, 3)) / 50 + 5  # jitter about a place
    ball = rng.normal(size=(T, 3))
    walk[:, 2] = 30 * ball / np.linalg.norm(ball, axis=-1, keepdims=True)  # as many outermost points as there can be
    visible = rng.random((T, 3)) < 0.7
    found = trace_diameter(walk, visible, lambda_z=1)
    for n in range(3):
        exact = pdist(walk[visible[:, n], n]).max()
        assert exact * (1 - SHORTFALL) <= found[n] <= exact * (1 + 1e-12)


def test_a_long_trace_along_a_line_is_exact():
    x = np.append(np.linspace(90, 10, EXACT_UP_TO), 0)
    path = np.stack([3 * x, 4 * x, 0 * x], -1)[:, None]
    np.testing.assert_allclose(trace_diameter(path, np.ones((len(x), 1), bool)), [450])
