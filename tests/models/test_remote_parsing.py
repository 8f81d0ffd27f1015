"""Waypoints out of answers as models give them, good and bad."""

import json
import time
from collections import Counter

import numpy as np
import pytest

from traceworld.models.remote.parsing import find_paths, read_path, read_waypoints

START = np.array([[100.0, 200.0], [500.0, 600.0]])
PATHS = [[[110, 210], [120, 220], [130, 230]], [[510, 610], [520, 620], [530, 630]]]
GOOD = json.dumps({"trajectories": [{"id": i, "future": path} for i, path in enumerate(PATHS)]})


def read(text, number=3, start=START):
    return read_waypoints(text, start, number)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Here you are:\n\n```\n{GOOD}\n```\nI hope that helps (1, 2)!",
        f"```json {GOOD}```",
        f"<think>First (9, 9), then {{not json</think>\n{GOOD}",
        f"<think>Point 0: (1, 2), (3, 4)</think><answer>{GOOD}</answer>",
        GOOD.replace("]]}", "],]},"),
        f"Sure! {GOOD} Anything else?",
        json.dumps({"0": PATHS[0], "1": PATHS[1]}),
        json.dumps([{"keypoint": "kp_0", "waypoints": PATHS[0]}, {"keypoint": "kp_1", "waypoints": PATHS[1]}]),
        json.dumps(PATHS),
        json.dumps({"result": {"points": [{"id": 1, "path": PATHS[1]}, {"id": 0, "path": PATHS[0]}]}}),
        json.dumps([{"id": i, "trace": [{"u": u, "v": v} for u, v in path]} for i, path in enumerate(PATHS)]),
        json.dumps([{"id": i, "trace": [{"x": x, "y": y} for x, y in path]} for i, path in enumerate(PATHS)]),
        "Keypoint 0 goes (110, 210), (120, 220) and ends at (130, 230).\nKeypoint 1: (510, 610) (520,620) (530, 630)",
        "**Point #0**: [110, 210], [120, 220], [130, 230]\n**Point #1**: [510, 610], [520, 620], [530, 630]",
        "0. (110, 210) -> (120, 220) -> (130, 230)\n1. (510, 610) -> (520, 620) -> (530, 630)",
        "```json\n[110, 210], [120\n```\nid=0: (110,210),(120,220),(130,230); id=1: (510,610),(520,620),(530,630)",
        GOOD[:-3],
        GOOD[:-2] + ' {"id": 2, "fut',
    ],
)
def test_every_wrapping_of_the_same_answer(text):
    said = read(text)
    assert said.failure == ""
    assert said.answered.all()
    np.testing.assert_array_equal(said.values[..., :2], np.asarray(PATHS, float))
    assert not set(said.mends) - {"unknown_id"}


def test_truncation_keeps_what_is_complete():
    said = read(GOOD[: GOOD.index("[530")])
    np.testing.assert_array_equal(said.values[0, :, :2], PATHS[0])
    np.testing.assert_array_equal(said.values[1, :, :2], [[510, 610], [520, 620], [520, 620]])
    assert said.mends == {"padded": 1}
    said = read(GOOD[: GOOD.index('{"id": 1')])
    assert said.answered.tolist() == [True, False]
    assert said.mends == {"missing": 1}


def test_wrong_counts_are_cut_and_padded_and_counted():
    long = [[100 + i, 200] for i in range(1, 6)]
    said = read(json.dumps({"0": long, "1": PATHS[1][:1]}))
    np.testing.assert_array_equal(said.values[0, :, 0], [101, 102, 103])
    np.testing.assert_array_equal(said.values[1, :, 0], [510, 510, 510])
    assert said.mends == {"cut": 1, "padded": 1}


def test_a_leading_current_point_is_not_a_step():
    said = read(json.dumps({"0": [[101, 199], *PATHS[0]], "1": PATHS[1]}))
    np.testing.assert_array_equal(said.values[0, :, :2], PATHS[0])
    assert said.mends == {}
    far = read(json.dumps({"0": [[300, 199], *PATHS[0]], "1": PATHS[1]}))
    assert far.values[0, 0, 0] == 300
    assert far.mends == {"cut": 1}


def test_out_of_range_is_clipped():
    said = read(json.dumps({"0": [[-50, 210], [1200, 5000], [130, 230]], "1": PATHS[1]}))
    np.testing.assert_array_equal(said.values[0, :, :2], [[0, 210], [1000, 1000], [130, 230]])
    assert said.mends == {"clipped": 1}


def test_depth_is_read_and_bounded():
    said = read('{"0": [[1, 2, 0.5], [3, 4, -99], [5, 6]], "1": [[1, 2, 0.1], [3, 4, 0.2], [5, 6, 0.3]]}')
    assert said.values[0, :, 2].tolist() == [0.5, -20.0, 0.0]
    assert said.values[1, :, 2].tolist() == [0.1, 0.2, 0.3]
    prose = read("Point 0: (1, 2, 0.25m), (3, 4, -.5), (5, 6, 1e-1)")
    assert prose.values[0, :, 2].tolist() == [0.25, -0.5, 0.1]


def test_fractions_are_taken_for_fractions():
    said = read(json.dumps({"0": [[0.11, 0.21], [0.12, 0.22], [0.13, 0.23]], "1": [[0.5, 1.0], [0.5, 0], [1, 0.9]]}))
    np.testing.assert_allclose(said.values[0, :, :2], PATHS[0])
    assert said.mends == {"rescaled": 1}
    corner = read(json.dumps({"0": [[0, 0], [1, 1], [1, 0]], "1": [[0, 1], [1, 1], [1, 1]]}))
    assert corner.values.max() == 1
    assert corner.mends == {}


def test_numbers_that_are_none():
    said = read('{"0": [[NaN, 2], [3, 4], [1e999, 6]], "1": [[1, 2], [1e400, 1], [5, 6]]}')
    assert np.isfinite(said.values).all()
    np.testing.assert_array_equal(said.values[0, :, :2], [[3, 4]] * 3)
    assert said.mends == {"dropped": 3, "padded": 2}
    nothing = read('{"0": [[NaN, NaN]]}')
    assert nothing.failure == "unparsable"
    assert not nothing.answered.any()


def test_ids_that_were_not_asked_for():
    said = read(json.dumps({"0": PATHS[0], "1": PATHS[1], "7": PATHS[0]}))
    assert said.mends == {"unknown_id": 1}
    twice = read(json.dumps([{"id": 0, "future": PATHS[0]}, {"id": 0, "future": PATHS[1]}]))
    np.testing.assert_array_equal(twice.values[0, :, :2], PATHS[0])
    assert twice.mends == {"repeated_id": 1, "missing": 1}
    shifted = read(json.dumps({"1": PATHS[0], "2": PATHS[1]}))
    np.testing.assert_array_equal(shifted.values[..., :2], PATHS)
    assert shifted.mends == {"shifted_ids": 1}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(PATHS[0]),
        json.dumps({"future": PATHS[0]}),
        "1. (110, 210)\n2. (120, 220)\n3. (130, 230)",
        "It goes to (110, 210), then (120, 220), then (130, 230).",
    ],
)
def test_one_keypoint_needs_no_id(text):
    said = read(text, start=START[:1])
    np.testing.assert_array_equal(said.values[0, :, :2], PATHS[0])


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("I'm sorry, but I cannot help with that.", "refusal"),
        ("As an AI, I do not see pictures.", "refusal"),
        ("The drawer will open to the left.", "unparsable"),
        ('{"trajectories": []}', "unparsable"),
        ('{"trajectories": [{"id": 0, "future": []}]}', "unparsable"),
        ('{"0": "left", "1": null}', "unparsable"),
        ("null", "unparsable"),
        ("[true, false]", "unparsable"),
    ],
)
def test_nothing_to_be_read(text, failure):
    said = read(text)
    assert said.failure == failure
    assert not said.answered.any()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "\n" * 200_000,
        "(1" + " " * 200_000,
        "id" + " " * 200_000,
        "```" * 50_000,
        "((((" * 50_000,
        "9" * 300_000,
    ],
)
def test_hostile_answers_take_no_time(text):
    started = time.process_time()
    assert not read(text).answered.any()
    assert time.process_time() - started < 5


def test_a_path_without_ids():
    assert read_path("[(1, 2, 0.5), (3, 4, 0.6)]") == [[1, 2, 0.5], [3, 4, 0.6]]
    assert read_path("<think>(9, 9), (8, 8)</think> (1, 2), (3, 4)") == [[1, 2], [3, 4]]
    assert read_path("First [(1, 2), (3, 4)], no, rather [(5, 6), (7, 8)], near (9, 9)") == [[5, 6], [7, 8]]
    assert read_path("nothing") == []
    assert find_paths("nothing", 2, Counter()) == {}
