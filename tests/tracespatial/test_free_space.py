"""Platforms, sectors and free places, each of the paper's constants on its own."""

from dataclasses import replace

import numpy as np
import pytest
from box_scenes import any_rotation, box_scene, front_camera
from scipy.spatial import ConvexHull

from traceworld.geometry.cameras import unproject
from traceworld.tracespatial import free_space as f
from traceworld.tracespatial.boxes import corners
from traceworld.tracespatial.directions import dominant_direction, view_directions
from traceworld.tracespatial.scene import OrientedBox

MUG = ("mug", (0.0, 0.0), (0.1, 0.1, 0.1))


def free(scene, side, **more):
    return f.free_space(scene, scene.object("mug"), side, np.random.default_rng(0), **more)


def test_directions_are_the_pictures():
    camera = front_camera()
    names = view_directions(camera)
    np.testing.assert_allclose(names["right"], [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(names["behind"], [0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(names["front"] + names["behind"] + names["left"] + names["right"], 0, atol=1e-12)
    assert dominant_direction(camera, np.array([0.1, 0.2, -0.9])) == "below"
    turned = view_directions(front_camera(azimuth=0.0))
    np.testing.assert_allclose(turned["right"], [0, -1, 0], atol=1e-9)
    down = view_directions(front_camera(elevation=-90.0))
    np.testing.assert_allclose(down["behind"], [0, 1, 0], atol=1e-9)


def test_a_platform_needs_its_height_and_its_share():
    def platform(shift=0.0, lift=0.0):
        scene = box_scene(("mug", (shift, 0, 0.75 + lift), (0.1, 0.1, 0.1)))
        found = f.find_platform(scene, scene.object("mug"))
        return found and found.object_id

    assert platform() == "table"
    assert (platform(lift=0.049), platform(lift=0.051), platform(lift=-0.049)) == ("table", None, "table")
    edge = 0.8  # of the table; 5 of the 7 rows of the footprint's grid are 71 %
    assert (platform(shift=edge - 0.018), platform(shift=edge - 0.01)) == ("table", None)


def test_of_two_platforms_the_nearer_in_height():
    scene = box_scene(("book", (0.0, 0.0), (0.2, 0.2, 0.03)), ("mug", (0, 0, 0.78), (0.1, 0.1, 0.1)))
    assert f.find_platform(scene, scene.object("mug")).object_id == "book"


def test_outlines_of_tilted_boxes_are_convex_hulls():
    rng = np.random.default_rng(0)
    box = OrientedBox(np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.2, 0.3]), any_rotation(rng))
    xy = rng.uniform(-0.4, 0.6, (500, 2))
    hull = ConvexHull(corners(box)[:, :2])
    inside = (xy @ hull.equations[:, :2].T + hull.equations[:, 2] <= 1e-9).all(1)
    np.testing.assert_array_equal(f.over_box(box, xy), inside)
    assert 0 < inside.sum() < 500


def test_the_sector_is_a_quarter_beyond_the_edge():
    box = box_scene(MUG).object("mug").box
    radius = f.sector_radius(box)
    assert radius == f.MIN_RADIUS_M  # the diagonal, 0.14 m, is smaller
    assert f.sector_radius(OrientedBox(np.zeros(3), np.array([0.3, 0.4, 0.1]), np.eye(3))) == pytest.approx(0.5)
    right = np.array([1.0, 0, 0])
    points = np.array([[0.04, 0], [0.06, 0], [0.249, 0], [0.251, 0], [0.1, 0.099], [0.1, 0.101], [-0.1, 0]])
    np.testing.assert_array_equal(f.in_sector(box, right, points), [False, True, True, False, True, False, False])


@pytest.mark.parametrize("side", ["left", "right", "front", "behind"])
def test_free_places_lie_where_they_should(side):
    scene = box_scene(MUG)
    found = free(scene, side)
    offset = found.point_xyz - [0, 0, 0.7]
    names = view_directions(scene.camera)
    assert max(names, key=lambda name: names[name] @ offset) == side
    assert found.platform_id == "table"
    np.testing.assert_allclose(found.seen_xyz[:, 2], 0.7)
    assert f.is_seen(scene, found.point_xyz[None])[0]
    whole = np.pi / 4 * 0.25**2  # the sector from the centre, less the triangle before the edge
    assert found.free_m2 == pytest.approx(whole - 0.05**2, rel=0.05)
    mean = found.seen_xyz.mean(0)
    assert np.linalg.norm(found.point_xyz - mean) == pytest.approx(np.linalg.norm(found.seen_xyz - mean, axis=1).min())


def test_obstacles_take_room_unless_they_are_large_or_the_one_that_moves():
    can = ("can", (0.16, 0.0), (0.1, 0.1, 0.1))
    scene = box_scene(MUG, can)
    beside = f._taken(scene, np.array([[0.16, 0.0], [0.16, 0.059], [0.16, 0.061]]), 0.7, scene.object("mug"), set())
    np.testing.assert_array_equal(beside, [True, True, False])  # its outline and the margin of 1 cm
    taken = f._taken(scene, np.array([[0.16, 0.0]]), 0.7, scene.object("mug"), {"can"})
    assert not taken.any()
    wide = box_scene(MUG, ("can", (0.19, 0.0), (0.2, 0.4, 0.06)))  # 4.8 times the mug's volume
    assert not f._taken(wide, np.array([[0.19, 0.0]]), 0.7, wide.object("mug"), set()).any()
    low = box_scene(MUG, ("can", (0.19, 0.0), (0.2, 0.4, 0.05)))  # 4.0 times
    assert f._taken(low, np.array([[0.19, 0.0]]), 0.7, low.object("mug"), set()).all()
    assert "m² are free" in free(low, "right")


def test_too_small_an_area_and_no_platform_are_said():
    edge = box_scene(("mug", (0.72, 0.0), (0.1, 0.1, 0.1)))
    assert "m² are free" in free(edge, "right")
    air = box_scene(("mug", (0, 0, 1.2), (0.1, 0.1, 0.1)))
    assert free(air, "left") == "the reference stands on no platform"


def test_unseen_places_do_not_count():
    scene = box_scene(MUG)
    hidden = replace(scene, depth_m=np.maximum(scene.depth_m - np.float32(0.06), 0))
    assert free(hidden, "left") == "only 0 free points are seen"
    assert not f.is_seen(scene, np.array([[0.0, 0, 0.9], [0, 3, 0.7], [0, -5, 1.0]])).any()  # floats, outside, behind


def test_seen_means_within_25_mm_of_the_depth_map():
    scene = box_scene(MUG)
    pixel = np.array([[40.0, 60.0]])
    depth = float(scene.depth_m[60, 40])
    at = [
        unproject(pixel, np.array([depth + d]), scene.camera.K, scene.camera.cam_from_world)[0]
        for d in (0.024, 0.026, -0.024, -0.026)
    ]
    np.testing.assert_array_equal(f.is_seen(scene, np.array(at)), [True, False, True, False])


def test_on_top_four_fifths_are_used_and_most_of_it_must_be_seen():
    scene = box_scene(("mug", (0.0, 0.0), (0.3, 0.2, 0.1)))
    found = free(scene, "above")
    assert found.free_m2 == pytest.approx(0.8**2 * 0.06)
    assert np.abs(found.seen_xyz[:, 0]).max() <= 0.12
    assert np.abs(found.seen_xyz[:, 1]).max() <= 0.08
    full = box_scene(("mug", (0.0, 0.0), (0.3, 0.2, 0.1)), ("can", (0, 0, 0.85), (0.2, 0.12, 0.1)))
    assert "are seen" in free(full, "above")
