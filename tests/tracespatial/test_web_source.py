"""Pictures lifted by a geometry backend: pseudo-3D boxes, captions, and no lengths unless the backend is metric."""

import json

import cv2
import numpy as np
import pytest
from qa_scenes import K, table_scene

from traceworld.errors import DatasetError
from traceworld.perception.interfaces import BackendInfo, Geometry
from traceworld.tracespatial.checker import check
from traceworld.tracespatial.questions.asking import Mix, ask_all
from traceworld.tracespatial.sources import views
from traceworld.tracespatial.web_source import WebSource, assumed_K, trimmed


class FixedGeometry:
    """A backend that knows the depth of one picture."""

    max_frames = 1

    def __init__(self, depth_m, metric):
        self.info = BackendInfo("geometry", "fixed", "1", "Apache-2.0", metric)
        self.depth_m, self.metric = depth_m, metric

    def reconstruct(self, frames, K):
        return Geometry(self.depth_m[None], K[None], np.eye(4)[None], self.metric)


@pytest.fixture
def folder(tmp_path):
    table = table_scene()
    cv2.imwrite(str(tmp_path / "kitchen.png"), table.image[..., ::-1])
    cv2.imwrite(str(tmp_path / "lonely.png"), table.image[..., ::-1])
    objects = []
    for item in table.objects:
        if item.object_id == "table":
            continue
        cv2.imwrite(str(tmp_path / f"{item.object_id}_mask.png"), item.mask.astype(np.uint8) * 255)
        objects.append(
            {
                "id": item.object_id,
                "label": item.label,
                "attributes": dict(item.attributes),
                "mask": f"{item.object_id}_mask.png",
            }
        )
    (tmp_path / "kitchen.json").write_text(json.dumps({"objects": objects, "K": K.tolist(), "outdoor": True}))
    return tmp_path, table


@pytest.mark.parametrize("metric", [True, False])
def test_a_picture_becomes_a_scene_of_what_it_shows(folder, metric):
    root, table = folder
    source = WebSource(root, FixedGeometry(table.depth_m, metric))
    assert list(source.scene_ids()) == ["kitchen"]
    scene = source.load("kitchen")
    assert (scene.source, scene.metric, scene.outdoor) == ("web", metric, True)
    assert {item.object_id: item.caption for item in scene.objects}["mug1"] == "the red mug"
    crate = scene.object("crate")
    # The cloud is the visible surface: its box is no larger than the thing, seen with the camera's pitch left in.
    assert 0.25 < crate.box.size_m.max() < 0.40
    assert (crate.mask <= table.object("crate").mask).all()


def test_questions_about_it_pass_the_checker_and_state_no_length(folder):
    root, table = folder
    source = WebSource(root, FixedGeometry(3.7 * table.depth_m, False))
    scene = source.load("kitchen")
    (view,) = views(source, scene, 0, 5)
    found = ask_all(view, Mix(), 0)
    assert {one.family for one in found} == {"relative_position", "size_comparison", "quantitative", "referring"}
    assert not any(one.metric for one in found)
    faults = [check(scene, one.text, one.answer, {**one.program, "scene": view.fingerprint}) for one in found]
    assert faults == [""] * len(found)


def test_what_is_missing_is_named(folder, tmp_path_factory):
    root, table = folder
    backend = FixedGeometry(table.depth_m, True)
    with pytest.raises(DatasetError, match="backend"):
        WebSource(root)
    with pytest.raises(DatasetError, match="no picture"):
        WebSource(tmp_path_factory.mktemp("empty"), backend)
    (root / "can_mask.png").unlink()
    with pytest.raises(DatasetError, match="can_mask"):
        WebSource(root, backend).load("kitchen")


def test_a_2d_box_serves_where_there_is_no_mask(folder):
    root, table = folder
    rows, columns = np.nonzero(table.object("crate").mask)
    box_px = [int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())]
    about = {"objects": [{"id": "c", "label": "crate", "box_px": box_px}], "K": K.tolist()}
    (root / "kitchen.json").write_text(json.dumps(about))
    scene = WebSource(root, FixedGeometry(table.depth_m, True)).load("kitchen")
    outside = scene.objects[0].mask.copy()
    outside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = False
    assert not outside.any()


def test_masks_lose_their_edges():
    depth = np.linspace(1, 2, 100, dtype=np.float32).reshape(10, 10)
    kept = trimmed(np.ones((10, 10), bool), depth)
    assert 85 <= kept.sum() <= 95
    assert not kept[0, 0]
    assert not kept[-1, -1]


def test_assumed_intrinsics_see_sixty_degrees():
    found = assumed_K(640, 480)
    assert 2 * np.degrees(np.arctan(320 / found[0, 0])) == pytest.approx(60)
