"""Catmull–Rom against its formula, Douglas–Peucker by its promises, the end on the ground, the start where it is seen."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from box_scenes import box_scene, front_camera

from traceworld.geometry.cameras import project
from traceworld.tracespatial import refine as r
from traceworld.tracespatial.obstacles import CollisionWorld
from traceworld.tracespatial.scene import OrientedBox

ZIGZAG = np.array([[0.0, 0, 0], [0.1, 0.2, 0], [0.3, 0.1, 0.1], [0.5, 0.3, 0.0]])


def hermite(p0, p1, p2, p3, s, alpha):
    """The same curve as a cubic with end tangents from the non-uniform knots: another way to write it."""
    d = [np.linalg.norm(b - a) ** alpha for a, b in ((p0, p1), (p1, p2), (p2, p3))]
    m1 = d[1] * ((p1 - p0) / d[0] - (p2 - p0) / (d[0] + d[1]) + (p2 - p1) / d[1])
    m2 = d[1] * ((p2 - p1) / d[1] - (p3 - p1) / (d[1] + d[2]) + (p3 - p2) / d[2])
    h = 2 * s**3 - 3 * s**2 + 1, s**3 - 2 * s**2 + s, -2 * s**3 + 3 * s**2, s**3 - s**2
    return h[0] * p1 + h[1] * m1 + h[2] * p2 + h[3] * m2


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_catmull_rom_is_the_hermite_form(alpha):
    curve = r.catmull_rom(ZIGZAG, spacing_m=0.01, alpha=alpha)
    padded = np.concatenate([2 * ZIGZAG[:1] - ZIGZAG[1:2], ZIGZAG, 2 * ZIGZAG[-1:] - ZIGZAG[-2:-1]])
    expected = [ZIGZAG[:1]]
    for i in range(3):
        count = int(np.ceil(np.linalg.norm(ZIGZAG[i + 1] - ZIGZAG[i]) / 0.01))
        expected.append(np.array([hermite(*padded[i : i + 4], s, alpha) for s in np.arange(1, count + 1) / count]))
    np.testing.assert_allclose(curve, np.concatenate(expected), atol=1e-12)


def test_catmull_rom_goes_through_its_points_and_leaves_lines_alone():
    curve = r.catmull_rom(ZIGZAG)
    for point in ZIGZAG:
        assert np.linalg.norm(curve - point, axis=1).min() < 1e-12
    line = np.linspace(0, 1, 4)[:, None] * np.array([1.0, 2, 3])
    assert np.abs(np.cross(r.catmull_rom(line), [1.0, 2, 3])).max() < 1e-12
    doubled = np.repeat(ZIGZAG, 2, axis=0)
    np.testing.assert_allclose(r.catmull_rom(doubled), curve)
    np.testing.assert_array_equal(r.catmull_rom(ZIGZAG[:2]), ZIGZAG[:2])


def distance_to_polyline(points, line):
    best = np.full(len(points), np.inf)
    for a, b in pairwise(line):
        shares = np.linspace(0, 1, 401)[:, None]
        best = np.minimum(best, np.linalg.norm(points[:, None] - (a + shares * (b - a))[None], axis=2).min(1))
    return best


def test_rdp_keeps_its_promises():
    curve = np.cumsum(np.random.default_rng(0).normal(size=(60, 3)), axis=0) * 0.02
    last = None
    for epsilon in (0.0, 0.01, 0.03, 0.1):
        kept = r.rdp(curve, epsilon)
        assert (kept[0] == curve[0]).all()
        assert (kept[-1] == curve[-1]).all()
        assert set(map(tuple, kept)) <= set(map(tuple, curve))
        assert distance_to_polyline(curve, kept).max() <= epsilon + 1e-3
        assert last is None or len(kept) <= last
        last = len(kept)
    for most in (2, 3, 8):
        assert len(r.rdp(curve, 0.0, most)) == most
    eight = r.rdp(curve, 0.0, 8)
    assert set(map(tuple, r.rdp(curve, 0.0, 5))) <= set(map(tuple, eight))  # the worst deviations first
    line = np.linspace(0, 1, 9)[:, None] * np.ones(3)
    assert len(r.rdp(line, 1e-9)) == 2


def test_rdp_finds_the_corner_that_matters():
    corner = np.concatenate([np.linspace([0, 0, 0], [1, 0, 0], 11), np.linspace([1, 0.1, 0], [1, 1, 0], 10)])
    np.testing.assert_array_equal(r.rdp(corner, 0.05), [[0, 0, 0], [1, 0, 0], [1, 1, 0]])


def test_smoothing_keeps_clear_and_within_its_number():
    mover = OrientedBox(np.zeros(3), np.full(3, 0.1), np.eye(3))
    block = OrientedBox(np.array([0.3, 0.1, 0]), np.array([0.1, 0.1, 0.1]), np.eye(3))
    path = np.array([[0.0, 0, -0.1], [0.0, 0, 0], [0.19, 0.0, 0], [0.21, 0.23, 0], [0.6, 0.23, 0]])
    world = CollisionWorld(mover, [block])
    smoothed = r.smooth(path, 1, world)
    assert len(smoothed) <= 8
    np.testing.assert_array_equal(smoothed[:2], path[:2])  # the escape is left as it was
    assert world.moves_free(smoothed[1:-1], smoothed[2:]).all()
    tight = CollisionWorld(mover, [block, OrientedBox(np.array([0.05, 0.14, 0]), np.array([0.1, 0.1, 0.1]), np.eye(3))])
    assert r.smooth(path, 1, tight, most=3) is None


def test_the_end_is_set_down_by_the_depth_map():
    scene = box_scene(("mug", (-0.4, 0.0), (0.1, 0.1, 0.1)), camera=front_camera(640, 480))
    mug, table = scene.object("mug"), scene.object("table").box
    end = np.array([0.2, 0.0, 0.75 + 0.015])
    np.testing.assert_allclose(r.grounded_end(scene, mug, end, table)[2], 0.75, atol=0.002)
    shifted = replace(scene, depth_m=np.maximum(scene.depth_m - np.float32(0.006), 0))  # a nearer surface stops it
    higher = r.grounded_end(shifted, mug, end, table)[2]
    assert higher == pytest.approx(0.75 + 0.006 * np.sin(np.radians(40)), abs=0.0015)
    unknown = replace(scene, depth_m=np.zeros_like(scene.depth_m))
    np.testing.assert_allclose(r.grounded_end(unknown, mug, end, table), [0.2, 0, 0.75], atol=1e-12)
    high = end + np.array([0, 0, 0.2])
    np.testing.assert_array_equal(r.grounded_end(scene, mug, high, table), high)  # too far above to be meant


def test_the_start_is_the_middle_of_the_largest_part():
    mask = np.zeros((40, 60), bool)
    mask[10:20, 5:11] = True  # 60 pixels, centre (7.5, 14.5)
    mask[30:34, 40:50] = True
    assert r.seen_center(mask) == (7.5, 14.5)
    ring = np.zeros((41, 41), bool)
    ring[5:36, 5:36] = True
    ring[8:33, 8:33] = False
    u, v = r.seen_center(ring)
    assert ring[int(v), int(u)]
    assert r.seen_center(np.zeros((4, 4), bool)) is None


def test_start_keeps_its_depth_and_is_carried():
    scene = box_scene(("mug", (0.1, 0.1), (0.1, 0.1, 0.1)), ("can", (0.13, -0.1), (0.1, 0.1, 0.1)))
    mug = scene.object("mug")
    path = np.array([[0.0, 0, 0], [0, 0, 0.1], [0.2, 0, 0.1]]) + mug.box.center_xyz
    points = r.with_seen_start(scene, mug, path)
    u, v, d = project(points[0], scene.camera.K, scene.camera.cam_from_world)
    assert (u, v) == pytest.approx(r.seen_center(mug.mask))
    assert mug.mask[round(v), round(u)]
    assert d == pytest.approx(project(path[0], scene.camera.K, scene.camera.cam_from_world)[2])
    np.testing.assert_allclose(np.diff(points, axis=0), np.diff(path, axis=0), atol=1e-12)
    alone = r.with_seen_start(scene, mug, path, carry=False)
    np.testing.assert_array_equal(alone[1:], path[1:])
    np.testing.assert_array_equal(alone[0], points[0])
    hidden = replace(mug, mask=np.zeros_like(mug.mask))
    assert r.with_seen_start(scene, hidden, path) is None
