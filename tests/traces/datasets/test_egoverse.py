"""EgoVerse episodes, made by the tests as the published layout has them: Zarr v3 groups, sharded, padded beyond the episode's end."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation
from traceextract_toys import camera_poses

zarr = pytest.importorskip("zarr")

from zarr.core.dtype import VariableLengthBytes  # noqa: E402

from traceworld.commands.exchange import Import  # noqa: E402
from traceworld.errors import DatasetError  # noqa: E402
from traceworld.geometry.cameras import project  # noqa: E402
from traceworld.traces.datasets.egoverse import BATCH, import_egoverse  # noqa: E402
from traceworld.traces.media import read_frame  # noqa: E402
from traceworld.traces.store import open_dataset  # noqa: E402

T, PADDED, W, H = 7, 10, 96, 64
K = np.array([[60.0, 0, 48, 0], [0, 60, 32, 0], [0, 0, 1, 0]])


def jpeg(level, size=(W, H)):
    out = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(out, "JPEG", quality=95)
    return out.getvalue()


def put_blobs(group, key, blobs):
    array = group.create_array(key, shape=(len(blobs),), chunks=(1,), shards=(len(blobs),), dtype=VariableLengthBytes())
    values = np.empty(len(blobs), object)
    values[:] = blobs
    array[:] = values


def put_numbers(group, key, values):
    padded = np.concatenate([values, np.zeros((PADDED - len(values), *values.shape[1:]), values.dtype)])
    group.create_array(key, data=padded, chunks=(5, *values.shape[1:]), shards=padded.shape)


def pose_rows(poses):
    """[T,4,4] → x, y, z, qw, qx, qy, qz."""
    return np.concatenate([poses[:, :3, 3], Rotation.from_matrix(poses[:, :3, :3]).as_quat()[:, [3, 0, 1, 2]]], 1)


def write_episode(path, arrays, pictures=None, spans=None, **attributes):
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    pictures = pictures or [jpeg(20 * t) for t in range(T)]
    put_blobs(group, "images.front_1", pictures + pictures[-1:] * (PADDED - len(pictures)))
    for key, values in arrays.items():
        put_numbers(group, key, values)
    if spans is not None:
        put_blobs(group, "annotations", [s if isinstance(s, bytes) else json.dumps(s).encode() for s in spans])
    told = {"embodiment": "human_bimanual", "total_frames": T, "fps": 30, "task_name": "fold"}
    group.attrs.update(
        {**told, "task_description": "fold a shirt", "features": {}, "intrinsics": {CAM: K.tolist()}} | attributes
    )
    return path


CAM = "front_1"


def hands(seed=0):
    """Head poses [T,4,4] and both hands' joints [T,42,3] in the headset's world; the right hand moves."""
    rng = np.random.default_rng(seed)
    head = np.linalg.inv(camera_poses(T, 1.0))
    xyz = np.concatenate([rng.uniform(-0.1, 0.1, (42, 2)), rng.uniform(0.5, 0.6, (42, 1))], 1)
    xyz = np.repeat(xyz[None], T, 0)
    xyz[:, 21:, 0] += 0.05 * np.arange(T)[:, None]
    return head, xyz


def human_arrays(seed=0):
    head, xyz = hands(seed)
    arrays = {"obs_head_pose": pose_rows(head)}
    for index, side in enumerate(("left", "right")):
        arrays[f"{side}.obs_keypoints"] = xyz[:, 21 * index : 21 * (index + 1)].reshape(T, 63).copy()
        arrays[f"{side}.obs_wrist_pose"] = pose_rows(np.repeat(np.eye(4)[None], T, 0))
        arrays[f"{side}.obs_ee_pose"] = pose_rows(np.repeat(np.eye(4)[None], T, 0))
    arrays["obs_rgb_timestamps_ns"] = 1_700_000_000_000_000_000 + np.cumsum(np.full(T, 40_000_000))
    return arrays


def import_one(tmp_path, **kwargs):
    arrays = kwargs.pop("arrays", None) or human_arrays()
    write_episode(tmp_path / "in" / "2026-03-15-14-22-10-000000.zarr", arrays, **kwargs)
    report = import_egoverse([tmp_path / "in"], tmp_path / "out")
    assert report.failures == ()
    return open_dataset(tmp_path / "out").clip("2026-03-15-14-22-10-000000")


def test_hands_are_metric_traces_in_the_camera_on_the_head(tmp_path):
    arrays = human_arrays()
    arrays["right.obs_keypoints"][3, :3] = 1e9  # not tracked
    clip = import_one(tmp_path, arrays=arrays)
    head, xyz = hands()
    assert (clip.num_frames, clip.metric, clip.traces.num_keypoints) == (T, True, 42)
    np.testing.assert_allclose(clip.time_s, 0.04 * np.arange(T), atol=1e-9)
    np.testing.assert_allclose(clip.cameras.cam_from_world, np.linalg.inv(head), atol=1e-6)
    np.testing.assert_allclose(clip.cameras.K[2], K[:, :3])
    valid = clip.traces.valid
    assert not valid[3, 21]
    assert valid.sum() == T * 42 - 1
    np.testing.assert_allclose(clip.traces.xyz_world[valid], xyz[valid], atol=1e-6)
    seen = project(xyz, K[:, :3], np.linalg.inv(head))
    inside = ((seen[..., :2] > -0.5) & (seen[..., :2] < [W - 0.5, H - 0.5])).all(-1)
    np.testing.assert_array_equal(clip.traces.visible, valid & inside)
    assert (clip.traces.part_id == np.repeat([0, 1], 21)).all()
    assert clip.traces.moving[21:].mean() > 0.5
    assert not clip.traces.moving[:21].any()
    assert clip.provenance["points"][21] == "right.obs_keypoints[0]"
    assert [int(read_frame(clip, t).mean()) for t in (0, 4)] == [0, 80]


def test_annotations_are_half_open_events_under_the_task(tmp_path):
    spans = [
        {"text": "fold the sleeve", "start_idx": 3, "end_idx": 7},
        {"text": "grasp", "start_idx": 0, "end_idx": 3},
        {"text": "beyond", "start_idx": 5, "end_idx": 9},
        b"no json",
        b"",
    ]
    clip = import_one(tmp_path, spans=spans)
    found = [(e.start, e.end, e.caption, e.level) for e in clip.events]
    assert found == [(0, 3, "grasp", 0), (3, 7, "fold the sleeve", 0), (0, 7, "fold a shirt", 1)]
    assert clip.provenance["warnings"] == ["3 annotations are no texts with frames of this episode"]


def test_without_annotations_the_task_is_the_event(tmp_path):
    arrays = human_arrays()
    arrays["obs_rgb_timestamps_ns"][4] = 0
    clip = import_one(tmp_path, arrays=arrays, task_description=" ", fps=20)
    assert [(e.caption, e.level) for e in clip.events] == [("fold", 0)]
    np.testing.assert_allclose(np.diff(clip.time_s), 0.05)
    assert "time stamps do not rise" in clip.provenance["warnings"][0]


def test_a_lost_head_pose_takes_the_points_of_its_frame(tmp_path):
    arrays = human_arrays()
    arrays["obs_head_pose"][[0, 4]] = [[1e9] * 7, [0.0] * 7]
    clip = import_one(tmp_path, arrays=arrays)
    head, _ = hands()
    assert clip.traces.valid.any(1).tolist() == [False, True, True, True, False, True, True]
    np.testing.assert_allclose(clip.cameras.cam_from_world[4], np.linalg.inv(head[3]), atol=1e-6)
    np.testing.assert_allclose(clip.cameras.cam_from_world[0], np.linalg.inv(head[1]), atol=1e-6)


def test_wrists_where_there_are_no_joints(tmp_path):
    arrays = human_arrays()
    del arrays["left.obs_keypoints"], arrays["right.obs_keypoints"]
    for key in ("right.obs_wrist_pose", "right.obs_ee_pose"):
        del arrays[key]
    clip = import_one(tmp_path, arrays=arrays)
    assert clip.provenance["points"] == ["left.obs_wrist_pose[0]"]
    assert clip.traces.part_id.tolist() == [0]


@pytest.mark.parametrize("form", ["extrinsics", "calibration"])
def test_ends_of_robot_arms_before_a_fixed_camera(tmp_path, form):
    """Both ways to store the calibration give the same points, in the camera's frame."""
    base_from_cam = np.eye(4)
    base_from_cam[:3, :3] = Rotation.from_euler("xyz", [100, 20, -30], degrees=True).as_matrix()
    base_from_cam[:3, 3] = [0.1, -0.4, 0.5]
    in_cam = np.array([[0.01 * t, 0.02, 0.6] for t in range(T)])
    ends = np.repeat(np.eye(4)[None], T, 0)
    ends[:, :3, 3] = in_cam @ base_from_cam[:3, :3].T + base_from_cam[:3, 3]
    if form == "extrinsics":
        told = {"extrinsics": {"right": base_from_cam.tolist()}}
    else:
        camera = {"K": K[:, :3].tolist(), "resolution": [W, H], "rectified": True}
        bases = {"right": np.linalg.inv(base_from_cam).tolist()}
        block = {"reference_frame": "camera:front_1", "cameras": {CAM: camera}, "arm_bases": bases}
        told = {"calibration": block, "intrinsics": None}
    clip = import_one(tmp_path, arrays={"right.obs_ee_pose": pose_rows(ends)}, embodiment="eva_right_arm", **told)
    assert clip.metric
    np.testing.assert_allclose(clip.traces.xyz_world[:, 0], in_cam, atol=1e-6)
    np.testing.assert_array_equal(clip.cameras.cam_from_world, np.repeat(np.eye(4)[None], T, 0))
    assert clip.traces.part_id.tolist() == [1]


@pytest.mark.parametrize(("lost", "said"), [("intrinsics", "calibration"), ("obs_head_pose", "the camera's pose")])
def test_without_camera_there_are_pictures_and_words_only(tmp_path, lost, said):
    arrays = human_arrays()
    arrays.pop(lost, None)
    clip = import_one(tmp_path, arrays=arrays, **({"intrinsics": None} if lost == "intrinsics" else {}))
    assert (clip.traces.num_keypoints, clip.metric, clip.task) == (0, False, "fold a shirt")
    assert clip.provenance["warnings"] == [f"no traces: {said} is not told"]
    assert clip.provenance["intrinsics"] == ("assumed: 60°" if lost == "intrinsics" else "calibrated")


def test_pictures_longer_than_a_batch(tmp_path):
    frames = BATCH + 3
    group = zarr.open_group(str(tmp_path / "in" / "long.zarr"), mode="w", zarr_format=3)
    put_blobs(group, "images.front_1", [jpeg(3 * t % 250) for t in range(frames)])
    group.attrs.update({"total_frames": frames, "fps": 30})
    assert import_egoverse([tmp_path / "in"], tmp_path / "out").ok == 1
    clip = open_dataset(tmp_path / "out").clip("long")
    assert clip.num_frames == frames
    assert abs(int(read_frame(clip, BATCH + 1).mean()) - 3 * (BATCH + 1) % 250) <= 1


def test_pictures_that_are_not_rectified_are_told(tmp_path):
    camera = {"K": K.tolist(), "model": "KANNALA_BRANDT", "distortion": [0.1, 0, 0, 0], "rectified": False}
    clip = import_one(tmp_path, calibration={"reference_frame": "camera:front_1", "cameras": {CAM: camera}})
    assert clip.metric
    assert clip.provenance["warnings"] == ["pictures are not rectified: points lie beside what they mark"]


@pytest.mark.parametrize("block", [None, 3, {"cameras": None}, {"cameras": {CAM: None}}])
def test_odd_calibration_blocks_leave_the_intrinsics_to_count(tmp_path, block):
    np.testing.assert_allclose(import_one(tmp_path, calibration=block).cameras.K[0], K[:, :3])


def change(**attributes):
    return lambda path: zarr.open_group(str(path), mode="r+").attrs.update(attributes)


def replace_array(key, values):
    def damage(path):
        shutil.rmtree(path / key)
        put_numbers(zarr.open_group(str(path), mode="r+"), key, values)

    return damage


def shorten(path):
    shard = next(file for file in (path / "images.front_1").rglob("*") if file.is_file() and file.name != "zarr.json")
    shard.write_bytes(shard.read_bytes()[:-40])


def lose_picture(path):
    zarr.open_group(str(path), mode="r+")["images.front_1"][2] = b""


def stretch(path):
    """A robot whose calibration is no rigid motion."""
    shutil.rmtree(path / "obs_head_pose")
    change(extrinsics={"left": (2 * np.eye(4)).tolist()})(path)


DAMAGE = {
    "extrinsics": stretch,
    "total_frames": change(total_frames=PADDED + 1),
    "[fps]": lambda path: (shutil.rmtree(path / "obs_rgb_timestamps_ns"), change(fps=0)(path)),
    "right.obs_keypoints": replace_array("right.obs_keypoints", np.zeros((T, 21))),
    "front_1], frame 2": lose_picture,
    "images.front_1": shorten,
    "calibration": change(intrinsics={CAM: [[1, 2], [3, 4]]}),
    "pixels": change(calibration={"cameras": {CAM: {"K": K.tolist(), "resolution": [2 * W, H]}}}),
    "zarr": lambda path: (path / "zarr.json").write_text("{"),
}


def test_damage_is_named_and_the_others_are_read(tmp_path):
    for index, damage in enumerate(DAMAGE.values()):
        damage(write_episode(tmp_path / "in" / f"{index}.zarr", human_arrays()))
    write_episode(tmp_path / "in" / "whole.zarr", human_arrays())
    report = import_egoverse([tmp_path / "in"], tmp_path / "out")
    assert (report.ok, report.failed) == (1, len(DAMAGE))
    for (_, reason), name in zip(report.failures, DAMAGE, strict=True):
        assert name in reason
    assert import_egoverse([tmp_path / "in"], tmp_path / "out").done == len(DAMAGE) + 1
    with pytest.raises(DatasetError, match="no EgoVerse episode"):
        import_egoverse([tmp_path / "nothing"], tmp_path / "o")


def test_the_command_reads_at_most_so_many(tmp_path, capsys):
    for name in "abc":
        write_episode(tmp_path / "in" / "lab" / f"{name}.zarr", human_arrays())
    assert Import("egoverse", (tmp_path / "in",), tmp_path / "out", max_episodes=2).run() == 0
    assert open_dataset(tmp_path / "out").clip_ids == ["a", "b"]
