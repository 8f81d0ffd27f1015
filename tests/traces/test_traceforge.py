"""The TraceForge layout: a made episode into a clip, our clips into episodes, and damage named."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from trace_clips import make_clip, swaying_poses, write_dataset
from traceextract_toys import camera_poses, pixels

from traceworld.errors import ConfigError, DatasetError, InvalidInputError
from traceworld.geometry.cameras import resize_K
from traceworld.traces.media import read_depth, read_frame
from traceworld.traces.store import open_dataset
from traceworld.traces.traceforge.from_clips import export_traceforge
from traceworld.traces.traceforge.recover import step_times
from traceworld.traces.traceforge.to_clips import import_traceforge
from traceworld.traces.types import Event
from traceworld.traces.writer import DatasetWriter

T, H, W = 30, 60, 80
K = np.array([[70.0, 0, 40], [0, 70, 30], [0, 0, 1]])
SAMPLE_KEYS = {"keypoints", "traj", "traj_2d", "valid_steps", "frame_index", "image_path"}
VIDEO_KEYS = {"coords", "extrinsics", "intrinsics", "height", "width", "depths", "unc_metric", "visibs"}


def forge_retime(tracks, limit=128):
    """The released rule, step by step: the last track's start is the picture's corner, and all is cut to it."""
    sx, sy = tracks[-1, 0, :2]
    p = [[(min(max(u / sx, 0), 1), min(max(v / sy, 0), 1), z) for u, v, z in track] for track in tracks.tolist()]
    k = max(1, math.ceil(0.02 * len(p)))
    path = [0.0]
    for t in range(len(p[0]) - 1):
        steps = sorted(math.dist(track[t], track[t + 1]) for track in p)
        path.append(path[-1] + sum(steps[-k:]) / k)
    M = min(int(path[-1] / 0.05) + 1, limit)
    out = np.full((len(p), limit, 3), -np.inf, np.float32)
    for j in range(M):
        at = max(t for t in range(len(path) - 1) if path[t] <= 0.05 * j)
        share = (0.05 * j - path[at]) / max(path[at + 1] - path[at], 1e-12)
        for n, track in enumerate(p):
            a, b = np.array(track[at]), np.array(track[at + 1])
            out[n, j] = (a + share * (b - a)) * [sx, sy, 1]
    return out, np.arange(limit) < M


def write_forge(folder, drop=6, sway=1.0):
    """An episode of a 6×5 grid per query frame on a wall at 1.2 m whose middle part slides; returns the true paths."""
    poses, name, rng = camera_poses(T, sway), folder.name, np.random.default_rng(0)
    for part in ("images", "depth", "samples"):
        (folder / part).mkdir(parents=True)
    truth = {}
    for q in range(0, T - 1, drop):
        v, u = np.meshgrid(np.linspace(0, H - 1, 5), np.linspace(0, W - 1, 6), indexing="ij")
        uv = np.stack([u, v], -1).reshape(-1, 2)
        ray = np.concatenate([(uv - K[:2, 2]) / 70, np.ones((30, 1))], -1) * 1.2
        world = (ray - poses[q][:3, 3]) @ poses[q][:3, :3]
        slides = (np.abs(uv - [W / 2, H / 2]) < [20, 20]).all(1)
        ahead = np.arange(q, T)
        move = np.stack([0.02 * (ahead - q), 0 * ahead, 0.006 * (ahead - q)], -1)
        paths = world[None] + move[:, None] * slides[None, :, None]
        tracks = pixels(paths, poses[q], K).transpose(1, 0, 2).astype(np.float32)
        traj, valid = forge_retime(tracks)
        np.savez(
            folder / "samples" / f"{name}_{q}.npz", keypoints=tracks[:, 0, :2], traj=traj, traj_2d=tracks[..., :2],
            valid_steps=valid, frame_index=np.array([q]), image_path=np.array([f"{name}/images/{name}_{q}.png"[:50]]),
        )  # fmt: skip
        Image.fromarray(rng.integers(0, 255, (H, W, 3), dtype=np.uint8)).save(folder / "images" / f"{name}_{q}.png")
        np.savez(folder / "depth" / f"{name}_{q}_raw.npz", depth=np.full((H, W), 1.2 + q / 100, np.float32))
        truth[q] = paths
    np.savez(
        folder / f"{name}.npz", coords=truth[0].astype(np.float32), extrinsics=poses.astype(np.float32),
        intrinsics=np.repeat(K[None], T, 0).astype(np.float32), height=H, width=W,
        depths=np.ones((T, H, W), np.float16), unc_metric=np.ones((T, H, W), np.float16),
        visibs=np.arange(T * 30).reshape(T, 30, 1) % 7 > 0,
    )  # fmt: skip
    said = {"instruction_1": "push it", "instruction_2": "push it to the right", "instruction_3": "could you push it?"}
    (folder / "three_instructions.json").write_text(json.dumps(said))
    return truth


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forge") / "ep1"
    truth = write_forge(folder)
    out = tmp_path_factory.mktemp("store")
    report = import_traceforge([folder.parent], out, fps=5)
    assert (report.ok, report.failures) == (1, ())
    return folder, truth, open_dataset(out)


def test_paths_of_all_query_frames_come_back_in_the_world(forged):
    _, truth, dataset = forged
    clip = dataset[0]
    assert (clip.num_frames, clip.time_s[5], clip.metric) == (T, 1.0, False)
    assert clip.traces.num_keypoints == 30 * len(truth)
    for number, (q, paths) in enumerate(truth.items()):
        points = slice(30 * number, 30 * number + 30)
        valid = clip.traces.valid[:, points]
        assert (clip.traces.query_frame[points] == q).all()
        assert not valid[:q].any()
        assert valid[q].all()
        got, there = clip.traces.xyz_world[q:, points], valid[q:]
        error = np.linalg.norm(got - paths, axis=-1)[there]
        assert error.max() < (1e-5 if q == 0 else 0.003)
        if q:  # known as far as the last whole step of the path, which is most of it
            assert there.all(1).sum() >= 0.5 * (T - q) - 2


def test_visibility_movement_pictures_depth_and_words(forged):
    folder, truth, dataset = forged
    clip = dataset[0]
    np.testing.assert_array_equal(clip.traces.visible[:, :30], np.arange(T * 30).reshape(T, 30) % 7 > 0)
    far = np.linalg.norm(truth[0][-1] - truth[0][0], axis=-1) > 0.1
    np.testing.assert_array_equal(clip.traces.moving[:30], far)
    assert clip.media.frame_index == tuple(truth)
    assert read_frame(clip, 6).shape == (H, W, 3)
    np.testing.assert_allclose(read_depth(clip, 6), 1.26, atol=1e-4)
    assert (clip.task, clip.events) == ("push it", (Event(0, T, "push it"),))
    with pytest.raises(ConfigError):
        import_traceforge([folder], folder / "x", fps=-1)
    with pytest.raises(DatasetError, match="no TraceForge episode"):
        import_traceforge([folder / "images"], folder / "x")


def test_the_clock_is_found_from_the_places_alone():
    rng = np.random.default_rng(3)
    way = np.cumsum(rng.uniform(0.5, 3, (12, 20, 3)) * [1, 1, 0.01], axis=1).astype(np.float32)
    way += np.array([5, 5, 1], np.float32)
    way[-1, :, :2] += 70
    truth = np.array([0, 0.5, 2.25, 2.75, 9.5, 17.0])
    left = truth.astype(int)
    traj = way[:, left] + (truth - left)[None, :, None] * (way[:, left + 1] - way[:, left])
    times, residual = step_times(way[..., :2].astype(float), traj)
    np.testing.assert_allclose(times, truth, atol=1e-4)
    assert residual.max() < 1e-4


def test_an_imported_episode_goes_back_with_its_keys(forged, tmp_path):
    folder, truth, dataset = forged
    export_traceforge(dataset, tmp_path, every=6)
    for q in truth:
        with (
            np.load(folder / "samples" / f"ep1_{q}.npz") as a,
            np.load(tmp_path / "ep1" / "samples" / f"ep1_{q}.npz") as b,
        ):
            assert set(a.files) == set(b.files) == SAMPLE_KEYS
            assert all(a[key].dtype == b[key].dtype for key in a.files if key != "image_path")
            assert b["image_path"].dtype == np.dtype("<U50")
            now = b["keypoints"][-30:] if q == 0 else b["keypoints"]
            distance = np.abs(a["keypoints"][:, None] - now[None]).max(-1).min(1)
            assert distance.max() < 0.01  # every point of the sample is among ours, later ones beside those still known
            assert int(b["frame_index"][0]) == q
    said = json.loads((tmp_path / "ep1" / "three_instructions.json").read_text())
    assert said["instruction_3"] == "could you push it?"
    with np.load(tmp_path / "ep1" / "ep1.npz") as video, np.load(folder / "ep1.npz") as before:
        assert set(video.files) == set(before.files) == VIDEO_KEYS
        np.testing.assert_array_equal(video["coords"], before["coords"])
        np.testing.assert_array_equal(video["visibs"], before["visibs"])
        np.testing.assert_array_equal(video["extrinsics"], before["extrinsics"])
        assert video["depths"].dtype == video["unc_metric"].dtype == np.float16


def test_our_clips_as_episodes(tmp_path):
    write_dataset(tmp_path / "d", clips=1, pictures=range(0, 24, 2), T=24, step_s=0.1, unknown=0.1,
                  poses=swaying_poses(24), task="push")  # fmt: skip
    writer = DatasetWriter(tmp_path / "d")
    writer.write_item("bare", [make_clip("bare", T=24)])
    writer.finalise()
    dataset = open_dataset(tmp_path / "d")
    report = export_traceforge(dataset, tmp_path / "out", every=5)
    assert (report.ok, report.failed) == (1, 1)
    clip, folder = dataset.clip("clip-0"), tmp_path / "out" / "clip-0"
    frames = sorted(int(p.stem.split("_")[1]) for p in (folder / "samples").glob("*.npz"))
    assert frames == [0, 6, 10, 16, 20]  # every five frames, or the next one with a picture
    scaled = resize_K(clip.cameras.K[0], (640, 480), (32, 24))
    for q in frames:
        with np.load(folder / "samples" / f"clip-0_{q}.npz") as sample:
            known = np.flatnonzero(clip.traces.valid[q])
            now = pixels(clip.traces.xyz_world[q, known].astype(float), clip.cameras.cam_from_world[q], scaled)
            inside = ((now[:, :2] >= 0) & (now[:, :2] <= (32, 24))).all(1)
            np.testing.assert_allclose(sample["keypoints"], now[inside, :2], atol=1e-4)
            count = sample["valid_steps"].sum()
            assert np.isfinite(sample["traj"][:, :count]).all()  # no row without a value, whatever was lost
            assert (sample["traj"][:, count:] == -np.inf).all()
        assert (folder / "images" / f"clip-0_{q}.png").exists()
        with np.load(folder / "depth" / f"clip-0_{q}_raw.npz") as depth:
            assert depth["depth"].dtype == np.float32
        levels = np.asarray(Image.open(folder / "depth" / f"clip-0_{q}.png"))
        assert levels.max() == pytest.approx(10000 * (1 + q / 100), abs=6)
    back = import_traceforge([folder], tmp_path / "back")
    assert back.failures == ()
    assert open_dataset(tmp_path / "back")[0].task == "push"
    assert export_traceforge(dataset, tmp_path / "out").done == 1
    with pytest.raises(InvalidInputError):
        export_traceforge(dataset, tmp_path / "out2", every=0)


def change(path, **new):
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    arrays |= new
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})


DAMAGE = {
    "ep1.npz[extrinsics]": lambda f: change(f / "ep1.npz", extrinsics=np.ones((T, 4, 4), np.float32)),
    "ep1.npz[coords]": lambda f: change(f / "ep1.npz", coords=None),
    "ep1.npz": lambda f: (f / "ep1.npz").write_bytes((f / "ep1.npz").read_bytes()[:5000]),
    "samples/ep1_6.npz[traj]": lambda f: change(f / "samples" / "ep1_6.npz", traj=np.zeros((3, 128, 3), np.float32)),
    "samples/ep1_6.npz[frame_index]": lambda f: change(f / "samples" / "ep1_6.npz", frame_index=np.array([7])),
    "samples/ep1_6.npz[valid_steps]": lambda f: change(f / "samples" / "ep1_6.npz", valid_steps=np.zeros(128, bool)),
    "samples/ep1_6.npz[traj_2d]": lambda f: change(
        f / "samples" / "ep1_6.npz", traj_2d=np.full((30, 24, 2), 9, np.float32)
    ),
    "images/ep1_6.png": lambda f: (f / "images" / "ep1_6.png").unlink(),
    "depth/ep1_6_raw.npz[depth]": lambda f: change(f / "depth" / "ep1_6_raw.npz", depth=None, other=np.zeros(3)),
    "three_instructions.json": lambda f: (f / "three_instructions.json").write_text("{"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(forged, tmp_path, name):
    folder = tmp_path / "ep1"
    shutil.copytree(forged[0], folder)
    DAMAGE[name](folder)
    report = import_traceforge([folder], tmp_path / "out")
    assert report.failed == 1
    assert f"ep1/{name}" in report.failures[0][1]


def test_a_point_without_values_does_not_spoil_the_others(forged, tmp_path):
    """A row that is −inf or NaN throughout: the point has no place after its query, the others keep theirs."""
    folder = tmp_path / "ep1"
    shutil.copytree(forged[0], folder)
    with np.load(folder / "samples" / "ep1_6.npz") as file:
        traj, traj_2d = file["traj"], file["traj_2d"]
    traj[3], traj_2d[3] = -np.inf, np.nan
    change(folder / "samples" / "ep1_6.npz", traj=traj, traj_2d=traj_2d)
    import_traceforge([folder], tmp_path / "out")
    clip, whole = open_dataset(tmp_path / "out")[0], forged[2][0]
    assert not clip.traces.valid[:, 33].any()
    rest = np.arange(30, 60) != 33
    np.testing.assert_allclose(
        clip.traces.xyz_world[:, 30:60][:, rest], whole.traces.xyz_world[:, 30:60][:, rest], atol=1e-5
    )
    assert replace(clip, clip_id="x").num_frames == T
