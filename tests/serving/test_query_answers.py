"""Traces in words: the farthest mover, in thousandths and metres, read back by the strict parser."""

import typing

import numpy as np
import pytest
from query_toys import Slide, Speaker

from traceworld.geometry.cameras import px_to_uv
from traceworld.models.baselines import NothingMoves
from traceworld.serving.query_answers import (
    GRID,
    WAYPOINTS,
    answer_one_by_one,
    answers_of,
    in_its_words,
    trace_in_words,
)
from traceworld.serving.query_schema import Query
from traceworld.tracespatial.answers import parse_trace, to_pixels

IMAGE = np.zeros((30, 40, 3), np.uint8)
DEPTH = np.full((30, 40), 2.0)
ASK_3D = (
    'Please point out the 3D object-centric visual trace for the task "open the drawer". Format: [(x1, y1, d1), ...].'
)
ASK_2D = 'Point out the 2D visual trace for the task "open the drawer", as [(x1, y1), ...].'


def query(text=ASK_3D, depth_m=DEPTH, **more):
    return Query(IMAGE, text, depth_m=depth_m, **more)


def test_the_farthest_mover_is_said_over_its_valid_steps():
    predictor = Slide()
    parsed = parse_trace(trace_in_words(predictor, query()), 3)
    assert parsed.ok
    assert len(parsed.points) == WAYPOINTS
    px = to_pixels(parsed.points, 40, 30)
    uv = px_to_uv(px[:, :2], 40, 30)
    right = 1 - 1 / GRID  # the rightmost column of the grid
    np.testing.assert_allclose(uv[0, 0], right, atol=3e-3)
    np.testing.assert_allclose(uv[-1, 0], right * 1.3, atol=3e-3)
    np.testing.assert_allclose(parsed.points[:, 2], 2.0 + 0.3 * np.arange(WAYPOINTS) / (WAYPOINTS - 1), atol=6e-4)
    assert predictor.seen[0].instruction == "open the drawer"
    assert len(predictor.seen[0].keypoints_uv) == GRID**2


def test_a_point_that_the_question_names_is_the_one():
    predictor = Slide()
    text = 'Please point out the 2D visual trace of the point (750, 250) for the task "push", beginning at that point.'
    parsed = parse_trace(trace_in_words(predictor, query(text)), 2)
    np.testing.assert_allclose(predictor.seen[0].keypoints_uv, [[0.5, -0.5]])
    np.testing.assert_allclose(px_to_uv(to_pixels(parsed.points, 40, 30), 40, 30)[[0, -1], 0], [0.5, 0.65], atol=3e-3)


@pytest.mark.parametrize(
    ("text", "depth", "dims"),
    [
        (ASK_3D, DEPTH, 3),
        (ASK_2D, DEPTH, 2),
        (ASK_3D, None, 2),
        (ASK_3D, np.full((30, 40), np.nan), 2),
        ("Go.", DEPTH, 2),
    ],
)
def test_metres_are_said_where_they_are_asked_for_and_known(text, depth, dims):
    parsed = parse_trace(trace_in_words(Slide(), query(text, depth)))
    assert parsed.points.shape == (WAYPOINTS, dims)


def test_where_nothing_moves_the_point_stays():
    parsed = parse_trace(trace_in_words(NothingMoves(), query()), 3)
    assert parsed.ok
    assert np.ptp(parsed.points, axis=0).max() == 0


def test_all_of_the_question_is_the_task_if_it_quotes_nothing():
    predictor = Slide()
    trace_in_words(predictor, query("open the drawer"))
    assert predictor.seen[0].instruction == "open the drawer"
    trace_in_words(predictor, query('say " "'))
    assert predictor.seen[1].instruction == 'say " "'


def test_a_predictor_that_speaks_is_asked_for_words():
    speaker = Speaker("Yes.")
    K = np.eye(3)
    process = answer_one_by_one(answers_of(speaker))
    answers = process([query("Is it red?", K=K, seed=4), query("fail")])
    assert answers[0] == "Yes."
    assert isinstance(answers[1], ZeroDivisionError)
    seen = speaker.seen[0]
    assert (seen["text"], seen["seed"]) == ("Is it red?", 4)
    assert seen["K"] is K
    assert seen["depth_m"] is DEPTH


class Trained(Speaker):
    """Speaks, and was trained on words of its own."""

    trace_prompts: typing.ClassVar = {"3D": "3D trace: {task}", "2D": "2D trace: {task}"}


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (ASK_3D, "3D trace: open the drawer."),
        (ASK_2D, "2D trace: open the drawer."),
        ('Where is the trace in "open the drawer."?', "2D trace: open the drawer."),
        ('How many words has "open the drawer"?', 'How many words has "open the drawer"?'),
        ("3D trace: open the drawer.", "3D trace: open the drawer."),
    ],
)
def test_a_trace_is_asked_for_in_the_words_a_model_knows(text, asked):
    assert in_its_words(Trained(), text) == asked
    assert in_its_words(Speaker(), text) == text
