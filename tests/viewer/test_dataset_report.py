"""`traceworld report`: the page says what the dataset is, and shows its worst clips first."""

import json
from dataclasses import replace

import numpy as np
import pytest
import viewer_scenes as made

from traceworld.cli import main
from traceworld.traces.writer import DatasetWriter
from traceworld.viewer.dataset_report import WORST, dataset_report, worst_clips

pytest.importorskip("plotly", reason="the viewer extra is not installed")


def row(**figures):
    names = ("visible_fraction", "valid_fraction", "alive_at_end", "moving_fraction")
    names += ("jitter_px", "static_wander_px", "reprojection_px", "alignment_residual")
    return {name: figures.get(name) for name in names}


def test_the_worst_clips_are_those_far_from_the_middle_on_the_bad_side():
    rng = np.random.default_rng(0)
    table = {f"c{i}": row(jitter_px=0.3 + 0.02 * rng.random(), visible_fraction=0.9) for i in range(40)}
    table["shaky"] = row(jitter_px=2.0, visible_fraction=0.9)
    table["hidden"] = row(jitter_px=0.31, visible_fraction=0.2)
    table["calm"] = row(jitter_px=0.01, visible_fraction=1.0)  # unusual, but not bad
    found = worst_clips(table)
    assert {name for name, _ in found} == {"shaky", "hidden"}
    assert "jitter_px 2 (median" in dict(found)["shaky"]
    assert worst_clips({"a": row(), "b": row(jitter_px=5.0)}) == []


@pytest.fixture
def folder(tmp_path):
    writer = DatasetWriter(tmp_path / "clips")
    for number in range(6):
        quality = {"visible_fraction": 0.9 - 0.01 * number, "jitter_px": 0.2 + (9.0 if number == 3 else 0.01 * number)}
        clip = replace(made.clip_of(8), clip_id=f"clip{number}", provenance={"quality": quality, "status": "ok"})
        writer.write_item(f"item{number}", [clip])
    writer.write_item("bad", [], status="failed", stage="source", error="MediaError: <b>cut off</b>")
    writer.finalise()
    return tmp_path / "clips"


def test_the_page(folder, capsys):
    assert main(["report", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["clips"]["clip3"]["jitter_px"] == 9.2
    text = (folder.parent / "clips-report.html").read_text("utf-8")
    assert told["report"] == str(folder.parent / "clips-report.html")
    assert "Clips to look at first" in text
    assert "clip3: jitter_px 9.2" in text
    assert "no picture" in text  # these clips have none: said, not fatal
    assert "1 inputs failed" in text
    assert "&lt;b&gt;cut off" in text
    assert "<b>cut off" not in text


def test_charts_count_every_clip_that_has_the_figure(folder):
    from traceworld.traces.store import open_dataset

    report = dataset_report(open_dataset(folder), worst=2)
    charts = {chart.title: chart for chart in report.charts}
    assert set(charts) == {"visible_fraction", "jitter_px"}
    assert all(sum(chart.series["clips"]) == 6 and chart.kind == "bars" for chart in charts.values())
    assert len(report.inputs) <= 2 <= WORST
    assert report.tables[0].rows[0][0] == "keypoints"
    assert [table.title for table in report.tables] == ["Quality figures", "Failed inputs"]
