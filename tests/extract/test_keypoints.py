"""Quotas and where keypoints are put."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceworld.extract.keypoints import (
    Representative,
    choose_keypoints,
    grid_keypoints,
    grid_points,
    quotas,
    spread_points,
)
from traceworld.perception.entities import EntityMaps

H, W = 240, 320
NOBODY = {0: np.zeros((0, 2))}


@given(st.dictionaries(st.integers(0, 50), st.integers(1, 5000), min_size=1, max_size=30), st.integers(1, 400))
def test_quotas_use_the_budget_exactly(coverage, budget):
    result = quotas(coverage, budget, 10)
    assert sum(result.values()) == budget
    assert set(result) <= set(coverage)
    assert min(result.values()) >= min(10, budget // len(result))
    ordered = sorted(result, key=lambda e: coverage[e])
    assert all(result[a] <= result[b] + 1 for a, b in itertools.pairwise(ordered))


def test_quotas_without_entities_or_budget():
    assert quotas({}, 100) == {}
    assert quotas({1: 5}, 0) == {}


def test_a_small_entity_gets_its_minimum():
    assert quotas({0: 10_000, 1: 3}, 100, 10)[1] >= 10


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (H, W), np.uint8)


def representative(gray: np.ndarray, **changes) -> Representative:
    fields = {"frame": 4, "gray": gray, "usable": np.ones((H, W), bool), "residual_px": np.zeros((H, W), np.float32)}
    return Representative(**fields | changes)


def test_points_lie_in_their_entity_and_apart():
    labels = np.full((1, 30, 40), -1, np.int32)
    labels[0, 5:15, 5:15] = 3
    residual = np.zeros((H, W), np.float32)
    residual[40:120, 40:120] = 5
    picked = choose_keypoints(
        EntityMaps(labels, frozenset({3})),
        [representative(noise(), residual_px=residual)],
        60,
        np.zeros(0, int),
        NOBODY,
        0.8,
    )
    own = picked.xy_px[picked.part_id == 3]
    back = picked.xy_px[picked.part_id == -1]
    assert len(own) == 42
    assert len(back) == 18
    assert ((own >= 40) & (own < 120)).all()
    assert not ((back >= 40) & (back < 120)).all(1).any()
    assert (picked.frame == 4).all()
    gaps = np.linalg.norm(own[:, None] - own[None], axis=-1) + 1e9 * np.eye(len(own))
    assert gaps.min() > 4


def test_held_points_count_towards_quota_and_budget():
    labels = np.full((1, 30, 40), 3, np.int32)
    residual = np.full((H, W), 5, np.float32)
    held = np.full(40, 3)
    xy = np.random.default_rng(1).uniform(0, 200, (40, 2))
    picked = choose_keypoints(
        EntityMaps(labels, frozenset({3})), [representative(noise(), residual_px=residual)], 60, held, {0: xy}, 0.8
    )
    assert len(picked) <= 20
    assert (picked.part_id == 3).sum() <= 2 + 1


def test_plain_pictures_carry_no_points():
    labels = np.full((1, 30, 40), 3, np.int32)
    plain = representative(np.full((H, W), 80, np.uint8))
    picked = choose_keypoints(EntityMaps(labels, frozenset({3})), [plain], 60, np.zeros(0, int), NOBODY, 0.8)
    assert len(picked) == 0


def test_points_seek_texture():
    gray = np.full((H, W), 100, np.uint8)
    gray[100:140, 200:260] = noise()[100:140, 200:260]
    corner = np.zeros((H, W), np.float32)
    corner[100:140, 200:260] = np.random.default_rng(0).uniform(1e-3, 2e-3, (40, 60))
    xy = spread_points(np.ones((H, W), bool), corner, 8, np.zeros((0, 2)))
    assert len(xy) == 8
    assert ((xy[:, 0] >= 200) & (xy[:, 0] < 260) & (xy[:, 1] >= 100) & (xy[:, 1] < 140)).all()
    assert len(spread_points(np.zeros((H, W), bool), corner, 8, np.zeros((0, 2)))) == 0
    assert len(spread_points(np.ones((H, W), bool), corner, 0, np.zeros((0, 2)))) == 0


@pytest.mark.parametrize(("side", "width", "height"), [(20, 640, 480), (2, 64, 48), (31, 33, 97)])
def test_the_grid_is_that_of_traceforge(side, width, height):
    """Row by row, from corner to corner (reference: linspace(0, W-1, g) × linspace(0, H-1, g))."""
    xy = grid_points(side, width, height)
    expected = [
        (width - 1) / (side - 1) * (n % side) if axis == 0 else (height - 1) / (side - 1) * (n // side)
        for n in range(side**2)
        for axis in (0, 1)
    ]
    np.testing.assert_allclose(xy.ravel(), expected, atol=1e-9)


def test_grid_points_know_the_entity_they_lie_on():
    labels = np.full((2, 30, 40), -1, np.int32)
    labels[0, 5:15, 20:30] = 7
    labels[1] = 3  # later frames have no say
    picked = grid_keypoints(EntityMaps(labels, frozenset({7})), 20, W, H, np.zeros((0, 2)))
    assert len(picked) == 400
    assert (picked.frame == 0).all()
    inside = (
        (picked.xy_px[:, 0] >= 160 - 0.5)
        & (picked.xy_px[:, 0] < 240 - 0.5)
        & (picked.xy_px[:, 1] >= 40 - 0.5)
        & (picked.xy_px[:, 1] < 120 - 0.5)
    )
    assert inside.any()
    np.testing.assert_array_equal(picked.part_id, np.where(inside, 7, -1))


def test_a_later_chunk_fills_only_the_nodes_that_have_lost_their_point():
    maps = EntityMaps(np.full((1, 30, 40), -1, np.int32), frozenset())
    all_nodes = grid_points(5, W, H)
    rng = np.random.default_rng(0)
    nearby = all_nodes + rng.uniform(-0.4, 0.4, all_nodes.shape) * [(W - 1) / 4, (H - 1) / 4]
    held = nearby.copy()
    held[[3, 17]] = np.nan
    held[8] = [-500.0, 20.0]  # left the picture
    picked = grid_keypoints(maps, 5, W, H, held)
    np.testing.assert_array_equal(picked.xy_px, all_nodes[[3, 8, 17]])
    assert len(grid_keypoints(maps, 5, W, H, nearby)) == 0
