"""Released TraceExtract episodes into our clips: who is who, where they are, what was said; and back to the last bit."""

import json
import shutil

import numpy as np
import pytest
from traceextract_toys import H, K, T, W, write_official

from traceworld.errors import ConfigError, DatasetError
from traceworld.geometry.cameras import project
from traceworld.traces.media import read_depth, read_frame
from traceworld.traces.store import open_dataset
from traceworld.traces.traceextract.episode import read_episode
from traceworld.traces.traceextract.from_clips import export_traceextract
from traceworld.traces.traceextract.identity import track_rows, world_traces
from traceworld.traces.traceextract.to_clips import import_traceextract
from traceworld.traces.types import Event


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official") / "episode_0"
    return folder, *write_official(folder)


@pytest.fixture(scope="module")
def imported(toy, tmp_path_factory):
    out = tmp_path_factory.mktemp("store")
    report = import_traceextract([toy[0]], out)
    assert (report.ok, report.failed, report.done) == (1, 0, 0)
    return open_dataset(out)


def everything(folder):
    """All files of an episode as arrays or bytes."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and "traceworld" not in p.parts):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".npy":
            found[name] = np.load(path, allow_pickle=False)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                found |= {f"{name}:{key}": archive[key] for key in archive.files}
        else:
            found[name] = path.read_bytes()
    return found


def ulps(a, b):
    """Distance of float16 values in steps of the format; equal infinities are 0 apart."""

    def order(x):
        bits = np.ascontiguousarray(x).view(np.int16).astype(int)
        return np.where(bits < 0, -32768 - bits, bits)

    return np.abs(order(a) - order(b))


def test_every_array_comes_back_bit_for_bit(toy, imported, tmp_path):
    report = export_traceextract(imported, tmp_path)
    assert (report.ok, report.failed) == (1, 0)
    before, after = everything(toy[0]), everything(tmp_path / "episode_0")
    assert set(after) == set(before)
    for name, values in before.items():
        if isinstance(values, bytes):
            assert after[name] == values, name
        else:
            assert after[name].dtype == values.dtype, name
            np.testing.assert_array_equal(after[name], values, err_msg=name)


@pytest.mark.parametrize("sway", [0.0, 1.0, 3.0])
def test_rows_of_one_point_get_one_track(tmp_path, sway):
    worlds, truth, _ = write_official(tmp_path / "e", sway=sway, seed=4)
    episode = read_episode(tmp_path / "e")
    ids = track_rows(episode)
    pairs = {(tuple(who), int(number)) for who, number in zip(truth.tolist(), ids, strict=True)}
    assert len(pairs) == len({who for who, _ in pairs}) == len({number for _, number in pairs})
    traces = world_traces(episode, ids)
    for who, number in pairs:
        known = traces.valid[:, number]
        assert known.sum() > 10
        error = np.linalg.norm(traces.xyz_world[known, number] - worlds[who[0]][known, who[1]], axis=-1)
        assert error.max() < 0.003  # float16 keeps a metre to half a millimetre and a pixel to 1/16


def test_the_mean_of_all_rows_is_finer_than_one_row(toy):
    folder, worlds, truth, _ = toy
    episode = read_episode(folder)
    ids = track_rows(episode)
    traces = world_traces(episode, ids)
    mean_error, row_error = [], []
    for frame, rows in episode.slots():
        own = np.asarray(episode.samples["raw_traj"][rows][:, 0], np.float64)
        for row, number in enumerate(ids[rows]):
            group, point = truth[rows.start + row]
            true = project(worlds[group][frame, point], K, episode.cameras.cam_from_world[frame])
            mine = project(traces.xyz_world[frame, number].astype(np.float64), K, episode.cameras.cam_from_world[frame])
            mean_error.append(np.abs(mine - true)[2])
            row_error.append(np.abs(own[row] - true)[2])
    assert np.mean(mean_error) < 0.5 * np.mean(row_error)


def test_what_the_clip_says(toy, imported):
    folder, _, truth, born = toy
    clip = imported[0]
    assert (clip.clip_id, clip.num_frames, clip.task, clip.metric) == ("episode_0", T, "push the cup", True)
    assert (clip.cameras.width, clip.cameras.height) == (W, H)
    np.testing.assert_allclose(np.diff(clip.time_s), 0.2)  # meta.json says droid: the released preset has 5 per second
    assert clip.traces.moving.all()
    assert clip.traces.num_keypoints == len(np.unique(truth, axis=0))
    second = clip.traces.query_frame >= born[2]
    assert second.any()
    assert not clip.traces.valid[: born[2], second].any()
    with np.load(folder / "cameras.npz") as cameras:
        np.testing.assert_array_equal(clip.cameras.cam_from_world.astype(np.float32), cameras["extrinsics"])
    images, depth = np.load(folder / "images.npy"), np.load(folder / "depth.npy")
    np.testing.assert_array_equal(read_frame(clip, 7), images[7])
    np.testing.assert_allclose(read_depth(clip, 7), depth[7].astype(np.float32), atol=1e-4)


def test_entities_of_two_tracking_chunks_are_two(toy):
    folder, _, truth, _ = toy
    episode = read_episode(folder)
    ids = track_rows(episode)
    part = world_traces(episode, ids).part_id
    clusters = np.asarray(episode.samples["cluster_ids"])
    for number in np.unique(ids):
        rows = ids == number
        for other in np.unique(ids):
            others = ids == other
            same_chunk = (truth[rows][0, 0] == 2) == (truth[others][0, 0] == 2)
            same = same_chunk and clusters[rows][0] == clusters[others][0]
            assert (part[number] == part[other]) == same


def test_a_point_that_leaves_the_picture_comes_back_as_itself(tmp_path):
    _, truth, _ = write_official(tmp_path / "e", seed=2)
    folder = tmp_path / "e" / "samples"
    frames, offsets = np.load(folder / "frame_indices.npy"), np.load(folder / "offsets.npy")
    rows = np.repeat(np.arange(len(frames)), np.diff(offsets))
    hidden = (truth == truth[0]).all(1) & (frames[rows] >= 10) & (frames[rows] < 22)
    assert hidden.sum() == 12
    for path in folder.glob("*.npy"):
        if path.stem not in ("frame_indices", "offsets"):
            np.save(path, np.load(path)[~hidden])
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(np.bincount(rows[~hidden]))]).astype(np.int64))
    episode = read_episode(tmp_path / "e")
    ids, kept = track_rows(episode), truth[~hidden]
    mine = ids[(kept == truth[0]).all(1)]
    assert (mine == mine[0]).all()
    traces = world_traces(episode, ids)
    assert traces.valid[10:22, mine[0]].all()  # its rows before and after speak of these frames
    assert not traces.visible[10:22, mine[0]].any()


def test_captions_with_inclusive_ends_become_half_open_events(imported):
    clip = imported[0]
    assert clip.events == (
        Event(0, 19, "A hand reaches."),
        Event(19, 40, "Push the cup."),
        Event(0, 40, "All of it.", 1),
    )
    assert clip.provenance["instructions"][0] == ["A hand reaches.", "Reach for the cup.", "Could you reach it?"]


def test_rate_and_options(toy, tmp_path):
    import_traceextract([toy[0]], tmp_path / "a", fps=4)
    assert open_dataset(tmp_path / "a")[0].time_s[1] == 0.25
    folder = tmp_path / "ego"
    shutil.copytree(toy[0], folder)
    (folder / "meta.json").write_text(json.dumps({"source_fps": 30, "num_frames_at_source_fps": 3 * T - 1}))
    import_traceextract([folder], tmp_path / "b", keep_originals=False, metric=False)
    clip = open_dataset(tmp_path / "b")[0]
    assert clip.time_s[10] == pytest.approx(1)
    assert not clip.metric
    assert "traceextract_originals" not in clip.provenance
    with pytest.raises(ConfigError):
        import_traceextract([toy[0]], tmp_path / "c", fps=0)
    with pytest.raises(DatasetError, match="no TraceExtract episode"):
        import_traceextract([tmp_path / "nothing"], tmp_path / "c")


def test_two_episodes_of_one_name_are_refused(toy, tmp_path):
    shutil.copytree(toy[0], tmp_path / "other" / "episode_0")
    with pytest.raises(DatasetError, match="is there twice"):
        import_traceextract([toy[0], tmp_path / "other"], tmp_path / "out", keep_originals=False)


@pytest.mark.parametrize("sway", [0.0, 1.0])
def test_rows_made_anew_are_those_of_the_episode(tmp_path, sway):
    """Without the originals: same rows, same frames; frame-aligned windows to float16 rounding."""
    write_official(tmp_path / "in" / "e", sway=sway)
    import_traceextract([tmp_path / "in"], tmp_path / "store", keep_originals=False)
    export_traceextract(open_dataset(tmp_path / "store"), tmp_path / "out")
    before, after = everything(tmp_path / "in" / "e"), everything(tmp_path / "out" / "e")
    for name in ("frame_indices", "offsets", "is_moving", "visibs"):
        np.testing.assert_array_equal(after[f"samples/{name}.npy"], before[f"samples/{name}.npy"], err_msg=name)
    for name in ("images.npy", "cameras.npz:intrinsics", "cameras.npz:extrinsics", "curated_training_texts.json"):
        if "curated" not in name:
            np.testing.assert_array_equal(after[name], before[name])
    assert ulps(before["depth.npy"], after["depth.npy"]).max() <= 1
    limit = 1 if sway == 0 else 3
    for name in ("keypoints", "raw_traj", "raw_traj_history"):
        a, b = before[f"samples/{name}.npy"], after[f"samples/{name}.npy"]
        if name != "keypoints":
            np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
        near = np.isfinite(a) & np.isfinite(b) & (np.abs(a) > 1)
        assert ulps(a, b)[near].max() <= limit, name


DAMAGE = {
    "images.npy": lambda p: p.write_bytes(p.read_bytes()[:1000]),
    "depth.npy": lambda p: np.save(p, np.load(p)[:, :-1]),
    "cameras.npz": lambda p: p.write_bytes(p.read_bytes()[:-200]),
    "samples/traj.npy": lambda p: np.save(p, np.load(p).astype(np.float32)),
    "samples/offsets.npy": lambda p: np.save(p, np.load(p)[::-1].copy()),
    "samples/frame_indices.npy": lambda p: np.save(p, np.load(p) + 1000),
    "samples/raw_traj.npy": lambda p: p.unlink(),
    "samples/cluster_ids.npy": lambda p: np.save(p, np.load(p)[:-1]),
    "samples/visibs.npy": lambda p: np.save(p, np.array([{"a": 1}], dtype=object), allow_pickle=True),
    "acceleration.npz": lambda p: np.savez(p, other=np.zeros(T, np.float32)),
    "curated_training_texts.json": lambda p: p.write_text(
        '{"chunk_texts": [{"instruction_1": "x", "start_idx": 3, "end_idx": 99}]}'
    ),
    "meta.json": lambda p: p.write_text("[1, 2"),
}


def test_damaged_episodes_are_reported_with_file_and_key_and_the_batch_goes_on(toy, tmp_path):
    root = tmp_path / "in"
    for index, (name, damage) in enumerate(DAMAGE.items()):
        folder = root / f"bad_{index:02d}"
        shutil.copytree(toy[0], folder)
        damage(folder / name)
    shutil.copytree(toy[0], root / "good")
    report = import_traceextract([root], tmp_path / "out", keep_originals=False)
    assert (report.ok, report.failed, report.done) == (1, len(DAMAGE), 0)
    for (episode, reason), name in zip(report.failures, DAMAGE, strict=True):
        assert f"{episode}/{name}" in reason
    assert "acceleration.npz[acceleration]" in dict(report.failures)["bad_09"]
    assert "chunk_texts[0]" in dict(report.failures)["bad_10"]
    again = import_traceextract([root], tmp_path / "out", keep_originals=False)
    assert (again.ok, again.failed, again.done) == (0, 0, len(DAMAGE) + 1)
    shutil.rmtree(root / "bad_11")
    shutil.copytree(toy[0], root / "bad_11")
    mended = import_traceextract([root], tmp_path / "out", keep_originals=False, retry_failed=True)
    assert (mended.ok, mended.failed, mended.done) == (1, len(DAMAGE) - 1, 1)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("intrinsics", lambda a: a * np.nan),
        ("extrinsics", lambda a: a * 2),
        ("height", lambda a: a + 1),
        ("width", lambda a: a.astype(np.int64)),
    ],
)
def test_bad_cameras_name_their_key(toy, tmp_path, key, change):
    folder = tmp_path / "e"
    shutil.copytree(toy[0], folder)
    with np.load(folder / "cameras.npz") as cameras:
        arrays = dict(cameras)
    np.savez(folder / "cameras.npz", **arrays | {key: change(arrays[key])})
    with pytest.raises(DatasetError, match=rf"cameras.npz\[{key}\]"):
        read_episode(folder)
