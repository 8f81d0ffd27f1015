import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traceworld.errors import InvalidInputError
from traceworld.tracespatial.steps import MAX_STEPS, format_step, parse_steps


def test_lines_as_specified():
    text = (
        "Step 1: how large is the scene? [Scale] [Scene]: 2.406\n"
        "Step 2: find it [Referring] [Watering can]: [(179, 789, 0.941)]\n"
        "Step 3: and its height [Measuring] [Watering can]: 0.104m"
    )
    scale, referring, measuring = parse_steps(text)
    assert (scale.kind, scale.target, scale.value, scale.number, scale.exact) == ("Scale", "Scene", 2.406, 1, True)
    assert (referring.kind, referring.point, referring.number, referring.exact) == (
        "Referring",
        (179, 789, 0.941),
        2,
        True,
    )
    assert (measuring.value, measuring.exact) == (0.104, True)


def test_the_papers_figure_without_colons_is_read_but_not_exact():
    found = parse_steps("Step 1 [Scale] [Scene] 2.406 [Referring] [can] (1, 2, 0.9)\n[Position] [pot]: [(3, 4, 1.0)]")
    assert [(step.kind, step.exact) for step in found] == [("Scale", False), ("Referring", False), ("Referring", False)]
    assert found[2].point == (3, 4, 1)
    assert [step.number for step in found] == [1, 1, None]


@pytest.mark.parametrize(
    ("written", "metres"),
    [
        ("0.104m", 0.104),
        ("10.4 cm", 0.104),
        ("104 mm", 0.104),
        ("4 inches", 0.1016),
        ("2 feet", 0.6096),
        ("1.5 Meters", 1.5),
    ],
)
def test_units(written, metres):
    (step,) = parse_steps(f"[Measuring] [cup]: {written}")
    assert step.value == pytest.approx(metres)
    assert step.exact


@pytest.mark.parametrize(
    "line",
    [
        "[Measuring] [cup]: 0.1",
        "[Measuring] [cup]: tall",
        "[Measuring] [cup]: 0.1 parsecs",
        "[Referring] [cup]: (1, 2)",
        "[Referring] [cup]: (1, 2, -1)",
        "[Referring] [cup]: (1, 2e9, 1)",
        "[Colour] [cup]: red",
        "[measuring] [cup]: 0.1m",
    ],
)
def test_not_as_specified(line):
    (step,) = parse_steps(line)
    assert not step.exact


@pytest.mark.parametrize(
    "line", ["[Referring] [(1, 2, 3)]", "[1] [2]: 3", "see [a] [b]", "", None, "[Referring]: (1,2,3)"]
)
def test_no_steps(line):
    assert parse_steps(line) == []


def test_there_is_an_end():
    assert len(parse_steps("[Scale] [x]: 1\n" * (MAX_STEPS + 50))) == MAX_STEPS


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.floats(0.001, 900), st.sampled_from(["cup", "the 2nd box (left)", "Größe"]))
def test_what_is_written_is_read_back(number, value, target):
    for kind in ("Measuring", "Scale"):
        (step,) = parse_steps(format_step(number, kind, target, value=value, says="well"))
        assert (step.kind, step.target, step.number, step.exact) == (kind, target, number, True)
        assert step.value == pytest.approx(value, abs=5.1e-4)
    (step,) = parse_steps(format_step(number, "Referring", target, point=(10.0, 20.0, value)))
    assert step.exact
    assert step.point == pytest.approx((10, 20, value), abs=5.1e-4)


def test_what_cannot_be_written():
    with pytest.raises(InvalidInputError):
        format_step(1, "Scale", "cup")
    with pytest.raises(InvalidInputError):
        format_step(1, "Scale", "cup]", value=1.0)
