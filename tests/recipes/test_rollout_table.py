"""Reports of rollouts side by side."""

import json
from typing import get_args

import pytest
import rollout_table

from traceworld.errors import ConfigError, DatasetError
from traceworld.evaluation.intervals import wilson_interval


def rate(successes, episodes):
    return {
        "successes": successes,
        "episodes": episodes,
        "rate": successes / episodes,
        "interval95": list(wilson_interval(successes, episodes)),
        "steps_to_success": 80.0 if successes else None,
    }


def report(done, suite="mt10", groups=False):
    """`done`: successes of 20 per task."""
    by_task = {f"metaworld:{task}-v3": rate(n, 20) for task, n in done.items()}
    overall = rate(sum(done.values()), 20 * len(done))
    by_group = {g: rate(n, 20) for g, n in zip(("easy", "medium", "hard", "very-hard"), done.values(), strict=False)}
    return {
        "suite": suite,
        "episodes": 20 * len(done),
        "overall": {**overall, "mean_over_groups": overall["rate"]},
        "by_task": by_task,
        "by_group": by_group if groups else {},
        "timing": {"act_ms": 41.27},
        "motion": {"jitter": 0.1, "waits": None},
    }


def write(folder, value):
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(value))


def test_runs_stand_side_by_side_in_their_section(tmp_path):
    write(tmp_path / "a", report({"reach": 18, "push": 14}))
    write(tmp_path / "b", report({"reach": 9, "push": 1}))
    document = tmp_path / "results.md"
    document.write_text("# All\n<!-- begin policies-mt10 -->\nold\n<!-- end policies-mt10 -->\nend\n")
    runs = (f"with={tmp_path / 'a'}", f"without={tmp_path / 'b'}")
    rollout_table.main(rollout_table.RolloutTable("policies-mt10", runs, note="A note.", results=document))
    text = document.read_text()
    assert text.startswith("# All")
    assert text.endswith("end\n")
    assert "old" not in text
    assert "A note." in text
    assert "| reach | 18/20 | 9/20 |" in text
    assert "| all episodes | 32/40 | 10/40 |" in text
    low, high = wilson_interval(32, 40)
    assert f"80.0 [{100 * low:.1f}, {100 * high:.1f}]" in text
    assert "- with against without: +55.0 points, 3.20 ×; 95 % intervals apart." in text
    assert "| with | 40 | 41.3 | 80 | 0.1 | – |" in text


def test_close_runs_overlap_and_nothing_is_divided_by_nothing():
    reports = {"a": report({"reach": 1}), "b": report({"reach": 0})}
    assert rollout_table.comparison(reports, "a", "b") == "- a against b: +5.0 points; 95 % intervals overlap."


def test_mt50_stands_beside_the_published_rows():
    found = report({"a": 20, "b": 10, "c": 4, "d": 2}, suite="mt50", groups=True)
    text = rollout_table.section({"ours": found}, [], "command")
    assert "| **ours** | 100.0 | 50.0 | 20.0 | 10.0 | 45.0 |" in text
    assert "| SmolVLA 0.45B (published) | 82.5 | 41.8 | 45.0 | 60.0 | 57.3 |" in text
    assert "against" not in text


def test_what_cannot_be_compared_is_refused(tmp_path):
    mixed = {"a": report({"reach": 1}), "b": report({"reach": 1}, suite="mt50")}
    with pytest.raises(ConfigError, match="one suite"):
        rollout_table.section(mixed, [], "command")
    with pytest.raises(ConfigError, match="no run is called 'c'"):
        rollout_table.section({"a": report({"reach": 1})}, [], "command", against="c")
    with pytest.raises(ConfigError, match="NAME=FOLDER"):
        rollout_table.named("folder")
    with pytest.raises(DatasetError, match=r"results\.json"):
        rollout_table.read_report(tmp_path)


def test_the_document_has_every_section():
    for name in get_args(rollout_table.Section):
        assert rollout_table.DOCUMENT.read_text().count(f"<!-- begin {name} -->") == 1
