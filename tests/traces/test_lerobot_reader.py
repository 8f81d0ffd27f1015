"""LeRobot folders read: v2.1 made by hand, v3.0, damaged ones, other cameras, forked readers, seeking."""

import json
import multiprocessing
import shutil

import lerobot_toys as toys
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from traceworld.errors import ConfigError, DatasetError, FormatVersionError, InvalidInputError, MediaError
from traceworld.traces.lerobot import LeRobotDemonstrations, videos, write_lerobot
from traceworld.traces.lerobot.layout import Feature, read_layout
from traceworld.traces.lerobot.videos import TimedVideo, depth_from_levels, depth_to_levels, frame_times


@pytest.fixture(scope="module")
def v21(tmp_path_factory):
    return toys.write_v21(tmp_path_factory.mktemp("v21") / "set")


@pytest.fixture(scope="module")
def v30(tmp_path_factory):
    return write_lerobot(toys.Demos(), tmp_path_factory.mktemp("v30") / "set")


def copy_of(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def edit_info(folder, **changed):
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in (info | changed).items() if v != "absent"}))
    return folder


@pytest.mark.parametrize("version", ["v21", "v30"])
def test_every_number_and_picture_comes_back(version, request):
    read = LeRobotDemonstrations(request.getfixturevalue(version))
    assert read.instructions() == ["do task 0", "do task 1", "do task 0"]
    assert tuple(read.cameras) == toys.CAMERAS
    assert (read.spec.names, read.spec.state_names) == (toys.SPEC.names, toys.SPEC.state_names)
    for number in (2, 0, 1):
        episode, wanted = read[number], toys.demonstration(number)
        np.testing.assert_array_equal(episode.state, wanted.state)
        np.testing.assert_array_equal(episode.action, wanted.action)
        for frame in (len(wanted) - 1, 0, 2, 2, 1):  # in any order
            for camera in toys.CAMERAS:
                assert toys.close(
                    episode.read_frame(camera, frame), toys.picture(number, toys.CAMERAS.index(camera), frame)
                )


def test_bounds_are_the_recorded_ones_with_and_without_statistics(v21, tmp_path):
    folder = copy_of(v21, tmp_path)
    stored = LeRobotDemonstrations(folder).spec
    (folder / "meta/episodes_stats.jsonl").unlink()
    computed = LeRobotDemonstrations(folder).spec
    np.testing.assert_allclose(stored.low, computed.low)
    np.testing.assert_allclose(stored.high, computed.high)


def test_cameras_are_chosen_by_name_or_key(v30):
    assert list(LeRobotDemonstrations(v30, cameras=["wrist"]).cameras) == ["wrist"]
    read = LeRobotDemonstrations(v30, cameras={"front": "observation.images.wrist", "wrist": "scene"})
    assert read[0].cameras == ("front", "wrist")
    assert toys.close(read[0].read_frame("front", 1), toys.picture(0, 1, 1))
    with pytest.raises(ConfigError, match="no colour feature 'top'"):
        LeRobotDemonstrations(v30, cameras=["top"])
    with pytest.raises(InvalidInputError, match="no such camera"):
        read[0].read_frame("scene", 0)
    with pytest.raises(ConfigError, match="no feature 'force' of numbers"):
        LeRobotDemonstrations(v30, action="force")


def test_a_dataset_without_states_gives_states_of_no_numbers(v30):
    read = LeRobotDemonstrations(v30, state="observation.none")
    assert read[1].state.shape == (toys.LENGTHS[1], 0)
    assert read.spec.state_names == ()


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"codebase_version": "v4.0"}, FormatVersionError, "codebase_version"),
        ({"codebase_version": "absent"}, FormatVersionError, "codebase_version"),
        ({"fps": 0}, DatasetError, "'fps' must be a positive"),
        ({"fps": "ten"}, DatasetError, "'fps'"),
        ({"total_episodes": 4}, DatasetError, "'total_episodes' is 4, but 3"),
        ({"total_episodes": True}, DatasetError, "'total_episodes' is missing or no int"),
        ({"features": []}, DatasetError, "'features'"),
        ({"features": {"action": {"dtype": "float32", "shape": [0]}}}, DatasetError, "feature 'action'"),
        ({"data_path": "../x.parquet"}, DatasetError, "leads out of the folder"),
        ({"data_path": "data/{nothing}.parquet"}, DatasetError, "cannot be filled in"),
        ({"data_path": "absent"}, DatasetError, "'data_path'"),
    ],
)
@pytest.mark.parametrize("version", ["v21", "v30"])
def test_impossible_fields_are_named(version, changed, error, says, request, tmp_path):
    folder = edit_info(copy_of(request.getfixturevalue(version), tmp_path), **changed)
    with pytest.raises(error, match=says) as caught:
        LeRobotDemonstrations(folder)
    assert "info.json" in caught.value.where


def test_damaged_files_are_named(v21, v30, tmp_path):
    for name, damage in [
        ("meta/info.json", b"{"),
        ("meta/tasks.parquet", b"PAR1"),
        ("meta/episodes/chunk-000/file-000.parquet", b"nothing"),
    ]:
        folder = shutil.copytree(v30, tmp_path / name.replace("/", "-"))
        (folder / name).write_bytes(damage)
        with pytest.raises(DatasetError) as caught:
            LeRobotDemonstrations(folder)
        assert str(folder / name) in caught.value.where
    folder = shutil.copytree(v21, tmp_path / "lines")
    with (folder / "meta/episodes.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(DatasetError, match="no JSON") as caught:
        LeRobotDemonstrations(folder)
    assert "line 4" in caught.value.where
    folder = shutil.copytree(v30, tmp_path / "data")
    path = folder / "data/chunk-000/file-000.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    read = LeRobotDemonstrations(folder)
    with pytest.raises(DatasetError, match="episode 1 cannot be read"):
        _ = read[1]
    video = folder / "videos/observation.images.wrist/chunk-000/file-000.mp4"
    video.write_bytes(b"no video")
    shutil.copy(v30 / "data/chunk-000/file-000.parquet", path)
    with pytest.raises(MediaError, match="opened as a video") as caught:
        read[1].read_frame("wrist", 0)
    assert caught.value.where == str(video)


def test_a_wrong_length_a_missing_column_and_nan_are_refused(v21, tmp_path):
    folder = copy_of(v21, tmp_path)
    path = folder / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(path)
    read = LeRobotDemonstrations(folder)
    pq.write_table(table.slice(1), path)
    with pytest.raises(DatasetError, match="holds 3 frames of episode 1; its 'length' in meta/ is 4"):
        _ = read[1]
    pq.write_table(table.drop_columns(["action"]), path)
    with pytest.raises(DatasetError, match="column 'action' is not there"):
        _ = read[1]
    bad = table["action"].to_pylist()
    bad[2][1] = float("nan")
    place = table.column_names.index("action")
    pq.write_table(table.set_column(place, "action", pa.array(bad, pa.list_(pa.float32()))), path)
    with pytest.raises(DatasetError, match="'action' is not finite in episode 1, frame 2"):
        _ = read[1]
    bad[2] = [1.0]
    pq.write_table(table.set_column(place, "action", pa.array(bad, pa.list_(pa.float32()))), path)
    with pytest.raises(DatasetError, match="column 'action' has 10 numbers for 4 frames"):
        _ = read[1]


def _read_in_child(folder, number, out):
    read = LeRobotDemonstrations(folder)
    episode = read[number]
    out.put([episode.read_frame("scene", frame).mean() for frame in range(len(episode))])


def _read_inherited(episode, out):
    episode.read_frame("wrist", 0)
    out.put([episode.read_frame("scene", frame).mean() for frame in range(len(episode))])


def test_forked_readers_do_not_disturb_each_other(v30, monkeypatch):
    monkeypatch.setattr(videos, "_MOST_OPEN", 1)  # every other file closes one; never one that the parent opened
    episode = LeRobotDemonstrations(v30)[2]
    here = [episode.read_frame("scene", frame).mean() for frame in range(4)]  # the decoder is in the middle of the file
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    children = [context.Process(target=_read_inherited, args=(episode, out)) for _ in range(2)]
    children.append(context.Process(target=_read_in_child, args=(v30, 2, out)))
    for child in children:
        child.start()
    here += [episode.read_frame("scene", frame).mean() for frame in range(4, len(episode))]
    found = [out.get(timeout=250) for _ in children]
    for child in children:
        child.join()
    assert all(values == here for values in found)


def test_reading_forward_seeks_once(v30, monkeypatch):
    seeks = []
    seek = TimedVideo._seek
    monkeypatch.setattr(TimedVideo, "_seek", lambda self, time: seeks.append(time) or seek(self, time))
    path = v30 / "videos/observation.images.scene/chunk-000/file-000.mp4"
    video = TimedVideo(path)
    times = frame_times(path)
    np.testing.assert_allclose(times, np.arange(sum(toys.LENGTHS)) / 10, atol=1e-4)
    for number, time in enumerate(times):
        assert video.frame_at(time, 0.04).pts == video.frame_at(time, 0.04).pts
        assert abs(video.frame_at(time, 0.04).time - number / 10) < 1e-4
    assert len(seeks) == 1
    video.frame_at(0.3, 0.04)
    assert len(seeks) == 2
    with pytest.raises(MediaError, match=r"no frame at 0\.3500"):
        video.frame_at(0.35, 0.04)
    with pytest.raises(MediaError, match=r"no frame at 9\.0000"):
        video.frame_at(9.0, 0.04)
    assert abs(video.frame_at(1.2, 0.04).time - 1.2) < 1e-4  # and it can be read on


def test_timestamps_of_the_table_say_which_frame(v30, tmp_path):
    folder = copy_of(v30, tmp_path)
    path = folder / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    stamps = table["timestamp"].to_numpy().copy()
    stamps[1] = stamps[3]  # the recorder says that row 1 shows what the camera saw at 0.3 s
    place = table.column_names.index("timestamp")
    pq.write_table(table.set_column(place, "timestamp", pa.array(stamps)), path)
    image = LeRobotDemonstrations(folder)[0].read_frame("scene", 1)
    assert toys.close(image, toys.picture(0, 0, 3))


def test_element_names_of_all_shapes():
    names = ["a", "b"]
    assert Feature("x.y", "float32", (2,), names).element_names() == ("a", "b")
    assert Feature("x.y", "float32", (2,), {"motors": names}).element_names() == ("a", "b")
    assert Feature("x.y", "float32", (2,), {"left": ["a"], "right": ["b"]}).element_names() == ("a", "b")
    assert Feature("x.y", "float32", (3,), names).element_names() == ("y_0", "y_1", "y_2")
    assert Feature("x.y", "float32", (2,), {"motors": 3}).element_names() == ("y_0", "y_1")


def test_depth_levels_there_and_back():
    info = {"video.depth_min": 0.01, "video.depth_max": 10.0, "video.shift": 3.5, "video.use_log": True}
    depth = np.array([[0.3, 1.0, 5.0], [9.9, 12.0, np.nan]], np.float32)
    levels = depth_to_levels(depth, info)
    back = depth_from_levels(levels, info)
    np.testing.assert_allclose(back[0], depth[0], atol=0.003)
    assert abs(back[1, 0] - 9.9) < 0.005
    assert np.isnan(back[1, 1:]).all()  # beyond the range, unknown
    assert (levels[1, 1], levels[1, 2]) == (4095, 0)
    np.testing.assert_array_equal(depth_to_levels(back, info)[0], levels[0])
    linear = info | {"video.use_log": False}
    assert abs(depth_from_levels(depth_to_levels(depth, linear), linear)[0, 1] - 1.0) < 0.0025


def test_layout_tells_what_is_there(v21, v30):
    for folder, version in ((v21, "v2.1"), (v30, "v3.0")):
        layout = read_layout(folder)
        assert (layout.version, layout.fps, layout.num_episodes) == (version, 10, 3)
        assert layout.cameras() == ("observation.images.scene", "observation.images.wrist")
        assert layout.depth_keys() == ()
