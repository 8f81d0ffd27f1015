"""How a model is asked for a trace, in its own words."""

import pytest

from traceworld.models.words import PUBLISHED, TextModel, trace_prompt, trace_question


class Speaker:
    name = "speaker"
    trace_prompts = {"3D": "3D trace: {task}"}  # noqa: RUF012

    def answer(self, image, question, *, K=None, depth_m=None):
        return ""


@pytest.mark.parametrize("said", ["Lift the cup", "Lift the cup.", " Lift the cup. "])
def test_an_instruction_at_the_end_is_a_sentence(said):
    assert trace_question("3D trace: {task}", said) == "3D trace: Lift the cup."
    assert trace_question("Do {task} now", said) == f"Do {said.strip()} now"


def test_a_question_keeps_its_mark():
    assert trace_question("{task}", "Where to?") == "Where to?"


def test_who_speaks_and_in_which_words():
    assert isinstance(Speaker(), TextModel)
    assert not isinstance(object(), TextModel)
    assert trace_prompt(Speaker(), "3D") == "3D trace: {task}"
    assert trace_prompt(Speaker(), "2D") is None
    assert trace_prompt(object(), "3D") is None
    assert '"Lift."' in trace_question(PUBLISHED["3D"], "Lift.")
