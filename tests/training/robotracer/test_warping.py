"""Dynamic time warping against every monotone path, written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from traceworld.errors import InvalidInputError
from traceworld.training.robotracer.warping import warping_cost, warping_distance


def every_path(rows: int, columns: int, at=(0, 0)):
    """All warping paths from `at` to the last pair."""
    if at == (rows - 1, columns - 1):
        yield [at]
        return
    for step in ((0, 1), (1, 0), (1, 1)):
        following = (at[0] + step[0], at[1] + step[1])
        if following[0] < rows and following[1] < columns:
            for rest in every_path(rows, columns, following):
                yield [at, *rest]


traces = hnp.arrays(
    float, st.tuples(st.integers(1, 5), st.just(2)), elements=st.integers(-3, 3).map(float)
)  # whole numbers, so that paths often cost the same


@settings(max_examples=60, deadline=None)
@given(traces, traces)
def test_cost_is_that_of_the_cheapest_and_then_shortest_path(a, b):
    cost = np.linalg.norm(a[:, None] - b[None], axis=-1)
    best = min((sum(cost[pair] for pair in path), len(path)) for path in every_path(len(a), len(b)))
    found = warping_cost(a, b)
    assert found[0] == pytest.approx(best[0], abs=1e-9)
    assert warping_distance(a, b) == pytest.approx(found[0] / found[1])


@settings(max_examples=60, deadline=None)
@given(traces, traces)
def test_it_does_not_matter_which_trace_is_named_first(a, b):
    assert warping_cost(a, b)[0] == pytest.approx(warping_cost(b, a)[0], abs=1e-9)
    assert warping_distance(a, a) == 0


def test_numbers_by_hand():
    a = np.array([[0.0, 0.0], [1.0, 0.0]])
    b = np.array([[0.0, 0.0], [0.5, 0.0], [1.0, 0.0]])
    assert warping_cost(a, b) == (0.5, 3)
    assert warping_distance(a, b) == pytest.approx(1 / 6)
    assert warping_distance(a, b, normalise=False) == 0.5


def test_saying_every_point_twice_costs_nothing():
    a = np.random.default_rng(0).random((4, 3))
    assert warping_distance(np.repeat(a, 2, axis=0), a) == 0


def test_points_far_from_the_other_trace_are_not_hidden_by_many_points():
    line = np.stack([np.linspace(0, 1, 50), np.zeros(50)], 1)
    assert warping_distance(line + np.array([0, 0.3]), line) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros((0, 2)), np.zeros((1, 2))),
        (np.zeros((1, 2)), np.zeros((1, 3))),
        (np.full((1, 2), np.nan), np.zeros((1, 2))),
    ],
)
def test_what_cannot_be_aligned_is_refused(a, b):
    with pytest.raises(InvalidInputError):
        warping_cost(a, b)
