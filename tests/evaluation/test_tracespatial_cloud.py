"""The object's cloud against plain loops over its definition."""

import numpy as np
import pytest

from traceworld.evaluation.tracespatial.cloud import (
    largest_cluster,
    object_cloud,
    pixels_to_points,
    thin,
    without_outliers,
)

K = np.array([[300.0, 0, 39.5], [0, 300.0, 29.5], [0, 0, 1]])


def plain_clusters(points, reach):
    """DBSCAN by the book, ten neighbours strictly within reach, the point itself among them."""
    near = [np.flatnonzero(np.linalg.norm(points - p, axis=1) < reach) for p in points]
    label = np.full(len(points), -1)
    number = 0
    for i in range(len(points)):
        if label[i] >= 0 or len(near[i]) < 10:
            continue
        label[i], waiting = number, list(near[i])
        while waiting:
            j = waiting.pop()
            if label[j] < 0:
                label[j] = number
                waiting += list(near[j]) if len(near[j]) >= 10 else []
        number += 1
    return label


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_cluster(seed):
    rng = np.random.default_rng(seed)
    points = np.concatenate(
        [rng.normal(0, 0.012, (120, 3)), rng.normal(0.3, 0.01, (70, 3)), rng.uniform(-1, 1, (30, 3))]
    )
    points = points[rng.permutation(len(points))]
    label = plain_clusters(points, 0.02)
    sizes = np.bincount(label[label >= 0])
    assert len(sizes) >= 2
    found = largest_cluster(points, 0.02)
    assert {tuple(point) for point in found} == {tuple(point) for point in points[label == sizes.argmax()]}


def test_without_a_cluster_all_points_stay():
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    assert len(largest_cluster(points, 0.02)) == 50
    lattice = np.stack(np.meshgrid(*[np.arange(5) * 0.02] * 3), axis=-1).reshape(-1, 3)
    assert len(largest_cluster(lattice, 0.02)) == 125  # neighbours at exactly the reach are not within it


def test_outliers_against_a_loop():
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.normal(0, 0.05, (200, 3)), rng.normal(0, 0.6, (8, 3))])
    mean = np.array([np.sort(np.linalg.norm(points - p, axis=1))[:10].mean() for p in points])
    expected = points[(mean > 0) & (mean < mean.mean() + 1.2 * mean.std(ddof=1))]
    np.testing.assert_array_equal(without_outliers(points), expected)
    assert len(expected) < 205
    assert len(without_outliers(points[:1])) == 0  # as published: a lone point has no distance
    assert len(without_outliers(np.zeros((20, 3)))) == 0


def test_thinning_against_a_loop():
    points = np.random.default_rng(2).uniform(-0.1, 0.1, (500, 3))
    cells = {}
    for point in points:
        key = tuple(np.floor((point - (points.min(axis=0) - 0.01)) / 0.02).astype(int))
        cells.setdefault(key, []).append(point)
    expected = np.array(sorted(tuple(np.mean(inside, axis=0)) for inside in cells.values()))
    np.testing.assert_allclose(np.array(sorted(map(tuple, thin(points, 0.02)))), expected)


def test_pixels_with_depth_on_the_mask():
    depth = np.full((60, 80), 1000, np.uint16)
    depth[0, 0], depth[0, 1] = 0, 15_000
    mask = np.zeros((60, 80), np.uint8)
    mask[0, :4] = 1
    points = pixels_to_points(mask, depth, K)
    np.testing.assert_allclose(points, [[(2 - 39.5) / 300, -29.5 / 300, 1], [(3 - 39.5) / 300, -29.5 / 300, 1]])


def test_a_large_object_keeps_its_clustering():
    """B9: at a spacing above 11 mm nothing has ten neighbours in 2 cm; the reach has to grow with the spacing."""
    depth = np.full((120, 160), 2000, np.uint16)
    mask = np.zeros((120, 160), np.uint8)
    mask[10:110, 10:150] = 255  # a board of 0.9 m
    mask[5:9, 155:159] = 255  # a spot beside it that is not part of it
    K_small = K * [[0.5], [0.5], [1]]
    ours, published = object_cloud(mask, depth, K_small), object_cloud(mask, depth, K_small, published=True)
    spot = pixels_to_points(mask[:9] * 1, depth[:9], K_small)[:, 0].min()
    assert (published[:, 0] >= spot - 0.02).any()
    assert len(ours) < len(published)


def test_nothing_on_the_mask():
    empty = object_cloud(np.zeros((60, 80), np.uint8), np.full((60, 80), 1000, np.uint16), K)
    assert empty.shape == (0, 3)
