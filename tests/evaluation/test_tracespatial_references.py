"""Straight lines as entrants: where they begin, where the words send them, and that they are scored like any model."""

import json

import bench_scenes
import numpy as np
import pytest

from traceworld.errors import DatasetError
from traceworld.evaluation.tracespatial.references import REFERENCES, USUAL_M
from traceworld.evaluation.tracespatial.runner import RunOptions, run_bench
from traceworld.evaluation.tracespatial.scoring import score_file
from traceworld.geometry.cameras import project_cam, unproject_cam
from traceworld.tracespatial.answers import parse_trace, to_pixels
from traceworld.tracespatial.bench_layout import open_bench
from traceworld.tracespatial.bench_writing import write_bench


@pytest.fixture
def bench(tmp_path):
    def made(prompt=None):
        item = bench_scenes.item()
        if prompt is not None:
            item.question.record["prompt"] = prompt
            object.__setattr__(item.question, "prompt", prompt)
        write_bench(tmp_path / "bench", [item])
        return open_bench(tmp_path / "bench")

    return made


def said(bench, name, task="3D"):
    question = bench.questions[0]
    points = parse_trace(REFERENCES[name].words(bench, question, task), 3 if task == "3D" else 2).points
    pixels = to_pixels(points, bench_scenes.WIDTH, bench_scenes.HEIGHT)
    return question, points if task == "2D" else unproject_cam(pixels[:, :2], pixels[:, 2], question.K)


def test_true_ends_are_those_of_the_reference(bench):
    question, line = said(bench(), "straight-line-true-ends")
    np.testing.assert_allclose(line, question.trajectory_cam[[0, -1]], atol=3e-3)


@pytest.mark.parametrize(
    ("words", "way", "far"),
    [
        ("Move the mug straight up.", (0, -1, 0), USUAL_M),
        ("Shift the mug towards the camera, by 0.450m.", (0, 0, -1), 0.45),
        ("Move the mug to the right, passing the box.", (1, 0, 0), USUAL_M),
        ("Move the mug to the left, by 0.100m, passing the box.", (-1, 0, 0), 0.1),
    ],
)
def test_named_directions_are_taken_as_far_as_is_said(bench, words, way, far):
    question, line = said(bench(words), "straight-line")
    np.testing.assert_allclose(line[1] - line[0], np.array(way) * far, atol=0.01)
    mask = open_mask(bench(words), question)
    u, v = np.rint(project_cam(line[:1], question.K)[0, :2]).astype(int)
    assert mask[v, u] > 0


def open_mask(bench, question):
    return bench.picture(question, "mask")


def test_without_a_direction_it_goes_to_the_middle_of_the_picture(bench):
    question, line = said(bench(), "straight-line")
    pixel = project_cam(line[1:], question.K)[0, :2]
    np.testing.assert_allclose(pixel, [bench_scenes.WIDTH / 2, bench_scenes.HEIGHT / 2], atol=1.0)


def test_2d_answers_have_no_depth(bench):
    assert said(bench(), "straight-line", "2D")[1].shape == (2, 2)


def test_a_straight_line_through_a_solid_box_is_scored_as_one(bench, tmp_path):
    found = bench()
    file = run_bench(found, REFERENCES["straight-line-true-ends"], tmp_path / "a_3D.jsonl", "3D", RunOptions())
    summary = score_file(file, found, "3D", "text")[0]["summary"]
    assert (summary["start_ok"], summary["end_ok"], summary["success"]) == (1.0, 1.0, 0.0)
    assert json.loads(file.read_text())["question_id"] == 0


def test_a_question_without_a_picture_is_refused(bench, tmp_path):
    found = bench()
    (tmp_path / "bench" / "raw_data" / "0" / "image.png").unlink()
    with pytest.raises(DatasetError, match="no picture"):
        REFERENCES["straight-line"].words(open_bench(tmp_path / "bench"), found.questions[0], "3D")
