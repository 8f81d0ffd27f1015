"""What entrants are given and scored on: inputs, entrants without depth, intervals, usage; the tables that show it."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from traceworld.evaluation import scoring
from traceworld.evaluation.forecast import evaluate_forecast
from traceworld.evaluation.metrics import forecast_metrics_per_keypoint
from traceworld.evaluation.slots import SlotChoice, choose_slots
from traceworld.evaluation.tables import LEGEND, forecast_markdown, forecast_tables, needed_width, sheets
from traceworld.models.baselines import NearestExample
from traceworld.traces.types import TracePrediction
from traceworld.traces.windows import WindowConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "traces"))
from trace_clips import write_dataset


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("store") / "clips", clips=4, T=60, N=20)


@pytest.fixture(scope="module")
def slots(store):
    return choose_slots(store, SlotChoice(WindowConfig()))


class Entrant:
    """Noise about the anchor, with what a predictor may say of itself."""

    def __init__(self, name="entrant", z=0.0, **attributes):
        self.name, self.z, self.seen = name, z, []
        for key, value in attributes.items():
            setattr(self, key, value)

    def predict(self, observation, num_samples=1, seed=0):
        self.seen.append(observation)
        uv = observation.keypoints_uv
        z = np.zeros(len(uv)) if observation.keypoints_z_m is None else observation.keypoints_z_m
        anchor = np.concatenate([uv, z[:, None] + self.z], 1)
        noise = np.random.default_rng(seed).normal(0, 0.02, (num_samples, len(uv), 32, 3))
        uvz = (anchor[:, None] + noise).astype(np.float32)
        return TracePrediction(uvz, np.ones(uvz.shape[:3], bool), clock=observation.clock, step=observation.step)


class Counting(Entrant):
    """One that counts its answers, as remote entrants do."""

    def __init__(self):
        super().__init__("counting", num_parameters=None, gives_depth=False, takes=())
        self.asked = 0

    def predict(self, observation, num_samples=1, seed=0):
        self.asked += num_samples
        return super().predict(observation, num_samples, seed)

    def usage(self):
        asked, self.asked = self.asked, 0
        return {"answers": asked, "failed": asked // 2, "seconds_per_answer": 12.5, "failures": {"timeout": asked // 2}}


@pytest.fixture(scope="module")
def report(store):
    flat = Entrant("flat", z=1e6, gives_depth=False, num_parameters=13_500_000_000, takes=("depth",))
    deep = Entrant("deep", requires_depth=True, num_parameters=674_500_000)
    return evaluate_forecast([flat, deep, Counting()], store, depth=False, intrinsics=False, num_samples=3)


def test_entrants_without_depth_are_scored_in_the_image_plane_only(report, slots):
    flat = report["models"]["flat"]["no_history"]
    assert set(flat["metrics"]) == {k for k in report["models"]["deep"]["no_history"]["metrics"] if "_uv@" in k}
    assert flat["metrics"]["topS_ade_uv@32"] < 1, "the absurd depth does not count"
    assert flat["interval95"].keys() == {"topS_ade_uv@32", "top1_ade_uv@32"}
    still = report["models"]["nothing-moves"]["no_history"]["metrics"]["top1_ade_uv@32"]
    plain = []
    for slot in slots:
        for k, valid in enumerate(slot.valid):
            if valid.any():
                uv = slot.observation.keypoints_uv[k]
                plain.append(np.linalg.norm(slot.true_uvz[k, valid, :2] - uv, axis=-1).mean())
    assert still == pytest.approx(np.mean(plain), rel=1e-5)
    assert flat["ratio"]["top1_ade_uv@32"] == pytest.approx(flat["metrics"]["top1_ade_uv@32"] / still)


def test_what_each_was_given_is_said_and_true(store):
    plain = Entrant("plain")
    deep = Entrant("deep", requires_depth=True)
    blind = Entrant("blind", takes=())
    report = evaluate_forecast([plain, deep, blind], store, depth=False, intrinsics=True, history=(False, True))
    given = {name: model["history"]["given"] for name, model in report["models"].items()}
    assert given["plain"] == {"depth": "no", "history": "yes", "intrinsics": "yes"}
    assert given["deep"] == {"depth": "required", "history": "yes", "intrinsics": "yes"}
    assert given["blind"] == {"depth": "no", "history": "unused", "intrinsics": "unused"}
    assert given["nothing-moves"] == {"depth": "no", "history": "unused", "intrinsics": "unused"}
    assert given["constant-velocity"]["history"] == "yes"
    assert report["models"]["plain"]["no_history"]["given"]["history"] == "no"
    assert {(o.depth_m is None, o.keypoints_z_m is None, o.K is None) for o in plain.seen} == {(True, True, False)}
    assert {(o.depth_m is None, o.keypoints_z_m is None) for o in deep.seen} == {(False, False)}
    no_K = Entrant("plain")
    evaluate_forecast([no_K], store, intrinsics=False, history=(False,), max_windows=1)
    assert no_K.seen[0].K is None


def test_depth_of_those_that_had_it_is_not_added_twice(store, slots):
    exact = {"requires_depth": True}
    with_it = evaluate_forecast([Entrant(**exact)], store, depth=False, history=(False,))
    without = evaluate_forecast([Entrant()], store, depth=False, history=(False,))
    a, b = (r["models"]["entrant"]["no_history"]["metrics"] for r in (with_it, without))
    assert a["top1_ade@32"] == pytest.approx(b["top1_ade@32"], rel=1e-4)


def test_depth_alone_is_a_metric_of_its_own():
    rng = np.random.default_rng(0)
    pred, true, valid = rng.normal(size=(2, 3, 8, 3)), rng.normal(size=(3, 8, 3)), rng.random((3, 8)) < 0.8
    alone = forecast_metrics_per_keypoint(pred, true, valid, (8,), dims="z")
    flat = forecast_metrics_per_keypoint(pred * [0, 0, 1], true * [0, 0, 1], valid, (8,))
    for key, values in flat.items():
        np.testing.assert_allclose(alone[key], values)


def test_intervals_resample_clips():
    rng = np.random.default_rng(1)
    clip = np.repeat(np.arange(12), 5)
    values = rng.normal(10, 1, 12)[clip]  # keypoints of one clip are all alike
    values[3] = np.nan
    draw = scoring._Bootstrap(clip, 0)
    low, high = draw.mean(values)
    spread = values[np.arange(0, 60, 5)].std(ddof=1) / np.sqrt(12)
    assert low < np.nanmean(values) < high
    assert (high - low) == pytest.approx(2 * 1.96 * spread, rel=0.25), "sixty points are twelve clips"
    assert draw.ratio(2 * values, values) == [2, 2]
    assert all(np.isnan(draw.mean(np.full(60, np.nan))))


def test_usage_is_that_of_the_setting_alone(store, slots):
    counting = Counting()
    counting.asked = 999
    report = evaluate_forecast([counting], store, num_samples=2)
    for setting in ("no_history", "history"):
        assert report["models"]["counting"][setting]["usage"]["answers"] == 2 * len(slots)


def test_an_entrant_with_examples_of_the_benchmark_is_found_out(store, caplog):
    report = evaluate_forecast([NearestExample(store)], store, history=(False,), max_windows=2)
    found = report["models"]["nearest-example"]["no_history"]
    assert found["seen_clips"] == report["clips"] > 0
    assert "scored on" in caplog.text
    assert found["ratio"]["top1_ade@32"] < 0.05
    assert report["models"]["nothing-moves"]["no_history"]["seen_clips"] == 0


def test_tables_have_the_papers_layout(report):
    found = {sheet.title: sheet for sheet in sheets(report)}
    first = found["Table 1, 2D (u, v)"]
    assert [c.replace("\n", " ") for c in first.columns[4:10]] == [
        "top1 ADE 8", "top1 ADE 16", "top1 ADE 32", "top3 ADE 8", "top3 ADE 16", "top3 ADE 32"
    ]  # fmt: skip
    assert [c.split("\n")[1] for c in first.columns[4:22:3]] == ["ADE", "ADE", "FDE", "FDE", "DTW", "DTW"]
    assert first.columns[22:] == ["time", "fail"]
    rows = {(row[0], n): row for n, row in enumerate(first.rows)}
    assert {name for name, _ in rows} == set(report["models"])
    assert {row[0] for row in found["Table 1, 3D (u, v, z)"].rows} == set(report["models"]) - {"flat", "counting"}
    flat = next(row for row in first.rows if row[0] == "flat")
    figures = report["models"]["flat"]["no_history"]["metrics"]
    assert flat[1:4] == ["–", "–", "–"]
    assert flat[4] == f"{figures['top1_ade_uv@8']:.3f}"
    assert flat[9] == f"{figures['topS_ade_uv@32']:.3f}"
    assert flat[21] == f"{figures['topS_dtw_uv@32']:.3f}"
    counting = next(row for row in first.rows if row[0] == "counting")
    assert counting[22] == "12.5s †"
    answers = report["models"]["counting"]["no_history"]["usage"]["answers"]
    assert counting[23] == f"{answers // 2}/{answers}"
    deep = next(row for row in first.rows if row[0] == "deep")
    assert deep[1] == "‡"
    third = found["Table 3, 2D (u, v)"]
    assert [row[-1] for row in third.rows if row[0] in ("flat", "deep", "counting")] == ["13.5B"] * 2 + ["674M"] * 2 + [
        "?"
    ] * 2
    flat = next(row for row in third.rows if row[0] == "flat")
    assert flat[9] == f"{figures['topS_fd_uv@32']:.3f}"


def test_terminal_and_markdown_show_the_same(report):
    console = Console(file=io.StringIO(), width=needed_width(report))
    console.print(forecast_tables(report))
    shown, text = console.file.getvalue(), forecast_markdown(report)
    assert max(map(len, shown.splitlines())) <= needed_width(report) <= 240
    assert "…" not in shown.split("d, h, K")[0]
    for sheet in sheets(report):
        assert sheet.title in text
        for row in sheet.rows:
            assert "| " + " | ".join(row) + " |" in text
            for cell in row:
                assert cell in shown, cell
    assert LEGEND in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1


def test_parts_have_intervals(report):
    part = report["models"]["flat"]["no_history"]["by_task"]["task 0"]
    low, high = part["interval95_topS_ade_uv@32"]
    assert low <= part["ratio_topS_ade_uv@32"] <= high
    assert "topS_ade@32" not in part
    assert json.loads(json.dumps(report, allow_nan=False)) == report
