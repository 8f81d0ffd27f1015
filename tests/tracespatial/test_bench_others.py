import json

import numpy as np
import pytest
from PIL import Image

from traceworld.errors import DatasetError
from traceworld.tracespatial.bench_others import read_ref_answers, read_refspatial, read_trace_answers, ref_mask


def write_refspatial(folder, splits=("Location", "Unseen")):
    """Two questions per split; the mask is the right half of 40×20."""
    for split in splits:
        (folder / split / "mask").mkdir(parents=True)
        records = [
            {"id": i, "object": "mug", "prompt": "point at the mug", "suffix": "as a tuple", "rgb_path": f"image/{i}.png",
             "mask_path": f"mask/{i}.png", "category": "location", "step": i + 1}
            for i in range(2)
        ]  # fmt: skip
        (folder / split / "question.json").write_text(json.dumps(records))
        mask = np.zeros((20, 40), np.uint8)
        mask[:, 20:] = 255
        for i in range(2):
            Image.fromarray(mask).save(folder / split / "mask" / f"{i}.png")
    return folder


def test_refspatial(tmp_path):
    questions = read_refspatial(write_refspatial(tmp_path))
    assert [(q.split, q.question_id, q.step) for q in questions][1:3] == [("Location", 1, 2), ("Unseen", 0, 1)]
    assert questions[0].words == "point at the mug as a tuple"
    assert ref_mask(tmp_path, questions[0]).mean() == 127.5
    (tmp_path / "Unseen/mask/1.png").unlink()
    with pytest.raises(DatasetError, match="missing"):
        ref_mask(tmp_path, questions[3])
    (tmp_path / "Unseen/question.json").write_text('[{"id": 1}]')
    with pytest.raises(DatasetError, match="Unseen"):
        read_refspatial(tmp_path)
    with pytest.raises(DatasetError, match="holds none"):
        read_refspatial(tmp_path / "Unseen")


def test_answers_name_their_split(tmp_path):
    path = tmp_path / "model_Location.jsonl"
    path.write_text('{"question_id": 0, "text": "(0.9, 0.5)"}\n{"id": 1, "split": "Unseen", "model_prediction": "x"}\n')
    assert read_ref_answers(path) == {("Location", 0): "(0.9, 0.5)", ("Unseen", 1): "x"}
    other = tmp_path / "model.jsonl"
    other.write_text('{"id": 0, "text": "x"}\n')
    with pytest.raises(DatasetError, match="line 1"):
        read_ref_answers(other)


@pytest.mark.parametrize(
    "line",
    [
        {"id": 1, "width": 10, "height": 10, "trajectory": []},
        {"id": 1, "width": 10, "trajectory": [[1, 2]]},
        {"id": 1, "width": 0, "height": 10, "trajectory": [[1, 2]]},
        {"id": 1, "width": 10, "height": 10, "trajectory": [[1, 2]], "scale": "metres"},
        [1],
    ],
)
def test_damaged_trace_lines(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(line))
    with pytest.raises(DatasetError, match="line 1"):
        read_trace_answers(path)
