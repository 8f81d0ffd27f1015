"""Relations of objects against a table set by hand: red mug left, blue mug right, crate behind, can on a book in the middle."""

import itertools

import numpy as np
import pytest
from qa_scenes import box, camera, make_scene, table_scene, table_things

from traceworld.tracespatial.checker_geometry import Facts
from traceworld.tracespatial.questions.measures import sides_of
from traceworld.tracespatial.questions.relations import (
    BINARY_WORDS,
    SUPERLATIVE_WORDS,
    TERNARY,
    between,
    closer_to,
    extreme,
    ground_gap,
    holds,
    overlap_share,
)
from traceworld.tracespatial.questions.view import SceneView


@pytest.fixture(scope="module")
def view():
    return SceneView(table_scene())


TRUE = [
    ("left", "mug1", "mug2"), ("right", "mug2", "mug1"), ("behind", "crate", "can"), ("front", "book", "crate"),
    ("on", "can", "book"), ("under", "book", "can"), ("on", "crate", "table"), ("above", "can", "book"),
    ("below", "table", "mug1"), ("left_behind", "crate", "mug2"), ("right_front", "mug2", "crate"),
    ("nearer_camera", "mug2", "crate"), ("farther_camera", "crate", "mug1"),
]  # fmt: skip
FALSE = [
    ("left", "mug2", "mug1"), ("on", "mug1", "book"), ("inside", "can", "crate"), ("front", "crate", "can"),
    ("contains", "mug1", "crate"), ("next_to", "mug1", "mug2"), ("on", "mug1", "mug2"), ("above", "table", "can"),
]  # fmt: skip


@pytest.mark.parametrize(("relation", "a", "b"), TRUE)
def test_what_holds(view, relation, a, b):
    assert holds(view, relation, view.thing(a), view.thing(b)) is True


@pytest.mark.parametrize(("relation", "a", "b"), FALSE)
def test_what_does_not(view, relation, a, b):
    assert holds(view, relation, view.thing(a), view.thing(b)) is False


def test_there_are_as_many_types_as_the_paper_counts():
    assert len(BINARY_WORDS) + len(TERNARY) + len(SUPERLATIVE_WORDS) == 28


@pytest.mark.parametrize("apart", [0.0, 0.03])
def test_a_small_difference_is_too_close_to_call(apart):
    scene = make_scene(
        [
            table_things()[0],
            ("a", "mug", "red mug", box(0.0, -0.1, 0, (0.08, 0.08, 0.1)), True, "table", {}),
            ("b", "can", "can", box(apart, 0.3, 0, (0.06, 0.06, 0.1)), True, "table", {}),
        ]
    )
    view = SceneView(scene)
    a, b = view.thing("a"), view.thing("b")
    assert holds(view, "left", a, b) is None
    assert holds(view, "right", a, b) is None
    assert Facts(scene).relation("left", a.item, b.item) in (None, True)


def test_inside_and_around():
    scene = make_scene(
        [
            table_things()[0],
            ("tray", "tray", "tray", box(0, 0, 0, (0.4, 0.4, 0.2)), True, "table", {}),
            ("ball", "ball", "ball", box(0.05, 0.0, 0.02, (0.06, 0.06, 0.06)), True, "tray", {}),
        ]
    )
    facts = Facts(scene)
    assert facts.relation("inside", scene.object("ball"), scene.object("tray")) is True
    assert facts.relation("contains", scene.object("tray"), scene.object("ball")) is True
    assert facts.relation("inside", scene.object("tray"), scene.object("ball")) is False


def test_between_and_closer(view):
    book, red, blue, crate = (view.thing(name) for name in ("book", "mug1", "mug2", "crate"))
    assert between(view, book, red, blue) is True
    assert between(view, red, book, blue) is False
    assert closer_to(view, red, book, blue) is True  # 0.30 m against 0.60 m
    assert closer_to(view, red, blue, book) is False
    assert closer_to(view, book, red, blue) is None  # 0.30 m and 0.30 m
    assert closer_to(view, crate, red, blue) is None


def test_extremes(view):
    mugs = [view.thing("mug1"), view.thing("mug2")]
    small = [*mugs, view.thing("can")]
    assert extreme(view, "leftmost", small).id == "mug1"
    assert extreme(view, "rightmost", small).id == "mug2"
    assert extreme(view, "farthest_camera", [*mugs, view.thing("crate")]).id == "crate"
    assert extreme(view, "highest", [*mugs, view.thing("crate")]).id == "crate"
    assert extreme(view, "highest", [view.thing("mug2"), view.thing("can")]) is None  # 14 cm and 15 cm
    assert extreme(view, "lowest", mugs) is None


def test_left_and_right_follow_the_camera():
    """Seen from the other side of the table, left is right."""
    view = SceneView(table_scene(cam=camera(eye=(0.0, 1.4, 0.9))))
    assert holds(view, "left", view.thing("mug2"), view.thing("mug1")) is True


def test_footprints(view):
    assert overlap_share(view.thing("can"), view.thing("book")) == pytest.approx(1.0, abs=1e-5)
    assert overlap_share(view.thing("book"), view.thing("can")) == pytest.approx(0.06 * 0.06 / (0.22 * 0.16), rel=1e-4)
    assert ground_gap(view.thing("mug1"), view.thing("book")) == pytest.approx(0.30 - 0.04 - 0.11, abs=1e-6)


def test_sides_are_named_by_the_faces_seen(view):
    assert sides_of(view, view.thing("crate")) == pytest.approx({"length": 0.30, "width": 0.20, "height": 0.20})
    turned = make_scene(
        [table_things()[0], ("c", "crate", "crate", box(0, 0.2, 0, (0.3, 0.2, 0.2), np.pi / 2), True, "table", {})]
    )
    turned_view = SceneView(turned)
    assert sides_of(turned_view, turned_view.thing("c")) == pytest.approx({"length": 0.2, "width": 0.3, "height": 0.2})
    askew = make_scene(
        [table_things()[0], ("c", "crate", "crate", box(0, 0.2, 0, (0.3, 0.2, 0.2), np.pi / 4), True, "table", {})]
    )
    askew_view = SceneView(askew)
    assert sides_of(askew_view, askew_view.thing("c")) == {"length": None, "width": None, "height": pytest.approx(0.2)}
    assert Facts(askew).side(askew.object("c"), "length") is None


def test_makers_and_checker_agree_wherever_the_makers_decide():
    """The checker's geometry is another one, with looser margins: it may say more, but nothing else."""
    rng = np.random.default_rng(5)
    compared = 0
    for trial in range(6):
        things = [table_things()[0]]
        for number in range(5):
            size = rng.uniform(0.05, 0.2, 3)
            where = box(rng.uniform(-0.5, 0.5), rng.uniform(-0.2, 0.5), 0, size, rng.uniform(0, 3))
            things.append((f"t{number}", f"thing{number}", f"thing{number}", where, True, "table", {}))
        scene = make_scene(things, scene_id=f"random{trial}")
        view, facts = SceneView(scene), Facts(scene)
        for a, b in itertools.permutations(view.things, 2):
            for relation in BINARY_WORDS:
                verdict = holds(view, relation, a, b)
                if verdict is not None:
                    compared += 1
                    assert facts.relation(relation, a.item, b.item) is verdict, (trial, relation, a.id, b.id)
    assert compared > 500
