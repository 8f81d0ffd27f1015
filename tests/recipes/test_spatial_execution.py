"""The study of execution among distractors: what its table counts."""

import json

import pytest
import spatial_execution as recipe
from results import read_section


def rows():
    def row(trace, success, touched, between=True):
        return {"task": "push", "trace": trace, "success": success, "touched": touched, "between": between}

    return [
        row("straight", True, True), row("planned", True, False),
        row("straight", False, True), row("planned", True, True),
        row("straight", True, False, False), row("planned", True, False, False),
    ]  # fmt: skip


def cells(text, name):
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.split("[")[0].strip() for cell in line.strip("|").split("|")]


def test_done_clean_and_touched_are_told_apart():
    text = recipe.summary(rows(), recipe.SpatialExecution(tasks=("push",), episodes=3))
    assert cells(text, "push") == ["push", "3", "67", "33", "67", "100", "67", "33"]
    assert cells(text, "all with a post in the way")[1:] == ["2", "50", "0", "100", "100", "50", "50"]


def test_a_share_of_nothing_is_no_number():
    assert recipe.share(0, 0) == "–"
    assert recipe.share(3, 3) == "100 [44–100]"


def test_a_way_that_is_not_found_is_a_failed_episode(tmp_path, monkeypatch):
    def no_way(self, observation):
        raise recipe.ExtractionError("no way", where="here")

    monkeypatch.setattr(recipe.PlannedTraces, "trace", no_way)
    document = tmp_path / "results.md"
    document.write_text("<!-- begin spatial -->\n<!-- end spatial -->\n")
    monkeypatch.setattr(recipe, "DOCUMENT", document)
    out = tmp_path / "runs" / "spatial.json"
    found = recipe.main(recipe.SpatialExecution(episodes=1, tasks=("push",), posts=1, out=out, section=True))
    assert json.loads(out.read_text()) == found
    assert [row["success"] for row in found] == [False, False]
    assert all("no way" in row["error"] for row in found)
    assert "| push | 1 | 0 [0–79]" in read_section(document, "spatial")


@pytest.fixture(autouse=True)
def simulator():
    pytest.importorskip("metaworld")
