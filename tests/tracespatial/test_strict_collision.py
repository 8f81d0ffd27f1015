"""The independent checker: it must see what was put in the way, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from box_scenes import box_scene, yaw_rotation

from traceworld.errors import InvalidInputError
from traceworld.tracespatial.scene import OrientedBox
from traceworld.tracespatial.strict_collision import check_trace

MUG = ("mug", (-0.2, 0.0), (0.08, 0.08, 0.1))
START = np.array([-0.2, 0.0, 0.75])


def check(scene, *offsets):
    return check_trace(scene, "mug", START + np.array([(0, 0, 0), *offsets], float))


def test_straight_through_a_box_is_seen_where_it_happens():
    scene = box_scene(MUG, ("can", (0.1, 0.0), (0.1, 0.1, 0.1)))
    report = check(scene, (0.5, 0, 0))
    assert report.collided
    assert report.with_id == "can"
    assert report.at_m == pytest.approx(0.3 - 0.05 - 0.04, abs=0.011)
    over = check(scene, (0, 0, 0.12), (0.5, 0, 0.12), (0.5, 0, 0))
    assert not over.collided
    assert np.isnan(over.at_m)
    assert over.checked >= 74


def test_a_thin_wall_and_a_thin_rod_are_seen():
    assert check(box_scene(MUG, ("wall", (0.1, 0.0), (0.004, 0.5, 0.3))), (0.5, 0, 0)).with_id == "wall"
    rod = box_scene(MUG, ("rod", (0.1, 0, 0.76), (0.006, 0.5, 0.006)))  # crosses the faces between lattice points too
    assert check(rod, (0.5, 0, 0)).with_id == "rod"


def test_only_waypoints_would_miss_it():
    scene = box_scene(MUG, ("can", (0.05, 0.0), (0.1, 0.1, 0.1)))
    assert check(scene, (0.5, 0, 0)).collided  # both way points are free


def test_sliding_and_touching_are_allowed_and_sinking_is_not():
    scene = box_scene(MUG, ("can", (-0.2, 0.09), (0.1, 0.1, 0.1)))  # stands wall to wall with the mug
    assert not check(scene, (0.4, 0, 0)).collided
    assert check(scene, (0.0, 0.02, 0)).collided
    assert check(scene, (0.2, 0, -0.02)).with_id in ("table", "depth")
    assert not check(scene, (0.2, 0, -0.003)).collided


def test_what_it_is_in_at_the_start_may_be_left_but_not_entered():
    """A table annotated 2 cm too high."""
    scene = box_scene(MUG)
    table = replace(
        scene.object("table"), box=OrientedBox(np.array([0, 0, 0.36]), np.array([1.6, 1.2, 0.72]), np.eye(3))
    )
    high = replace(scene, objects=(table, scene.object("mug")))
    assert not check(high, (0, 0, 0.05), (0.4, 0, 0.05)).collided
    assert check(high, (0, 0, 0.05), (0.4, 0, 0.05), (0.4, 0, -0.03)).collided


def test_surfaces_without_a_box_are_seen_in_the_depth_map():
    scene = box_scene(MUG, ("can", (0.1, 0.0), (0.1, 0.04, 0.1)))
    unboxed = replace(scene, objects=tuple(one for one in scene.objects if one.object_id != "can"))
    assert check(unboxed, (0.5, 0, 0)).with_id == "depth"
    assert not check(unboxed, (0, 0, 0.12), (0.5, 0, 0.12)).collided


def test_surface_points_count_where_the_box_is_wrong():
    scene = box_scene(MUG, ("can", (0.1, 0.0), (0.1, 0.1, 0.1)), clouds=True)
    can = replace(scene.object("can"), box=OrientedBox(np.array([0.1, 0.4, 0.75]), np.full(3, 0.02), np.eye(3)))
    dark = replace(
        scene, objects=(scene.object("table"), scene.object("mug"), can), depth_m=np.zeros_like(scene.depth_m)
    )
    assert check(dark, (0.5, 0, 0)).with_id == "can"


def test_turned_boxes_use_their_own_axes():
    """A board set diagonally: its bounding box is in the way, the board itself is not."""
    board = ("board", (0.1, 0.1), (0.5, 0.02, 0.2), {"yaw": np.pi / 4})
    scene = box_scene(("mug", (-0.2, 0.0), (0.08, 0.08, 0.1), {"yaw": 0.3}), board)
    assert not check(scene, (0.0, 0.2, 0)).collided
    assert check(scene, (0.3, 0.1, 0)).with_id == "board"
    np.testing.assert_allclose(scene.object("mug").box.rotation, yaw_rotation(0.3))


def test_an_unknown_object_is_refused():
    with pytest.raises(InvalidInputError, match="no object"):
        check_trace(box_scene(MUG), "cup", np.zeros((2, 3)))
