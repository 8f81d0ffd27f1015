"""Each rule of rejection by a scene made to break it, and only it."""

from dataclasses import replace

import numpy as np
import pytest
from box_scenes import box_scene

from traceworld.tracespatial import rejection as j

MUG = ("mug", (-0.2, 0.0), (0.1, 0.1, 0.1))
WALL = ("board", (0.1, -0.25), (0.3, 0.02, 0.3))
START = np.array([-0.2, 0.0, 0.75])


def verdict(scene, path, **changes):
    found = j.judge(scene, replace(scene.object("mug"), **changes), np.array(path))
    return found and found[0]


def line(*offsets):
    return np.array([START + np.array(offset, float) for offset in ((0, 0, 0), *offsets)])


def test_a_good_path_stays():
    assert verdict(box_scene(MUG), line((0.1, 0, 0.1), (0.3, 0, 0))) is None


@pytest.mark.parametrize("label", ["floor", "kitchen counter", "Wall", "countertop"])
def test_immovable_classes(label):
    assert verdict(box_scene(MUG), line((0.3, 0, 0)), label=label) == "immovable"


def test_immovable_by_annotation_and_only_then():
    assert verdict(box_scene(MUG), line((0.3, 0, 0)), movable=False) == "immovable"
    assert verdict(box_scene(MUG), line((0.3, 0, 0)), label="table lamp") is None  # the last word is the class


def test_what_is_not_seen():
    assert verdict(box_scene(MUG), line((0.3, 0, 0)), mask=np.zeros((120, 160), bool)) == "not_visible"


def test_key_points_outside_the_picture():
    scene, thing = box_scene(MUG), box_scene(MUG).object("mug")
    last = line((0.1, 0, 0), (2.0, 0, 0))
    assert verdict(scene, last) == "out_of_frame"
    assert j.frame_fault(scene, last) == "the last key point is outside the picture"
    assert j.frame_fault(scene, last[::-1]) == "the first key point is outside the picture"
    middle = line((0, 0, 1.2), (0.3, 0, 0))
    assert j.frame_fault(scene, middle) == "1 of 3 key points are outside the picture"
    assert j.judge(scene, thing, middle)[0] == "out_of_frame"
    behind = line((0, -3.0, 2.0), (0.3, 0, 0))
    assert j.frame_fault(scene, behind) is not None


def test_occlusion_counts_every_centimetre_of_the_path():
    scene = box_scene(MUG, WALL)
    hidden_way = line((0.3, 0, 0.0))
    share = j.occluded_share(scene, scene.object("mug"), hidden_way)
    assert share > j.MAX_OCCLUDED
    assert verdict(scene, hidden_way) == "occluded"
    over = line((0, 0, 0.25), (0.3, 0, 0.25))
    assert verdict(scene, over) is None
    assert verdict(box_scene(MUG), hidden_way) is None  # nothing stands before it then


def test_an_object_does_not_hide_itself():
    scene = box_scene(MUG)
    thing = scene.object("mug")
    path = line((0.0, 0.02, 0.0))  # inside its own outline, behind its own surface
    assert j.occluded_share(scene, thing, path) == 0
    assert j.occluded_share(scene, replace(thing, mask=np.zeros_like(thing.mask)), path) == 1


def test_thirty_per_cent_is_the_limit():
    scene = box_scene(MUG)
    thing = replace(scene.object("mug"), mask=scene.object("mug").mask)
    path = line((0.5, 0, 0.1))
    depth = scene.depth_m.copy()
    for share, expected in ((0.25, None), (0.36, "occluded")):
        blocked = depth.copy()
        uvz = j.project(j.densified(path), scene.camera.K, scene.camera.cam_from_world)
        order = np.rint(uvz[:, :2]).astype(int)
        first = int((1 - share) * len(order))
        blocked[order[first:, 1], order[first:, 0]] = 0.3
        found = j.judge(replace(scene, depth_m=blocked), thing, path)
        assert (found and found[0]) == expected


def test_too_short_for_its_size():
    scene = box_scene(MUG)
    assert j.shortest_length(scene.object("mug")) == pytest.approx(0.1)
    assert verdict(scene, line((0.099, 0, 0))) == "too_short"
    assert verdict(scene, line((0.101, 0, 0))) is None
    assert verdict(scene, line((0.2, 0, 0), (0.01, 0, 0))) == "too_short"  # a loop that leads nowhere


def test_densified_is_fine_enough_and_keeps_its_points():
    path = np.array([[0.0, 0, 0], [0.1, 0, 0], [0.1, 0.055, 0]])
    fine = j.densified(path)
    assert np.linalg.norm(np.diff(fine, axis=0), axis=1).max() <= 0.01 + 1e-12
    assert len(fine) == 1 + 10 + 6
    for point in path:
        assert np.linalg.norm(fine - point, axis=1).min() < 1e-12
