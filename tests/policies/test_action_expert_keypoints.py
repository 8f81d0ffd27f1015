"""Query points: as many for every picture, on what is of a look of its own, in a few milliseconds."""

import numpy as np
import pytest
from policy_toys import picture

from traceworld.errors import ConfigError
from traceworld.policies.action_expert.config import QueryConfig
from traceworld.policies.action_expert.keypoints import choose_queries, salient_grid, semantic_keypoints, uniform_grid


def box_picture(top=20, left=80, side=12) -> np.ndarray:
    image = np.full((96, 128, 3), 120, np.uint8)
    image[top : top + side, left : left + side] = (220, 30, 30)
    return image


def inside(uv, top=20, left=80, side=12, margin=4):
    x, y = (uv[:, 0] + 1) / 2 * 128, (uv[:, 1] + 1) / 2 * 96
    return (x > left - margin) & (x < left + side + margin) & (y > top - margin) & (y < top + side + margin)


def test_a_small_thing_gets_more_points_than_its_area():
    found = semantic_keypoints(box_picture(), 24)
    share = inside(found).mean()
    area = 20 * 20 / (96 * 128)
    assert share > 4 * area
    assert inside(uniform_grid(6, 4)).mean() <= 2 / 24


def test_points_follow_the_thing():
    assert inside(semantic_keypoints(box_picture(left=10), 24), left=10).sum() >= 3


@pytest.mark.parametrize("kind", ["semantic", "salient_grid", "uniform_grid"])
def test_number_range_and_repeatability(kind):
    config = QueryConfig(kind=kind, count=16, grid=(4, 4))
    for seed in range(3):
        uv = choose_queries(picture(seed), config)
        assert uv.shape == (config.points, 2) == (16, 2)
        assert uv.dtype == np.float32
        assert np.abs(uv).max() <= 1
        assert np.array_equal(uv, choose_queries(picture(seed), config))


def test_semantic_points_are_distinct_even_on_plain_surface():
    uv = semantic_keypoints(np.full((48, 64, 3), 90, np.uint8), 20)
    assert len(np.unique(uv, axis=0)) == 20
    assert uv.std(axis=0).min() > 0.3


def test_salient_points_lie_on_corners_in_their_cells():
    uv = salient_grid(box_picture(top=30, left=40, side=10), 2, 2)
    x, y = (uv[:, 0] + 1) / 2 * 128, (uv[:, 1] + 1) / 2 * 96
    assert (x[[0, 2]] < 64).all()
    assert (y[[0, 1]] < 48).all()
    assert min(abs(x[0] - 40), abs(x[0] - 49)) < 3
    assert min(abs(y[0] - 30), abs(y[0] - 39)) < 3


def test_the_released_grid():
    uv = uniform_grid(20, 20)
    assert uv.shape == (400, 2)
    assert np.allclose(uv[0], (-1, -1))
    assert np.allclose(uv[19], (1, -1))  # u runs fastest, the outer points lie on the edge
    assert np.allclose(uv[20, 1] - uv[0, 1], 2 / 19)


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="cells"):
        semantic_keypoints(np.zeros((4, 4, 3), np.uint8), 40)
    with pytest.raises(ConfigError, match="cells"):
        salient_grid(np.zeros((4, 4, 3), np.uint8), 8, 6)
    with pytest.raises(ConfigError, match="divide"):
        QueryConfig(kind="uniform_grid", grid=(5, 5), pool=2)
