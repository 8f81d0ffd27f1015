import pytest
from scipy.stats import binomtest

from traceworld.errors import InvalidInputError
from traceworld.evaluation.intervals import wilson_interval


@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (1, 20), (17, 20), (20, 20), (511, 1000), (1, 1)])
def test_equals_scipys(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_its_ends_are_where_the_rate_is_just_not_significantly_different():
    low, high = wilson_interval(13, 40)
    for end in (low, high):
        assert abs(13 / 40 - end) == pytest.approx(1.959963984540054 * (end * (1 - end) / 40) ** 0.5)


def test_no_trial_says_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "trials"), [(3, 2), (-1, 2), (0, -1)])
def test_impossible_counts(successes, trials):
    with pytest.raises(InvalidInputError):
        wilson_interval(successes, trials)
