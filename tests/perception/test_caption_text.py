"""Prompts hold what the captioner knows; answers are read leniently, and never half."""

import json

import numpy as np
import pytest
from scripted_chat import GOOD

from traceworld.errors import ConfigError
from traceworld.perception.caption_text import (
    INSTRUCTIONS,
    event_prompt,
    merge_prompt,
    overlay_motion,
    read_answer,
    repair_prompt,
)
from traceworld.perception.interfaces import Caption, CaptionRequest, PartMotion

TEXT = json.dumps(GOOD)
PART = PartMotion(0, 7, (0.1, -0.02, 0.0), 0.13, True, (0.0, 0.0), (0.5, 0.0))


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"Sure! Here it is:\n```json\n{TEXT}\n```\nAnything else?",
        f"<think>Hmm, {{}} maybe</think>{TEXT}",
        TEXT.replace("right.", 'right."').replace('""', '"')[:-1] + ",}",
        f"[{TEXT}]",
        TEXT.replace("left", "left\n"),  # a raw line break within a string
        json.dumps({**GOOD, "interaction": [GOOD["interaction"]]}),
        json.dumps({"initial_state": GOOD["before"], "action": GOOD["interaction"], "final_state": GOOD["change"],
                    "caption": GOOD["caption"]}),
    ],
)  # fmt: skip
def test_answers_as_models_write_them(text):
    assert read_answer(text) == GOOD


@pytest.mark.parametrize(
    "text",
    ["", "A hand moves the cup.", TEXT[: len(TEXT) // 2], '{"before": "x"}', json.dumps({**GOOD, "before": ""}),
     json.dumps({**GOOD, "change": 3}), "[]", "null", "{" * 5000, "<think>" + TEXT],
)  # fmt: skip
def test_answers_that_do_not_hold_everything_are_no_answers(text):
    assert read_answer(text) is None


def test_a_missing_sentence_is_the_interaction_and_very_long_words_are_cut():
    short = {name: GOOD[name] for name in ("before", "interaction", "change")}
    found = read_answer(json.dumps(short))
    assert found is not None
    assert found["caption"] == GOOD["interaction"]
    found = read_answer(json.dumps({**GOOD, "change": "x" * 10_000}))
    assert found is not None
    assert len(found["change"]) == 2000


def test_the_style_of_traceforge_asks_for_three_instructions_and_needs_them_all():
    request = CaptionRequest((PART,), 0.0, 1.0, 0, 1)
    prompt = event_prompt(request, "traceforge")
    for name, meaning in INSTRUCTIONS.items():
        assert name in prompt
        assert meaning in prompt
        assert name not in event_prompt(request)
    three = dict.fromkeys(INSTRUCTIONS, "Move the cup.")
    found = read_answer(json.dumps({**GOOD, **three}), "traceforge")
    assert found == {**GOOD, **three}
    assert read_answer(TEXT, "traceforge") is None
    assert read_answer(json.dumps({**GOOD, **three})) == GOOD
    with pytest.raises(ConfigError, match="structured"):
        event_prompt(request, "poem")


def test_the_question_holds_place_in_the_clip_task_and_motion():
    request = CaptionRequest((PART,), 1.0, 3.5, 1, 4, task="tidy the table")
    prompt = event_prompt(request, overlay=True)
    for part in (
        "step 2 of 4",
        "1.0 s to 3.5 s",
        "tidy the table",
        "7 points",
        "right +0.10",
        "down -0.02",
        "tinted red",
    ):
        assert part in prompt
    assert "tinted red" not in event_prompt(request)
    assert "tidy" in merge_prompt([caption(), caption()], "tidy the table")
    both = merge_prompt([caption("first"), caption("second")])
    assert both.index('"first"') < both.index('"second"')
    assert "prose" in repair_prompt(prompt, "prose")
    assert prompt in repair_prompt(prompt, "prose")


def caption(what="x"):
    return Caption("c", "b", what, "d", "s")


def test_the_overlay_tints_what_moves_and_nothing_else():
    image = np.full((10, 12, 3), 100, np.uint8)
    mask = np.zeros((10, 12), bool)
    mask[2:4, 3:6] = True
    found = overlay_motion(image, mask)
    assert (found[~mask] == 100).all()
    red, green = found[mask][:, 0], found[mask][:, 1]
    assert (red > 150).all()
    assert (green < 80).all()
    assert (image == 100).all()
