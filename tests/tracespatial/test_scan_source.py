"""Scans in the two layouts, written by the test from a table whose boxes are known."""

import json

import cv2
import numpy as np
import pytest
from qa_scenes import K, box, camera, cast, make_scene, table_things

from traceworld.errors import ConfigError, DatasetError, InvalidInputError
from traceworld.tracespatial.scan_source import ScanSource, seen_box_px, surface_points, unified_box

NAMES = {"mug1": "red mug", "mug2": "blue mug", "crate": "crate", "can": "can", "book": "book", "table": "table"}


def same_box(found, wanted, tolerance=1e-6):
    """Two boxes with the same corners, whatever the order of their axes."""
    assert found.center_xyz == pytest.approx(wanted.center_xyz, abs=tolerance)
    reach = [np.abs(each.rotation) @ each.size_m for each in (found, wanted)]
    assert reach[0] == pytest.approx(reach[1], abs=tolerance)


@pytest.fixture
def table():
    return make_scene(table_things())


def write_ca1m(root, scene, video="42", times=("100", "200"), captions=True):
    """The world is turned away: CA-1M knows camera frames and gravity alone."""
    pose = scene.camera.cam_from_world
    rotation = pose[:3, :3]
    # T_gravity takes camera axes to upright ones (x right, y down, z ahead): the camera's pitch is undone.
    ahead = rotation[2] * [1, 1, 0]
    ahead /= np.linalg.norm(ahead)
    upright = np.stack([np.cross(ahead, [0, 0, 1.0]), [0, 0, -1.0], ahead])
    gravity = upright @ rotation.T
    for time in times:
        wide, gt = root / video / f"{time}.wide", root / video / f"{time}.gt"
        (wide / "image").mkdir(parents=True)
        gt.mkdir()
        big = cv2.resize(scene.image, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(wide / "image.png"), big[..., ::-1])
        cv2.imwrite(str(gt / "depth.png"), np.rint(scene.depth_m * 1000).astype(np.uint16))
        big_K = K.copy()
        big_K[:2] *= 2
        big_K[:2, 2] += 0.5
        (wide / "image" / "K.json").write_text(json.dumps(big_K.tolist()))
        (wide / "T_gravity.json").write_text(json.dumps(gravity.tolist()))
        instances = []
        for item in scene.objects:
            R_world = item.box.rotation[:, [0, 2, 1]] * [1, 1, -1]  # local axes: width, height, length
            instances.append(
                {
                    "id": item.object_id,
                    "category": NAMES[item.object_id].split()[-1],
                    "position": (rotation @ item.box.center_xyz + pose[:3, 3]).tolist(),
                    "scale": item.box.size_m[[0, 2, 1]].tolist(),
                    "R": (rotation @ R_world).tolist(),
                }
            )
        instances.append(
            {"id": "broken", "category": "ghost", "position": [0, 0, 1], "scale": [0, 1, 1], "R": np.eye(3).tolist()}
        )
        (wide / "instances.json").write_text(json.dumps(instances))
    if captions:
        about = {"mug1": {"label": "mug", "caption": "the red mug", "attributes": {"colour": "red"}}}
        (root / video / "captions.json").write_text(json.dumps(about))
    return root


def write_scannet(root, scene, align):
    posed = root / "scene0000_00" / "posed_images"
    posed.mkdir(parents=True)
    cv2.imwrite(str(posed / "00000.jpg"), scene.image[..., ::-1])
    cv2.imwrite(str(posed / "00000.png"), np.rint(scene.depth_m * 1000).astype(np.uint16))
    intrinsic = np.eye(4)
    intrinsic[:3, :3] = K
    np.savetxt(posed / "intrinsic.txt", intrinsic)
    np.savetxt(posed / "00000.txt", np.linalg.inv(align) @ np.linalg.inv(scene.camera.cam_from_world))
    np.savetxt(posed.parent / "axis_align_matrix.txt", align)
    boxes = []
    for item in scene.objects:
        yaw = np.arctan2(item.box.rotation[1, 0], item.box.rotation[0, 0])
        boxes.append(
            {
                "id": item.object_id,
                "label": NAMES[item.object_id].split()[-1],
                "bbox_3d": [*item.box.center_xyz.tolist(), *item.box.size_m.tolist(), float(yaw), 0.0, 0.0],
            }
        )
    (posed.parent / "boxes.json").write_text(json.dumps(boxes))
    return root


def test_ca1m_frames_become_upright_metric_scenes(tmp_path, table):
    source = ScanSource(write_ca1m(tmp_path, table), "ca1m")
    assert list(source.scene_ids()) == ["42_100", "42_200"]
    scene = source.load("42_100")
    assert (scene.source, scene.metric, len(scene.objects)) == ("scan", True, 6)
    assert pytest.approx(K, abs=1e-9) == scene.camera.K  # scaled back to the depth's size
    assert scene.depth_m == pytest.approx(table.depth_m, abs=6e-4)
    # Upright: every box stands on its bottom, and heights relative to the table are those of the table.
    top = scene.object("table").box.center_xyz[2] + 0.025
    for item in table.objects:
        found = scene.object(item.object_id).box
        assert found.center_xyz[2] - top == pytest.approx(item.box.center_xyz[2], abs=1e-6)
        assert abs(found.rotation[2, 2]) == pytest.approx(1, abs=1e-6)  # the third axis is up after unifying
        assert found.size_m[2] == pytest.approx(item.box.size_m[2])
    apart = scene.object("mug1").box.center_xyz - scene.object("mug2").box.center_xyz
    wanted = table.object("mug1").box.center_xyz - table.object("mug2").box.center_xyz
    assert np.linalg.norm(apart) == pytest.approx(np.linalg.norm(wanted))


def test_ca1m_masks_supports_and_captions(tmp_path, table):
    scene = ScanSource(write_ca1m(tmp_path, table), "ca1m").load("42_100")
    for name in ("mug1", "mug2", "crate", "can"):
        found, wanted = scene.object(name).mask, table.object(name).mask
        assert (found & wanted).sum() / (found | wanted).sum() > 0.8, name
    assert scene.object("mug1").caption == "the red mug"
    assert scene.object("can").caption == "the can"
    assert scene.object("mug2").caption.startswith("the second mug from") or scene.object("mug2").caption.startswith(
        "the first mug"
    )
    assert scene.object("can").support_id == "book"
    assert scene.object("mug1").support_id == "table"
    assert scene.object("table").movable is False
    assert scene.object("can").movable is True


def test_scannet_frames_in_the_aligned_world(tmp_path, table):
    turn = np.eye(4)
    turn[:2, :2] = [[0, -1], [1, 0]]
    turn[:3, 3] = [0.3, -0.2, 0.1]
    source = ScanSource(write_scannet(tmp_path, table, turn), "scannet")
    assert list(source.scene_ids()) == ["scene0000_00_00000"]
    scene = source.load("scene0000_00_00000")
    assert scene.camera.cam_from_world == pytest.approx(table.camera.cam_from_world, abs=1e-9)
    for item in table.objects:
        same_box(scene.object(item.object_id).box, item.box)
    assert scene.object("can").support_id == "book"
    found, wanted = scene.object("crate").mask, table.object("crate").mask
    assert (found & wanted).sum() / (found | wanted).sum() > 0.8


def test_class_agnostic_boxes_are_obstacles_without_a_name(tmp_path, table):
    root = write_ca1m(tmp_path, table, times=("1",), captions=False)
    file = root / "42" / "1.wide" / "instances.json"
    boxes = json.loads(file.read_text())
    for item in boxes:
        del item["category"]
    file.write_text(json.dumps(boxes))
    scene = ScanSource(root, "ca1m").load("42_1")
    assert len(scene.objects) == 6
    assert {item.caption for item in scene.objects} == {""}


def test_a_missing_2d_box_is_the_extent_of_what_is_seen(table):
    item = table.object("crate")
    x0, y0, x1, y1 = seen_box_px(item.box, table.depth_m, table.camera, np.random.default_rng(0))
    rows, columns = np.nonzero(item.mask)
    assert (x0, y0, x1, y1) == pytest.approx((columns.min(), rows.min(), columns.max(), rows.max()), abs=3)


def test_a_hidden_box_has_no_2d_box():
    wall = box(0, -0.3, -0.2, (1.5, 0.05, 1.2))
    behind = box(0, 0.3, 0, (0.2, 0.2, 0.2))
    cam = camera()
    depth, _ = cast(cam, [wall, behind])
    assert seen_box_px(behind, depth, cam, np.random.default_rng(0)) is None


def test_surface_points_lie_on_the_six_faces_in_proportion():
    where = box(0.1, 0.2, 0.3, (0.4, 0.2, 0.1), 0.7)
    points = surface_points(where, 6000, np.random.default_rng(1))
    local = np.abs((points - where.center_xyz) @ where.rotation) / where.size_m
    assert local.max(1) == pytest.approx(0.5)
    on_top = np.isclose(local[:, 2], 0.5).mean()
    assert on_top == pytest.approx(0.08 / (0.08 + 0.04 + 0.02), abs=0.03)


@pytest.mark.parametrize(("order", "axes"), [("whl", [0, 2, 1]), ("wlh", [0, 1, 2]), ("hlw", [2, 1, 0])])
def test_sides_are_put_in_one_order(order, axes):
    rng = np.random.default_rng(3)
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    q[:, 0] *= np.sign(np.linalg.det(q))
    size = np.array([0.1, 0.2, 0.3])
    found = unified_box(np.zeros(3), size, q, order)
    assert found.size_m == pytest.approx(size[axes])
    assert np.linalg.det(found.rotation) == pytest.approx(1)
    same_box(found, type(found)(np.zeros(3), size, q))


def test_every_nth_frame(tmp_path, table):
    source = ScanSource(write_ca1m(tmp_path, table, times=("1", "2", "3")), "ca1m", every=2)
    assert list(source.scene_ids()) == ["42_1", "42_3"]


def test_what_is_damaged_is_named(tmp_path, table):
    root = write_ca1m(tmp_path, table, times=("1",))
    source = ScanSource(root, "ca1m")
    (root / "42" / "1.wide" / "T_gravity.json").write_text("[1, 2")
    with pytest.raises(DatasetError, match=r"T_gravity\.json"):
        source.load("42_1")
    with pytest.raises(InvalidInputError):
        source.load("nowhere")
    with pytest.raises(DatasetError, match="no frames"):
        ScanSource(tmp_path / "empty", "ca1m")
    with pytest.raises(ConfigError):
        ScanSource(root, "matterport")
    with pytest.raises(ConfigError):
        unified_box(np.zeros(3), np.ones(3), np.eye(3), "xyz")
