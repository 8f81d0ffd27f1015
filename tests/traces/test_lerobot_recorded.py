"""Datasets recorded by LeRobot 0.6.1 itself (`tests/lerobot_bridge/test_datasets.py: record`), read without it."""

from pathlib import Path

import lerobot_toys as toys
import numpy as np
import pyarrow.parquet as pq
import pytest

from traceworld.traces.lerobot import LeRobotDemonstrations, import_lerobot
from traceworld.traces.lerobot.columns import read_robot_columns
from traceworld.traces.lerobot.stats import column_stats
from traceworld.traces.media import read_depth, read_frame
from traceworld.traces.store import open_dataset

RECORDED = Path(__file__).parent / "lerobot_recorded"
DEPTH_M = np.linspace(400, 3000, 64 * 64).reshape(64, 64).astype(np.uint16) / 1000


@pytest.mark.parametrize("kind", ["images", "video"])
def test_lerobot_s_own_files_are_read(kind):
    read = LeRobotDemonstrations(RECORDED / kind)
    assert (len(read), read.fps, list(read.cameras)) == (3, 10.0, ["top"])
    assert read.spec.names == ("dx", "dy", "grip")
    for number in range(3):
        demo, wanted = read[number], toys.demonstration(number)
        np.testing.assert_array_equal(demo.action, wanted.action)
        np.testing.assert_array_equal(demo.state, wanted.state)
        assert demo.instruction == wanted.instruction
        for frame in (len(demo) - 1, 0):
            image = toys.picture(number, 0, frame, (64, 64))
            found = demo.read_frame("top", frame)
            assert np.array_equal(found, image) if kind == "images" else toys.close(found, image)


@pytest.mark.parametrize("kind", ["images", "video"])
def test_lerobot_s_depth_and_columns_come_into_the_store(kind, tmp_path):
    assert import_lerobot([RECORDED / kind], tmp_path / "clips").ok == 3
    clip = open_dataset(tmp_path / "clips").clip(f"{kind}/episode_000002/top")
    np.testing.assert_allclose(read_depth(clip, 4), DEPTH_M, atol=0.0001 if kind == "images" else 0.003)
    assert toys.close(read_frame(clip, 4), toys.picture(2, 0, 4, (64, 64)))
    features, values = read_robot_columns(tmp_path / "clips" / clip.provenance["robot_columns"])
    assert {feature.key for feature in features} == {"observation.state", "action", "reward", "note"}
    assert values["note"] == [f"2-{frame}" for frame in range(9)]
    np.testing.assert_allclose(values["reward"], np.arange(9) / 7, rtol=1e-6)


def test_lerobot_s_statistics_are_ours():
    stored = pq.read_table(RECORDED / "images/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    for number in range(3):
        ours = column_stats(toys.demonstration(number).action)
        for name, value in ours.items():
            np.testing.assert_allclose(stored[number][f"stats/action/{name}"], value, rtol=1e-3, atol=1e-3)
