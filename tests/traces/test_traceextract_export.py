"""Our clips as TraceExtract episodes: what the released trainer asks for holds, and every number is what it should be."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_media import BRIDGE, moving_square, needs_shared, write_video
from trace_clips import EVENTS, assert_same_clip, make_clip, picture, swaying_poses, write_dataset
from traceextract_toys import pixels, retarget

from traceworld.errors import DatasetError, InvalidInputError
from traceworld.geometry.cameras import resize_K
from traceworld.traces.atomic import write_json
from traceworld.traces.exchange import MANIFEST, folder_name
from traceworld.traces.media import write_pictures
from traceworld.traces.store import open_dataset
from traceworld.traces.traceextract.captions import events_of_texts, texts_of_events
from traceworld.traces.traceextract.episode import read_episode
from traceworld.traces.traceextract.from_clips import export_traceextract
from traceworld.traces.traceextract.identity import track_rows
from traceworld.traces.traceextract.layout import SAMPLE_FILES
from traceworld.traces.traceextract.to_clips import import_traceextract
from traceworld.traces.traceextract.windows import acceleration, clip_rows
from traceworld.traces.types import Event
from traceworld.traces.writer import DatasetWriter


def released_reader_checks(folder, horizon=32, past=8):
    """What the released trainer demands of an episode and what it reads from it, written from its description."""
    samples = {p.stem: np.load(p, allow_pickle=False) for p in (folder / "samples").glob("*.npy")}
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    depth = np.load(folder / "depth.npy", mmap_mode="r", allow_pickle=False)
    assert images.shape[:3] == depth.shape
    assert (images.dtype, images.shape[3], depth.dtype) == (np.uint8, 3, np.float16)
    assert set(samples) == set(SAMPLE_FILES)
    assert samples["traj"].shape[1] >= horizon + 1
    assert samples["traj_history"].shape[1] >= past + 1
    frames, offsets = samples["frame_indices"], samples["offsets"]
    assert len(offsets) == len(frames) + 1
    assert offsets[0] == 0
    assert offsets[-1] == len(samples["traj"])
    assert (np.diff(offsets) > 0).all()
    assert (np.diff(frames) > 0).all()
    assert frames.min() >= 0
    assert frames.max() < len(images)
    assert samples["is_moving"].all()
    H, W = images.shape[1:3]
    current = samples["traj_history"][:, 0].astype(np.float32)
    assert samples["valid_steps_history"][:, 0].all()
    assert np.isfinite(current).all()
    assert (np.abs(2 * current[:, 0] / W - 1) <= 1.001).all()  # float16 may round a border pixel outwards
    assert (np.abs(2 * current[:, 1] / H - 1) <= 1.001).all()
    for name in ("traj", "traj_history", "raw_traj", "raw_traj_history"):
        mask = samples[name.replace("traj", "valid_steps")]
        assert np.isfinite(samples[name][mask]).all()
        assert (samples[name][~mask] == -np.inf).all()
        assert (mask[:, 1:] <= mask[:, :-1]).all()  # masks are prefixes
    return samples, images, depth


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two clips with a moving camera; the second has gaps and keeps pictures of some frames only, at half size."""
    folder = tmp_path_factory.mktemp("export") / "d"
    write_dataset(folder, clips=1, pictures=range(24), T=24, poses=swaying_poses(24), step_s=0.1, events=(
        Event(0, 10, "reach", 0, "", "", "hand near"), Event(10, 24, "push"), Event(0, 24, "both", 1)))  # fmt: skip
    writer = DatasetWriter(folder)
    clip = make_clip("run/2 a", T=24, seed=5, unknown=0.1, step_s=0.1, poses=swaying_poses(24, 2), task="gaps")
    images = {f: picture(f, (320, 240)) for f in range(0, 24, 3)}
    media = write_pictures(writer.media_folder("gaps"), images, relative_to=folder)
    writer.write_item("gaps", [replace(clip, media=media)])
    writer.finalise()
    return open_dataset(folder)


@pytest.fixture(scope="module")
def exported(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("episodes")
    report = export_traceextract(store, out)
    assert (report.ok, report.failed, report.done) == (2, 0, 0)
    return out


def test_the_released_reader_takes_them(store, exported):
    for clip_id in store.clip_ids:
        released_reader_checks(exported / folder_name(clip_id))


def test_rows_are_the_moving_points_on_screen_seen_by_each_frame(store, exported):
    clip = store.clip("clip-0")
    samples, images, _ = released_reader_checks(exported / "clip-0")
    points = np.load(exported / "clip-0" / "traceworld" / "track_ids.npy")
    size = (images.shape[2], images.shape[1])
    K = resize_K(clip.cameras.K[0], (640, 480), size)
    seen = 0
    for slot, t in enumerate(samples["frame_indices"].tolist()):
        rows = slice(samples["offsets"][slot], samples["offsets"][slot + 1])
        view = np.stack(
            [pixels(clip.traces.xyz_world[f].astype(float), clip.cameras.cam_from_world[t], K) for f in range(24)]
        )
        inside = (view[t, :, :2] >= 0).all(1) & (view[t, :, :2] <= size).all(1)
        np.testing.assert_array_equal(points[rows], np.flatnonzero(inside & clip.traces.moving))
        for row, point in zip(range(rows.start, rows.stop), points[rows], strict=True):
            ahead, back = view[t:, point], view[t::-1, point]
            assert samples["raw_valid_steps"][row].sum() == len(ahead)
            np.testing.assert_allclose(samples["raw_traj"][row, : len(ahead)], ahead, rtol=1e-3)
            np.testing.assert_allclose(samples["raw_traj_history"][row, : len(back)], back[:32], rtol=1e-3)
            np.testing.assert_array_equal(samples["keypoints"][row], samples["traj"][row, 0, :2])
            assert samples["visibs"][row] == clip.traces.visible[t, point]
            assert samples["cluster_ids"][row] == clip.traces.part_id[point]
            seen += 1
    assert seen == len(points) > 100


def test_one_clock_for_all_points_of_a_frame(store, exported):
    clip = store.clip("clip-0")
    samples, images, _ = released_reader_checks(exported / "clip-0")
    points = np.load(exported / "clip-0" / "traceworld" / "track_ids.npy")
    size = (images.shape[2], images.shape[1])
    K = resize_K(clip.cameras.K[0], (640, 480), size)
    for slot, t in enumerate(samples["frame_indices"].tolist()):
        rows = slice(samples["offsets"][slot], samples["offsets"][slot + 1])
        world = clip.traces.xyz_world[:, points[rows]].astype(float)
        view = np.stack([pixels(world[f], clip.cameras.cam_from_world[t], K) for f in range(24)])
        for name, way, limit in (("", view[t:], 128), ("_history", view[t::-1], 32)):
            expected, count = retarget(way, limit, size)
            assert (samples[f"valid_steps{name}"][rows].sum(1) == count).all()
            np.testing.assert_allclose(samples[f"traj{name}"][rows, :count], expected[:, :count], rtol=1e-3)


def test_a_row_ends_where_its_point_is_first_unknown(store, exported):
    clip = store.clip("run/2 a")
    folder = exported / folder_name("run/2 a")
    samples, images, depth = released_reader_checks(folder)
    points = np.load(folder / "traceworld" / "track_ids.npy")
    assert not np.asarray(depth).any()  # the clip has none: 0 is unknown
    assert set(samples["frame_indices"].tolist()) <= set(range(0, 24, 3))  # only where a picture is
    np.testing.assert_array_equal(images[4], images[3])
    for slot, t in enumerate(samples["frame_indices"].tolist()):
        for row in range(samples["offsets"][slot], samples["offsets"][slot + 1]):
            known = clip.traces.valid[t:, points[row]]
            until = len(known) if known.all() else int(np.argmin(known))
            assert samples["raw_valid_steps"][row].sum() == until
            back = clip.traces.valid[t::-1, points[row]]
            assert samples["raw_valid_steps_history"][row].sum() == (len(back) if back.all() else np.argmin(back))


def test_points_behind_the_camera_and_beyond_float16_are_not_valid(tmp_path):
    clip = make_clip(T=12, N=4, step_s=0.1)
    xyz = clip.traces.xyz_world.copy()
    xyz[6:, 0, 2] = -0.5
    xyz[8:, 1] = [3.0, 0, 1e-3]  # in front, a million pixels to the side
    rows = clip_rows(replace(clip.traces, xyz_world=xyz), clip.cameras, np.arange(12), tmp_path)
    first = {int(p): i for i, p in list(enumerate(rows.points))[:2]}
    assert rows.samples["raw_valid_steps"][first[0]].sum() == 6
    assert rows.samples["raw_valid_steps"][first[1]].sum() == 8
    assert not np.isposinf(rows.samples["raw_traj"]).any()


def test_an_exported_clip_comes_back_as_it_was(store, exported, tmp_path):
    report = import_traceextract([exported], tmp_path)
    assert report.ok == 2
    back = open_dataset(tmp_path)
    for clip in store:
        again = back.clip(clip.clip_id)
        assert again.media.frame_index == clip.media.frame_index
        assert bool(again.media.depth_files) == bool(clip.media.depth_files)
        assert_same_clip(replace(again, media=clip.media), clip)


def test_the_tracks_of_an_export_are_found_without_its_track_ids(store, exported):
    for clip_id in store.clip_ids:
        folder = exported / folder_name(clip_id)
        points = np.load(folder / "traceworld" / "track_ids.npy")
        ids = track_rows(read_episode(folder))
        for number in np.unique(ids):  # no track mixes two points; gaps may split one
            assert len(np.unique(points[ids == number])) == 1


def test_captions_changed_by_others_win(store, exported, tmp_path):
    texts = exported / "clip-0" / "curated_training_texts.json"
    kept = texts.read_text()
    try:
        texts.write_text(kept.replace("reach", "stretch out"))
        import_traceextract([exported / "clip-0"], tmp_path)
    finally:
        texts.write_text(kept)
    clip = open_dataset(tmp_path)[0]
    assert [event.caption for event in clip.events] == ["stretch out", "push", "both"]


def test_resume_failures_and_nothing_half_written(tmp_path):
    write_dataset(tmp_path / "d", clips=2, pictures=range(20), T=20, step_s=0.1)
    writer = DatasetWriter(tmp_path / "d")
    writer.write_item("no pictures", [make_clip("bare", T=20)])
    still = make_clip("still", T=20)
    media = write_pictures(writer.media_folder("still"), {0: picture(0)}, relative_to=tmp_path / "d")
    writer.write_item("still", [replace(still, media=media, traces=replace(still.traces, moving=np.zeros(12, bool)))])
    writer.finalise()
    (tmp_path / "d" / open_dataset(tmp_path / "d").clip("clip-1").media.path / "000007.jpg").unlink()
    report = export_traceextract(open_dataset(tmp_path / "d"), tmp_path / "out")
    assert (report.ok, report.failed) == (1, 3)
    reasons = dict(report.failures)
    assert "000007.jpg" in reasons["clip-1"]
    assert "without pictures" in reasons["bare"]
    assert "nothing moves" in reasons["still"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["clip-0", MANIFEST]
    again = export_traceextract(open_dataset(tmp_path / "d"), tmp_path / "out")
    assert (again.ok, again.failed, again.done) == (0, 3, 1)
    (tmp_path / "out" / ".clip-1.77-abc.partial").mkdir()  # of a run that was killed before it wrote its manifest
    write_json(tmp_path / "out" / MANIFEST, {"episodes": {}})
    assert export_traceextract(open_dataset(tmp_path / "d"), tmp_path / "out").done == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["clip-0", MANIFEST]
    with pytest.raises(InvalidInputError):
        export_traceextract(open_dataset(tmp_path / "d"), tmp_path / "o", future=1)
    with pytest.raises(DatasetError, match="something else"):
        export_traceextract(open_dataset(tmp_path / "d"), tmp_path / "d")
    write_json(tmp_path / "out" / MANIFEST, {"episodes": {"clip-0": {"clip_id": "clip 0"}}})
    with pytest.raises(DatasetError, match="another clip"):
        export_traceextract(open_dataset(tmp_path / "d"), tmp_path / "out")


def test_pictures_of_two_sizes_are_named(tmp_path):
    writer = DatasetWriter(tmp_path / "d")
    images = {f: picture(f, (32, 24) if f < 9 else (64, 48)) for f in range(20)}
    media = write_pictures(writer.media_folder("x"), images, relative_to=tmp_path / "d")
    writer.write_item("x", [replace(make_clip("x", T=20, step_s=0.1), media=media)])
    writer.finalise()
    report = export_traceextract(open_dataset(tmp_path / "d"), tmp_path / "out")
    assert "clip x, frame 9: is 64×48, others are 32×24" in report.failures[0][1]


def test_edited_clips_are_written_anew(exported, store, tmp_path):
    """After an import with originals an unchanged clip goes back as it came; an edited one says what it now says."""
    folder = tmp_path / "plain"
    source = exported / "clip-0"
    folder.mkdir()
    for path in source.rglob("*"):
        if path.is_file() and "traceworld" not in path.parts:
            (folder / path.relative_to(source)).parent.mkdir(exist_ok=True)
            (folder / path.relative_to(source)).write_bytes(path.read_bytes())
    import_traceextract([folder], tmp_path / "store")
    clip = open_dataset(tmp_path / "store")[0]
    moving = clip.traces.moving.copy()
    moving[0] = False
    writer = DatasetWriter(tmp_path / "store")
    writer.write_item("plain", [replace(clip, traces=replace(clip.traces, moving=moving), task="new task")])
    export_traceextract(open_dataset(tmp_path / "store"), tmp_path / "out")
    before, after = (np.load(f / "samples" / "traj.npy") for f in (folder, tmp_path / "out" / "plain"))
    assert 0 < len(after) < len(before)
    assert (tmp_path / "out" / "plain" / "description.txt").read_text() == "new task"


def test_events_and_training_texts():
    texts = texts_of_events(EVENTS, "clip", 60)
    assert [(c["start_idx"], c["end_idx"], c["instruction_1"]) for c in texts["chunk_texts"]] == [
        (0, 19, "reach"),
        (20, 59, "push"),
    ]
    assert [(m["merge_type"], m["source_chunk_ids"]) for m in texts["merged_texts"]] == [("full", [0, 1])]
    events, said = events_of_texts(texts, 60, Path("."))
    assert [(e.start, e.end, e.caption) for e in events] == [(e.start, e.end, e.caption) for e in EVENTS]
    assert said[0] == ["reach", "hand near", ""]
    four = [Event(10 * i, 10 * i + 10, f"part {i}") for i in range(4)]
    merged = texts_of_events([*four, Event(0, 20, "two", 1), Event(0, 30, "three", 1), Event(0, 40, "all", 2)], "c", 40)
    assert [m["merge_type"] for m in merged["merged_texts"]] == ["pair", "triple", "full"]
    assert [t["chunk_id"] for t in merged["merged_texts"][1]["timeline"]] == [0, 1, 2]


def test_acceleration_is_the_mean_second_difference_of_points_seen_around():
    T = 30
    clip = make_clip(T=T, N=4, occluded=0.0)
    xyz = np.repeat(np.array([[0.0, 0, 1], [0.1, 0, 1], [0, 0.1, 1], [0, 0, 1]], np.float32)[None], T, 0)
    t = np.arange(T)[:, None] / 500  # 500 px focal length at 1 m: pixels
    xyz[:, 0, 0] += 3 * np.arange(T) ** 2 / 500
    xyz[:, 1, :1] += 1.0 * t**2 * 500
    visible = np.ones((T, 4), bool)
    visible[15, 1] = False
    traces = replace(clip.traces, xyz_world=xyz, visible=visible)
    signal = acceleration(traces, clip.cameras)
    assert signal[4] == signal[-5] == 0  # five frames on either side
    np.testing.assert_allclose(signal[5:10], (6 + 2) / 2, rtol=1e-3)
    np.testing.assert_allclose(signal[10:20], 6, rtol=1e-3)  # the other is hidden within five frames of 15


def exported_extraction(folder, clip):
    writer = DatasetWriter(folder / "store")
    writer.write_item("x", [clip])
    writer.finalise()
    report = export_traceextract(open_dataset(folder / "store"), folder / "out")
    assert (report.ok, report.failures) == (1, ())
    return released_reader_checks(folder / "out" / folder_name(clip.clip_id))


def test_an_extraction_exports(tmp_path):
    from traceworld.extract.config import ExtractConfig
    from traceworld.extract.pipeline import extract_clip

    video = write_video(tmp_path / "square.mp4", moving_square(16, step=5))
    clip = extract_clip(video, ExtractConfig(num_keypoints=48, tau_moving_px=20.0))
    samples, images, _ = exported_extraction(tmp_path, clip)
    assert len(images) == 16
    assert samples["valid_steps"].sum(1).max() >= 3


@pytest.mark.shared_data
@needs_shared(BRIDGE)
def test_a_real_clip_exports(tmp_path):
    from traceworld.extract.config import ExtractConfig
    from traceworld.extract.pipeline import extract_clip

    clip = extract_clip(BRIDGE, ExtractConfig(num_keypoints=96))
    samples, images, depth = exported_extraction(tmp_path, clip)
    assert images.shape == (35, 480, 640, 3)
    assert (np.asarray(depth[10]) > 0).mean() > 0.3
    assert len(samples["frame_indices"]) > 20
