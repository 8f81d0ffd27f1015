"""Roles, goals on rings, via objects and what is passed, on scenes where the answer is plain."""

from dataclasses import replace

import numpy as np
import pytest
from box_scenes import box_scene, front_camera

from traceworld.tracespatial import primitives as p
from traceworld.tracespatial.boxes import moved, overlap
from traceworld.tracespatial.free_space import in_sector
from traceworld.tracespatial.obstacles import CollisionWorld

MUG = ("mug", (-0.25, 0.0), (0.08, 0.08, 0.1))
BOX = ("box", (0.2, 0.0), (0.16, 0.12, 0.08))


def goal(scene, primitive, reference=None, direction=None, moving="mug", seed=0):
    thing = scene.object(moving)
    world = CollisionWorld(thing.box, p.obstacles_for(scene, thing), 0.01)
    rng = np.random.default_rng(seed)
    other = scene.object(reference) if reference else None
    return p.find_goal(scene, thing, world, primitive, rng, reference=other, direction=direction)


def test_roles():
    scene = box_scene(
        MUG,
        ("tray", (0.2, 0.1), (0.3, 0.2, 0.02)),
        ("can", (0.2, 0.1, 0.77), (0.06, 0.06, 0.1), {"support_id": "tray"}),
        ("board", (0.0, 0.2), (0.2, 0.02, 0.2), {"movable": False}),
        ("lamp", (0, 0.1, 1.0), (0.1, 0.1, 0.1), {"support_id": None}),  # hangs: it stands on nothing
        ("thing", (-0.4, 0.2), (0.05, 0.05, 0.05), {"caption": ""}),
        ("wall", (-0.5, 0.0), (0.05, 0.3, 0.1)),
    )
    found = p.roles(scene)
    assert set(found.moving) == {"mug", "can", "lamp"}  # not what carries, is fixed, unnamed, or of an immovable class
    assert set(found.reference) == {"mug", "tray", "can", "board", "wall"}
    assert set(found.via) == {"mug", "tray", "can", "board", "lamp", "wall"}
    blind = replace(scene, objects=tuple(replace(one, mask=np.zeros_like(one.mask)) for one in scene.objects))
    assert p.roles(blind) == p.Roles((), (), ())


def test_what_carries_several_is_furniture():
    scene = box_scene(MUG, BOX)
    assert p.carries_several(scene, scene.object("table"))
    assert not p.carries_several(scene, scene.object("box"))


def test_obstacles_are_everything_but_itself_and_what_encloses_it():
    scene = box_scene(MUG, BOX, ("shelf", (-0.25, 0, 0.9), (0.6, 0.4, 0.5), {"movable": False}))
    boxes = p.obstacles_for(scene, scene.object("mug"))
    assert len(boxes) == 2  # the table and the box


def test_rings_go_outwards():
    points = p.ring_candidates(np.array([1.0, 2.0]))
    away = np.linalg.norm(points - [1, 2], axis=1)
    np.testing.assert_allclose(np.unique(away.round(9)), p.RINGS_M)
    assert (np.diff(away) >= -1e-9).all()
    assert len(points) == 1 + 8 * (len(p.RINGS_M) - 1)


@pytest.mark.parametrize("direction", ["left", "right", "front", "behind"])
def test_placing_beside_a_reference(direction):
    scene = box_scene(MUG, BOX)
    found = goal(scene, 1, "box", direction)
    box = scene.object("box").box
    signs = {"left": [-1, 0], "right": [1, 0], "front": [0, -1], "behind": [0, 1]}[direction]
    assert in_sector(box, np.array([*signs, 0.0]), found.center_xyz[None, :2])[0]
    assert found.center_xyz[2] == pytest.approx(0.7 + 0.05 + p.GOAL_MARGIN_M)
    assert found.platform_id == "table"
    for other in scene.objects:
        if other.object_id != "mug":
            assert not overlap(moved(scene.object("mug").box, found.center_xyz), other.box)


def test_an_occupied_centre_moves_the_goal_outwards():
    """A flat thing that takes no room in the region's sum but is in the way: the goal goes to an outer ring."""
    free_goal = goal(box_scene(MUG, BOX), 1, "box", "right").center_xyz
    post = ("post", (float(free_goal[0]), float(free_goal[1]), 0.95), (0.02, 0.02, 0.3), {"support_id": None})
    found = goal(box_scene(MUG, BOX, post), 1, "box", "right").center_xyz
    assert np.linalg.norm(found[:2] - free_goal[:2]) >= 0.03


def test_stacking_needs_a_top_that_is_large_enough_and_free():
    scene = box_scene(MUG, BOX)
    found = goal(scene, 3, "box")
    np.testing.assert_allclose(found.center_xyz, [0.2, 0, 0.78 + 0.05 + p.GOAL_MARGIN_M])
    assert found.platform_id == "box"
    assert goal(scene, 5, "mug", moving="box").reason == "no_partner"  # larger than what is under it
    bowl = box_scene(MUG, (*BOX, {"label": "bowl"}))
    assert goal(bowl, 3, "box").reason == "no_partner"
    full = box_scene(MUG, BOX, ("can", (0.2, 0, 0.83), (0.15, 0.11, 0.1)))
    assert goal(full, 3, "box").reason == "no_goal"
    assert goal(scene, 3).reason == "no_partner"


def test_moving_by_a_direction_is_straight():
    scene = box_scene(MUG)
    for seed in range(5):
        start = scene.object("mug").box.center_xyz
        way = goal(scene, 2, direction="right", seed=seed).center_xyz - start
        assert p.MOVE_M[0] <= way[0] <= p.MOVE_M[1] + p.RINGS_M[-1]
        np.testing.assert_allclose(way[1:], [0, p.GOAL_MARGIN_M], atol=1e-9)
        up = goal(scene, 2, direction="up", seed=seed)
        assert up.platform_id is None
        np.testing.assert_allclose(up.center_xyz[:2], start[:2])
        assert p.MOVE_M[0] <= up.center_xyz[2] - start[2] <= p.MOVE_M[1] + p.RINGS_M[-1]
    edge = box_scene(("mug", (0.74, 0.0), (0.08, 0.08, 0.1)))
    assert goal(edge, 2, direction="right").reason == "no_goal"  # off the table
    lid = box_scene(MUG, ("lid", (-0.25, 0, 0.86), (0.4, 0.4, 0.1)), ("roof", (-0.25, 0, 1.2), (0.4, 0.4, 0.6)))
    assert goal(lid, 2, direction="up").reason == "no_goal"
    air = box_scene(("mug", (0, 0, 1.0), (0.08, 0.08, 0.1)))
    assert goal(air, 2, direction="left").reason == "no_goal"


def test_no_free_space_is_said():
    assert goal(box_scene(MUG, ("box", (0.75, 0.0), (0.1, 0.1, 0.1))), 1, "box", "right").reason == "no_free_space"


def test_via_objects_are_those_near_the_direct_way():
    near = ("near", (0.0, 0.12), (0.06, 0.06, 0.1))  # gap of 5 cm to the mug's path: 0.12 − 0.03 − 0.04
    far = ("far", (0.1, 0.13), (0.06, 0.06, 0.1))
    middle = ("middle", (0.1, -0.02), (0.06, 0.06, 0.1))
    scene = box_scene(MUG, ("near", (0.0, 0.119), near[2]), ("far", (0.1, 0.121), far[2]), middle)
    end = np.array([0.4, 0.0, 0.75])
    assert p.vias_near(scene, scene.object("mug"), end, ["far", "near", "middle"]) == ["middle", "near"]
    assert p.vias_near(scene, scene.object("mug"), end, []) == []


def test_passed_objects_with_their_sides_in_order():
    scene = box_scene(
        MUG,
        ("under", (0.0, 0.0), (0.06, 0.06, 0.06)),
        ("beyond", (0.2, 0.15), (0.06, 0.06, 0.3)),
        ("nearer", (0.35, -0.15), (0.06, 0.06, 0.3)),
        ("away", (0.1, 0.4), (0.06, 0.06, 0.06)),
    )
    path = np.array([[-0.25, 0, 0.84], [0.5, 0, 0.84]])
    found = p.passed_objects(scene, path, ["nearer", "away", "beyond", "under"])
    assert [(one.object_id, one.side) for one in found] == [
        ("under", "above"),
        ("beyond", "front"),
        ("nearer", "behind"),
    ]
    np.testing.assert_allclose([one.distance_m for one in found], [0.08, 0.12, 0.12], atol=1e-6)
    turned = replace(scene, camera=front_camera(azimuth=-90.0))  # seen from the other side
    sides = [one.side for one in p.passed_objects(turned, path, ["beyond", "nearer"])]
    assert sides == ["behind", "front"]


def test_steps_count_anchors_and_relations():
    plan = p.TracePlan("s", "mug", 2, direction="left")
    assert plan.steps == 2
    assert replace(plan, primitive=1, reference_id="box").steps == 3
    assert replace(plan, primitive=4, reference_id="box", via_id="can").steps == 5
    passed = (p.Passed("a", "left", 0.1), p.Passed("b", "above", 0.1))
    assert replace(plan, primitive=1, reference_id="box", passed=passed).steps == 7
