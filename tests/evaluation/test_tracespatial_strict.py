"""The default scoring: each published fault has a test that it is not there."""

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

from traceworld.evaluation.tracespatial.records import completed
from traceworld.evaluation.tracespatial.strict import box_distances, box_rectangle, fitted, in_mask, score_strict
from traceworld.evaluation.tracespatial.summary import summarise
from traceworld.tracespatial.answers import FAILURES, format_answer
from traceworld.tracespatial.bench_layout import Answer, open_bench
from traceworld.tracespatial.bench_writing import write_bench
from traceworld.tracespatial.scene import OrientedBox

ITEMS = [item(0), item(1, barrier=False, step=5, source="CA-1M"), item(2, mask_value=1, step=5), item(3, step=8)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    write_bench(folder, ITEMS)
    return open_bench(folder)


def score(bench, number, text, task="3D", **options):
    (found,) = score_strict([Answer(bench.questions[number], text)], task, bench=bench, **options)
    return found


@pytest.mark.parametrize("number", range(4))
def test_the_true_trace_scores_full(bench, number):
    for text in (said(ITEMS[number], OVER), format_answer("from (1, 2, 3) on", said(ITEMS[number], OVER))):
        found = score(bench, number, text)
        assert found.success is True
        assert found.frechet < 0.005
        assert found.start_in_mask
        assert found.end_in_box
        assert json.dumps(found.as_json(), allow_nan=False)


def test_straight_through_the_box_collides(bench):
    """B2, B3: two waypoints, none of them at the box; and the same path where there is no box."""
    found = score(bench, 0, said(ITEMS[0], ACROSS))
    assert (found.start_ok, found.end_ok, found.collided, found.success) == (True, True, True, False)
    assert len(found.collision_ratios) >= 70
    assert score(bench, 1, said(ITEMS[1], ACROSS)).success is True


def test_a_mask_of_ones_is_the_object(bench):
    """B8."""
    assert score(bench, 2, said(ITEMS[2], OVER)).collided is False


@pytest.mark.parametrize(
    "text", ["", None, "no", "[(1, 2, 3), (4, 5)]", "[(1, 2, nan), (4, 5, 6)]", "[(1, 2), (3, 4)]"]
)
def test_what_cannot_be_read_fails_and_stays_in_the_denominator(bench, text):
    good = Answer(bench.questions[0], said(ITEMS[0], OVER))
    scores = score_strict([good, Answer(bench.questions[1], text)], "3D", bench=bench)
    assert scores[1].failure in FAILURES
    assert (scores[1].start_ok, scores[1].end_ok, scores[1].success) == (False, False, False)
    summary = summarise(scores, "3D", "strict")
    for name in ("parsed", "start_ok", "end_ok", "no_collision", "success"):
        assert summary[name] == 0.5
    assert summary["path_errors_over"] == 1
    assert summary["frechet"] == scores[0].frechet
    assert summarise(scores[1:], "3D", "strict")["frechet"] is None


def test_a_family_can_be_asked_for(bench):
    tuples = said(ITEMS[0], OVER)
    assert score(bench, 0, tuples, family="json").failure == "no_points"
    fenced = "```json\n" + tuples.replace("(", "[").replace(")", "]") + "\n```"
    assert score(bench, 0, fenced, family="json").success
    assert score(bench, 0, fenced + " from (1, 2, 3)", family="auto").success


def test_two_equal_leading_points_are_no_matter(bench):
    """B1."""
    twice = score(bench, 0, said(ITEMS[0], [OVER[0], *OVER]))
    once = score(bench, 0, said(ITEMS[0], OVER))
    assert twice.success
    assert twice.frechet == pytest.approx(once.frechet)


def test_2d(bench):
    found = score(bench, 0, said(ITEMS[0], OVER, dims=2), "2D")
    assert (found.start_in_mask, found.end_in_box) == (True, True)
    assert found.frechet == found.frechet_2d < 0.005
    assert found.success is found.start_ok is found.collided is None
    missed = score(bench, 0, said(ITEMS[0], [[0.3, -0.3, 0], [0, 0.3, 0]], dims=2), "2D")
    assert (missed.start_in_mask, missed.end_in_box) == (False, False)
    unread = score(bench, 0, "?", "2D")
    assert (unread.start_in_mask, unread.end_in_box, unread.frechet) == (False, False, None)


def test_an_object_without_depth_is_unknown_not_passed(bench, tmp_path):
    """B7."""
    given = dataclasses.replace(
        ITEMS[0], gt_depth_mm=np.where(ITEMS[0].mask > 0, 0, ITEMS[0].gt_depth_mm).astype(np.uint16)
    )
    write_bench(tmp_path, [given])
    found = score(open_bench(tmp_path), 0, said(ITEMS[0], OVER))
    assert found.collided is found.success is None
    assert found.start_ok is True  # by the true start
    assert "no depth" in found.error


def test_a_small_mask_is_fitted():
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[100:140, 60:100] = 1
    small = mask[::2, ::2]
    np.testing.assert_array_equal(fitted(small, (WIDTH, HEIGHT)), mask)
    for point, inside in (([60.0, 100.0], True), ([99.4, 139.4], True), ([99.6, 120.0], False), ([-1.0, 3.0], False)):
        assert in_mask(np.array(point), mask, (WIDTH, HEIGHT)) is inside
        assert in_mask(np.array(point), small, (WIDTH, HEIGHT)) is inside


def test_box_distances_against_sampling():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation[:, 0] *= np.sign(np.linalg.det(rotation))
    box = OrientedBox(np.array([0.1, 0.2, 1.0]), np.array([0.3, 0.2, 0.4]), rotation)
    lattice = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 41)] * 3), axis=-1).reshape(-1, 3)
    samples = (lattice * box.size_m) @ rotation.T + box.center_xyz
    points = rng.uniform([-0.5, -0.5, 0.5], [0.7, 0.7, 1.5], (40, 3))
    nearest = np.linalg.norm(points[:, None] - samples[None], axis=-1).min(axis=1)
    np.testing.assert_allclose(box_distances(points, box), nearest, atol=0.01)
    assert box_distances(box.center_xyz[None], box)[0] == 0


def test_corners_behind_the_camera_are_cut_off():
    """B11: a box around the camera covers the picture; one behind it covers nothing."""
    around = box_rectangle(OrientedBox(np.array([0, 0, 0.5]), np.array([0.2, 0.2, 3.0]), np.eye(3)), K)
    assert (around[0] < 0).all()
    assert (around[1] > [WIDTH, HEIGHT]).all()
    assert box_rectangle(OrientedBox(np.array([0, 0, -2.0]), np.ones(3), np.eye(3)), K) is None
    plain = box_rectangle(OrientedBox(np.array([0, 0, 2.0]), np.array([0.2, 0.4, 1.0]), np.eye(3)), K)
    np.testing.assert_allclose(plain[1] - plain[0], [0.2 * 288 / 1.5, 0.4 * 288 / 1.5])


def test_groups_intervals_and_missing_answers(bench):
    answers = [Answer(bench.questions[i], said(ITEMS[i], OVER if i else ACROSS)) for i in range(3)]
    answers = [dataclasses.replace(a, question=dataclasses.replace(a.question, step=None)) for a in answers]
    scores = score_strict(completed(answers, bench), "3D", bench=bench)
    assert [s.step for s in scores] == [3, 5, 5, 8]
    assert scores[3].error == "no answer"
    summary = summarise(scores, "3D", "strict")
    assert summary["success"] == 0.5
    assert {part: found["success"] for part, found in summary["by_step"].items()} == {"3": 0.0, "5": 1.0, "8": 0.0}
    assert {part: found["questions"] for part, found in summary["by_data_source"].items()} == {"CA-1M": 1, "ScanNet": 3}
    assert summary["by_category"]["pick-and-place"]["questions"] == 4
    low, high = summary["interval95"]["success"]
    assert low < 0.5 < high
    assert summary == summarise(scores, "3D", "strict")
    assert json.dumps(summary, allow_nan=False)


def test_the_interval_covers_as_it_should():
    """Of rates of 0.4 at n = 100: about ten points either way, as the binomial says."""
    from traceworld.evaluation.tracespatial.summary import bootstrap_interval

    low, high = bootstrap_interval((np.arange(100) < 40).astype(float))
    assert low == pytest.approx(0.40 - 1.96 * (0.24 / 100) ** 0.5, abs=0.015)
    assert high == pytest.approx(0.40 + 1.96 * (0.24 / 100) ** 0.5, abs=0.015)
    assert bootstrap_interval(np.zeros(0)) is None


@pytest.mark.parametrize("number", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_answer_breaks_the_scoring(bench, number):
    """Whatever is said: a score, in both tasks; the far ends of what can be said included."""
    rng = random.Random(5)
    texts = ["[(1, 2, 999), (10000, -10000, 0.001), (-10000, 5, 1000)]", *(fuzzed(rng) for _ in range(number))]
    size_known = K * [[2.0], [2.0], [1]] + [
        [0, 0, 0.5],
        [0, 0, 0.5],
        [0, 0, 0],
    ]  # of 640×480: without pictures, for speed
    question = bench.questions[0] if number == 100 else dataclasses.replace(bench.questions[0], K=size_known)
    answers = [Answer(question, text) for text in texts]
    for task in ("2D", "3D"):
        scores = score_strict(answers, task, bench=bench if number == 100 else None)
        assert len(scores) == len(texts)
        assert scores[0].parsed
        for found in scores:
            assert found.parsed is (found.points is not None)
            json.dumps(found.as_json(), allow_nan=False)
        json.dumps(summarise(scores, task, "strict"), allow_nan=False)
