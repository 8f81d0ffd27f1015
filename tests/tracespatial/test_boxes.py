"""Oriented boxes against brute force, and the separating-axis test against linear programming."""

import numpy as np
import pytest
from box_scenes import any_box, any_rotation, yaw_rotation
from scipy.optimize import linprog

from traceworld.errors import InvalidInputError
from traceworld.tracespatial import boxes as b
from traceworld.tracespatial.scene import OrientedBox


def half_spaces(box):
    """A, c with A x ≤ c exactly inside."""
    normals = np.concatenate([box.rotation.T, -box.rotation.T])
    return normals, normals @ box.center_xyz + np.tile(box.size_m / 2, 2)


def meet_by_program(one, other):
    """The largest s so that some point is at least s inside both boxes (linear program): positive when they overlap."""
    normals, offsets = (np.concatenate(pair) for pair in zip(half_spaces(one), half_spaces(other), strict=True))
    program = linprog([0, 0, 0, -1.0], np.c_[normals, np.ones(12)], offsets, bounds=[(None, None)] * 4, method="highs")
    return program.x[3]


def test_separating_axes_agree_with_a_linear_program():
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(120):
        one, other = any_box(rng), any_box(rng)
        depth = meet_by_program(one, other)
        if abs(depth) > 1e-6:
            assert b.overlap(one, other) == (depth > 0)
            verdicts.append(depth > 0)
    assert 0.2 < np.mean(verdicts) < 0.8  # both answers were asked for


def test_the_gap_bounds_the_distance_from_below():
    rng = np.random.default_rng(1)
    for _ in range(30):
        one, other = any_box(rng, 0.6), any_box(rng, 0.6)
        gap = float(b.gaps(one, b.stack([other]))[0])
        points = one.center_xyz + (rng.uniform(-0.5, 0.5, (1000, 3)) * one.size_m) @ one.rotation.T
        assert b.distance(other, points).min() >= gap - 1e-9


def test_parallel_boxes_have_no_false_axes():
    one = OrientedBox(np.zeros(3), np.ones(3), np.eye(3))
    shifts = np.array([[0.99, 0, 0], [1.01, 0, 0], [0.9, 0.9, 0.9], [0.9, 0.9, 1.1]])
    found = b.gaps(one, b.stack([b.moved(one, shift) for shift in shifts]))
    np.testing.assert_allclose(found, [-0.01, 0.01, -0.1, 0.1], atol=1e-12)


def test_edges_that_cross_need_the_cross_products():
    """Two beams at a right angle and a tilt, one just above the other: no face normal separates them."""
    tilt = np.array([[1, 0, 0], [0, np.cos(0.8), -np.sin(0.8)], [0, np.sin(0.8), np.cos(0.8)]])
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    one = OrientedBox(np.zeros(3), np.array([2.0, 0.2, 0.2]), tilt)
    reach = b.support_radius(one, np.array([0, 0, 1.0]))
    other = OrientedBox(np.array([0, 0, 2 * reach + 1e-3]), np.array([2.0, 0.2, 0.2]), turn @ tilt)
    axes = b.separating_axes(one, b.stack([other]))
    offset = np.abs(axes.axes[0] @ other.center_xyz) - axes.reach[0]
    assert offset[:6].max() < 0 < offset[6:].max()
    assert not b.overlap(one, other)


def test_containment_and_distance_against_sampled_surface():
    rng = np.random.default_rng(2)
    for _ in range(3):
        box = any_box(rng)
        points = rng.uniform(-0.6, 0.6, (60, 3))
        grid = np.linspace(-0.5, 0.5, 13)
        solid = np.stack(np.meshgrid(grid, grid, grid), -1).reshape(-1, 3)
        solid = box.center_xyz + (solid * box.size_m) @ box.rotation.T
        nearest = np.linalg.norm(points[:, None] - solid[None], axis=2).min(1)
        found = b.distance(box, points)
        assert (found <= nearest + 1e-9).all()
        assert (nearest - found < 0.5 * np.linalg.norm(box.size_m / 12) + 1e-9).all()
        np.testing.assert_array_equal(b.contains(box, points), found < 1e-12)
        assert (b.contains(box, points, 0.05) >= b.contains(box, points)).all()


def test_corners_bounds_and_sweep():
    rng = np.random.default_rng(3)
    box = any_box(rng)
    eight = b.corners(box)
    assert b.contains(box, eight, 1e-9).all()
    np.testing.assert_allclose(b.bounds(box), [eight.min(0), eight.max(0)], atol=1e-12)
    np.testing.assert_allclose(np.stack(b.stack([box]).bounds())[:, 0], b.bounds(box), atol=1e-12)
    path = rng.normal(size=(7, 3))
    swept = np.concatenate([b.corners(b.moved(box, point)) for point in path])
    np.testing.assert_allclose(b.swept_bounds(box, path), [swept.min(0), swept.max(0)], atol=1e-12)
    direction = any_rotation(rng)[0]
    assert b.support_radius(box, direction) == pytest.approx(((eight - box.center_xyz) @ direction).max())
    np.testing.assert_allclose(b.grown(box, 0.01).size_m, box.size_m + 0.02)


def test_the_pca_box_finds_the_box_back():
    rng = np.random.default_rng(4)
    for upright in (False, True):
        turn = yaw_rotation(0.7) if upright else any_rotation(rng)
        truth = OrientedBox(np.array([0.3, -0.2, 0.5]), np.array([0.6, 0.3, 0.1]), turn)
        inside = rng.uniform(-0.5, 0.5, (4000, 3)) * truth.size_m
        cloud = np.concatenate([truth.center_xyz + inside @ turn.T, b.corners(truth)])
        found = b.pca_box(cloud, upright=upright)
        assert b.contains(found, cloud, 1e-9).all()
        np.testing.assert_allclose(np.sort(found.size_m), [0.1, 0.3, 0.6], atol=0.02)
        assert np.abs(found.rotation.T @ turn).max(0) == pytest.approx(1, abs=2e-3)
        if upright:
            np.testing.assert_allclose(found.rotation[2], [0, 0, 1], atol=1e-12)


def test_a_box_of_nothing_is_refused():
    with pytest.raises(InvalidInputError, match="no box"):
        b.pca_box(np.zeros((2, 3)))
    flat = b.pca_box(np.random.default_rng(0).normal(size=(50, 3)) * [1, 1, 0])
    assert flat.size_m.min() == pytest.approx(b.MIN_SIDE_M)
