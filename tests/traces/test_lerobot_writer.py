"""LeRobot v3.0 written: read back, resumed after kills, the same bytes each time, statistics, refusals."""

import dataclasses
import hashlib
import json

import lerobot_toys as toys
import numpy as np
import pyarrow.parquet as pq
import pytest

from traceworld.errors import DatasetError, InvalidInputError
from traceworld.traces.demonstrations import Demonstrations
from traceworld.traces.lerobot import LeRobotDemonstrations, write_lerobot
from traceworld.traces.lerobot.layout import Feature
from traceworld.traces.lerobot.writer import Episode, write_episodes


def hashes(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def same_demonstration(a, b, lossless):
    assert (a.instruction, a.fps, a.cameras, len(a), a.success) == (b.instruction, b.fps, b.cameras, len(b), b.success)
    np.testing.assert_array_equal(a.state, b.state)
    np.testing.assert_array_equal(a.action, b.action)
    for camera in a.cameras:
        for frame in range(len(a)):
            image, wanted = a.read_frame(camera, frame), b.read_frame(camera, frame)
            assert np.array_equal(image, wanted) if lossless else toys.close(image, wanted)


@pytest.mark.parametrize("pictures", ["video", "png", "jpeg"])
def test_what_is_written_is_read_back(tmp_path, pictures):
    demos = toys.Demos(success=True)
    write_lerobot(demos, tmp_path / "out", pictures=pictures, robot_type="toy")
    read = LeRobotDemonstrations(tmp_path / "out")
    assert isinstance(read, Demonstrations)
    assert len(read) == 3
    assert read.instructions() == demos.instructions()
    for index in range(3):
        same_demonstration(read[index], demos[index], lossless=pictures == "png")
    assert read.spec.names == toys.SPEC.names
    assert read.spec.state_names == toys.SPEC.state_names
    assert read.spec.control_hz == 10.0
    actions = np.concatenate([demo.action for demo in demos.items])
    np.testing.assert_allclose(read.spec.low, actions.min(0))
    np.testing.assert_allclose(read.spec.high, actions.max(0))


def with_depth(demo, cameras):
    def read_depth(camera, frame):
        depth = np.linspace(0.3, 2.5, toys.SIZE[0] * toys.SIZE[1], dtype=np.float32).reshape(toys.SIZE[::-1])
        depth = depth + np.float32(0.05 * frame + cameras.index(camera))
        depth[:4] = np.nan
        return depth

    return dataclasses.replace(demo, depth_cameras=cameras, read_depth=read_depth)


@pytest.mark.parametrize(("pictures", "off_m"), [("video", 0.003), ("png", 0.00051)])
def test_depth_is_written_beside_its_camera_and_read_back(tmp_path, pictures, off_m):
    cameras = toys.CAMERAS[:1]
    demos = [with_depth(toys.demonstration(number), cameras) for number in range(2)]
    write_lerobot(iter(demos), tmp_path / "out", spec=toys.SPEC, pictures=pictures)
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    key = f"observation.images.{cameras[0]}_depth"
    assert info["features"][key]["shape"] == [toys.SIZE[1], toys.SIZE[0], 1]
    read = LeRobotDemonstrations(tmp_path / "out")
    assert tuple(read.cameras) == toys.CAMERAS  # depth is no camera
    for number, demo in enumerate(demos):
        assert read[number].depth_cameras == cameras
        for frame in (0, len(demo) - 1):
            found, wanted = read[number].depth_m(cameras[0], frame), demo.depth_m(cameras[0], frame)
            assert np.array_equal(np.isnan(found), np.isnan(wanted))
            assert np.nanmax(np.abs(found - wanted)) < off_m
    with pytest.raises(InvalidInputError, match="has no depth"):
        read[0].depth_m(toys.CAMERAS[1], 0)


def test_all_episodes_have_depth_of_the_same_cameras(tmp_path):
    demos = [with_depth(toys.demonstration(0), toys.CAMERAS[:1]), toys.demonstration(1)]
    with pytest.raises(InvalidInputError, match="depth of other cameras"):
        write_lerobot(iter(demos), tmp_path / "out", spec=toys.SPEC, pictures="png")


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_lerobot(toys.Demos(), tmp_path / name)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert len(hashes(tmp_path / "a")) == 7  # data, episodes, 2 videos, info, stats, tasks


def test_episodes_share_files_up_to_the_limit(tmp_path):
    folder = write_lerobot(toys.Demos(6), tmp_path / "out", pictures="png", data_mb=0.1)
    files = sorted((folder / "data").rglob("*.parquet"))
    assert 1 < len(files) < 6
    groups = [pq.ParquetFile(file).num_row_groups for file in files]
    assert sum(groups) == 6
    assert max(groups) > 1
    index = np.concatenate([pq.read_table(file)["index"].to_numpy() for file in files])
    np.testing.assert_array_equal(index, np.arange(sum(toys.LENGTHS) * 2))
    read = LeRobotDemonstrations(folder)
    for number in range(6):
        np.testing.assert_array_equal(read[number].action, toys.demonstration(number).action)


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path, after):
    whole = write_lerobot(toys.Demos(6), tmp_path / "whole", data_mb=0.0001)

    def dying():
        for number in range(6):
            if number == after:
                raise Killed
            yield toys.demonstration(number)

    with pytest.raises(Killed):
        write_lerobot(dying(), tmp_path / "part", spec=toys.SPEC, data_mb=0.0001)
    assert not (tmp_path / "part/meta/info.json").exists()
    with pytest.raises(DatasetError, match="not a LeRobot dataset"):
        LeRobotDemonstrations(tmp_path / "part")
    (tmp_path / "part/data/chunk-000").mkdir(parents=True, exist_ok=True)
    (tmp_path / "part/data/chunk-000/.file-009.parquet.1-a.partial").write_bytes(b"left over")
    write_lerobot(toys.Demos(6), tmp_path / "part", data_mb=0.0001)
    assert hashes(tmp_path / "part") == hashes(whole)


def test_going_on_reads_no_picture_of_what_is_written(tmp_path):
    with pytest.raises(Killed):
        write_lerobot(
            _then_die(toys.demonstration(0), toys.demonstration(1)), tmp_path / "d", spec=toys.SPEC, data_mb=1e-4
        )
    seen = []
    demos = toys.Demos(3)
    for number, demo in enumerate(demos.items):
        read = demo.read_frame
        object.__setattr__(demo, "read_frame", lambda c, f, n=number, r=read: seen.append(n) or r(c, f))
    write_lerobot(demos, tmp_path / "d", data_mb=1e-4)
    assert seen.count(0) == 2  # the size of the pictures of each camera
    assert seen.count(2) >= 2 * toys.LENGTHS[2]


def _then_die(*items):
    yield from items
    raise Killed


def test_another_run_s_beginning_and_a_finished_folder_are_refused(tmp_path):
    with pytest.raises(Killed):
        write_lerobot(_then_die(*toys.Demos(2).items), tmp_path / "d", spec=toys.SPEC, data_mb=1e-4)
    with pytest.raises(DatasetError, match="other features or settings"):
        write_lerobot(toys.Demos(2), tmp_path / "d", pictures="png", data_mb=1e-4)
    with pytest.raises(DatasetError, match="episode 0 was 'demo-0' before and is 'demo-2' now"):
        write_lerobot([toys.demonstration(2)], tmp_path / "d", spec=toys.SPEC, data_mb=1e-4)
    write_lerobot(toys.Demos(2), tmp_path / "d", data_mb=1e-4)
    with pytest.raises(DatasetError, match="finished"):
        write_lerobot(toys.Demos(2), tmp_path / "d", data_mb=1e-4)
    (tmp_path / "e").mkdir()
    (tmp_path / "e/notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"holds 'notes\.txt'"):
        write_lerobot(toys.Demos(2), tmp_path / "e")


def test_episodes_that_do_not_fit_the_first_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="frame rate"):
        write_lerobot([toys.demonstration(0), toys.demonstration(1, fps=20.0)], tmp_path / "a")
    with pytest.raises(InvalidInputError, match="no episode"):
        write_lerobot([], tmp_path / "b")
    other = toys.demonstration(1)
    object.__setattr__(other, "read_frame", lambda c, f: np.zeros((16, 16, 3), np.uint8))
    for pictures in ("video", "png"):
        with pytest.raises(InvalidInputError, match="16×16, not 48×32"):
            write_lerobot([toys.demonstration(0), other], tmp_path / pictures, pictures=pictures)


def test_odd_picture_sizes_can_be_video(tmp_path):
    demo = toys.demonstration(0, cameras=("scene",))
    odd = np.full((33, 47, 3), 90, np.uint8)
    object.__setattr__(demo, "read_frame", lambda c, f: odd)
    folder = write_lerobot([demo], tmp_path / "odd")
    assert toys.close(LeRobotDemonstrations(folder)[0].read_frame("scene", 3), odd, 3)


def test_features_lerobot_could_not_keep_are_refused(tmp_path):
    def write(feature, values, **fields):
        episode = Episode("e", "t", 2, {feature.key: values})
        write_episodes([episode], tmp_path / "d", [feature], 10, **fields)

    with pytest.raises(InvalidInputError, match="write it flat"):
        write(Feature("a", "float32", (2, 3)), np.zeros((2, 2, 3), np.float32))
    with pytest.raises(InvalidInputError, match="not finite"):
        write(Feature("a", "float32", (2,)), np.full((2, 2), np.nan, np.float32))
    with pytest.raises(InvalidInputError, match="reserved"):
        write(Feature("index", "int64", (1,)), np.zeros(2, np.int64))
    with pytest.raises(InvalidInputError, match="6 values for 2 frames"):
        write(Feature("a", "float32", (2,)), np.zeros((3, 2), np.float32))


def test_info_json_says_what_is_there(tmp_path):
    folder = write_lerobot(toys.Demos(success=False), tmp_path / "out", robot_type="toy")
    info = json.loads((folder / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["robot_type"]) == ("v3.0", 10, "toy")
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, sum(toys.LENGTHS), 2)
    assert info["features"]["observation.images.scene"]["info"]["video.codec"] == "h264"
    assert info["features"]["action"]["names"] == list(toys.SPEC.names)
    tasks = pq.read_table(folder / "meta/tasks.parquet")
    assert tasks["task"].to_pylist() == ["do task 0", "do task 1"]
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    episodes = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [e["length"] for e in episodes] == list(toys.LENGTHS)
    assert [e["videos/observation.images.wrist/from_timestamp"] for e in episodes] == [0.0, 0.7, 1.1]
    assert episodes[1]["dataset_from_index"] == 7
    assert np.shape(episodes[0]["stats/observation.images.scene/mean"]) == (3, 1, 1)
