import json
from dataclasses import replace

import pytest
from rich.console import Console

from traceworld.evaluation.intervals import wilson_interval
from traceworld.evaluation.rollout_records import EpisodeRecord
from traceworld.evaluation.rollout_report import (
    PUBLISHED_MT50,
    RESULTS_FILE,
    TABLES_FILE,
    published_mean,
    rollout_markdown,
    rollout_tables,
    summarise,
    write_results,
)

ONE = EpisodeRecord(
    env="metaworld:push-v3",
    episode=0,
    seed=0,
    group="hard",
    success=True,
    steps=50,
    calls=4,
    waits=0,
    seconds=1.0,
    act_ms=10.0,
    act_ms_p95=12.0,
    act_ms_max=20.0,
    observe_ms=5.0,
    step_ms=0.5,
    jitter=0.25,
    seam_jump=None,
    inner_jump=0.1,
)


@pytest.fixture
def records():
    """push (hard) 1 of 4, reach (easy) 3 of 4, window-open (easy) 1 of 1; one episode broke."""
    tasks = [("push", "hard", 1, 4), ("reach", "easy", 3, 4), ("window-open", "easy", 1, 1)]
    made = [
        replace(ONE, env=f"metaworld:{task}-v3", group=group, episode=number, success=number < good, steps=50 + number)
        for task, group, good, all_ in tasks
        for number in range(all_)
    ]
    broken = dict.fromkeys(("act_ms", "act_ms_p95", "act_ms_max", "observe_ms", "step_ms", "jitter", "inner_jump"))
    made[3] = replace(made[3], error="RuntimeError: x", steps=0, seconds=0.0, **broken)
    return made


def test_rates_by_task_group_and_over_all(records):
    report = summarise(records, "mt50", "ours", seed=1, latency_ms=0.0)
    assert report["by_task"]["metaworld:push-v3"]["rate"] == 0.25
    assert report["by_group"]["easy"]["successes"] == 4
    assert report["by_group"]["easy"]["episodes"] == 5
    assert report["by_group"]["easy"]["interval95"] == list(wilson_interval(4, 5))
    overall = report["overall"]
    assert overall["rate"] == 5 / 9
    assert overall["mean_over_tasks"] == pytest.approx((0.25 + 0.75 + 1) / 3)
    assert overall["mean_over_groups"] == pytest.approx((0.25 + 0.8) / 2)
    assert overall["steps_to_success"] == pytest.approx((50 + 50 + 51 + 52 + 50) / 5)
    assert report["errors"] == 1


def test_broken_episodes_do_not_dilute_the_timing(records):
    report = summarise(records, "mt50", "ours", seed=1, latency_ms=0.0)
    assert report["timing"]["act_ms"] == 10
    assert report["timing"]["act_ms_max"] == 20
    assert report["timing"]["seconds"] == 1
    assert report["motion"]["jitter"] == 0.25
    assert report["motion"]["seam_jump"] is None


def test_no_episode_is_no_rate():
    report = summarise([], "mt10", "ours", seed=0, latency_ms=0.0)
    assert report["overall"]["rate"] is None
    assert report["overall"]["mean_over_tasks"] is None
    assert report["timing"]["act_ms_max"] is None
    assert "ours on mt10" in rollout_markdown(report)


def test_published_means_are_over_the_four_groups():
    means = {name: published_mean(groups) for name, groups in PUBLISHED_MT50.items()}
    assert means == {
        "Evo-1 0.77B": "80.6",
        "SmolVLA 2.25B": "68.2",
        "SmolVLA 0.45B": "57.3",
        "π0": "50.5",
        "TinyVLA": "31.6",
        "Diffusion Policy": "10.5",
    }


def test_tables_say_the_same_everywhere(records, tmp_path):
    report = summarise(records, "mt50", "ours", seed=1, latency_ms=100.0)
    write_results(tmp_path, report)
    assert json.loads((tmp_path / RESULTS_FILE).read_text()) == report
    markdown = (tmp_path / TABLES_FILE).read_text()
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(rollout_tables(report))
    terminal = " ".join(console.export_text().split())
    for text in (markdown, terminal):
        assert "100 ms latency" in text
        assert "1 episodes ended by an error" in text
        assert "55.6" in text  # 5 of 9
        assert "52.5" in text  # mean over groups
        assert "SmolVLA 0.45B (published)" in text
    assert "| metaworld:push-v3 | 1/4 | 25.0 | 4.6–69.9 | 50 |" in markdown


def test_published_rows_are_beside_the_whole_of_mt50_alone(records):
    report = summarise(records, "mt10", "ours", seed=1, latency_ms=0.0)
    assert "published" not in rollout_markdown(report)
    bare = summarise([replace(record, group="") for record in records], "x", "ours", seed=1, latency_ms=0.0)
    assert "difficulty" not in rollout_markdown(bare)
