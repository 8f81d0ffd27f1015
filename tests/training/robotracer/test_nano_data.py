"""A dataset re-worded for robotracer-nano, and examples that ask some of a picture's questions at a time."""

import json

import blocks
import numpy as np
import pytest

from traceworld.errors import DatasetError
from traceworld.models.robotracer.config import Prompts
from traceworld.training.robotracer.examples import Examples
from traceworld.training.robotracer.nano_data import short_words, write_nano_data
from traceworld.training.robotracer.records import read_records

PROMPTS = Prompts(trace_3d="3D trace: {task}", trace_2d="2D trace: {task}")
LONG = 'Point out the 3D object-centric visual trace for the task "Put the mug, slowly, on top of the box". Answer with a list.'


def record(family="trace", form="3d", asked=LONG, answer="[(101, 52, 1.234)]", scene="s", **program):
    said = [{"from": "human", "value": f"<image>\n{asked}"}, {"from": "gpt", "value": answer}]
    kept = {"image": ["0.png"], "depth": ["0.npy"], "intrinsics": blocks.K.tolist(), "metric_depth": True}
    return {"scene_id": scene, "family": family, "provenance": {"form": form, **program}, "conversations": said, **kept}


def test_a_trace_is_asked_for_in_the_predictors_words():
    assert short_words(record(), PROMPTS) == ("3D trace: Put the mug, slowly, on top of the box.", "[(100, 50, 1.23)]")
    flat = record(form="2d", answer="[(101, 52), (3, 4)]")
    assert short_words(flat, PROMPTS) == ("2D trace: Put the mug, slowly, on top of the box.", "[(100, 50), (5, 5)]")


def test_pointing_says_whether_it_wants_depth():
    asked = "Where is the red mug? Mark one point on it. Answer with [(u, v, d)]: u and v from 0 to 1000."
    found = short_words(record("referring", "direct", asked, with_depth=True), PROMPTS)
    assert found == ("3D: Where is the red mug? Mark one point on it.", "[(100, 50, 1.23)]")


@pytest.mark.parametrize(
    "left_out", [record(form="lift"), record("quantitative", "x"), record(asked="no task in quotes")]
)
def test_other_questions_are_left_out(left_out):
    assert short_words(left_out, PROMPTS) is None


@pytest.fixture
def file(tmp_path):
    blocks.write_file(tmp_path, range(2))
    first = [record(answer=f"[({u}, 50, 1.0)]", scene="a") for u in range(0, 50, 5)]
    records = [*first, record("quantitative", "x", scene="b"), record(scene="c")]
    (tmp_path / "train.json").write_text(json.dumps(records))
    return write_nano_data(tmp_path, PROMPTS)


def test_there_is_one_entry_per_picture_and_none_without_a_question(file):
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    assert [entry["id"] for entry in entries] == ["a", "c"]
    assert [len(entry["conversations"]) for entry in entries] == [20, 2]
    assert all(entry["apart"] for entry in entries)


def test_some_questions_are_asked_at_a_time_others_in_each_epoch(file):
    examples = Examples(read_records(file), drop=0.0, most_apart=3)
    asked = []
    for epoch in range(12):
        examples.set_epoch(epoch)
        turns = examples[0].turns
        assert len(turns) == len(set(turns)) == 3
        asked += turns
    assert len(set(asked)) > 8
    examples.set_epoch(0)
    assert list(examples[0].turns) == asked[:3]
    assert examples[0].apart
    assert len(examples[1].turns) == 1
    np.testing.assert_array_equal(examples[0].image, blocks.cast(0)[0])


def test_a_dataset_without_traces_and_pointing_is_refused(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps([record("quantitative", "x")]))
    with pytest.raises(DatasetError, match="no trace and no pointing"):
        write_nano_data(tmp_path, PROMPTS)
