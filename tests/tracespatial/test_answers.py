"""The language of answers: what is read, what is refused and by what name, and that nothing raises or takes long."""

import json
import random
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traceworld.errors import InvalidInputError
from traceworld.tracespatial.answers import (
    FAILURES,
    MAX_CHARACTERS,
    MAX_POINTS,
    format_answer,
    format_trace,
    parse_steps,
    parse_trace,
    split_thinking,
    to_pixels,
    to_thousandths,
)

TRACE = [[100.0, 200.0, 1.5], [300.0, 400.0, 2.25]]


@pytest.mark.parametrize(
    "text",
    [
        "[(100, 200, 1.5), (300, 400, 2.25)]",
        "( 100 ,200, 1.50 m ) ( 300, 400 , 225cm )",
        "[[100, 200, 1.500], [300, 400, 2.250]]",
        "Sure:\n```json\n[[100, 200, 1.5], [300, 400, 2.25],]\n```\nDone.",
        "```json\r\n[[100, 200, 1.5], [300, 400, 2.25]]\r\n```",
        "```json [[100, 200, 1.5], [300, 400, 2.25]]```",
        "```\n[(100, 200, 1.5), (300, 400, 2.25)]\n```",
        '{"image_size": [320, 240], "points": [[100, 200, 1.5], [300, 400, 2.25]]}',
        '[{"x": 100, "y": 200, "d": 1.5}, {"u": 300, "v": 400, "depth": 2.25}]',
        '{"trace": [{"point": [100, 200], "d": 1.5}, {"point_3d": [300, 400, 2.25]}]}',
        "first [(1, 2, 3), (4, 5, 6)], no, rather [(1e2, 200., 1.5), (300, +400, 225e-2)]",
        "<think>from (1, 2, 3) to (4, 5, 6)</think><answer>[(100, 200, 1.5), (300, 400, 2.25)]</answer>",
        "thoughts (9, 9, 9)</think> [(100, 200, 1.5), (300, 400, 2.25)]",
        "(1,2,3),(4,5,6) <ANSWER>(100, 200, 1.5), (300, 400, 2.25)</Answer> and (7,8,9),(1,2,3)",
        "it starts at (100, 200, 1.5) and ends at (300, 400, 2.25).",
        "```json\n{broken\n``` but ```json\n[[100, 200, 1.5], [300, 400, 2.25]]\n```",
    ],
)
def test_what_is_meant_is_read(text):
    found = parse_trace(text, 3)
    assert found.failure == ""
    np.testing.assert_allclose(found.points, TRACE)


@pytest.mark.parametrize(
    ("text", "dims", "failure"),
    [
        (None, 3, "no_text"),
        (" \n", 3, "no_text"),
        ("<think>[(1, 2, 3), (4, 5, 6)]", 3, "thinking_only"),
        ("<think>[(1, 2, 3)]</think><answer></answer>", 3, "thinking_only"),
        ("<think>x</think><answer>I cannot</answer> [(1, 2, 3), (4, 5, 6)]", 3, "no_points"),
        ("I am sorry, I cannot see a mug (2).", 3, "no_points"),
        ("[(1, 2, 3), (4, 5)]", 3, "mixed_lengths"),
        ("[(1, 2, 3), (4, 5)]", 2, "mixed_lengths"),
        ("[[1, 2], [3, 4, 5]]", None, "mixed_lengths"),
        ("[[1, 2, 3, 4], [3, 4, 5, 6]]", 3, "wrong_length"),
        ("[(1, 2), (3, 4)]", 3, "no_depth"),
        ("[(1, 2, NaN), (3, 4, 5)]", 3, "not_finite"),
        ("[[1, 2, NaN], [3, 4, 5]]", 3, "not_finite"),
        ("[[1, 2, null], [3, 4, 5]]", 3, "not_finite"),
        ("[(1, -inf, 2), (3, 4, 5)]", 3, "not_finite"),
        ("[[1, 2, 1e999], [3, 4, 5]]", 3, "not_finite"),
        (f"[[1, 2, {'9' * 400}], [3, 4, 5]]", 3, "not_finite"),
        ("[(1, 2, 1e7), (3, 4, 5)]", 3, "out_of_range"),
        ("[(1, 20000, 1), (3, 4, 5)]", 3, "out_of_range"),
        ("[(1, 2, 0), (3, 4, 5)]", 3, "out_of_range"),
        ("[(1, 2, -1.5), (3, 4, 5)]", 3, "out_of_range"),
        ("(1, 2, 3)" * (MAX_POINTS + 1), 3, "too_many_points"),
        ("a" * (MAX_CHARACTERS + 1), 3, "too_long"),
        ("[" * 100_000, 3, "no_points"),
        ('{"a":' * 20_000 + "1" + "}" * 20_000, 3, "no_points"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(text, dims, failure):
    found = parse_trace(text, dims)
    assert found.failure == failure
    assert failure in FAILURES
    assert found.points.shape == (0, 2)


def test_a_3d_answer_to_a_2d_question_loses_its_depth_and_is_still_checked():
    np.testing.assert_allclose(parse_trace("[(1, 2, 3), (4, 5, 6)]", 2).points, [[1, 2], [4, 5]])
    assert parse_trace("[(1, 2, nan), (4, 5, 6)]", 2).failure == "not_finite"


def test_the_form_can_be_fixed():
    fenced, plain = "```json\n[[1, 2, 3], [4, 5, 6]]\n```", "(7, 8, 9), (1, 2, 3)"
    assert parse_trace(fenced + plain, 3, "json").points[0, 0] == 1
    assert parse_trace(f"{fenced} or rather {plain}", 3, "tuples").points[0, 0] == 7
    assert parse_trace(plain, 3, "json").failure == "no_points"


@pytest.mark.parametrize(
    ("text", "think", "answer", "well_formed"),
    [
        ("<think>a</think><answer>b</answer>", "a", "b", True),
        (" <think>a\n</think>\n <answer>b</answer>\n", "a", "b", True),
        ("<think>a</think>b", "a", "b", False),
        ("<answer>b</answer><think>a</think>", "a", "b", False),
        ("<think>a</think> so <answer>b</answer>", "a", "b", False),
        ("<think>a</think><answer>b</answer><answer>c</answer>", "a", "c", False),
        ("<think>a<think>b</think>c</think><answer>d</answer>", "abc", "d", False),
        ("a</think><answer>d</answer>", "a", "d", False),
        ("<think>a <answer>b</answer>", "a <answer>b</answer>", "", False),
        ("<think>a <answer>x</answer></think><answer>b", "a <answer>x</answer>", "b", False),
        ("b", "", "b", False),
        (None, "", "", False),
    ],
)
def test_thinking_is_kept_apart(text, think, answer, well_formed):
    assert tuple(split_thinking(text)) == (think, answer, well_formed)


def test_what_is_written_is_read_back():
    points = np.array([[0.4, 999.5, 0.0126], [1000.0, 0.0, 12.3456]])
    text = format_trace(points)
    assert text == "[(0, 1000, 0.013), (1000, 0, 12.346)]"
    np.testing.assert_allclose(parse_trace(format_answer("hm", text), 3).points, [[0, 1000, 0.013], [1000, 0, 12.346]])
    assert format_trace(points[:, :2]) == "[(0, 1000), (1000, 0)]"
    with pytest.raises(InvalidInputError):
        format_trace(np.array([[1.0, np.nan, 2.0]]))


def test_pixels_and_thousandths_are_inverse():
    uvd = np.array([[0.0, 0, 1], [639, 479, 2], [320, 240, 3]])
    there = to_thousandths(uvd, 640, 480)
    np.testing.assert_allclose(there[2], [500, 500, 3])
    np.testing.assert_allclose(to_pixels(there, 640, 480), uvd)


# --- nothing raises, nothing takes long --------------------------------------------------------------------------------

PIECES = [
    "(1, 2, 3)", "(4, 5)", "[6, 7, 8]", "(NaN, 2, 1)", "(1, 2, inf)", "1e999", "[[", "]]", "{", "}", '"x": 1, "y": 2', "```", "```json\n",
    "<think>", "</think>", "<answer>", "</answer>", "\x00", "é", "𝟙𝟚", "(١, ٢, ٣)", "\u202e", "null", "None", ",", ":", "  \n\t", "\r\n",
    "[Referring] [cup]: ", "Step 3", "(", ")", "99999999999999999999", "0.104m", "-", "1_000", "true", "\ud800", "nan", "(1,2,3,4,5)",
]  # fmt: skip


def fuzzed(rng: random.Random) -> str:
    """One answer that nobody should give."""
    kind = rng.randrange(5)
    if kind == 0:
        return "".join(rng.choice(PIECES) for _ in range(rng.randrange(60)))
    if kind == 1:
        return "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(200)))
    if kind == 2:
        return "".join(rng.choice(string.printable) for _ in range(rng.randrange(400)))
    if kind == 3:
        return json.dumps(nested(rng, 0)) if rng.random() < 0.5 else f"```json\n{json.dumps(nested(rng, 0))}\n```"
    return rng.choice(["(", "[", "<think>", "1", "(1,", "[1,2],", "`", '{"x":', " ", "(1 "]) * rng.randrange(3000)


def nested(rng: random.Random, depth: int):
    kind = rng.randrange(6 if depth < 6 else 3)
    if kind == 0:
        return rng.choice([0, 1, -5, 1.5, 1e300, float("nan"), float("inf"), 10**40])
    if kind == 1:
        return rng.choice([None, True, "text", "(1, 2, 3)"])
    if kind == 2:
        return [rng.choice([1, 500, 0.5, None, float("nan"), True, 10**20]) for _ in range(rng.randrange(5))]
    if kind == 3:
        return {rng.choice(["x", "y", "d", "u", "v", "points", "point"]): nested(rng, depth + 1) for _ in range(3)}
    return [nested(rng, depth + 1) for _ in range(rng.randrange(5))]


def check(text) -> None:
    for dims in (2, 3):
        found = parse_trace(text, dims)
        if found.ok:
            assert found.points.shape[1] == dims
            assert len(found.points)
            assert np.isfinite(found.points).all()
            assert np.abs(found.points[:, :2]).max() <= 10_000
        else:
            assert found.failure in FAILURES
    split_thinking(text)
    parse_steps(text)


@pytest.mark.parametrize("number", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_fuzzed_answers(number):
    rng = random.Random(number)
    for _ in range(number):
        check(fuzzed(rng))


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text(text):
    check(text)


MEGABYTE = 2**20
LONG = {
    "prose": "The mug stands left of the box, about 3 cm away (see above). " * (MEGABYTE // 61),
    "opened": "(" * MEGABYTE,
    "digits": "(" + "1" * MEGABYTE,
    "spaces": "(1, 2" + " " * MEGABYTE,
    "unclosed tuples": "(1, 2, " * (MEGABYTE // 7),
    "blank tuples": "(1 ," * (MEGABYTE // 4),
    "fences": "```" * (MEGABYTE // 3),
    "fenced": "```json\n[1]\n```" * (MEGABYTE // 14),
    "tags": "<think></think>" * (MEGABYTE // 15),
    "answers": "<answer>" * (MEGABYTE // 8),
    "lines": "\n" * MEGABYTE,
    "brackets": "[a] [(] " * (MEGABYTE // 8),
    "steps": "step 1 [Scale] [x] " * (MEGABYTE // 19),
    "commas": "[1" + "," * MEGABYTE + "]",
    "spaced commas": "[" + (", " + " " * 150) * (MEGABYTE // 152) + "]",
    "nested": "[" * (MEGABYTE // 2) + "]" * (MEGABYTE // 2),
    "many points": "(1, 2, 3), " * (MEGABYTE // 11),
    "json numbers": "[" + "1," * (MEGABYTE // 2) + "1]",
}


@pytest.mark.parametrize("name", sorted(LONG))
def test_a_megabyte_takes_bounded_time(name):
    check(LONG[name])  # linear in the text takes seconds; quadratic takes hours, and meets the time-out


def test_an_answer_after_a_megabyte_of_prose_counts():
    assert parse_trace(LONG["prose"] + "[(1, 2, 3), (4, 5, 6)]", 3).ok
