"""Farthest-point sampling against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from traceworld.errors import InvalidInputError
from traceworld.geometry.sampling import farthest_point_sampling


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(0, 50), st.booleans())
def test_each_choice_is_the_farthest_left(seed, M, k, with_seeds):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(M, 2))
    seeds = rng.normal(size=(3, 2)) if with_seeds else None
    chosen = farthest_point_sampling(points, k, seeds=seeds)
    assert len(chosen) == len(set(chosen.tolist())) == min(k, M)
    for i in range(0 if with_seeds else 1, len(chosen)):
        held = points[chosen[:i]] if seeds is None else np.concatenate([seeds, points[chosen[:i]]])
        gap = cdist(points, held).min(1)
        gap[chosen[:i]] = -1
        assert gap[chosen[i]] == pytest.approx(gap.max())


def test_deterministic_independent_of_order_and_start():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 3))
    order = rng.permutation(60)
    a, b = farthest_point_sampling(points, 12), farthest_point_sampling(points[order], 12)
    np.testing.assert_array_equal(a, order[b])
    assert farthest_point_sampling(points, 5, start=17)[0] == 17
    np.testing.assert_array_equal(farthest_point_sampling(np.zeros((4, 2)), 3), [0, 1, 2])  # duplicates stay distinct


def test_empty_and_bad_input():
    assert len(farthest_point_sampling(np.zeros((0, 2)), 5)) == 0
    assert len(farthest_point_sampling(np.ones((3, 2)), 0)) == 0
    for kwargs in ({"k": -1}, {"k": 2, "start": 3}):
        with pytest.raises(InvalidInputError):
            farthest_point_sampling(np.ones((3, 2)), **kwargs)
    with pytest.raises(InvalidInputError, match="NaN"):
        farthest_point_sampling(np.array([[np.nan, 0.0]]), 1)
