"""Clip store → LeRobot → clip store: everything equal; robot recordings into the store; captions; ragged points."""

import json
from dataclasses import replace

import lerobot_toys as toys
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trace_clips import EVENTS, assert_same_clip, make_clip, picture, swaying_poses, write_dataset

from traceworld.errors import ConfigError, DatasetError, InvalidInputError
from traceworld.geometry.cameras import uvz_to_world
from traceworld.traces.lerobot import LeRobotDemonstrations, export_lerobot, import_lerobot, write_lerobot
from traceworld.traces.lerobot.encode import video_info
from traceworld.traces.lerobot.language import events_of_rows, events_of_runs, rows_of_events
from traceworld.traces.lerobot.layout import Feature
from traceworld.traces.lerobot.videos import DEPTH_DEFAULTS
from traceworld.traces.lerobot.writer import Episode, write_episodes
from traceworld.traces.media import frames_with_pictures, read_depth, read_frame, write_pictures
from traceworld.traces.store import open_dataset
from traceworld.traces.types import Event, Media, Traces
from traceworld.traces.writer import DatasetWriter

SMALL = {
    "T": 12,
    "events": (Event(0, 4, "reach", 0, "far", "moves", "near"), Event(6, 12, "push"), Event(0, 12, "do", 1)),
}


def store(folder, clips):
    writer = DatasetWriter(folder, source="tests")
    for clip in clips:
        writer.write_item(clip.clip_id, [clip])
    writer.finalise()
    return open_dataset(folder)


def there_and_back(dataset, tmp_path, **options):
    folder = export_lerobot(dataset, tmp_path / "lerobot", **options)
    report = import_lerobot([folder], tmp_path / "back")
    assert (report.ok, report.failed) == (len(dataset), 0)
    return folder, open_dataset(tmp_path / "back")


def without_media(clip):
    return replace(clip, media=Media(), root=None)


def test_a_clip_store_survives_there_and_back(tmp_path):
    write_dataset(tmp_path / "clips", pictures=range(0, 12, 5), **SMALL, poses=swaying_poses(12))
    dataset = open_dataset(tmp_path / "clips")
    _, back = there_and_back(dataset, tmp_path, pictures="png")
    assert sorted(back.clip_ids) == sorted(dataset.clip_ids)
    for clip in dataset:
        twin = back.clip(clip.clip_id)
        assert_same_clip(without_media(clip), without_media(twin))
        assert frames_with_pictures(clip) == frames_with_pictures(twin) == [0, 5, 10]
        for frame in (0, 5, 10):
            np.testing.assert_array_equal(read_frame(clip, frame), read_frame(twin, frame))
            np.testing.assert_allclose(read_depth(clip, frame), read_depth(twin, frame))


def test_video_export_keeps_traces_exactly_and_pictures_nearly(tmp_path):
    write_dataset(tmp_path / "clips", clips=2, pictures=range(12), **SMALL)
    dataset = open_dataset(tmp_path / "clips")
    _, back = there_and_back(dataset, tmp_path, pictures="video")
    for clip in dataset:
        twin = back.clip(clip.clip_id)
        assert_same_clip(without_media(clip), without_media(twin))
        assert toys.close(read_frame(twin, 7), read_frame(clip, 7))
        np.testing.assert_allclose(read_depth(twin, 7), read_depth(clip, 7), atol=0.002)


def test_ragged_points_unknown_points_and_clips_without_pictures(tmp_path):
    clips = [
        make_clip("few", T=9, N=3, unknown=0.3, task="a"),
        make_clip("many", T=5, N=8, seed=1),
        replace(make_clip("none", T=6, N=1), traces=Traces.empty(6)),
        make_clip("one", T=6, N=1, metric=False, provenance={"seed": 3, "nested": {"x": [1, 2.5, None]}}),
    ]
    known_but_unusable = clips[1].traces.valid.copy()
    known_but_unusable[2, 3] = False
    clips[1] = replace(
        clips[1],
        traces=replace(clips[1].traces, valid=known_but_unusable, visible=clips[1].traces.visible & known_but_unusable),
    )
    dataset = store(tmp_path / "clips", clips)
    folder, back = there_and_back(dataset, tmp_path)
    assert not (folder / "videos").exists()
    for clip in dataset:
        assert_same_clip(clip, back.clip(clip.clip_id))
    info = json.loads((folder / "meta/info.json").read_text())
    assert info["features"]["trace.xyz_world"]["shape"] == [24]
    assert info["features"]["trace.xyz_world"]["info"]["num_points"] == 8
    table = pq.read_table(folder / "data/chunk-000/file-000.parquet").to_pydict()
    few = next(i for i, text in enumerate(table["trace.clip"]) if text and json.loads(text)["clip_id"] == "few")
    assert table["trace.known"][few][3:] == [False] * 5
    assert np.isfinite(table["trace.xyz_world"][few]).all()
    with pytest.raises(InvalidInputError, match="has 8 points, more than 5"):
        export_lerobot(dataset, tmp_path / "five", num_points=5)
    twelve = export_lerobot(dataset, tmp_path / "twelve", num_points=12)
    assert json.loads((twelve / "meta/info.json").read_text())["features"]["trace.valid"]["shape"] == [12]


def test_pictures_are_repeated_where_none_is_stored(tmp_path):
    writer = DatasetWriter(tmp_path / "clips")
    media = write_pictures(writer.media_folder("i"), {2: picture(2), 5: picture(5)}, relative_to=tmp_path / "clips")
    writer.write_item("i", [make_clip("c", T=8, media=media)])
    writer.finalise()
    folder = export_lerobot(open_dataset(tmp_path / "clips"), tmp_path / "out", pictures="png")
    table = pq.read_table(folder / "data/chunk-000/file-000.parquet")
    assert table["trace.picture_frame"].to_pylist() == [-1, -1, 2, 2, 2, 5, 5, 5]
    cells = [cell["bytes"] for cell in table["observation.images.camera"].to_pylist()]
    assert cells[2] == cells[4] != cells[5]


def test_clips_that_do_not_go_together_are_refused(tmp_path):
    dataset = store(tmp_path / "rates", [make_clip("a", T=5), make_clip("b", T=5, step_s=0.1)])
    with pytest.raises(InvalidInputError, match=r"'a' has 40 frames per second, clip 'b' 10"):
        export_lerobot(dataset, tmp_path / "x")
    folder = export_lerobot(dataset, tmp_path / "forty", fps=40)
    import_lerobot([folder], tmp_path / "back")
    np.testing.assert_array_equal(open_dataset(tmp_path / "back").clip("b").time_s, dataset.clip("b").time_s)
    writer = DatasetWriter(tmp_path / "sizes")
    for name, size in (("a", (32, 24)), ("b", (16, 12))):
        media = write_pictures(writer.media_folder(name), {0: picture(0, size)}, relative_to=tmp_path / "sizes")
        writer.write_item(name, [make_clip(name, T=4, media=media)])
    writer.finalise()
    with pytest.raises(InvalidInputError, match=r"not 32×24|not 16×12"):
        export_lerobot(open_dataset(tmp_path / "sizes"), tmp_path / "y", pictures="png")
    export_lerobot(open_dataset(tmp_path / "sizes"), tmp_path / "z", pictures="png", image_size=(20, 16))


def test_captions_become_subtasks_and_changed_ones_win(tmp_path):
    dataset = store(tmp_path / "clips", [make_clip("c", events=EVENTS)])
    folder = export_lerobot(dataset, tmp_path / "out")
    path = folder / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    rows = table["language_persistent"].to_pylist()
    assert all(frame == rows[0] for frame in rows)
    assert [(r["style"], r["content"], r["timestamp"], r["camera"]) for r in rows[0]] == [
        ("subtask", "reach", 0.0, None),
        ("plan", "do it", 0.0, None),
        ("subtask", "push", 0.5, None),
    ]
    changed = [[{**row, "content": row["content"].upper()} for row in frame] for frame in rows]
    place = table.column_names.index("language_persistent")
    column = pa.array(changed, table.schema.field(place).type)
    pq.write_table(table.set_column(place, "language_persistent", column), path)
    import_lerobot([folder], tmp_path / "back")
    assert open_dataset(tmp_path / "back").clip("c").events == (
        Event(0, 20, "REACH"), Event(20, 60, "PUSH"), Event(0, 60, "DO IT", 1)
    )  # fmt: skip


def test_rows_and_events():
    rows = rows_of_events((Event(2, 5, "a"), Event(5, 9, "b"), Event(0, 9, "all", 1)), 10)
    assert events_of_rows(rows, 9, 10) == (Event(2, 5, "a"), Event(5, 9, "b"), Event(0, 9, "all", 1))
    assert events_of_rows(None, 9, 10) == ()
    strange = [{"style": "subtask", "content": None, "timestamp": 0.1}, {"style": "vqa", "content": "x"}]
    assert events_of_rows(strange, 9, 10) == ()
    late = [{"style": "subtask", "content": "x", "timestamp": 5.0}]
    assert events_of_rows(late, 9, 10) == ()
    assert events_of_runs(np.array([1, 1, 0, 1]), {0: "zero", 1: "one"}) == (
        Event(0, 2, "one"), Event(2, 3, "zero"), Event(3, 4, "one")
    )  # fmt: skip


def test_policy_data_are_the_points_now_and_one_frame_later(tmp_path):
    clip = make_clip("c", T=10, N=4, occluded=0.0, poses=swaying_poses(10))
    folder = export_lerobot(store(tmp_path / "clips", [clip]), tmp_path / "out", policy_data=True)
    table = pq.read_table(folder / "data/chunk-000/file-000.parquet")
    state, action = (np.array(table[key].to_pylist(), np.float32) for key in ("observation.state", "action"))
    np.testing.assert_array_equal(action[:-1], state[1:])
    for frame in (0, 7):
        camera = clip.cameras[frame]
        uvz = state[frame].reshape(4, 3).astype(np.float64)
        xyz = uvz_to_world(uvz, camera.K, camera.cam_from_world, camera.width, camera.height)
        np.testing.assert_allclose(xyz, clip.traces.xyz_world[frame], atol=1e-5)


@pytest.mark.parametrize("version", ["v21", "v30"])
def test_a_robot_recording_becomes_clips_and_comes_back(tmp_path, version):
    folder = tmp_path / "robot"
    if version == "v21":
        toys.write_v21(folder)
    else:
        write_lerobot(toys.Demos(success=True), folder)
    report = import_lerobot([folder], tmp_path / "clips")
    assert (report.ok, report.failed, report.done) == (6, 0, 0)
    assert import_lerobot([folder], tmp_path / "clips").done == 6
    dataset = open_dataset(tmp_path / "clips")
    clip = dataset.clip("robot/episode_000001/scene")
    assert (clip.num_frames, clip.task, clip.media.kind) == (4, "do task 1", "video")
    assert not clip.metric
    assert clip.traces.num_keypoints == 0
    assert clip.media.path.startswith(str(folder))  # the video stays where it is
    for frame in (3, 0):
        assert toys.close(read_frame(clip, frame), toys.picture(1, 0, frame))
    if version == "v21":
        wrist = dataset.clip("robot/episode_000001/wrist")
        assert wrist.media.kind == "frames"
        np.testing.assert_array_equal(read_frame(wrist, 2), toys.picture(1, 1, 2))  # PNG, as it was
    import_lerobot([folder], tmp_path / "one", cameras=["wrist"])
    again = export_lerobot(open_dataset(tmp_path / "one"), tmp_path / "again", pictures="png", camera="wrist")
    read, source = LeRobotDemonstrations(again), LeRobotDemonstrations(folder, cameras=["wrist"])
    for number in range(3):
        np.testing.assert_array_equal(read[number].action, source[number].action)
        np.testing.assert_array_equal(read[number].state, source[number].state)
        assert read[number].instruction == source[number].instruction
        assert read[number].success == source[number].success
        for frame in range(len(read[number])):
            np.testing.assert_array_equal(
                read[number].read_frame("wrist", frame), source[number].read_frame("wrist", frame)
            )


def test_damaged_episodes_are_in_the_manifest_and_the_others_in_the_store(tmp_path):
    folder = toys.write_v21(tmp_path / "robot")
    (folder / "data/chunk-000/episode_000001.parquet").write_bytes(b"damaged")
    report = import_lerobot([folder], tmp_path / "clips", cameras=["scene"])
    assert (report.ok, report.failed) == (2, 1)
    failed = [item for item in open_dataset(tmp_path / "clips").manifest if item["status"] == "failed"]
    assert failed[0]["item_id"] == "robot/episode_000001/scene"
    assert "episode_000001.parquet" in failed[0]["error"]
    toys.write_v21(tmp_path / "whole")
    (tmp_path / "whole/data/chunk-000/episode_000001.parquet").rename(folder / "data/chunk-000/episode_000001.parquet")
    report = import_lerobot([folder], tmp_path / "clips", cameras=["scene"], retry_failed=True)
    assert (report.ok, report.failed, report.done) == (1, 0, 2)
    (tmp_path / "x").mkdir()
    with pytest.raises(ConfigError, match="two datasets are called"):
        import_lerobot([folder, tmp_path / "x/../robot"], tmp_path / "y")
    with pytest.raises(DatasetError, match="not a LeRobot dataset"):
        import_lerobot([tmp_path / "x"], tmp_path / "y")


@pytest.mark.parametrize("kind", ["image", "video"])
def test_depth_features_subtasks_and_language(tmp_path, kind):
    depth_m = np.linspace(0.5, 3.0, 24 * 32).reshape(24, 32).astype(np.float32)
    depth_m[0, :5] = np.nan
    T, names = 6, ["height", "width", "channels"]
    info = (
        video_info((32, 24), 10, "hevc", DEPTH_DEFAULTS)
        if kind == "video"
        else {"is_depth_map": True, "depth_unit": "mm"}
    )
    features = [
        Feature("action", "float32", (2,)),
        Feature("observation.images.top", "image", (24, 32, 3), names),
        Feature("observation.images.top_depth", kind, (24, 32, 1), names, info),
        Feature("observation.images.side", "image", (24, 32, 3), names),
        Feature("language_persistent", "language", (1,)),
    ]

    def read(key, frame):
        if key.endswith("depth"):
            return depth_m if kind == "video" else np.nan_to_num(depth_m * 1000).round().astype(np.uint16)
        return picture(frame)

    rows = [
        {
            "role": "assistant",
            "content": "reach",
            "style": "subtask",
            "timestamp": 0.2,
            "camera": None,
            "tool_calls": None,
        }
    ]
    episode = Episode("e", "pick", T, {"action": np.zeros((T, 2), np.float32), "language_persistent": [rows] * T}, read)
    folder = write_episodes([episode], tmp_path / "robot", features, 10)
    import_lerobot([folder], tmp_path / "clips")
    dataset = open_dataset(tmp_path / "clips")
    top, side = dataset.clip("robot/episode_000000/top"), dataset.clip("robot/episode_000000/side")
    assert top.events == (Event(2, 6, "reach"),)
    assert top.metric
    found = read_depth(top, 3)
    assert np.isnan(found[0, :5]).all()
    np.testing.assert_allclose(found[1:], depth_m[1:], atol=0.002)
    assert read_depth(side, 3) is None
    assert not side.metric


def test_subtask_numbers_become_events(tmp_path):
    folder = toys.write_v21(tmp_path / "robot")
    path = folder / "data/chunk-000/episode_000000.parquet"
    for number in range(3):
        path = folder / f"data/chunk-000/episode_{number:06d}.parquet"
        table = pq.read_table(path)
        column = pa.array([0] * 2 + [1] * (len(table) - 2), pa.int64())
        pq.write_table(table.append_column("subtask_index", column), path)
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"]["subtask_index"] = {"dtype": "int64", "shape": [1], "names": None}
    (folder / "meta/info.json").write_text(json.dumps(info))
    pq.write_table(pa.table({"subtask_index": [0, 1], "subtask": ["reach", "grasp"]}), folder / "meta/subtasks.parquet")
    import_lerobot([folder], tmp_path / "clips", cameras=["wrist"])
    clip = open_dataset(tmp_path / "clips").clip("robot/episode_000000/wrist")
    assert clip.events == (Event(0, 2, "reach"), Event(2, 7, "grasp"))
