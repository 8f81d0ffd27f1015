"""The published parsers, row by row of `reference/robotracer.md` §1.4."""

import numpy as np
import pytest

from traceworld.tracespatial.answers_compat import (
    fenced_json,
    gemini_points,
    molmo_points,
    referring_tuples,
    text_tuples,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[(245, 147, 1.837), (10,20,1.)]", [[0.245, 0.147, 1.837], [0.01, 0.02, 1.0]]),
        ("(1, 2), (3,\n4)", [[0.001, 0.002], [0.003, 0.004]]),
        ("(1, 2, 3, 4, 5)", [[0.001, 0.002, 3.0]]),
        ("(1) (+1, -2)", [[0.001, -0.002]]),
        ("(1.23456789, 2)", [[0.001235, 0.002]]),
        ("<think>(245, 147, 1.8)</think><answer>[(1, 2, 3)]</answer>", [[0.245, 0.147, 1.8], [0.001, 0.002, 3]]),
        ("( 1, 2 ) (1 , 2) (.9, 1) (1.2e0, 1) (1, 1.2m) (5, 6)", [[0.005, 0.006]]),
        ("[1, 2, 3]", []),
        ("```json\n[[1, 2]]\n```", []),
        ("", []),
        (None, []),
        (["(1, 2)"], []),
    ],
)
def test_text_tuples(text, expected):
    found = text_tuples(text)
    assert found.dtype == np.float32
    assert found.shape == (len(expected), len(expected[0]) if expected else 2)
    np.testing.assert_allclose(found, np.array(expected, np.float32).reshape(found.shape))


def test_tuples_of_two_lengths_get_nan_depth():
    np.testing.assert_allclose(text_tuples("(1, 2, 3), (4, 5)"), [[0.001, 0.002, 3], [0.004, 0.005, np.nan]], rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("no fence", (0, 3)),
        ("```json\nnot json\n```", (0, 3)),
        ("```json\r\n[[1, 2, 3]]\r\n```", (0, 3)),
        ("```json [[1, 2, 3]]```", (0, 3)),
        ("```\nx\n```\n```json\n[[1, 2, 3]]\n```", (0, 3)),
        ("```json\n[(1, 2, 3)]\n```", (0, 3)),
        ('```json\n[{"x": 1, "y": 2}]\n```', (0,)),
        ("```json\n[[1, 2, 3, 4]]\n```", (0,)),
        ("```json\n[[1, 2, 3], [4, 5, 6]]\n```", (2, 3)),
        ("```json\n[[1, 2, 3]]\n```\n```json\n[[4, 5, 6], [7, 8, 9]]\n```", (1, 3)),
        ('```json\n{"a": {"b": [[1, true], [3, 4]]}}\n```', (2, 2)),
        ("```json\n[[1, 2, NaN]]\n```", (1, 3)),
    ],
)
def test_fenced_json(text, shape):
    assert fenced_json(text).shape == shape


def test_fenced_json_divides_and_raises():
    np.testing.assert_allclose(fenced_json("```json\n[[500, 250, 1.5]]\n```"), [[0.5, 0.25, 1.5]])
    with pytest.raises(TypeError):
        fenced_json(None)
    for mixed in ('{"image_size": [320, 240], "points": [[1, 2, 3]]}', "[[1, 2, 3], [4, 5]]"):
        with pytest.raises(ValueError):
            fenced_json(f"```json\n{mixed}\n```")
    with pytest.raises(ValueError):
        fenced_json("```json\n" + "[" * 100_000 + "\n```")
    with pytest.raises(ValueError):
        fenced_json(f"```json\n[[{'9' * 400}, 2]]\n```")


def test_referring_parsers():
    np.testing.assert_allclose(referring_tuples("[(0.5, 0.25)]", 640, 480), [[320, 120]])
    np.testing.assert_allclose(referring_tuples("(0, 1) (0, 1.0)", 640, 480), [[0, 1], [0, 480]])  # weak point 22
    assert len(referring_tuples("(10, 20, 13, 22)", 640, 480)) == 6
    assert len(referring_tuples("(0, 0, 99999999999, 99999999999) (0, 0, 900000, 900000)", 64, 48)) <= 300 * 200
    assert referring_tuples(None, 1, 1).shape == referring_tuples("(1)", 1, 1).shape == (0, 2)
    np.testing.assert_allclose(
        molmo_points('<points x1="50" y1="25" x2="10.0" y2="20">', 200, 100), [[100, 25], [20, 20]]
    )
    np.testing.assert_allclose(molmo_points('<point x="1" y="2">', 100, 100), [[1, 2]])
    np.testing.assert_allclose(gemini_points('```json\n[{"point": [250, 500]}]\n```', 640, 480), [[320, 120]])
    assert gemini_points("[]", 640, 480).shape == (0, 2)
