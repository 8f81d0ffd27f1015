import multiprocessing
import pickle
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from trace_clips import EVENTS, make_clip, picture, swaying_poses, write_dataset

from traceworld.errors import ConfigError, DatasetError, InvalidInputError
from traceworld.geometry.bspline import fit_controls
from traceworld.traces.media import read_frame, write_pictures
from traceworld.traces.store import open_dataset
from traceworld.traces.windows import WindowConfig, WindowSet, collate, cut_window, observation_at, side
from traceworld.traces.writer import DatasetWriter

BATCH = {
    "image": "uint8", "depth_m": "float32", "depth_present": "bool", "K_uv": "float32", "anchor_uvz": "float32",
    "anchor_z_known": "bool", "history": "float32", "history_valid": "bool", "present": "bool", "part_id": "int64",
    "moving": "bool", "future": "float32", "future_valid": "bool", "controls": "float32", "controls_usable": "bool",
    "clock": "int64",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("w") / "d", clips=4, events=EVENTS)


def equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_a_sample_has_the_fields_of_a_batch_row(folder):
    windows = WindowSet(folder, image_size=(16, 12))
    assert len(windows) == 4 * 6
    batch = collate([windows.sample(i) for i in range(len(windows))])
    for name, dtype in BATCH.items():
        assert batch[name].dtype == dtype, name
        assert len(batch[name]) == len(windows)
    assert batch["image"].shape == (24, 12, 16, 3)
    assert batch["depth_m"].shape == (24, 12, 16)
    assert batch["history"].shape[2:] == (8, 3)
    assert batch["future"].shape[2:] == (32, 3)
    assert set(batch["instruction"]) <= {"reach", "push", "do it", "task 0", "task 1"}
    for name in BATCH:
        if name != "depth_m":
            assert np.isfinite(batch[name]).all(), name
    assert np.isnan(batch["depth_m"][~batch["depth_present"]]).all()
    assert np.isfinite(batch["depth_m"][batch["depth_present"]]).all()
    np.testing.assert_array_equal(batch["anchor_z_known"].any(1), batch["depth_present"])


def test_a_sample_is_a_function_of_seed_epoch_clip_and_frame(folder, tmp_path):
    a, b = WindowSet(folder, seed=5), WindowSet(open_dataset(folder), seed=5)
    for index in (0, 7, 23):
        equal(a.sample(index, epoch=3), b.sample(index, epoch=3))
        equal(a.sample(index, epoch=3), WindowSet(folder).sample(index, epoch=3, seed=5))
        other = [a.sample(index, epoch=4), a.sample(index, epoch=3, seed=6)]
        assert all(o["anchor_uvz"].shape != a.sample(index, epoch=3)["anchor_uvz"].shape or
                   (o["anchor_uvz"] != a.sample(index, epoch=3)["anchor_uvz"]).any() for o in other)  # fmt: skip
    # More data, another place in the list: the same sample.
    more = write_dataset(tmp_path / "more", clips=2, pictures=(5,))
    for item in more.glob("clips/*"):
        item.unlink()
    DatasetWriter(more).write_item("other", [replace(make_clip("another"), media=write_pictures(more / "media/o", {3: picture(3)}, {3: np.ones((24, 32))}, relative_to=more))])  # fmt: skip
    both = WindowSet([more, folder], seed=5, s_delta=a.s_delta)
    assert len(both) == 25
    equal(both.sample(8, epoch=1), a.sample(7, epoch=1))


def _sample_in_worker(windows, indices, out):
    out.put({i: windows.sample(i, epoch=1)["controls"] for i in indices})


def test_workers_draw_what_one_process_draws(folder):
    windows, out = WindowSet(folder, seed=1), multiprocessing.get_context("fork").Queue()
    workers = [
        multiprocessing.get_context("fork").Process(target=_sample_in_worker, args=(windows, range(w, 24, 3), out))
        for w in range(3)
    ]
    for worker in workers:
        worker.start()
    found = {}
    for _ in workers:
        found |= out.get(timeout=60)
    for worker in workers:
        worker.join()
    for index in range(24):
        np.testing.assert_array_equal(found[index], windows.sample(index, epoch=1)["controls"])
    sent = pickle.loads(pickle.dumps(windows))
    equal(sent.sample(3), windows.sample(3))


def test_picture_and_traces_belong_together(folder):
    windows = WindowSet(folder, augment=False)
    for index in (0, 9, 23):
        clip, frame = windows.place(index)
        sample = windows.sample(index)
        np.testing.assert_array_equal(sample["image"], read_frame(clip, frame))
        np.testing.assert_allclose(sample["depth_m"], 1 + frame / 100, atol=1e-3)
        assert sample["frame"] == frame
        assert sample["sample_id"] == f"{clip.clip_id}@{frame}#0"
        # K_uv takes camera coordinates to the anchors' uv, whatever the size of the picture.
        points = np.flatnonzero(cut_window(clip, frame, WindowConfig()).usable())
        x, y, z = clip.traces.xyz_world[frame, points].T
        fx, fy, u0, v0 = sample["K_uv"]
        np.testing.assert_allclose(sample["anchor_uvz"], np.stack([fx * x / z + u0, fy * y / z + v0, z], -1), atol=1e-5)


def test_depth_dropout_hides_map_and_z_together(folder):
    windows = WindowSet(folder, WindowConfig(max_keypoints=2))
    shown = [windows.sample(i, epoch=e) for i in range(24) for e in range(12)]
    present = np.array([bool(s["depth_present"]) for s in shown])
    assert abs(present.mean() - 0.3) < 0.1
    assert all(s["anchor_z_known"].all() == s["depth_present"] for s in shown)
    assert all((s["anchor_uvz"][:, 2] > 0).all() == s["depth_present"] for s in shown)


def test_evaluation_draws_nothing(folder):
    windows = WindowSet(folder, WindowConfig(max_keypoints=5, depth_drop=1.0, history_drop_all=1.0), augment=False)
    sample = windows.sample(20)
    equal(sample | {"sample_id": ""}, windows.sample(20, epoch=9) | {"sample_id": ""})
    assert sample["depth_present"]
    assert sample["history_valid"].any()
    assert len(sample["present"]) == 5
    other = windows.sample(20, seed=1)
    assert (other["anchor_uvz"] != sample["anchor_uvz"]).any()
    everything = WindowSet(folder, augment=False).sample(20)
    assert everything["instruction"].startswith("task")


def test_not_metric_means_no_z(tmp_path):
    folder = write_dataset(tmp_path / "d", clips=1, metric=False)
    sample = WindowSet(folder, augment=False).sample(0)
    assert not sample["anchor_z_known"].any()
    assert not sample["metric"]


def test_splits_follow_from_the_clip_alone():
    names = [f"clip {i}" for i in range(4000)]
    in_val = np.array([side(name, 0.1) == "val" for name in names])
    assert abs(in_val.mean() - 0.1) < 0.02
    assert all(side(n, 0.2) == "val" for n, v in zip(names, in_val, strict=True) if v)


def test_splits_share_no_clip_and_one_scale(tmp_path):
    folder = write_dataset(tmp_path / "d", clips=8)
    train, val = (WindowSet(folder, split=s, val_fraction=0.4) for s in ("train", "val"))
    clips = [{w.place(i)[0].clip_id for i in range(len(w))} for w in (train, val)]
    assert clips[0] & clips[1] == set()
    assert clips[0] | clips[1] == {f"clip-{i}" for i in range(8)}
    np.testing.assert_array_equal(train.s_delta, val.s_delta)
    with pytest.raises(ConfigError, match="split"):
        train._make_index("test", 0.1, {})


def test_two_clocks_in_one_set(folder):
    configs = [WindowConfig(), WindowConfig(clock="arc")]
    windows = WindowSet(folder, configs, weights=[1, 3], seed=2)
    samples = [windows.sample(i, epoch=e) for i in range(24) for e in range(10)]
    clocks = np.array([s["clock"] for s in samples])
    assert abs(clocks.mean() - 0.75) < 0.1
    assert {float(s["step"]) for s in samples} == {np.float32(0.025), np.float32(0.01)}
    assert {s["clock"].item() for s in (WindowSet(folder, configs, weights=[0, 1]).sample(i) for i in range(5))} == {1}
    with pytest.raises(ConfigError, match="weight"):
        WindowSet(folder, configs, weights=[1])
    with pytest.raises(ConfigError, match="one batch"):
        WindowSet(folder, [WindowConfig(), WindowConfig(horizon=16)])


def test_frames_without_a_point_or_a_future_are_left_out(tmp_path):
    folder = tmp_path / "d"
    writer = DatasetWriter(folder)
    clip = make_clip("a", T=60)
    visible = clip.traces.visible.copy()
    visible[30] = False
    images = {frame: picture(frame) for frame in (10, 30, 40, 59)}
    media = write_pictures(folder / "media/a", images, relative_to=folder)
    writer.write_item("a", [replace(clip, traces=replace(clip.traces, visible=visible), media=media)])
    writer.write_item("b", [make_clip("b", N=0, media=media), make_clip("no pictures")])
    writer.finalise()
    windows = WindowSet(folder)
    assert [windows.place(i)[1] for i in range(len(windows))] == [10, 40]
    late = WindowSet(folder, WindowConfig(min_valid_steps=25))
    assert [late.place(i)[1] for i in range(len(late))] == [10]
    moved = WindowSet(folder, min_motion=0.05)
    assert len(moved) <= 2
    with pytest.raises(DatasetError, match="no window can be cut"):
        WindowSet(folder, min_motion=3.0)
    assert not windows.sample(0)["depth_present"]


def test_every_indexed_window_gives_a_sample(tmp_path):
    folder = write_dataset(tmp_path / "d", clips=2, pictures=range(0, 60, 4), unknown=0.5, occluded=0.5, N=4)
    for config in (WindowConfig(), WindowConfig(clock="arc"), WindowConfig(min_valid_steps=12)):
        windows = WindowSet(folder, config)
        for index in range(len(windows)):
            sample = windows.sample(index)
            assert len(sample["present"]) >= 1
            assert np.isfinite(sample["future"]).all()
            assert np.isfinite(sample["controls"]).all()
            assert (sample["future_valid"].sum(1) >= config.min_valid_steps).all()


def test_the_list_of_windows_is_kept(folder):
    WindowSet(folder, WindowConfig(min_valid_steps=3))
    cache = open_dataset(folder).cache()
    kept = sorted(cache.folder.glob("windows-*.npy"))
    assert kept
    stamps = [path.stat().st_mtime_ns for path in kept]
    WindowSet(folder, WindowConfig(min_valid_steps=3, max_keypoints=7))
    assert [path.stat().st_mtime_ns for path in kept] == stamps


def test_scales_given_or_taken_from_the_corpus(folder):
    stored = open_dataset(folder).statistics
    windows = WindowSet(folder)
    np.testing.assert_allclose(windows.s_delta, stored["windows"][0]["s_delta"], rtol=1e-6)
    assert windows.normalisation["depth_log_min"] == stored["depth"]["log_min"]
    given = WindowSet(folder, s_delta=[1, 2, 3], depth_log_range=(-1.0, 2.0))
    assert given.normalisation == {"s_delta": [1.0, 2.0, 3.0], "depth_log_min": -1.0, "depth_log_max": 2.0}
    a, b = given.sample(3), windows.sample(3)
    np.testing.assert_allclose(a["future"] * [1, 2, 3], b["future"] * windows.s_delta, atol=1e-5)


def test_a_read_only_dataset_keeps_its_cache_elsewhere(folder, tmp_path):
    windows = WindowSet(folder, cache_folder=tmp_path / "fast")
    equal(windows.sample(2), WindowSet(folder).sample(2))
    assert list((tmp_path / "fast").glob("*/windows-*.npy"))


# --- observations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poses", [None, swaying_poses(60)])
def test_observations_for_forecasting(tmp_path, poses):
    dataset = open_dataset(write_dataset(tmp_path / "d", clips=1, poses=poses, unknown=0.1))
    clip, config = dataset[0], WindowConfig()
    observation, future, valid, window = observation_at(clip, 20, config)
    chosen = np.flatnonzero(window.usable())
    assert observation.instruction == "task 0"
    assert observation.image.shape == (24, 32, 3)
    np.testing.assert_array_equal(observation.keypoints_uv, window.anchor_uvz[chosen, :2])
    np.testing.assert_array_equal(observation.keypoints_z_m, window.anchor_uvz[chosen, 2])
    np.testing.assert_array_equal(observation.history_uvz, window.history_uvz[chosen])
    np.testing.assert_array_equal(future[valid], window.future_uvz[chosen][valid])
    assert (future[~valid] == 0).all()
    assert (observation.clock, observation.step) == ("time", 0.025)
    # K is of the picture, not of the camera: anchors unproject to where they are.
    pose, fx, fy = clip.cameras.cam_from_world[20], observation.K[0, 0], observation.K[1, 1]
    x, y, z = (clip.traces.xyz_world[20, chosen] @ pose[:3, :3].T + pose[:3, 3]).T
    u = (fx * x / z + observation.K[0, 2] + 0.5) / 32 * 2 - 1
    v = (fy * y / z + observation.K[1, 2] + 0.5) / 24 * 2 - 1
    np.testing.assert_allclose(observation.keypoints_uv, np.stack([u, v], -1), atol=1e-5)
    some = observation_at(clip, 20, config, chosen[[3, 1]], with_history=False, with_depth=False)
    assert some[0].history_uvz is None
    assert some[0].depth_m is None
    assert some[0].keypoints_z_m is None
    np.testing.assert_array_equal(some[1], future[[3, 1]])
    np.testing.assert_array_equal(some[0].part_id, clip.traces.part_id[chosen[[3, 1]]])


@pytest.mark.parametrize("metric", [True, False])
def test_without_depth_z_counts_from_the_point(tmp_path, metric):
    clip = replace(open_dataset(write_dataset(tmp_path / "d", clips=1, unknown=0.1))[0], metric=metric)
    observation, _, _, window = observation_at(clip, 20, WindowConfig(), with_depth=metric is False)
    chosen = np.flatnonzero(window.usable())
    assert observation.depth_m is None
    assert observation.keypoints_z_m is None
    past = window.history_uvz[chosen]
    np.testing.assert_array_equal(observation.history_uvz[..., :2], past[..., :2])
    np.testing.assert_array_equal(observation.history_uvz[..., 2], past[..., 2] - window.anchor_uvz[chosen, None, 2])


def test_observations_that_cannot_be_made(tmp_path):
    clip = open_dataset(write_dataset(tmp_path / "d", clips=1, pictures=(20, 59)))[0]
    hidden = np.flatnonzero(~clip.traces.visible[20])
    with pytest.raises(InvalidInputError, match=f"keypoint {hidden[0]} is not visible"):
        observation_at(clip, 20, WindowConfig(), [int(hidden[0])])
    with pytest.raises(InvalidInputError, match="choose another frame"):
        observation_at(clip, 59, WindowConfig())
    with pytest.raises(InvalidInputError, match="no picture"):
        observation_at(clip, 21, WindowConfig())


# --- speed ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_windows_per_second(tmp_path, pytestconfig):
    """Cut and fit at N=64 from the memory map (about 2,000 per second and core without the type checker)."""
    writer = DatasetWriter(tmp_path / "d")
    writer.write_item("x", [make_clip("c", T=300, N=64)])
    clip, config = open_dataset(tmp_path / "d").cache()[0], WindowConfig()
    cut_window(clip, 10, config)
    start = time.process_time()
    for frame in range(10, 260):
        window = cut_window(clip, frame, config)
        fit_controls(window.future_uvz - window.anchor_uvz[:, None], window.future_valid)
    assert 250 / (time.process_time() - start) > 300  # the checker of the tests is most of the time


def test_traces_are_the_sample_without_its_picture(folder):
    windows = WindowSet(folder, [WindowConfig(clock="time"), WindowConfig(clock="arc")], weights=[1, 3])
    for index in range(len(windows)):
        whole, traces = windows.sample(index, epoch=2), windows.traces(index, epoch=2)
        assert whole.keys() - traces.keys() == {"image", "depth_m", "depth_present"}
        equal(traces, {name: whole[name] for name in traces})


def test_the_config_is_drawn_as_numpy_draws_a_choice(folder):
    """Shipped runs were made with `Generator.choice`: the same generator must give the same config and go on alike."""
    configs = [WindowConfig(clock="time", step=0.025), WindowConfig(clock="time", step=0.05), WindowConfig(clock="arc")]
    windows = WindowSet(folder, configs, weights=[0.5, 0.3, 0.2])
    for seed in range(200):
        ours, theirs = np.random.default_rng(seed), np.random.default_rng(seed)
        weights = np.where(windows._index[seed % len(windows), 3:] > 0, windows.weights, 0)
        expected = configs[int(theirs.choice(3, p=weights / weights.sum()))]
        assert windows._draw_config(seed % len(windows), ours) is expected
        assert ours.random() == theirs.random()


def test_no_python_loop_over_keypoints(tmp_path):
    """The number of Python calls per window does not grow with the number of keypoints or of points."""
    counts = []
    for points, keypoints in ((24, 16), (384, 256)):
        config = WindowConfig(min_keypoints=keypoints, max_keypoints=keypoints, moving_share=0.5)
        folder = write_dataset(tmp_path / str(points), clips=1, N=points, occluded=0.0)
        windows = WindowSet(folder, config, s_delta=(1, 1, 1))
        windows.traces(2)  # what is computed once
        calls = 0

        def count(frame, event, argument):
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            collate([windows.traces(2, epoch=epoch) for epoch in range(4)])
        finally:
            sys.setprofile(None)
        counts.append(calls)
    assert counts[1] < 1.1 * counts[0]
