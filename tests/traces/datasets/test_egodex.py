"""EgoDex recordings, made by the tests: joints become traces in a calibrated, moving camera."""

import numpy as np
import pytest
from made_media import write_video
from traceextract_toys import camera_poses

h5py = pytest.importorskip("h5py")

from traceworld.errors import DatasetError  # noqa: E402
from traceworld.geometry.cameras import project  # noqa: E402
from traceworld.traces.datasets.egodex import hand_joints, import_egodex  # noqa: E402
from traceworld.traces.media import read_frame  # noqa: E402
from traceworld.traces.store import open_dataset  # noqa: E402

T, W, H = 8, 96, 64
K = np.array([[60.0, 0, 48], [0, 60, 32], [0, 0, 1]], np.float32)
OPPOSITE = np.diag([1.0, -1, -1, 1])  # ARKit's world is y up; the camera looks along its −z


def write_recording(folder, number=0, confidences=True, **attributes):
    """A recording whose right hand moves across the picture while the left rests; returns the joints [T,50,3]."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    poses = np.stack([OPPOSITE @ np.linalg.inv(pose) for pose in camera_poses(T, 1.0)])
    joints = hand_joints("left") + hand_joints("right")
    base = np.concatenate([rng.uniform(-0.1, 0.1, (50, 2)), rng.uniform(0.5, 0.6, (50, 1))], 1)
    base[:25, 0] -= 0.15
    xyz = np.repeat(base[None], T, 0)
    xyz[:, 25:, 0] += 0.04 * np.arange(T)[:, None]
    xyz = xyz * [1, -1, -1]
    confidence = np.full((T, 50), 0.8)
    confidence[3, 30] = 0.003  # the value that ARKit leaves where it sees nothing
    with h5py.File(folder / f"{number}.hdf5", "w") as file:
        file["camera/intrinsic"] = K
        file["transforms/camera"] = poses.astype(np.float32)
        for index, joint in enumerate(joints):
            transform = np.repeat(np.eye(4)[None], T, 0)
            transform[:, :3, 3] = xyz[:, index]
            file[f"transforms/{joint}"] = transform.astype(np.float32)
            if confidences:
                file[f"confidences/{joint}"] = confidence[:, index].astype(np.float32)
        file["transforms/hip"] = np.repeat(np.eye(4)[None], T, 0)
        for key, value in (
            {"task": "stack", "llm_type": "reset", "llm_description": "Stack the cups."} | attributes
        ).items():
            file.attrs[key] = value
    write_video(folder / f"{number}.mp4", [np.full((H, W, 3), 20 * t, np.uint8) for t in range(T)])
    return xyz, poses


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    root = tmp_path_factory.mktemp("egodex")
    truth = write_recording(root / "part1" / "stack", 0)
    write_recording(root / "part1" / "stack", 1, confidences=False, llm_type="reversible",
                    llm_description2="Unstack the cups.", which_llm_description="2",
                    llm_verbs=np.array(["pick", "place"], dtype=h5py.string_dtype()))  # fmt: skip
    report = import_egodex([root], root / "out")
    assert (report.ok, report.failures) == (2, ())
    return root, truth, open_dataset(root / "out")


def test_a_hand_has_twenty_five_joints():
    left, right = hand_joints("left"), hand_joints("right")
    assert len(left) == len(right) == len(set(left)) == 25
    assert {"leftHand", "leftThumbKnuckle", "leftIndexFingerMetacarpal", "leftLittleFingerTip"} <= set(left)
    assert "leftThumbMetacarpal" not in left


def test_joints_are_metric_traces_in_the_calibrated_camera(recorded):
    _, (xyz, poses), dataset = recorded
    clip = dataset.clip("part1__stack__0")
    assert (clip.num_frames, clip.metric, clip.task) == (T, True, "Stack the cups.")
    np.testing.assert_allclose(clip.time_s[1], 1 / 30)
    np.testing.assert_allclose(clip.cameras.cam_from_world, np.linalg.inv(poses), atol=1e-5)
    valid = clip.traces.valid
    assert not valid[3, 30]
    assert valid.sum() == T * 50 - 1
    np.testing.assert_allclose(clip.traces.xyz_world[valid], xyz[valid], atol=1e-6)
    seen = project(xyz, K.astype(float), np.linalg.inv(poses))
    assert (seen[..., 2] > 0.3).all()
    inside = ((seen[..., :2] > 0) & (seen[..., :2] < [W - 1, H - 1])).all(-1)
    np.testing.assert_array_equal(clip.traces.visible, valid & inside)
    assert (clip.traces.part_id == np.repeat([0, 1], 25)).all()
    assert clip.traces.moving[25:].mean() > 0.5
    assert not clip.traces.moving[:25].any()
    assert abs(int(read_frame(clip, 4).mean()) - 80) < 4


def test_words_attributes_and_files_without_confidences(recorded):
    clip = recorded[2].clip("part1__stack__1")
    assert clip.task == "Unstack the cups."
    assert clip.events[0].caption == clip.task
    assert clip.traces.valid.all()
    assert clip.provenance["attributes"]["llm_verbs"] == ["pick", "place"]
    assert clip.provenance["confidences"] is False


def damage_key(key):
    def damage(folder):
        with h5py.File(folder / "0.hdf5", "a") as file:
            del file[key]

    return damage


def skew(folder):
    with h5py.File(folder / "0.hdf5", "a") as file:
        file["transforms/camera"][...] = np.ones((T, 4, 4))


DAMAGE = {
    "0.hdf5[camera/intrinsic]": damage_key("camera/intrinsic"),
    "0.hdf5[transforms/leftHand]": damage_key("transforms/leftHand"),
    "0.hdf5[confidences/rightHand]": damage_key("confidences/rightHand"),
    "0.hdf5[transforms/camera]": skew,
    "0.hdf5: is missing or damaged": lambda f: (f / "0.hdf5").write_bytes((f / "0.hdf5").read_bytes()[:3000]),
    "0.mp4": lambda f: write_video(f / "0.mp4", [np.zeros((H, W, 3), np.uint8)] * 3),
}


def test_damage_is_named_and_the_others_are_read(tmp_path):
    for index, damage in enumerate(DAMAGE.values()):
        write_recording(tmp_path / "in" / f"task{index}", 0)
        damage(tmp_path / "in" / f"task{index}")
    write_recording(tmp_path / "in" / "whole", 0)
    report = import_egodex([tmp_path / "in"], tmp_path / "out")
    assert (report.ok, report.failed) == (1, len(DAMAGE))
    for (_, reason), name in zip(report.failures, DAMAGE, strict=True):
        assert name in reason
    assert import_egodex([tmp_path / "in"], tmp_path / "out").done == len(DAMAGE) + 1
    with pytest.raises(DatasetError, match="no EgoDex recording"):
        import_egodex([tmp_path / "nothing"], tmp_path / "o")
