"""The types check themselves."""

from dataclasses import replace

import numpy as np
import pytest
from box_scenes import box_scene

from traceworld.errors import InvalidInputError
from traceworld.tracespatial.scene import OrientedBox, SpatialTrace


def trace(**changes):
    values = {
        "scene_id": "s",
        "object_id": "mug",
        "primitive": 1,
        "reference_id": "box",
        "via_id": None,
        "passed_ids": (),
        "direction": "left",
        "instruction": "",
        "steps": 3,
        "points_world": np.zeros((2, 3)),
        "uvd": np.ones((2, 3)),
    }
    return SpatialTrace(**(values | changes))


@pytest.mark.parametrize(
    ("size", "rotation", "words"),
    [
        ([1.0, 0.0, 1.0], np.eye(3), "not positive"),
        ([1.0, np.nan, 1.0], np.eye(3), "NaN"),
        ([1.0, 1.0, 1.0], 2 * np.eye(3), "orthonormal"),
        ([1.0, 1.0, 1.0], np.diag([1.0, 1.0, -1.0]), "reflection"),
    ],
)
def test_a_bad_box_is_refused(size, rotation, words):
    with pytest.raises(InvalidInputError, match=words):
        OrientedBox(np.zeros(3), np.array(size), rotation)


def test_volume():
    assert OrientedBox(np.zeros(3), np.array([2.0, 3.0, 4.0]), np.eye(3)).volume_m3 == pytest.approx(24)


def test_a_scene_refuses_what_does_not_fit_together():
    scene = box_scene(("mug", (0.0, 0.0), (0.08, 0.08, 0.1)))
    mug = scene.object("mug")
    with pytest.raises(InvalidInputError, match="two objects have one object_id"):
        replace(scene, objects=(*scene.objects, mug))
    with pytest.raises(InvalidInputError, match="two objects have one caption"):
        replace(scene, objects=(*scene.objects, replace(mug, object_id="other")))
    with pytest.raises(InvalidInputError, match="no object 'shelf'"):
        replace(scene, objects=(*scene.objects, replace(mug, object_id="b", caption="", support_id="shelf")))
    with pytest.raises(InvalidInputError, match="0 means unknown"):
        replace(scene, depth_m=np.full_like(scene.depth_m, np.nan))
    with pytest.raises(InvalidInputError, match=r"mask.*not the camera's"):
        replace(scene, objects=(replace(mug, mask=np.zeros((2, 2), bool), support_id=None),))
    with pytest.raises(InvalidInputError, match="rest on itself"):
        replace(mug, support_id="mug")
    with pytest.raises(InvalidInputError, match="no object 'cup'"):
        scene.object("cup")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"primitive": 6}, "not 1 to 5"),
        ({"primitive": 4}, "via_id belongs"),
        ({"via_id": "can"}, "via_id belongs"),
        ({"reference_id": None}, "need a reference_id"),
        ({"primitive": 3}, "need a direction"),
        ({"direction": None}, "need a direction"),
        ({"reference_id": "mug"}, "its own anchor"),
        ({"points_world": np.zeros((1, 3)), "uvd": np.ones((1, 3))}, "no trace"),
        ({"uvd": np.array([[1.0, 1, 1], [1, 1, 0]])}, "behind the camera"),
        ({"points_world": np.full((2, 3), np.nan)}, "NaN"),
        ({"steps": 0}, "at least 1"),
    ],
)
def test_a_trace_refuses_contradictions(changes, words):
    with pytest.raises(InvalidInputError, match=words):
        trace(**changes)


def test_a_good_trace_passes():
    assert trace(primitive=5, via_id="can", direction=None).via_id == "can"
    assert trace(primitive=2, reference_id=None, direction="up").reference_id is None
