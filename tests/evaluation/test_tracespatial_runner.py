"""Running a model over a benchmark: the file, going on, time-outs, concurrency, predictors; and the command from end to end."""

import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tracespatial"))
from bench_scenes import OVER, item, said
from test_bench_others import write_refspatial

from traceworld.cli import main
from traceworld.errors import ConfigError, DatasetError
from traceworld.evaluation.tracespatial.others import score_paths, score_refspatial, share_in_mask
from traceworld.evaluation.tracespatial.runner import RunOptions, run_bench
from traceworld.evaluation.tracespatial.scoring import joined, score_file, tasks_of
from traceworld.models.baselines.motionless import NothingMoves
from traceworld.tracespatial.bench_layout import open_bench, read_answers
from traceworld.tracespatial.bench_writing import write_bench

ITEMS = [item(0), item(1, barrier=False), item(2, step=5)]


class Scripted:
    """Answers from a table by the question's image, counted."""

    name = "scripted"

    def __init__(self, answers):
        self.answers, self.asked, self.given = list(answers), [], []
        self.lock = threading.Lock()

    def answer(self, image, question, *, K=None, depth_m=None):
        with self.lock:
            turn = len(self.asked)
            self.asked.append(question)
            self.given.append((K, depth_m))
        found = self.answers[turn % len(self.answers)]
        if isinstance(found, Exception):
            raise found
        if isinstance(found, threading.Event):
            found.wait(60)
            return "late"
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    write_bench(folder, ITEMS)
    return folder


@pytest.fixture(scope="module")
def bench(folder):
    return open_bench(folder)


def test_the_file_and_going_on(bench, tmp_path):
    out = tmp_path / "scripted_3D.jsonl"
    first = Scripted([said(ITEMS[0], OVER), RuntimeError("lost"), "  "])
    run_bench(bench, first, out, "3D")
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["question_id"] for line in lines] == [0, 1, 2]
    assert lines[1]["error"] == "RuntimeError('lost')"
    assert lines[1]["model_prediction"] == ""
    assert lines[0]["destination|direction"] == "the right of the box"
    assert lines[0]["trajectory"] == ITEMS[0].question.record["trajectory"]
    kept = out.read_text().splitlines()[0]
    second = Scripted([said(ITEMS[1], OVER)])
    run_bench(bench, second, out, "3D")
    assert len(second.asked) == 2  # the failed one and the blank one
    assert out.read_text().splitlines()[0] == kept
    third = Scripted(["x"])
    run_bench(bench, third, out, "3D")
    assert third.asked == []
    assert [answer.error for answer in read_answers(out)] == [None] * 3


def test_the_prompt_names_the_object_and_geometry_is_given(bench, tmp_path):
    model = Scripted(["[]"])
    run_bench(bench, model, tmp_path / "a.jsonl", "3D", RunOptions(family="json", limit=1))
    assert "the mug number 0" in model.asked[0]
    K, depth = model.given[0]
    np.testing.assert_array_equal(K, bench.questions[0].K)
    assert depth[100, 100] == pytest.approx(ITEMS[0].gt_depth_mm[100, 100] / 1000)
    for geometry, known in (("K", (True, False)), ("none", (False, False))):
        run_bench(bench, model, tmp_path / f"{geometry}.jsonl", "2D", RunOptions(geometry=geometry, limit=1))
        assert tuple(value is not None for value in model.given[-1]) == known
    model.trace_prompts = {"3D": "In my words: {task}!"}
    run_bench(bench, model, tmp_path / "own.jsonl", "3D", RunOptions(limit=1))
    assert model.asked[-1] == f"In my words: {bench.questions[0].prompt}!"


def test_a_model_that_hangs_costs_its_time_out(bench, tmp_path):
    never = threading.Event()
    out = run_bench(bench, Scripted([never]), tmp_path / "a.jsonl", "3D", RunOptions(timeout_s=0.2))
    assert all("TimeoutError" in str(answer.error) for answer in read_answers(out))
    never.set()


def test_several_at_a_time_give_the_same_file(bench, tmp_path):
    class ByQuestion(Scripted):
        def answer(self, image, question, *, K=None, depth_m=None):
            return f"[({len(question)}, 5, 1.0), (6, 7, 1.0)]"

    told = []
    for workers in (1, 3):
        options = RunOptions(family="json", workers=workers)
        run_bench(bench, ByQuestion([]), tmp_path / f"{workers}.jsonl", "3D", options, lambda *n: told.append(n))
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "3.jsonl").read_bytes()
    assert told == [(1, 3), (2, 3), (3, 3)] * 2


def test_what_cannot_be_run(bench, tmp_path):
    out = tmp_path / "a.jsonl"
    out.write_text('{"question_id": 99, "model_prediction": "x"}\n')
    with pytest.raises(DatasetError, match="question 99"):
        run_bench(bench, Scripted(["x"]), out, "3D")
    out.write_text("{broken\n")
    with pytest.raises(DatasetError, match="jsonl:1"):
        run_bench(bench, Scripted(["x"]), out, "3D")
    write_bench(tmp_path / "bare", ITEMS[:1])
    (tmp_path / "bare/raw_data/0/image.png").unlink()
    with pytest.raises(DatasetError, match="no pictures"):
        run_bench(open_bench(tmp_path / "bare"), Scripted(["x"]), tmp_path / "b.jsonl", "3D")
    for wrong in ({"geometry": "pose"}, {"workers": 0}, {"timeout_s": 0}):
        with pytest.raises(ConfigError):
            RunOptions(**wrong)


def test_a_trace_predictor_answers_in_words(bench, tmp_path):
    out = run_bench(bench, NothingMoves(), tmp_path / "nothing_3D.jsonl", "3D")
    (report,) = score_file(out, bench)
    assert report["summary"]["start_ok"] == 1.0
    assert report["summary"]["end_ok"] == 0.0
    assert report["summary"]["parsed"] == 1.0
    assert report["summary"]["no_collision"] == 1.0


def test_tasks_and_families_of_a_file(bench, tmp_path):
    assert tasks_of(Path("a/model_2D.jsonl"), "all") == ("2D",)
    assert tasks_of(Path("a/model.jsonl"), "all") == ("2D", "3D")
    assert tasks_of(Path("a/model_2D.jsonl"), "3D") == ("3D",)
    text = "```json\n" + said(ITEMS[0], OVER).replace("(", "[").replace(")", "]") + "\n```"
    for name, parsed in (("plain", 1), ("RoboTracer", 0)):
        out = run_bench(bench, Scripted([text]), tmp_path / f"{name}.jsonl", "3D")
        reports = score_file(out, bench, "all", "auto", "compat")
        assert [len(report["questions"]) for report in reports] == [3, 3]
        assert reports[1]["questions"][0]["parsed"] is bool(parsed)
    both = joined(reports)
    assert set(both["summary"]) == {"2D", "3D"}
    assert [question["task"] for question in both["questions"]] == ["2D"] * 3 + ["3D"] * 3
    with pytest.raises(ConfigError, match="one task"):
        joined([reports[0], reports[0]])


def test_the_command_runs_and_scores(folder, tmp_path, capsys):
    words = ["eval", "tracespatial", "--bench", str(folder), "--out", str(tmp_path), "--json", str(tmp_path / "r.json")]
    assert main([*words, "--model", "nothing-moves", "--task", "3D"]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    fields = {"question_id", "parsed", "start_distance_m", "end_distance_m", "start_ok", "end_ok", "collided", "collision_ratios",
              "start_in_mask", "end_in_box", "frechet", "hausdorff", "rmse", "mae", "frechet_2d", "skipped", "error"}  # fmt: skip
    assert set(report) == {"summary", "questions"}
    assert all(fields <= set(question) for question in report["questions"])
    assert report["summary"]["success"] == 0.0
    assert "by step" in capsys.readouterr().out
    assert main([*words, "--answers", str(tmp_path / "nothing-moves_3D.jsonl"), "--mode", "compat"]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["summary"]["overall_success"] == 0.0


@pytest.mark.parametrize(
    "words", [[], ["--model", "nothing-moves"], ["--answers", "a", "--model", "b"], ["--layout", "paths"]]
)
def test_wrong_usage(words, capsys):
    assert main(["eval", "tracespatial", *words]) == 2
    assert "mend" in capsys.readouterr().err


def test_refspatial(tmp_path, capsys):
    write_refspatial(tmp_path, ["Location"])
    answers = tmp_path / "model_Location.jsonl"
    answers.write_text('{"id": 0, "text": "[(0.75, 0.5), (0.25, 0.5)]"}\n')
    strict = score_refspatial(answers, tmp_path)
    assert strict["summary"]["Location"] == 0.25  # half of the points of the first, nothing of the second
    assert strict["questions"][1]["failure"] == "no_text"
    assert score_refspatial(answers, tmp_path, mode="compat")["summary"]["Location"] == 0.5
    answers.write_text('{"id": 0, "text": "[(750, 500)]"}\n{"id": 1, "text": "[(750, 500)]"}\n')
    assert score_refspatial(answers, tmp_path)["summary"]["Location"] == 1.0
    words = ["eval", "tracespatial", "--layout", "refspatial", "--answers", str(answers), "--bench", str(tmp_path)]
    assert main([*words, "--json", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["summary"]["Location"] == 1.0
    assert "Location" in capsys.readouterr().out


def test_shares_in_a_mask():
    mask = np.zeros((10, 20))
    mask[:, 10:] = 1
    points = np.array([[10.0, 5], [9.9, 5], [19.9, 9.9], [20, 5], [-0.1, 5], [np.nan, 5]])
    assert share_in_mask(points, mask) == pytest.approx(2 / 6)
    assert share_in_mask(points[:0], mask) == 0.0


def test_trace_sets(tmp_path):
    answers = tmp_path / "vabench.jsonl"
    line = {"width": 200, "height": 100, "trajectory": [[0, 0], [100, 50]]}
    rows = [
        {"id": 1, "model_prediction": "[(0, 0), (500, 500)]"},
        {"id": 2, "model_prediction": "[(20, 0), (120, 50)]", "scale": "pixels"},
        {"id": 3, "model_prediction": "no"},
    ]
    answers.write_text("\n".join(json.dumps(line | row) for row in rows))
    report = score_paths(answers)
    assert report["summary"]["parsed"] == 2
    assert report["questions"][0]["frechet"] == pytest.approx(0, abs=1e-12)
    assert report["questions"][1]["frechet"] == pytest.approx(0.1)
    assert report["questions"][1]["mae"] == pytest.approx(0.05)
    assert report["questions"][2]["failure"] == "no_points"
    assert main(["eval", "tracespatial", "--layout", "paths", "--answers", str(answers)]) == 0
