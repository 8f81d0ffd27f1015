"""The published evaluator's behaviour on a made-up benchmark: figures, every row of the table in §1.4, and where it would not end."""

import dataclasses
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tracespatial"))
from bench_scenes import ACROSS, HEIGHT, OVER, WIDTH, K, item, said
from test_answers import fuzzed

from traceworld.evaluation.metrics import frechet_reference
from traceworld.evaluation.tracespatial.compat import ENDS_THE_RUN, NEVER_RETURNS, published_figures, score_compat
from traceworld.evaluation.tracespatial.summary import summarise
from traceworld.tracespatial.bench_layout import Answer, open_bench
from traceworld.tracespatial.bench_writing import write_bench

GOOD = np.add(OVER, [0.01, 0, 0])


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    write_bench(folder, [item(0), item(1, barrier=False), item(2, mask_value=1), item(3)])
    return open_bench(folder)


def score(bench, number, text, task="3D", family="text", pictures=True):
    answer = Answer(bench.questions[number], text)
    (found,) = score_compat([answer], task, family, bench if pictures else None)
    return found


def fenced(text: str) -> str:
    return "```json\n" + text.replace("(", "[").replace(")", "]") + "\n```"


def test_a_good_answer(bench):
    found = score(bench, 0, said(item(0), GOOD))
    assert found.start_ok is found.end_ok is found.success is found.start_in_mask is found.end_in_box is True
    assert found.collided is False
    assert len(found.collision_ratios) == 4  # waypoints alone
    assert found.start_distance_m < 0.02
    assert found.end_distance_m == 0
    assert found.frechet == pytest.approx(0.01, abs=0.004)
    assert json.dumps(found.as_json(), allow_nan=False)


def test_the_path_errors_are_those_of_plain_functions(bench):
    path = np.array([[100, 900, 0.9], [300, 200, 1.5], [800, 500, 1.1]], float)
    text = "[" + ", ".join(f"({u:.0f}, {v:.0f}, {d})" for u, v, d in path) + "]"
    pixels = path[:, :2] / 1000 * [WIDTH, HEIGHT]
    camera = np.concatenate([(pixels - K[:2, 2]) * path[:, 2:] / [K[0, 0], K[1, 1]], path[:, 2:]], axis=1)

    def resampled(points):
        along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
        at = np.linspace(0, along[-1], 100)
        return np.stack([np.interp(at, along, points[:, axis]) for axis in range(points.shape[1])], axis=1)

    true = bench.questions[0].trajectory_cam
    a, b = resampled(camera), resampled(true)
    found = score(bench, 0, text)
    assert found.frechet == pytest.approx(frechet_reference(a, b), abs=1e-6)
    assert found.rmse == pytest.approx(np.sqrt(((a - b) ** 2).sum(axis=1).mean()), abs=1e-6)
    assert found.mae == pytest.approx(np.abs(a - b).mean(), abs=1e-6)
    flat = true[:, :2] / true[:, 2:] * [K[0, 0], K[1, 1]] + K[:2, 2]
    a, b = resampled(pixels) / [WIDTH, HEIGHT], resampled(flat) / [WIDTH, HEIGHT]
    found = score(bench, 0, text, "2D")
    assert found.frechet == found.frechet_2d == pytest.approx(frechet_reference(a, b), abs=1e-6)
    assert found.mae == pytest.approx(np.abs(a - b).mean(), abs=1e-6)


def test_start_mask_and_box_in_the_picture(bench):
    inside = said(item(0), OVER, dims=2)
    found = score(bench, 0, inside, "2D")
    assert (found.start_in_mask, found.end_in_box) == (True, True)
    outside = said(item(0), [[0.3, -0.3, 0], [0, 0.3, 0]], dims=2)
    found = score(bench, 0, outside, "2D")
    assert (found.start_in_mask, found.end_in_box) == (False, False)
    early = said(item(0), [*OVER, [0, -0.3, 0], [0, -0.35, 0]], dims=2)  # the end counts among the last three
    assert score(bench, 0, early, "2D").end_in_box
    late = said(item(0), [*OVER, [0, -0.3, 0], [0, -0.35, 0], [0, -0.3, 0.1]], dims=2)
    assert not score(bench, 0, late, "2D").end_in_box


def test_distances_are_strictly_below_their_limits(bench):
    given = item(1, barrier=False)
    near = score(bench, 1, said(given, [[0.15, 0, -0.1], [0.7, 0, 0.29]]))
    far = score(bench, 1, said(given, [[0.15, 0, -0.5], [0.7, 0, 0.32]]))
    assert (near.start_ok, near.end_ok, far.start_ok, far.end_ok) == (True, True, False, False)
    assert near.end_distance_m == pytest.approx(0.19, abs=0.005)


def test_collisions_at_waypoints_alone(bench):
    """B2: a path straight through the box is free if no waypoint stands in its shell."""
    assert score(bench, 0, said(item(0), ACROSS)).collided is False
    into_the_face = said(item(0), [[0, 0, 0], [0.35, -0.05, -0.1]])
    assert score(bench, 0, into_the_face).collided is True


def test_a_mask_of_ones_collides_with_itself(bench):
    """B8: obstacles are cut out where the mask is 255, the object where it is above 0."""
    found = score(bench, 2, said(item(2), GOOD))
    assert found.collision_ratios[0] > 0.9
    assert found.collided is True


def test_failed_collision_checks_are_free(bench, tmp_path):
    """B7: a mask of another size."""
    from PIL import Image

    given = item(0)
    write_bench(tmp_path, [given])
    Image.fromarray(given.mask).resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.NEAREST).save(
        tmp_path / "raw_data/0/mask.png"
    )
    small = open_bench(tmp_path)
    found = score(small, 0, said(given, [[0, 0, 0], [0.35, -0.05, -0.1]]))
    assert found.collided is False
    assert found.collision_ratios is None
    assert found.start_distance_m < 0.02  # the cloud resizes the mask


NOTHING = {"prose": "I cannot", "square": "[[1, 2, 3], [4, 5, 6]]", "blank": ""}
OUTSIDE = {
    "crlf": "```json\r\n[[1, 2, 3]]\r\n```",
    "one line": "```json [[1, 2, 3]]```",
    "not json": "```\nx\n```\n```json\n[[1,2,3]]\n```",
}
EMPTY = {"dicts": '```json\n[{"x": 1, "y": 2, "d": 3}]\n```', "four numbers": "```json\n[[1, 2, 3, 4]]\n```"}


@pytest.mark.parametrize("text", NOTHING.values(), ids=NOTHING)
def test_nothing_parsable_text_family(bench, text):
    found = score(bench, 0, text, "2D")  # two points in the corner
    assert found.skipped is None
    assert (found.start_in_mask, found.end_in_box) == (False, False)
    assert found.frechet > 0.3
    assert score(bench, 0, text).skipped == "no depth in the answer"


@pytest.mark.parametrize("text", [*NOTHING.values(), *OUTSIDE.values()], ids=[*NOTHING, *OUTSIDE])
def test_nothing_parsable_json_family(bench, text):
    assert score(bench, 0, text, "2D", "json").frechet > 0.3
    found = score(bench, 0, text, "3D", "json")
    assert found.skipped is None
    assert (found.start_ok, found.end_ok, found.collided, found.success) == (False, False, False, False)
    assert found.frechet is None
    assert found.start_distance_m is found.end_distance_m is None


@pytest.mark.parametrize("text", EMPTY.values(), ids=EMPTY)
def test_json_without_a_point(bench, text):
    assert score(bench, 0, text, "2D", "json").frechet > 0.3
    assert score(bench, 0, text, "3D", "json").skipped == "no depth in the answer"


def test_null(bench):
    assert score(bench, 0, None).skipped == "no depth in the answer"
    assert score(bench, 0, None, "2D").frechet > 0.3
    assert score(bench, 0, None, "3D", "json").skipped.startswith("cannot be parsed: TypeError")
    assert score(bench, 0, None, "2D", "json").skipped.startswith(ENDS_THE_RUN)


def test_2d_tuples_in_the_3d_task(bench):
    flat = said(item(0), OVER, dims=2)
    assert score(bench, 0, flat).skipped == "no depth in the answer"
    assert score(bench, 0, fenced(flat), "3D", "json").skipped == "no depth in the answer"


def test_mixed_lengths(bench):
    mixed = said(item(0), OVER)[:-1] + ", (500, 500)]"
    assert score(bench, 0, mixed).skipped == NEVER_RETURNS
    assert score(bench, 0, mixed, "2D").skipped is None
    assert score(bench, 0, fenced(mixed), "3D", "json").skipped.startswith("cannot be parsed: ValueError")
    assert score(bench, 0, fenced(mixed), "2D", "json").skipped.startswith(ENDS_THE_RUN)
    sizes = '```json\n{"image_size": [320, 240], "points": [[1, 2, 3], [4, 5, 6]]}\n```'
    assert score(bench, 0, sizes, "3D", "json").skipped.startswith("cannot be parsed")


@pytest.mark.parametrize("family", ["text", "json"])
def test_two_equal_leading_points_never_return(bench, family):
    text = said(item(0), [OVER[0], *OVER])
    text = text if family == "text" else fenced(text)
    assert score(bench, 0, text, "3D", family).skipped == NEVER_RETURNS
    flat = score(bench, 0, text, "2D", family)  # NaN is dropped there
    assert flat.skipped is None
    assert flat.start_in_mask is True
    assert flat.frechet is None


def test_a_nan_literal(bench):
    text = "```json\n[[500, 500, NaN], [400, 400, 1.0]]\n```"
    assert score(bench, 0, text, "3D", "json").skipped == NEVER_RETURNS
    assert score(bench, 0, "```json\n[[NaN, 500], [400, 400]]\n```", "2D", "json").skipped.startswith(ENDS_THE_RUN)
    assert score(bench, 0, f"({'9' * 50}, 5, 1), (4, 5, 6)").skipped == NEVER_RETURNS


def test_lost_tuples_and_thinking(bench):
    lost = said(item(0), OVER).replace("(", "( ", 1)
    assert len(score(bench, 0, lost).points) == 3
    thought = f"<think>(245, 147, 1.837)</think><answer>{said(item(0), OVER)}</answer>"
    assert score(bench, 0, thought).points[0] == pytest.approx([245, 147, 1.837])


def test_only_the_first_fence_counts(bench):
    two = fenced(said(item(0), OVER)) + "\n" + fenced("[(1, 2, 3), (4, 5, 6)]")
    assert len(score(bench, 0, two, "3D", "json").points) == 4


@pytest.mark.parametrize(("family", "start"), [("text", 1.0), ("json", 0.5)])
def test_denominators_depend_on_the_family(bench, family, start):
    """B5: two good and two unparsable answers."""
    texts = ["nothing", said(item(0), GOOD), "nothing", said(item(3), GOOD)]
    texts = [text if family == "text" else fenced(text) if "(" in text else text for text in texts]
    answers = [Answer(bench.questions[0], text) for text in texts]
    figures = published_figures(score_compat(answers, "3D", family, bench), "3D")
    assert (figures["start_ok"], figures["end_ok"], figures["overall_success"]) == (start, start, 0.5)


def test_nothing_valid_is_a_perfect_path(bench):
    """B6."""
    figures = published_figures(score_compat([Answer(bench.questions[0], "x")], "3D", "text", bench), "3D")
    assert figures["frechet"] == figures["mae"] == 0.0
    assert figures["start_ok"] is None


def test_corners_behind_the_camera_are_projected(bench):
    """B11: a box around the camera has the rectangle of its mirror image."""
    record = dict(bench.questions[0].record) | {"bbox_center": [0, 0, 0.5], "bbox_extent": [0.2, 0.2, 3]}
    question = dataclasses.replace(bench.questions[0], record=record, box=type(bench.questions[0].box)(
        np.array([0, 0, 0.5]), np.array([0.2, 0.2, 3.0]), np.eye(3)))  # fmt: skip
    (found,) = score_compat([Answer(question, "(0, 0), (999, 999)")], "2D", "text", bench)
    assert found.end_in_box is False


def test_no_intrinsics(bench):
    question = dataclasses.replace(bench.questions[0], K=None)
    skipped = [
        score_compat([Answer(question, "(1, 2, 3), (4, 5, 6)")], task, "text", bench)[0].skipped
        for task in ("3D", "2D")
    ]
    assert skipped[0] == "no intrinsics"
    assert skipped[1].startswith(ENDS_THE_RUN)


def test_the_summary_says_where_the_published_run_stops(bench):
    def run(texts, task, family="text"):
        answers = [Answer(question, text) for question, text in zip(bench.questions, texts, strict=False)]
        return summarise(score_compat(answers, task, family, bench), task, "compat")

    good, hang = said(item(0), GOOD), said(item(0), [OVER[0], *OVER])
    assert run([good, good], "3D")["published_run"] == "ends with its figures"
    found = run([good, hang], "3D")
    assert found["published_run"].startswith("never returns (questions 1)")
    assert found["skipped"] == {"1": NEVER_RETURNS}
    assert found["start_ok"] == 1.0
    assert run([None, fenced(good)], "2D", "json")["published_run"].startswith("ends with an exception at question 0")


def test_without_pictures_and_known_size(bench):
    """The made-up pictures are of no published size: nothing but the words can be scored, and it says so."""
    found = score(bench, 0, said(item(0), OVER), pictures=False)
    assert "give --bench" in found.error
    assert found.frechet is None


@pytest.mark.parametrize("number", [150, pytest.param(3_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", ["text", "json"])
def test_it_always_ends(bench, family, number):
    """Where the published evaluator would hang or crash, a reason; else figures; whatever is said."""
    rng = random.Random(number)
    size_known = K * [[2.0], [2.0], [1]] + [
        [0, 0, 0.5],
        [0, 0, 0.5],
        [0, 0, 0],
    ]  # of 640×480: without pictures, for speed
    question = bench.questions[0] if number == 150 else dataclasses.replace(bench.questions[0], K=size_known)
    answers = [Answer(question, fuzzed(rng)) for _ in range(number)]
    for task in ("2D", "3D"):
        scores = score_compat(answers, task, family, bench if number == 150 else None)
        assert len(scores) == number
        json.dumps([score.as_json() for score in scores], allow_nan=False)
