import numpy as np
import pytest
from scipy.spatial.distance import directed_hausdorff

from traceworld.errors import InvalidInputError
from traceworld.tracespatial import paths


def plain_frechet(a, b):
    """The recursion of Eiter and Mannila, as a table."""
    table = np.full((len(a), len(b)), np.inf)
    for i in range(len(a)):
        for j in range(len(b)):
            before = [table[x, y] for x, y in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if x >= 0 and y >= 0]
            table[i, j] = max(np.linalg.norm(a[i] - b[j]), min(before) if before else 0.0)
    return table[-1, -1]


@pytest.mark.parametrize("dims", [2, 3])
def test_distances_against_plain_ones(dims):
    rng = np.random.default_rng(dims)
    for _ in range(5):
        a, b = rng.normal(size=(rng.integers(1, 9), dims)), rng.normal(size=(rng.integers(1, 9), dims))
        assert paths.discrete_frechet(a, b) == pytest.approx(plain_frechet(a, b))
        assert paths.hausdorff(a, b) == pytest.approx(max(directed_hausdorff(a, b)[0], directed_hausdorff(b, a)[0]))
    a, b = rng.normal(size=(7, dims)), rng.normal(size=(7, dims))
    assert paths.rmse(a, b) == pytest.approx(
        np.sqrt(np.mean([np.sum((x - y) ** 2) for x, y in zip(a, b, strict=True)]))
    )
    assert paths.mae(a, b) == pytest.approx(sum(abs(a - b).ravel()) / a.size)


def test_many_equal_one_at_a_time():
    rng = np.random.default_rng(3)
    pairs = [(rng.normal(size=(rng.integers(1, 9), 3)), rng.normal(size=(4, 3))) for _ in range(70)]
    for one, pair in zip(paths.many_path_errors(pairs), pairs, strict=True):
        assert one == pytest.approx(paths.path_errors(*pair))
    a, b = (paths.resample(path) for path in pairs[0])
    assert paths.path_errors(*pairs[0]).frechet == pytest.approx(plain_frechet(a, b))


def test_resampling_is_uniform_and_keeps_the_ends():
    path = np.array([[0.0, 0], [1, 0], [1, 0], [1, 3]])
    found = paths.resample(path, 9)
    np.testing.assert_allclose(found[[0, -1]], path[[0, -1]])
    np.testing.assert_allclose(np.linalg.norm(np.diff(found, axis=0), axis=1), 0.5)
    np.testing.assert_allclose(paths.resample(path[:1], 5), np.zeros((5, 2)))
    np.testing.assert_allclose(paths.resample(path[[0, 0, 1]], 3), [[0, 0], [0.5, 0], [1, 0]])  # repeated at the front


def test_every_keeps_corners_and_steps():
    path = np.array([[0.0, 0, 0], [0.095, 0, 0], [0.095, 0.2, 0]])
    found = paths.every(path, 0.01)
    assert np.linalg.norm(np.diff(found, axis=0), axis=1).max() <= 0.01 + 1e-9
    assert all((np.abs(found - corner).max(axis=1) < 1e-12).any() for corner in path)
    assert len(paths.every(np.array([[0.0], [1e9]]), 0.01)) <= 5_001
    assert len(paths.every(path[:1], 0.01)) == 1


@pytest.mark.parametrize(
    "path", [np.zeros((0, 2)), np.array([[0.0, np.nan], [1, 1]]), np.array([[0.0, np.inf], [1, 1]])]
)
def test_no_path(path):
    with pytest.raises(InvalidInputError):
        paths.resample(path)
    with pytest.raises(InvalidInputError):
        paths.every(path, 0.1)


def test_dimensions_do_not_mix():
    with pytest.raises(InvalidInputError):
        paths.many_path_errors([(np.zeros((2, 2)), np.zeros((2, 2))), (np.zeros((2, 3)), np.zeros((2, 3)))])
