"""The independent checker: passes what is right, and refuses every kind of fault put into any family."""

import ast
import copy
import re
from pathlib import Path

import numpy as np
import pytest
from qa_scenes import make_scene, table_scene, table_things, table_traces

import traceworld.tracespatial.checker as checker_module
from traceworld.tracespatial.checker import check
from traceworld.tracespatial.checker_geometry import Facts
from traceworld.tracespatial.questions.asking import Mix, ask_all
from traceworld.tracespatial.questions.question import FAMILIES
from traceworld.tracespatial.questions.view import SceneView

MIX = Mix(
    {
        "relative_position": 24,
        "size_comparison": 10,
        "quantitative": 24,
        "referring": 14,
        "free_space": 5,
        "trace": 15,
        "reasoning": 8,
    }
)
NUMBER = re.compile(r"\d+\.\d+|\d+")


class Asked:
    """A scene and its questions, with programs as they are stored."""

    def __init__(self, scene):
        self.scene = scene
        self.view = SceneView(scene, table_traces(scene))
        self.facts = Facts(scene)
        self.questions = [
            (one.family, one.text, one.answer, {**one.program, "scene": self.view.fingerprint})
            for one in ask_all(self.view, MIX, 3)
        ]

    def check(self, text, answer, program):
        return check(self.scene, text, answer, program, self.facts)


@pytest.fixture(scope="module")
def asked():
    return Asked(table_scene())


def of(asked, *families):
    return [entry for entry in asked.questions if entry[0] in families]


def test_every_family_is_asked_and_passes(asked):
    assert {family for family, *_ in asked.questions} == set(FAMILIES)
    assert [
        (text, fault) for _, text, answer, program in asked.questions if (fault := asked.check(text, answer, program))
    ] == []


def test_it_shares_no_code_with_the_question_makers():
    folder = Path(checker_module.__file__).parent
    for name in ("checker", "checker_geometry", "checker_points", "checker_text", "checker_traces"):
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            module = getattr(node, "module", "") or ""
            assert "questions" not in module
            assert module.rsplit(".", 1)[-1] not in (
                "boxes",
                "free_space",
                "traces",
                "primitives",
                "planner",
                "answers",
                "steps",
            )


def test_a_program_of_another_scene_is_stale(asked):
    for _, text, answer, program in asked.questions:
        assert "stale" in asked.check(text, answer, {**program, "scene": "0" * 16})


def test_a_moved_object_makes_its_questions_stale_or_wrong(asked):
    """The can goes from the book to the table's left end; hash mended, what was said of the can must still be refused."""
    things = table_things()
    from qa_scenes import box

    things[5] = (*things[5][:3], box(-0.6, 0.2, 0.0, (0.09, 0.09, 0.18)), True, "table", {"colour": "yellow"})
    moved = make_scene(things)
    facts = Facts(moved)
    about_can = [
        entry
        for entry in of(asked, "quantitative", "referring", "reasoning", "trace", "free_space")
        if "yellow can" in entry[2] or (entry[0] in ("referring", "free_space") and entry[3]["objects"] == ["can"])
    ]
    assert len(about_can) >= 5
    for _, text, answer, program in about_can:
        assert "stale" in check(moved, text, answer, program, facts)
        assert check(moved, text, answer, {**program, "scene": facts.fingerprint}, facts), answer


def test_an_unknown_object_is_stale(asked):
    for _, text, answer, program in asked.questions:
        if program["objects"]:
            broken = {**program, "objects": ["gone", *program["objects"][1:]]}
            assert "stale" in asked.check(text, answer, broken)


def test_wrong_unit(asked):
    other = {"cm": "inches", "inches": "cm", "m": "feet", "feet": "m"}
    tried = 0
    for _, text, answer, program in of(asked, "quantitative"):
        if "unit" in program:
            tried += 1
            changed = answer.replace(f" {program['unit']}.", f" {other[program['unit']]}.")
            assert changed != answer
            assert asked.check(text, changed, program)
            assert asked.check(
                text, changed, {**program, "unit": other[program["unit"]]}
            )  # even if the program says so too
    assert tried >= 8


def perturbed(answer, place, by=1.07):
    """The answer with its number at `place` changed by 7 % and at least two of its last digits."""
    match = list(NUMBER.finditer(answer))[place]
    decimals = len(match.group().partition(".")[2])
    value = float(match.group())
    changed = value * by + 3 * 10.0**-decimals
    return answer[: match.start()] + f"{changed:.{decimals}f}" + answer[match.end() :]


def test_perturbed_numbers_of_quantities(asked):
    for _, text, answer, program in of(asked, "quantitative"):
        if program["what"] != "point_2d":
            assert asked.check(text, perturbed(answer, -1), program), answer


def test_perturbed_points_of_traces(asked):
    for _, text, answer, program in of(asked, "trace"):
        for place in (0, 1, -1):
            assert asked.check(text, perturbed(answer, place), program), answer


def test_a_wrong_point_is_off_the_object_or_the_place(asked):
    for _, text, answer, program in of(asked, "referring", "free_space"):
        u, v, *rest = re.findall(r"[\d.]+", answer)
        far = f"[({(int(u) + 480) % 1000}, {(int(v) + 470) % 1000}{''.join(', ' + d for d in rest)})]"
        if program.get("target") != "table":
            assert asked.check(text, far, program), (text, far)
        if rest:
            assert asked.check(text, perturbed(answer, 2), program)
        assert asked.check(text, answer.replace("[(", "[(1").replace(")]", ", 1.0, 2.0)]"), program)


def test_perturbed_values_in_chains(asked):
    for _, text, answer, program in of(asked, "reasoning"):
        lines = answer.split("\n")
        for number, step in enumerate(program["lines"]):
            if step["do"] == "refer":
                changed = re.sub(r"(, )([\d.]+)\)\]", lambda m: f", {float(m.group(2)) + 0.004:.3f})]", lines[number])
            elif step["do"] == "destination":
                changed = re.sub(r"\[\((\d+)", lambda m: f"[({int(m.group(1)) + 2}", lines[number])
            else:
                changed = re.sub(
                    r": ([\d.]+)(m?)(?=$|<)",
                    lambda m: f": {float(m.group(1)) * 1.05 + 0.002:.3f}{m.group(2)}",
                    lines[number],
                )
            assert changed != lines[number]
            assert asked.check(text, "\n".join([*lines[:number], changed, *lines[number + 1 :]]), program), changed


def test_chains_must_keep_their_form(asked):
    for _, text, answer, program in of(asked, "reasoning"):
        lines = answer.split("\n")
        assert asked.check(text, "\n".join(lines[1:]), program)  # a line is lost
        assert asked.check(text, answer.replace("<think>", ""), program)
        assert asked.check(text, answer.replace("Step 1:", "Step 2:"), program)
        assert asked.check(text, answer.replace("[Referring]", "[Measuring]", 1), program)


def swapped(text, a, b):
    return text.replace(a, "\0").replace(b, a).replace("\0", b)


def test_swapped_objects(asked):
    """Two objects change places in question or answer, in every family that names two."""
    tried = set()
    for family, text, answer, program in asked.questions:
        if len(program["objects"]) < 2:
            continue
        a, b = program["phrases"][:2]
        if swapped(text, a, b) != text:
            tried.add(family)
            assert asked.check(swapped(text, a, b), answer, program), text
        mirrored = {**program, "objects": [program["objects"][1], program["objects"][0], *program["objects"][2:]]}
        assert asked.check(text, answer, mirrored)
        both = {**mirrored, "phrases": [b, a, *program["phrases"][2:]]}
        assert asked.check(text, answer, both), "the words name them in the other order"
    assert tried == {"relative_position", "size_comparison", "quantitative", "trace", "reasoning"}


def test_another_object_answers(asked):
    tried = 0
    for _, text, answer, program in of(asked, "relative_position", "size_comparison"):
        if program["form"] in ("among", "which"):
            tried += 1
            named = [phrase for phrase in program["phrases"] if answer.lower().startswith(phrase)]
            other = next(phrase for phrase in program["phrases"] if phrase not in answer.lower())
            changed = other.capitalize() + answer[len(named[0]) :]
            assert asked.check(text, changed, program), changed
    assert tried >= 4


def test_a_yes_becomes_a_no(asked):
    tried = 0
    for _, text, answer, program in of(asked, "relative_position", "size_comparison"):
        if program["form"] == "yes_no":
            tried += 1
            changed = (
                answer.replace("Yes, ", "No, ").replace(" is ", " is not ", 1)
                if answer.startswith("Yes")
                else answer.replace("No, ", "Yes, ").replace(" not ", " ", 1)
            )
            assert asked.check(text, changed, program) == "the answer is wrong", changed
            assert asked.check(text, answer.replace("Yes", "Maybe").replace("No,", "Maybe,"), program)
    assert tried >= 5


def test_another_relation_in_the_words(asked):
    for _, text, answer, program in of(asked, "relative_position"):
        if program["form"] == "choice":
            letter = answer[1]
            other = "ABCD"[("ABCD".index(letter) + 1) % 4]
            assert asked.check(text, answer.replace(f"({letter})", f"({other})"), program)
        if program["form"] == "yes_no" and program["relation"] in ("left", "right"):
            words = {"left": "right", "right": "left"}
            side = program["relation"]
            changed = text.replace(f"the {side} of", f"the {words[side]} of")
            assert asked.check(changed, answer, program)


def test_a_trace_must_do_what_its_words_say(asked):
    """Another side, another way, a longer length, somebody else's path."""
    for _, text, answer, program in of(asked, "trace"):
        for said, other in (
            ("to the left", "to the right"),
            ("to the right", "to the left"),
            ("behind", "in front of"),
        ):
            if said in program["instruction"]:
                changed = {**program, "instruction": program["instruction"].replace(said, other)}
                assert asked.check(text.replace(said, other), answer, changed)
        if program["distance_m"]:
            stated = f"{program['distance_m']:.3f}m"
            longer = f"{program['distance_m'] + 0.01:.3f}m"
            changed = {**program, "instruction": program["instruction"].replace(stated, longer)}
            assert asked.check(text.replace(stated, longer), answer, changed)
        moved = {**program, "points_world": (np.array(program["points_world"]) + np.array([0, 0, 0.02])).tolist()}
        assert asked.check(text, answer, moved)


def test_a_trace_of_another_form_kind_or_task_is_refused(asked):
    for _, text, answer, program in of(asked, "trace"):
        other = "2d" if program["form"] != "2d" else "3d"
        assert asked.check(text, answer, {**program, "form": other})
        assert asked.check(text, answer, {**program, "kind": "end-effector"})
        if "object-centric" in text:
            assert asked.check(text.replace("object-centric", "end-effector-centric"), answer, program)
        assert asked.check(text.replace("the red mug", "the red mug slowly"), answer, program)


def test_a_path_through_something_is_refused(asked):
    """From the red mug straight to the right of the blue one, through book and can."""
    from qa_scenes import trace_of

    scene = asked.scene
    start = scene.object("mug1").box.center_xyz
    through = trace_of(scene, "mug1", [start, start + np.array([0.85, -0.05, 0.0])], 1, "mug2", None, (), "right")
    view = SceneView(scene, [through])
    from traceworld.tracespatial.questions import trace_questions

    made = trace_questions.ask(view, np.random.default_rng(0), 3)
    assert made
    for one in made:
        assert "runs into" in check(scene, one.text, one.answer, {**one.program, "scene": view.fingerprint})


def test_ambiguous_phrases_are_refused(asked):
    """A second red mug appears: `the red mug` now fits two."""
    things = copy.copy(table_things())
    from qa_scenes import box

    things.append(("mug3", "mug", "other mug", box(-0.5, 0.3, 0, (0.08, 0.08, 0.1)), True, "table", {"colour": "red"}))
    scene = make_scene(things)
    facts = Facts(scene)
    entry = next(one for one in of(asked, "quantitative") if one[3]["objects"] == ["mug1"])
    fault = check(scene, entry[1], entry[2], {**entry[3], "scene": facts.fingerprint}, facts)
    assert "fits" in fault


@pytest.mark.parametrize(("caption", "right"), [("first mug from the left", True), ("second mug from the left", False)])
def test_counting_captions_are_counted_again(caption, right):
    things = table_things()
    things[1] = ("mug1", "mug", caption, *things[1][3:])
    scene = make_scene(things)
    facts = Facts(scene)
    program = {
        "op": "measure", "what": "height", "objects": ["mug1"], "phrases": [f"the {caption}"], "unit": "cm",
        "value_m": 0.1, "scene": facts.fingerprint,
    }  # fmt: skip
    fault = check(
        scene, f"What is the height of the {caption}?", f"The height of the {caption} is 10.0 cm.", program, facts
    )
    assert (fault == "") is right
