"""Training files and the draws that leave geometry out."""

import json

import blocks
import cv2
import numpy as np
import pytest

from traceworld.errors import ConfigError, DatasetError, DepthError, MediaError
from traceworld.training.robotracer.examples import Examples, Ticket
from traceworld.training.robotracer.records import annotation_of, choose, read_records
from traceworld.training.robotracer.rewards import reward


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return blocks.write_file(tmp_path_factory.mktemp("blocks"), range(6))


def rewrite(file, tmp_path, lines=False, **changes):
    """A copy of the file's first entry with fields changed (None: left out)."""
    entry = {
        **json.loads(file.read_text())[0],
        "image": str(file.parent / "0.png"),
        "depth": str(file.parent / "0.npy"),
    }
    entry = {name: value for name, value in {**entry, **changes}.items() if value is not None}
    copy = tmp_path / "copy.json"
    copy.write_text(json.dumps(entry) + "\n" if lines else json.dumps([entry]))
    return copy


def test_an_example_is_what_the_file_says(file):
    image, depth, pose, uvd = blocks.cast(3)
    example = Examples(read_records(file), drop=0.0)[3]
    np.testing.assert_array_equal(example.image, image)
    np.testing.assert_array_equal(example.depth_m, depth)
    np.testing.assert_array_equal(example.world_from_cam, pose)
    np.testing.assert_array_equal(example.K, blocks.K)
    assert example.turns == (blocks.words(depth, uvd, "red"),)
    assert example.scale_m == pytest.approx(depth[depth > 0].mean())


def test_lists_of_one_file_and_json_lines_and_millimetres_are_read(file, tmp_path):
    depth_mm = np.array([[0, 1500], [65535, 500]], np.uint16)
    cv2.imwrite(str(tmp_path / "mm.png"), depth_mm)
    copy = rewrite(file, tmp_path, lines=True, image=[str(file.parent / "0.png")], depth=[str(tmp_path / "mm.png")])
    (record,) = read_records(copy)
    np.testing.assert_allclose(record.read_depth(), [[0, 1.5], [0, 0.5]], rtol=1e-6)
    assert Examples([record], drop=1.0)[0].scale_m == pytest.approx(1.0)  # learned though depth is not shown


def test_camera_from_world_is_turned_round(file, tmp_path):
    pose = blocks.cast(0)[2]
    (record,) = read_records(rewrite(file, tmp_path, pose=None, cam_from_world=np.linalg.inv(pose).tolist()))
    np.testing.assert_allclose(record.pose, pose, atol=1e-12)


def test_what_is_not_there_is_not_invented(file, tmp_path):
    (record,) = read_records(rewrite(file, tmp_path, pose=None, depth=None, intrinsics=None))
    example = Examples([record], drop=0.0)[0]
    assert (example.K, example.depth_m, example.world_from_cam, example.scale_m) == (None, None, None, None)


def test_relative_depth_is_neither_shown_nor_learned(file, tmp_path):
    (record,) = read_records(rewrite(file, tmp_path, metric_depth=False, scale_m=2.0))
    example = Examples([record], drop=0.0)[0]
    assert (example.depth_m, example.scale_m) == (None, None)


def test_several_turns_and_placeholders(file, tmp_path):
    said = [("human", "<image>\n<depth>\nOne?"), ("gpt", "1"), ("user", "Two?"), ("assistant", "2")]
    turns = [{"from": who, "value": text} for who, text in said]
    (record,) = read_records(rewrite(file, tmp_path, conversations=turns))
    assert record.turns == (("One?", "1"), ("Two?", "2"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "no image"),
        ({"image": ["a.png", "b.png"]}, "2 files"),
        ({"image": 3}, "image is 3"),
        ({"conversations": None}, "pairs"),
        ({"conversations": [{"from": "human", "value": "?"}]}, "pairs"),
        ({"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]}, "not said by human"),
        ({"conversations": [{"from": "human", "value": "<image>\n"}, {"from": "gpt", "value": "b"}]}, "empty"),
        ({"intrinsics": [[1, 2], [3, 4]]}, "intrinsics is not 3×3"),
        ({"pose": "here"}, "pose is not 4×4"),
        ({"pose": None, "cam_from_world": np.zeros((4, 4)).tolist()}, "inverted"),
        ({"scale_m": -1}, "scale_m"),
    ],
)
def test_a_wrong_entry_is_named(file, tmp_path, changes, message):
    copy = rewrite(file, tmp_path, **changes)
    with pytest.raises(DatasetError, match=message) as found:
        read_records(copy)
    assert "copy.json[0]" in str(found.value)


@pytest.mark.parametrize("text", ["", "[]", "[1]", "{", "[[", '"a"'])
def test_a_wrong_file_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DatasetError):
        read_records(tmp_path / "x.json")
    with pytest.raises(DatasetError):
        read_records(tmp_path / "none.json")


def test_missing_pictures_are_named_when_they_are_wanted(file, tmp_path):
    with pytest.raises(MediaError, match=r"gone\.png"):
        Examples(read_records(rewrite(file, tmp_path, image="gone.png")))[0]
    with pytest.raises(DepthError, match=r"gone\.npy"):
        Examples(read_records(rewrite(file, tmp_path, depth="gone.npy")))[0]


def test_every_subset_is_drawn_about_as_often_as_it_should_be(file):
    examples = Examples(read_records(file), drop=0.5)
    draws = [examples.left_out(Ticket(index, epoch)) for index in range(6) for epoch in range(400)]
    counts = {subset: draws.count(subset) for subset in set(draws)}
    assert len(counts) == 8
    assert max(abs(count - 300) for count in counts.values()) < 5 * np.sqrt(300)


def test_draws_follow_seed_epoch_and_index_and_nothing_else(file):
    records = read_records(file)
    tickets = [Ticket(index, epoch) for epoch in range(8) for index in range(6)]
    first = [Examples(records, seed=1).left_out(ticket) for ticket in tickets]
    assert first == [Examples(records, seed=1).left_out(ticket) for ticket in tickets[::-1]][::-1]
    assert first != [Examples(records, seed=2).left_out(ticket) for ticket in tickets]
    assert first[:6] != first[6:12]
    examples = Examples(records, seed=1)
    examples.set_epoch(3)
    shown = {name: getattr(examples[2], name) is None for name in ("K", "depth_m", "world_from_cam")}
    out = examples.left_out(Ticket(2, 3))
    assert shown == {"K": "intrinsics" in out, "depth_m": "depth_m" in out, "world_from_cam": "poses" in out}


def test_chances_by_name(file):
    examples = Examples(read_records(file), drop={"depth_m": 1.0})
    assert {examples.left_out(Ticket(0, epoch)) for epoch in range(20)} == {frozenset({"depth_m"})}
    for wrong in ({"colour": 0.5}, {"depth_m": 1.5}, 2.0):
        with pytest.raises(ConfigError):
            Examples(examples.records, drop=wrong)


def test_the_truth_is_read_from_the_last_answer(file):
    examples = Examples(read_records(file))
    truth = examples.annotation(1)
    _, depth, _, uvd = blocks.cast(1)
    assert truth.size_px == (blocks.WIDTH, blocks.HEIGHT)
    assert truth.max_depth_m == pytest.approx(float(depth.max()))
    assert truth.trace[0, 2] == pytest.approx(uvd["red"][2], abs=6e-4)
    (step,) = truth.key_steps
    assert (step.kind, step.matches("Scale", "The Scene")) == ("Scale", True)
    found = reward(examples.records[1].turns[0][1], truth)
    assert found.total((1, 1, 1, 1, 1)) == pytest.approx(5)


def test_a_given_truth_counts_and_a_missing_one_is_refused(file, tmp_path):
    given = {"trace": [[1, 2]], "key_steps": [], "size_px": [640, 480], "max_depth_m": None}
    (record,) = read_records(rewrite(file, tmp_path, annotation=given))
    assert annotation_of(record, (1, 1), 1.0).to_json() == given
    said = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
    (record,) = read_records(rewrite(file, tmp_path, conversations=said))
    with pytest.raises(DatasetError, match="no trace and no process step"):
        annotation_of(record, (1, 1), 1.0)


def test_questions_are_chosen_by_family_and_steps(file, tmp_path):
    (long,) = read_records(rewrite(file, tmp_path, family="reasoning", steps=5))
    (short,) = read_records(rewrite(file, tmp_path, family="reasoning", steps=2))
    (other,) = read_records(rewrite(file, tmp_path, family="trace", steps=5))
    (silent,) = read_records(rewrite(file, tmp_path))
    everything = [long, short, other, silent]
    assert choose(everything, ("reasoning",), (4, 6)) == [long, silent]
    assert choose(everything, (), (1, 9)) == everything
    with pytest.raises(DatasetError):
        choose([short, other], ("reasoning",), (4, 6))
