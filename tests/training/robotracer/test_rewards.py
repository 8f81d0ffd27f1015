"""The five rewards by hand: numbers, order, units, partial credit, and everything that must not pay."""

import random
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.training.robotracer.annotation import Annotation, KeyStep
from traceworld.training.robotracer.rewards import (
    WEIGHTS,
    RewardConfig,
    accuracy_reward,
    format_reward,
    points_reward,
    process_format_reward,
    reward,
    trace_reward,
)

DEFAULT = RewardConfig()
KEYS = (
    KeyStep.named("Scale", "scene", (2.4,)),
    KeyStep.named("Referring", "watering can", (200, 800, 1.0)),
    KeyStep.named("Measuring", "watering can", (0.1,)),
)
TRACE = np.array([[100.0, 200.0, 1.0], [500.0, 200.0, 1.0], [900.0, 200.0, 2.0]])
TRUTH = Annotation(TRACE, KEYS, (640, 480), max_depth_m=4.0)
LINES = (
    "Step 1: The scene is [Scale] [Scene]: 2.406",
    "Step 2: I see [Referring] [Watering can]: [(210, 790, 1.100)]",
    "Step 3: Its height is [Measuring] [The watering can]: 0.104m",
)
PATH = "[(100, 200, 1.000), (500, 200, 1.000), (900, 200, 2.000)]"


def answer(*lines: str, path: str = PATH) -> str:
    return f"<think>{chr(10).join(lines)}</think><answer>{path}</answer>"


def accuracy(*lines: str, truth: Annotation = TRUTH, **changes) -> float | None:
    return accuracy_reward(answer(*lines), truth, RewardConfig(**changes))


def keys(*steps: KeyStep) -> Annotation:
    return Annotation(None, steps, (640, 480))


def test_a_perfect_answer_has_every_reward():
    found = reward(answer(*LINES), TRUTH)
    assert (found.format, found.points, found.trace, found.process_format, found.accuracy) == (1, 1, 1, 1, 1)
    assert found.total(WEIGHTS["text"]) == pytest.approx(3.5)
    assert found.total(WEIGHTS["eq7"]) == pytest.approx(2.5)


def test_weights_are_those_of_the_paper():
    assert WEIGHTS == {"text": (1, 1, 1, 0.25, 0.25), "eq7": (1, 1, 0, 0.25, 0.25)}


# --- R_OF ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "earned"),
    [
        ("<think>a</think><answer>b</answer>", 1),
        ("\n<think>a</think>\n\n<answer>b</answer>\n", 1),
        ("<answer>b</answer><think>a</think>", 0),
        ("<think>a</think><answer>b</answer> and so on", 0),
        ("Sure! <think>a</think><answer>b</answer>", 0),
        ("<think>a<think>b</think></think><answer>c</answer>", 0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0),
        ("<think>a</think><answer>b", 0),
        ("<think>a</think>b", 0),
        ("b", 0),
        ("", 0),
    ],
)
def test_form(text, earned):
    assert format_reward(text) == earned


# --- R_P and R_T -----------------------------------------------------------------------------------------------------


def test_ends_by_hand():
    # start off by 0.1 in u and 0.4/4 in d: f = 1 - 0.02; end off by 0.5 in v: f = 0.75
    text = answer(path="[(200, 200, 1.4), (900, 700, 2.0)]")
    assert points_reward(text, TRUTH) == pytest.approx(0.5 * (0.98 + 0.75))


def test_an_end_far_away_earns_nothing_and_costs_nothing():
    text = answer(path="[(100, 200, 1.0), (900, 1700, 2.0)]")
    assert points_reward(text, TRUTH) == pytest.approx(0.5)


def test_trace_by_hand():
    # both ends right, the middle missing: pairs (1,1) (1 or 2, 2) (2,3); the middle is 0.4 from the start, hypot(.4, .25) from the end
    text = answer(path="[(100, 200, 1.0), (900, 200, 2.0)]")
    assert trace_reward(text, TRUTH, DEFAULT) == pytest.approx(1 - 0.4 / 3)
    assert trace_reward(text, TRUTH, RewardConfig(warping="sum")) == pytest.approx(0.6)


def test_trace_never_below_zero():
    text = answer(path="[(9000, 9000, 900.0)]")
    assert trace_reward(text, TRUTH, DEFAULT) == 0


def test_only_what_stands_in_the_answer_is_a_trace():
    thought = f"<think>{PATH}</think><answer>I do not know.</answer>"
    assert points_reward(thought, TRUTH) == 0
    assert trace_reward(thought, TRUTH, DEFAULT) == 0
    assert points_reward(answer("Step 1: first (1, 2, 3.0) then (4, 5, 6.0)"), TRUTH) == 1


@pytest.mark.parametrize(
    "path",
    [
        "",
        "nowhere",
        "[]",
        "[(100, 200)]",
        "[(100, 200, NaN)]",
        "[(100, 200, 1.0), (1, 2)]",
        "[(100, 200, -1.0)]",
        "[(1, 2, 3, 4)]",
    ],
)
def test_what_is_no_3d_trace_earns_nothing(path):
    assert points_reward(answer(path=path), TRUTH) == 0
    assert trace_reward(answer(path=path), TRUTH, DEFAULT) == 0


def test_a_2d_question_is_judged_in_the_picture():
    flat = Annotation(TRACE[:, :2], (), (640, 480))
    assert points_reward(answer(path="[(100, 200), (900, 300)]"), flat) == pytest.approx(0.5 * (1 + 0.99))
    assert points_reward(answer(), flat) == 1  # with depths that no one asked for


def test_a_question_without_trace_has_no_reward_for_it():
    found = reward(answer(*LINES), keys(*KEYS))
    assert (found.points, found.trace) == (None, None)
    assert found.total(WEIGHTS["text"]) == pytest.approx(1.5)


# --- R_PF ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "fraction", "every"),
    [
        (LINES, 1, 1),
        (LINES[:1], 1, 1),
        ((*LINES[:2], "Step 3: [Measuring] [Watering can]: tall"), 2 / 3, 0),
        ((*LINES[:2], "Step 3: [Measuring] [Watering can]: 0.104"), 2 / 3, 0),  # no unit
        ((*LINES[:2], "Step 3: [Guessing] [Watering can]: 0.104m"), 2 / 3, 0),
        (("Step 1: [Scale] [Scene] 2.4",), 0, 0),  # no colon
        (("Step 1: [Position] [Watering can]: [(1, 2, 3.0)]",), 0, 0),
        (("Step 1: [Referring] [Watering can]: [(1, 2)]",), 0, 0),
        (("Step 1: [Scale] [Scene]: NaN",), 0, 0),
        (("I think about it.",), 0, 0),
        ((), 0, 0),
    ],
)
def test_process_form(lines, fraction, every):
    assert process_format_reward(answer(*lines), TRUTH, DEFAULT) == pytest.approx(fraction)
    assert process_format_reward(answer(*lines), TRUTH, RewardConfig(process_format="all")) == every


def test_tolerant_reading_takes_the_forms_of_the_papers_figures():
    tolerant = RewardConfig(steps="tolerant")
    lines = ("Step 1: [Scale] [Scene] 2.4", "Step 2: [Position] [Can]: (1, 2, 3.0)", "Step 3: [Measuring] [Can] 0.1")
    assert process_format_reward(answer(*lines), TRUTH, tolerant) == 1
    assert process_format_reward(answer(*lines), TRUTH, DEFAULT) == 0


def test_padding_does_not_hide_bad_steps():
    bad = "Step 9: [Measuring] [Cup]: tall"
    one = process_format_reward(answer(*LINES, bad), TRUTH, DEFAULT)
    padding = [f"Step {k}: [Scale] [Thing {k}]: 1.0" for k in range(50)]
    assert process_format_reward(answer(*LINES, *padding, bad), TRUTH, DEFAULT) == one == 0.75
    assert process_format_reward(answer(*LINES, *LINES, *LINES, bad), TRUTH, DEFAULT) == one


def test_steps_outside_of_thinking_do_not_count():
    text = f"<think>hm</think><answer>{LINES[0]}</answer>"
    assert process_format_reward(text, TRUTH, DEFAULT) == 0
    assert accuracy_reward(text, TRUTH, DEFAULT) == 0


# --- R_Acc -----------------------------------------------------------------------------------------------------------


def test_order_does_not_matter():
    noise = "Step 7: [Referring] [Spoon]: [(1, 2, 3.0)]"
    wrong = "Step 8: [Measuring] [Watering can]: 5.0m"
    for lines in ((*LINES, noise), (*LINES[:2], noise, wrong), (*LINES, wrong)):
        found = {accuracy(*order) for order in permutations(lines)}
        assert len(found) == 1


def test_mean_and_sum_over_key_steps():
    assert accuracy(*LINES[:2]) == pytest.approx(2 / 3)
    assert accuracy(*LINES[:2], accuracy="sum") == 2
    assert accuracy() == 0
    assert accuracy(*LINES, truth=keys()) is None


@pytest.mark.parametrize(
    ("point", "earned"),
    [
        ((200, 800, 1.0), 1),
        ((300, 800, 1.3), 1),  # 64 px of 64 allowed; 30 %
        ((301, 800, 1.0), 0.5),
        ((200, 934, 1.0), 0.5),  # 64.3 px down
        ((200, 933, 0.7), 1),  # 63.8 px
        ((250, 870, 1.0), 0.5),  # L1: 32 + 33.6 px
        ((200, 800, 1.31), 0.5),
        ((200, 800, 0.69), 0.5),
        ((900, 100, 1.0), 0.5),
        ((900, 100, 9.0), 0),
    ],
)
def test_referring_earns_half_for_the_place_and_half_for_the_depth(point, earned):
    line = "Step 1: [Referring] [watering can]: [({}, {}, {})]".format(*point)
    assert accuracy(line, truth=keys(KEYS[1])) == earned


def test_referring_without_a_known_depth_is_judged_by_the_place():
    flat = keys(KeyStep.named("Referring", "can", (200, 800)))
    assert accuracy("Step 1: [Referring] [can]: [(200, 800, 9.0)]", truth=flat) == 1


@pytest.mark.parametrize(
    ("value", "earned"),
    [
        ("0.104m", 1), ("0.104 m", 1), ("10.4cm", 1), ("10.4 centimeters", 1), ("104 mm", 1), ("4.1 inches", 1), ("4.1 in", 1),
        ("0.33 ft", 1), ("0.33 feet", 1), ("0.13m", 1), ("0.0701 metres", 1), ("0.131m", 0), ("0.069 m", 0), ("10.4 m", 0), ("104 cm", 0),
        ("4.1 feet", 0), ("-0.1 m", 0), ("nan m", 0), ("inf m", 0), ("1e400 m", 0), ("about so much", 0), ("", 0),
    ],
)  # fmt: skip
def test_units_of_lengths(value, earned):
    assert accuracy(f"Step 1: [Measuring] [Watering can]: {value}", truth=keys(KEYS[2])) == earned


@pytest.mark.parametrize(
    ("value", "earned"), [("2.4", 1), ("3.12", 1), ("1.68", 1), ("3.13", 0), ("1.67", 0), ("0", 0)]
)
def test_scale_within_thirty_per_cent(value, earned):
    assert accuracy(f"Step 1: [Scale] [Scene]: {value}", truth=keys(KEYS[0])) == earned


def test_the_right_value_of_another_kind_or_object_earns_nothing():
    assert accuracy("Step 1: [Scale] [Watering can]: 0.1", truth=keys(KEYS[2])) == 0
    assert accuracy("Step 1: [Measuring] [Can]: 0.1m", truth=keys(KEYS[2])) == 0


def test_names_are_matched_by_regular_expression_as_a_whole():
    key = keys(KeyStep("Measuring", "(red )?(mug|cup)", (0.1,)))
    for name, earned in {"the red mug": 1, "Cup": 1, "a  red  cup": 1, "cupboard": 0, "blue mug": 0}.items():
        assert accuracy(f"Step 1: [Measuring] [{name}]: 0.1m", truth=key) == earned


def test_saying_it_twice_counts_once():
    assert accuracy(LINES[2], LINES[2], "Step 9: [Measuring] [a Watering Can]: 10.4cm", accuracy="sum") == 1


def test_guessing_many_values_earns_less_than_one_guess():
    truth = keys(KEYS[2])
    guesses = [f"Step {k}: [Measuring] [Watering can]: {0.1 * 1.5**k:.3f}m" for k in range(-4, 5)]
    assert accuracy(*guesses, truth=truth, accuracy="sum") == pytest.approx(1 / 9)
    assert np.mean([accuracy(guess, truth=truth) for guess in guesses]) >= 1 / 9


def test_two_key_steps_on_one_object_take_one_answer_each():
    before, after = (KeyStep.named("Referring", "mug", (u, 500, 1.0)) for u in (100, 900))
    first, second = (f"Step 1: [Referring] [mug]: [({u}, 500, 1.0)]" for u in (100, 900))
    truth = keys(before, after)
    assert accuracy(first, second, truth=truth) == accuracy(second, first, truth=truth) == 1
    assert accuracy(first, first, truth=truth) == pytest.approx(0.5)  # one step serves one key step


def test_padding_earns_no_accuracy():
    padding = [f"Step {k}: [Measuring] [Thing {k}]: 0.1m" for k in range(20)]
    for how in ("mean", "sum"):
        assert accuracy(*LINES[:2], *padding, accuracy=how) == accuracy(*LINES[:2], accuracy=how)


# --- hostile and broken ----------------------------------------------------------------------------------------------

PIECES = [
    *LINES,
    PATH,
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "[Referring] [Watering can]: [(1, 2",
    "NaN",
    "1e999",
    "[[[",
    "\x00🫖",
]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=30), max_size=12).map("\n".join),
    st.sampled_from(["mean", "sum"]),
)
def test_any_text_has_bounded_rewards_and_the_same_twice(text, how):
    config = RewardConfig(accuracy=how)
    found = reward(text, TRUTH, config)
    assert found == reward(text, TRUTH, config)
    limits = (1, 1, 1, 1, 1 if how == "mean" else len(KEYS))
    for value, limit in zip(
        (found.format, found.points, found.trace, found.process_format, found.accuracy), limits, strict=True
    ):
        assert 0 <= value <= limit + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 6))
def test_steps_about_other_things_never_pay(seed, count):
    draw = random.Random(seed)
    lines = [line for line in LINES if draw.random() < 0.7]
    noise = [f"Step 0: [Measuring] [Box {k}]: {draw.random():.3f}m" for k in range(count)]
    mixed = [*lines, *noise]
    draw.shuffle(mixed)
    assert accuracy(*mixed) == pytest.approx(accuracy(*lines))


def test_a_megabyte_of_anything_is_read_in_time():
    rows = "\n".join(f"Step {k}: [Measuring] [Watering can]: {k}m" for k in range(20_000))
    found = reward(answer(rows, path="(1, 2, 3.0), " * 50_000), TRUTH)
    assert (found.points, found.trace) == (0, 0)  # too many points
    assert found.accuracy < 0.01


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "eq8"},
        {"warping": "max"},
        {"accuracy": "best"},
        {"process_format": "some"},
        {"metric_tolerance": 0.0},
    ],
)
def test_unknown_options_are_refused(change):
    with pytest.raises((ConfigError, TypeError)):  # TypeError: of the type checker, where the type says the values
        RewardConfig(**change)


# --- annotations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "target", "value"),
    [
        ("Referring", "a", (1.0,)),
        ("Measuring", "a", (1.0, 2.0)),
        ("Measuring", "a", (-1.0,)),
        ("Scale", "a", (float("nan"),)),
        ("Referring", "a", (1.0, 2.0, 0.0)),
        ("Scale", "(", (1.0,)),
    ],
)
def test_impossible_key_steps_are_refused(kind, target, value):
    with pytest.raises(InvalidInputError):
        KeyStep(kind, target, value)


def test_impossible_annotations_are_refused():
    for trace, depth in ((np.zeros((0, 3)), 1.0), (np.full((2, 3), np.nan), 1.0), (np.ones((2, 3)), None), (None, 0.0)):
        with pytest.raises(InvalidInputError):
            Annotation(trace, (), (640, 480), depth)


def test_annotations_survive_json():
    again = Annotation.from_json(TRUTH.to_json())
    assert again.to_json() == TRUTH.to_json()
    assert reward(answer(*LINES), again) == reward(answer(*LINES), TRUTH)
    with pytest.raises(InvalidInputError):
        Annotation.from_json({"trace": None})
