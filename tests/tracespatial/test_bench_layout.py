import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from bench_scenes import K, item

from traceworld.errors import DatasetError
from traceworld.tracespatial.bench_layout import open_bench, question_of, read_answers, size_of
from traceworld.tracespatial.bench_writing import answer_line, write_bench


@pytest.fixture(scope="module")
def items():
    return [item(0), item(7, barrier=False, step=5, category="push-and-pull", source="CA-1M")]


@pytest.mark.parametrize("parquet", [False, True])
def test_what_is_written_is_read_back(items, tmp_path, parquet):
    write_bench(tmp_path, items, parquet)
    bench = open_bench(tmp_path)
    assert [question.question_id for question in bench.questions] == [0, 7]
    for found, given in zip(bench.questions, items, strict=True):
        np.testing.assert_array_equal(found.trajectory_cam, given.question.trajectory_cam)
        np.testing.assert_array_equal(found.K, K)
        np.testing.assert_array_equal(found.box.center_xyz, given.question.box.center_xyz)
        assert (found.prompt, found.destination, found.step) == (
            given.question.prompt,
            "the right of the box",
            given.question.step,
        )
        assert (found.category, found.data_source) == (given.question.category, given.question.data_source)
        np.testing.assert_array_equal(bench.picture(found, "image"), given.image)
        np.testing.assert_array_equal(bench.picture(found, "mask"), given.mask)
        for kind in ("gt_depth", "depth"):
            np.testing.assert_array_equal(bench.picture(found, kind), given.gt_depth_mm)
    assert bench.by_id[7].step == 5


def test_the_same_bytes(items, tmp_path):
    for name in "ab":
        write_bench(tmp_path / name, items)
    files = [path.relative_to(tmp_path / "a") for path in sorted((tmp_path / "a").rglob("*.*"))]
    assert len(files) == 7
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_the_published_quirks(items, tmp_path):
    """4×4 intrinsics, a three-channel mask, a picture that is not there, a depth file of another name."""
    from PIL import Image

    write_bench(tmp_path, items)
    path = tmp_path / "trajectory_dataset.json"
    records = json.loads(path.read_text())
    matrix = np.eye(4)
    matrix[:3, :3] = K
    records[0] |= {"gt_depth_intrinsics": matrix.tolist(), "gt_depth_path": "0/depth.png"}
    path.write_text(json.dumps(records))
    raw = tmp_path / "raw_data" / "0"
    (raw / "gt_depth.png").rename(raw / "depth.png")
    Image.fromarray(np.repeat(items[0].mask[..., None], 3, axis=-1)).save(raw / "mask.png")
    (raw / "image.png").unlink()
    bench = open_bench(tmp_path)
    question = bench.questions[0]
    np.testing.assert_array_equal(question.K, K)
    np.testing.assert_array_equal(bench.picture(question, "mask"), items[0].mask)
    assert bench.picture(question, "gt_depth") is not None
    assert bench.picture(question, "image") is None


def test_answer_lines(items, tmp_path):
    question = items[0].question
    lines = [
        answer_line(question, "say it", "[(1, 2, 3)]"),
        answer_line(items[1].question, "say it", "", "TimeoutError()"),
    ]
    assert list(lines[0])[:3] == ["question_id", "final_prompt", "image_path"]
    path = tmp_path / "model_3D.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    first, second = read_answers(path)
    assert (first.prediction, first.error, second.error) == ("[(1, 2, 3)]", None, "TimeoutError()")
    np.testing.assert_array_equal(first.question.trajectory_cam, question.trajectory_cam)
    assert first.question.step is None
    path.write_text("\n".join(json.dumps(lines[0]) for _ in range(2)))
    with pytest.raises(DatasetError, match="twice"):
        read_answers(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "no id"),
        ({"trajectory": []}, "trajectory"),
        ({"trajectory": None}, "no trajectory"),
        ({"trajectory": [[1, 2]]}, "trajectory"),
        ({"trajectory": [[1, 2, float("nan")]]}, "trajectory"),
        ({"trajectory": [["a", 2, 3]]}, "trajectory"),
        ({"gt_depth_intrinsics": [[1, 2], [3, 4]]}, "intrinsics"),
        ({"bbox_extent": [1, 1, 0]}, "box"),
        ({"bbox_rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 2]]}, "box"),
    ],
)
def test_damaged_questions_are_named(items, change, message):
    with pytest.raises(DatasetError, match=message):
        question_of(dict(items[0].question.record) | change, "file")


def test_what_may_be_missing(items):
    question = question_of(dict(items[0].question.record) | {"gt_depth_intrinsics": None, "bbox_center": None}, "file")
    assert question.K is None
    assert question.box is None


def test_damaged_benchmarks_are_refused(items, tmp_path):
    with pytest.raises(DatasetError, match="holds neither"):
        open_bench(tmp_path)
    with pytest.raises(DatasetError, match="twice"):
        write_bench(tmp_path, [items[0], items[0]])
    write_bench(tmp_path, items)
    path = tmp_path / "trajectory_dataset.json"
    records = json.loads(path.read_text())
    records[0]["image_path"] = "../../secret.png"
    path.write_text(json.dumps(records))
    bench = open_bench(tmp_path)
    with pytest.raises(DatasetError, match="leads out"):
        bench.read(bench.questions[0], "image")
    (tmp_path / "raw_data/7/mask.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="question 7: mask"):
        bench.picture(bench.questions[1], "mask")
    (tmp_path / "raw_data/7/gt_depth.png").write_bytes((tmp_path / "raw_data/7/image.png").read_bytes())
    with pytest.raises(DatasetError, match="16-bit"):
        bench.picture(bench.questions[1], "gt_depth")
    path.write_text("{}")
    with pytest.raises(DatasetError, match="list of questions"):
        open_bench(tmp_path)


def test_sizes_from_the_principal_point():
    def of(cx, cy):
        return size_of(np.array([[500.0, 0, cx], [0, 500, cy], [0, 0, 1]]))

    assert of(253.9, 192.1) == (512, 384)
    assert of(191.0, 255.3) == (384, 512)
    assert of(322.5, 238.6) == (640, 480)
    assert of(159.5, 119.5) is None
