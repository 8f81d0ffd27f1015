import hashlib
import json

import cv2
import numpy as np
import pytest

from traceworld.errors import ConfigError, DatasetError, FormatVersionError, InvalidInputError
from traceworld.geometry.cameras import project, unproject
from traceworld.sim import record
from traceworld.sim.record import record_episode, record_many
from traceworld.sim.truth import exact_traces, read_description, read_truth

pytestmark = pytest.mark.render


def _digest(folder):
    whole = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return whole.hexdigest()


def _truth(folder):
    return folder.with_name(folder.name + ".truth")


def test_folder_is_the_documented_rgbd_layout(recordings):
    folder = recordings["still"]
    clip = json.loads((folder / "clip.json").read_text())
    T = len(clip["timestamps_s"])
    assert np.allclose(np.diff(clip["timestamps_s"]), 12 * 0.0125)
    assert clip["task"] == "open the drawer"
    assert (clip["width"], clip["height"]) == (128, 96)
    assert clip["depth_registered"] is True
    assert clip["color_K"] == clip["depth_K"]
    assert "cam_from_world" not in clip
    for name, suffix in (("color", "jpg"), ("depth", "png")):
        assert sorted(p.name for p in (folder / name).iterdir()) == [f"{t:04d}.{suffix}" for t in range(T)]
    depth = cv2.imread(str(folder / "depth" / "0000.png"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16
    exact = read_truth(_truth(folder)).depth_m[0]
    assert np.nanmax(np.abs(np.where(depth > 0, depth * clip["depth_unit_m"], np.nan) - exact)) < 1e-6
    assert 0.5 < np.nanmedian(exact) < 4


def test_recording_opens_as_a_source(recordings):
    from traceworld.perception.sources import open_source

    source = open_source(recordings["posed"])
    frame = next(iter(source))
    assert (source.width, source.height) == (128, 96)
    assert frame.image.shape == (96, 128, 3)
    assert frame.cam_from_world is not None


def test_same_seed_same_bytes(recordings, tmp_path, small):
    again = record_episode("drawer-open", 3, tmp_path, moving_camera=True, write_poses=True, **small)
    assert _digest(again) == _digest(recordings["posed"])
    assert _digest(_truth(again)) == _digest(_truth(recordings["posed"]))


def test_finished_episode_is_not_recorded_again(recordings, monkeypatch, small):
    monkeypatch.setattr(record, "World", lambda task: pytest.fail("recorded again"))
    assert record_episode("drawer-open", 3, recordings["still"].parent, **small) == recordings["still"]


def test_other_settings_are_not_taken_for_the_same(recordings, small):
    with pytest.raises(ConfigError, match="other settings"):
        record_episode("drawer-open", 3, recordings["still"].parent, **(small | {"size": (64, 48)}))


def test_killed_recording_leaves_nothing_half_done(recordings, tmp_path, monkeypatch, small):
    def die(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(record, "_write_clip", die)
    with pytest.raises(KeyboardInterrupt):
        record_episode("drawer-open", 3, tmp_path, **small)
    assert not (tmp_path / "drawer-open-v3-0003").exists()
    monkeypatch.undo()
    folder = record_episode("drawer-open", 3, tmp_path, **small)
    assert _digest(folder) == _digest(recordings["still"])
    assert not list(tmp_path.glob(".*"))


def test_exact_traces_are_exact(recordings):
    """Seen points project onto pixels whose recorded depth is theirs, in every frame and with a moving camera."""
    rng = np.random.default_rng(0)
    for folder in recordings.values():
        film = read_truth(_truth(folder))
        pixel = rng.uniform([0, 0], [127, 95], (200, 2))
        frame = rng.integers(0, film.num_frames, 200)
        traces = exact_traces(_truth(folder), frame, pixel)
        n = np.flatnonzero(traces.valid[0])
        assert traces.visible[frame[n], n].all()
        spot = project(traces.xyz_world.astype(float), film.cameras.K, film.cameras.cam_from_world)
        assert np.abs(spot[frame[n], n, :2] - pixel[n]).max() < 2e-3
        static = traces.part_id[n] == -1
        assert np.ptp(traces.xyz_world[:, n[static]], axis=0).max() < 1e-5


def test_static_scene_stays_in_place_under_a_moving_camera(recordings):
    """Every frame, unprojected by its own recorded depth and pose, gives the same flat table."""
    clip = json.loads((recordings["posed"] / "clip.json").read_text())
    pose, K = np.array(clip["cam_from_world"]), np.array(clip["color_K"])
    assert np.abs(pose[-1] - pose[0]).max() > 0.02
    film = read_truth(recordings["posed"])
    for t in (0, film.num_frames // 2, film.num_frames - 1):
        y, x = np.nonzero(film.object_id[t] == 1)  # geom 1 is the table's board
        depth = cv2.imread(str(recordings["posed"] / "depth" / f"{t:04d}.png"), cv2.IMREAD_UNCHANGED)[y, x]
        xyz = unproject(np.stack([x, y], 1).astype(float), depth * clip["depth_unit_m"], K, pose[t])
        top = (np.abs(xyz[:, 0]) < 0.5) & (np.abs(xyz[:, 1] - 0.6) < 0.25)  # inside the board's edges
        assert top.sum() > 300
        assert np.abs(xyz[top, 2]).max() < 1e-4


def test_world_frame_is_the_first_camera_without_poses_and_the_simulators_with(recordings):
    query, pixel = np.zeros(50, int), np.random.default_rng(0).uniform([0, 20], [127, 95], (50, 2))
    posed, unposed = (exact_traces(recordings[name], query, pixel) for name in ("posed", "unposed"))
    first = json.loads((recordings["posed"] / "clip.json").read_text())["cam_from_world"][0]
    assert np.allclose(read_truth(recordings["unposed"]).cameras.cam_from_world[0], np.eye(4), atol=1e-12)
    inside_camera = project(posed.xyz_world.astype(float), np.eye(3), np.array(first))
    ours = unposed.xyz_world.astype(float)
    valid = posed.valid
    assert np.allclose((inside_camera[..., :2] * inside_camera[..., 2:])[valid], ours[..., :2][valid], atol=1e-5)
    assert np.allclose(inside_camera[..., 2][valid], ours[..., 2][valid], atol=1e-5)
    assert np.array_equal(posed.visible, unposed.visible)


def test_moving_parts_are_named(recordings):
    described = read_description(recordings["still"])
    assert "drawer_link" in described["part_names"].values()
    film = read_truth(recordings["still"])
    assert described["success_frame"] < film.num_frames
    y, x = np.argwhere(film.body_part[np.append(film.object_body, 0)[film.object_id[-1]]] >= 0).T
    traces = exact_traces(recordings["still"], np.full(len(x), film.num_frames - 1), np.stack([x, y], 1).astype(float))
    moving = {described["part_names"][str(part)] for part in set(traces.part_id[traces.moving].tolist())}
    assert {"drawer_link", "rightclaw", "leftclaw"} <= moving


def test_depth_noise_spares_the_truth(recordings, tmp_path, small):
    noisy = record_episode("drawer-open", 3, tmp_path, depth_noise_m=0.005, **small)
    exact = read_truth(noisy).depth_m[0]
    assert np.array_equal(exact, read_truth(recordings["still"]).depth_m[0], equal_nan=True)
    depth = cv2.imread(str(noisy / "depth" / "0000.png"), cv2.IMREAD_UNCHANGED).astype(float) * 1e-4
    error = (depth - exact)[(depth > 0) & np.isfinite(exact)] / exact[(depth > 0) & np.isfinite(exact)] ** 2
    assert error.std() == pytest.approx(0.005, rel=0.1)


def test_record_many_in_processes_equals_here(recordings, tmp_path, small):
    (recording,) = record_many(["drawer-open"], 1, tmp_path, seed=3, workers=1, **small)
    folder = tmp_path / "drawer-open-v3-0003"
    assert recording == record.Recording(
        "drawer-open-v3", 3, "ok", str(folder), len(list(folder.glob("color/*.jpg"))), success=True
    )
    assert _digest(folder) == _digest(recordings["still"])


def test_record_many_goes_on_after_a_failure(tmp_path, monkeypatch, small):
    make = record.shoot

    def fail_first(*args):
        monkeypatch.setattr(record, "shoot", make)
        raise ValueError("physics exploded")

    monkeypatch.setattr(record, "shoot", fail_first)
    failed, done = record_many(["reach"], 2, tmp_path, seed=7, workers=0, max_steps=20, **small)
    assert (failed.status, done.status) == ("failed", "ok")
    assert "physics exploded" in failed.error
    assert (done.seed, done.success) == (8, False)


def test_bad_arguments():
    with pytest.raises(ConfigError, match="drawer-open-v3"):
        record_episode("drawer-opn", 0, "nowhere")
    with pytest.raises(ConfigError, match="colour"):
        record_episode("drawer-open", 0, "nowhere", colour=True)
    with pytest.raises(ConfigError):
        record_episode("drawer-open", 0, "nowhere", size=(4, 4))


def test_damaged_truth_is_named(recordings, tmp_path):
    import shutil

    truth = tmp_path / "a.truth"
    with pytest.raises(DatasetError, match=r"truth\.json"):
        exact_traces(truth, np.zeros(1, int), np.zeros((1, 2)))
    shutil.copytree(_truth(recordings["still"]), truth)
    with pytest.raises(InvalidInputError, match="999"):
        exact_traces(truth, np.array([999]), np.zeros((1, 2)))
    (truth / "depth" / "0001.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="0001"):
        exact_traces(truth, np.zeros(1, int), np.zeros((1, 2)))
    (truth / "truth.json").write_text('{"format_version": 99}')
    with pytest.raises(FormatVersionError, match="99"):
        read_truth(truth)
