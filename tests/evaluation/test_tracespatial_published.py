"""The published model's 200 real answers score, in compat mode, what the published evaluator prints of them (reference §2.1)."""

import json
import os
from pathlib import Path

import pytest

from traceworld.cli import main
from traceworld.evaluation.tracespatial.scoring import score_file

SHARED = Path(os.environ.get("TRACEWORLD_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
ANSWERS = SHARED / "tracespatial_answers"
pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not ANSWERS.exists(), reason=f"{ANSWERS} is not here (set TRACEWORLD_SHARED_DATA)"),
]
PRINTED = {
    "2D": {"frechet": 0.22281, "hausdorff": 0.21481, "rmse": 0.16078, "mae": 0.09451, "end_in_box": 0.43},
    "3D": {
        "frechet": 0.47361, "hausdorff": 0.45947, "rmse": 0.35762, "mae": 0.17001,
        "frechet_2d": 0.22188, "hausdorff_2d": 0.21479, "rmse_2d": 0.16480, "mae_2d": 0.09629, "end_in_box": 0.40,
        "end_ok": 0.57, "end_distance_m": 0.2242,
    },
}  # fmt: skip
DIGITS = {"end_distance_m": 4}


@pytest.mark.parametrize("task", ["2D", "3D"])
def test_every_printed_digit(task, tmp_path, capsys):
    file = ANSWERS / f"RoboTracer_Intrinsics_Depth_{task}.jsonl"
    out = tmp_path / "report.json"
    assert main(["eval", "tracespatial", "--answers", str(file), "--mode", "compat", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    summary = report["summary"]
    assert {name: round(summary[name], DIGITS.get(name, 5)) for name in PRINTED[task]} == PRINTED[task]
    assert summary["published_run"] == "ends with its figures"
    assert len(report["questions"]) == 100
    assert summary["start_in_mask"] is None
    assert "needs the mask" in summary["missing"]["start_in_mask"]
    shown = capsys.readouterr().out
    assert all(f"{value:.5f}"[: len(str(value))] in shown for value in PRINTED[task].values())
    if task == "3D":
        assert summary["at_least"] == {"start_ok": 0.64, "start_and_end_ok": 0.46}
        assert summary["overall_success"] is None
        assert summary["no_collision"] is None


@pytest.mark.parametrize("task", ["2D", "3D"])
def test_strict_agrees_where_nothing_is_amiss(task):
    (report,) = score_file(ANSWERS / f"RoboTracer_Intrinsics_Depth_{task}.jsonl")
    summary = report["summary"]
    assert summary["parsed"] == 1.0
    for name in ("frechet", "hausdorff", "end_in_box", *(("end_ok", "end_distance_m") if task == "3D" else ())):
        assert summary[name] == pytest.approx(PRINTED[task][name], abs=2e-4)
    low, high = summary["interval95"]["end_in_box"]
    assert low < PRINTED[task]["end_in_box"] < high
    assert 0.15 < high - low < 0.25  # a hundred questions: about ten points either way
