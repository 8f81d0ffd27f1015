"""Query points: as many for every picture, on what is of a look of its own, in a few milliseconds."""

import numpy as np
import pytest
from policy_toys import picture

from traceworld.errors import ConfigError
from traceworld.policies.action_expert.config import QueryConfig
from traceworld.policies.action_expert.keypoints import (
    choose_queries,
    salient_grid,
    semantic_keypoints,
    small_things,
    uniform_grid,
)


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


def table_with_a_puck(x=100, y=60) -> np.ndarray:
    """A table whose edge and whose stripes are clearer than the thing on it, of 4×4 pixels."""
    image = np.full((144, 192, 3), 130, np.uint8)
    image[40:] = (150, 110, 90)
    image[:, :30] = (180, 30, 30)
    image[120:, ::7] = (30, 20, 10)
    image[y : y + 4, x : x + 4] = (110, 20, 20)
    return image


@pytest.mark.parametrize(("x", "y"), [(100, 60), (61, 83), (150, 101), (39, 47)])
def test_a_point_lies_on_a_puck(x, y):
    image = table_with_a_puck(x, y)
    px = (small_things(image) + 1) / 2 * (192, 144)
    nearest = np.linalg.norm(px - (x + 2, y + 2), axis=1)
    assert nearest[0] < 3  # nothing else is as clear: an edge looks the same along itself
    assert np.abs(semantic_keypoints(image, 32) - small_things(image)[0]).sum(1).min() == 0


def test_a_thing_cut_off_by_the_pictures_edge_is_none():
    image = np.full((144, 192, 3), 130, np.uint8)
    image[70:74, :2] = (220, 20, 20)
    assert len(small_things(image)) == 0


def test_half_of_the_points_are_left_for_the_rest():
    image = np.full((144, 192, 3), 130, np.uint8)
    for y in range(10, 140, 14):
        for x in range(10, 190, 14):
            image[y : y + 3, x : x + 3] = (20, 20, 220)
    assert len(small_things(image)) > 100
    uv = semantic_keypoints(image, 30)
    assert len(uv) == 30
    assert sum((np.abs(small_things(image) - each).sum(1) == 0).any() for each in uv[:15]) == 15


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
