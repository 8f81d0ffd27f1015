"""Upright turns and boxes from corners."""

import numpy as np
import pytest
from box_scenes import any_box, any_rotation, front_camera

from traceworld.errors import InvalidInputError
from traceworld.geometry.cameras import project
from traceworld.tracespatial import gravity as g
from traceworld.tracespatial.boxes import corners


def test_up_becomes_z_by_the_smallest_turn():
    rng = np.random.default_rng(0)
    for up in [*rng.normal(size=(20, 3)), np.array([0, 0, 1.0]), np.array([0, 0, -2.0]), np.array([1e-12, 0, -1.0])]:
        R = g.gravity_rotation(up)
        np.testing.assert_allclose(R @ up / np.linalg.norm(up), [0, 0, 1], atol=1e-9)
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(R) == pytest.approx(1)
        angle = np.arccos(np.clip((np.trace(R) - 1) / 2, -1, 1))
        assert angle == pytest.approx(np.arccos(np.clip(up[2] / np.linalg.norm(up), -1, 1)), abs=1e-6)
    with pytest.raises(InvalidInputError, match="no direction"):
        g.gravity_rotation(np.zeros(3))


def test_points_and_camera_turn_together():
    rng = np.random.default_rng(1)
    R, camera, points = any_rotation(rng), front_camera(), rng.uniform((-0.3, -0.3, 0.4), (0.3, 0.3, 1.0), (9, 3))
    turned = g.align_camera(camera, R)
    before = project(points, camera.K, camera.cam_from_world)
    after = project(g.align_to_gravity(points, R), turned.K, turned.cam_from_world)
    np.testing.assert_allclose(after, before, atol=1e-9)


def test_boxes_come_back_from_any_four_corners_that_span_space():
    rng = np.random.default_rng(2)
    truth = [any_box(rng) for _ in range(4)]
    R = any_rotation(rng)
    given = np.stack([corners(box) for box in truth]) @ R  # a world in which R is the way up
    keep = np.zeros((4, 8), bool)
    keep[0], keep[1, [0, 1, 2, 4]], keep[2, [7, 6, 5, 3, 0]], keep[3, [0, 3, 5, 6]] = True, True, True, True
    given[1, 3] = np.nan
    boxes, index = g.boxes_from_corners(given, R, keep)
    assert index == [0, 1, 2, 3]
    for box, true in zip(boxes, truth, strict=True):
        np.testing.assert_allclose(corners(box), corners(true), atol=1e-9)


def test_bad_boxes_are_dropped():
    rng = np.random.default_rng(3)
    good = corners(any_box(rng))
    three, plane, nan, skew, flat = good.copy(), good.copy(), np.full((8, 3), np.nan), good.copy(), good.copy()
    three[3:] = np.nan
    plane[4:] = np.nan  # the four corners of one face
    skew[4:] += (good[2] - good[0]) * 0.5
    flat[4:] = flat[:4]
    boxes, index = g.boxes_from_corners(np.stack([three, plane, good, nan, skew, flat]), np.eye(3))
    assert index == [2]
    np.testing.assert_allclose(corners(boxes[0]), good, atol=1e-9)


def test_a_mirrored_order_of_corners_still_gives_a_proper_box():
    box = any_box(np.random.default_rng(4))
    mirrored = corners(box)[[1, 0, 3, 2, 5, 4, 7, 6]]
    (found,), _ = g.boxes_from_corners(mirrored[None], np.eye(3))
    assert np.linalg.det(found.rotation) == pytest.approx(1)
    np.testing.assert_allclose(np.sort(corners(found), 0), np.sort(corners(box), 0), atol=1e-9)
