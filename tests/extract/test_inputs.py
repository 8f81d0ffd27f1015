"""From what users type to a list of clips."""

import numpy as np
import pytest
from PIL import Image

from traceworld.extract.inputs import expand_inputs, item_id


@pytest.fixture
def tree(tmp_path):
    """videos/{a,b10,b2}.mp4, episodes/e1 (RGB-D) + e1.truth, frames/ (pictures), notes.txt."""
    for name in (
        "videos/a.mp4",
        "videos/b10.mp4",
        "videos/b2.mp4",
        "videos/cover.jpg",
        "notes.txt",
        "episodes/e1/clip.json",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "episodes/e1.truth").mkdir()
    (tmp_path / "episodes/e1.truth/clip.json").write_text("{}")
    (tmp_path / "frames").mkdir()
    for number in range(2):
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "frames" / f"{number}.png")
    return tmp_path


def names(paths, tree):
    return [str(path.relative_to(tree)) for path in paths]


def test_a_folder_stands_for_the_clips_below_it_in_natural_order(tree):
    assert names(expand_inputs([tree]), tree) == [
        "episodes/e1",
        "frames",
        "videos/a.mp4",
        "videos/b2.mp4",
        "videos/b10.mp4",
    ]


def test_clips_are_themselves(tree):
    given = [tree / "episodes/e1", tree / "frames", tree / "videos/a.mp4"]
    assert expand_inputs(given) == given


def test_patterns_and_duplicates(tree):
    found = expand_inputs([str(tree / "videos/*.mp4"), tree / "videos/a.mp4", str(tree / "epis*/*")])
    assert names(found, tree) == ["videos/a.mp4", "videos/b2.mp4", "videos/b10.mp4", "episodes/e1"]


def test_truth_is_passed_over_unless_nothing_else_is_given(tree):
    both = [tree / "episodes/e1", tree / "episodes/e1.truth"]
    assert expand_inputs(both) == both[:1]
    assert expand_inputs(both[1:]) == both[1:]  # so that opening it can say why not


def test_what_is_not_there_stays_in_the_list(tree):
    (tree / "empty").mkdir()
    given = [tree / "nothing.mp4", tree / "empty", tree / "no*.mkv", tree / "notes.txt"]
    assert expand_inputs(given) == given


def test_item_ids_are_stable_and_tell_equal_names_apart(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert item_id("videos/a.mp4") == item_id(tree / "videos/a.mp4")
    assert item_id("videos/a.mp4") != item_id("elsewhere/a.mp4")
    assert item_id("videos/a.mp4").startswith("a-")
