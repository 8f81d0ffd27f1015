"""Captions mean one object each, and are read back by a rule of their own."""

from dataclasses import replace

import numpy as np
from box_scenes import box_scene, front_camera

from traceworld.tracespatial.captions import captioned

SIZE = (0.06, 0.06, 0.08)


def captions(*things, **more):
    scene = box_scene(*((f"{n}", at, SIZE, {"label": label, "caption": "", "attributes": dict(attributes)}) for n, (label, at, attributes) in enumerate(things)))  # fmt: skip
    objects = [one for one in scene.objects if one.object_id != "table"]
    return [one.caption for one in captioned(objects, scene.camera, **more)]


def test_one_of_its_class():
    assert captions(("mug", (0, 0), {"colour": "red"}), ("can", (0.2, 0), {})) == ["the red mug", "the can"]


def test_an_attribute_that_no_other_has():
    found = captions(("mug", (0, 0), {"colour": "red"}), ("mug", (0.2, 0), {"colour": "blue"}), ("mug", (0.4, 0), {"colour": "blue", "size": "large"}))  # fmt: skip
    assert found == ["the red mug", "the second mug from the left", "the large mug"]


def test_ordinals_along_the_widest_axis():
    row = [("mug", (x, 0.01 * i), {"colour": "red"}) for i, x in enumerate((0.3, -0.3, 0.0, 0.15))]
    assert captions(*row) == [
        "the first mug from the right",
        "the first mug from the left",
        "the second mug from the left",
        "the second mug from the right",
    ]
    deep = [("mug", (0.01 * i, y), {}) for i, y in enumerate((0.2, -0.2, 0.0))]
    assert captions(*deep) == [
        "the first mug from the back",
        "the first mug from the front",
        "the second mug from the front",
    ]


def test_unclear_orders_get_no_caption():
    near = [("mug", (0.0, 0.0), {}), ("mug", (0.04, 0.01), {})]
    assert captions(*near) == ["", ""]  # spread below 5 cm
    close = [("mug", (-0.3, 0), {}), ("mug", (0.3, 0.1), {}), ("mug", (0.31, -0.1), {})]
    assert captions(*close) == ["the first mug from the left", "", ""]


def test_the_unseen_are_not_counted_and_not_named():
    scene = box_scene(
        *((f"{n}", (x, 0), SIZE, {"label": "mug", "caption": ""}) for n, x in enumerate((-0.3, 0.0, 0.3)))
    )
    objects = [one for one in scene.objects if one.label == "mug"]
    hidden = [replace(objects[0], mask=np.zeros_like(objects[0].mask)), *objects[1:]]
    assert [one.caption for one in captioned(hidden, scene.camera)] == [
        "",
        "the first mug from the left",
        "the first mug from the right",
    ]
    few = objects[1].mask & (np.cumsum(objects[1].mask).reshape(objects[1].mask.shape) <= 10)
    partly = [objects[0], replace(objects[1], mask=few), objects[2]]
    assert [one.caption for one in captioned(partly, scene.camera)] == [
        "the first mug from the left",
        "",
        "the first mug from the right",
    ]


def test_captions_follow_the_camera():
    scene = box_scene(*((f"{n}", (x, 0), SIZE, {"label": "mug", "caption": ""}) for n, x in enumerate((-0.3, 0.3))))
    objects = [one for one in scene.objects if one.label == "mug"]
    behind = captioned(objects, front_camera(azimuth=-90.0))
    assert [one.caption for one in behind] == ["the first mug from the right", "the first mug from the left"]
