"""The statistics of the few-shot study against independent computations, and that its text says what the figures say."""

import math

import numpy as np
import pytest
from fewshot_table import FIRST, MAIN, Estimate, over_tasks, section, summary, table_of, verdict, verdict_lines
from scipy import stats

TASKS = ("coffee-pull-v3", "door-close-v3", "reach-wall-v3")


def cells(level, tasks=TASKS, seeds=3, spread=0.01, source_tasks=TASKS[:2]):
    """Every row's figure is `level(source, videos)` plus what task and seed add."""
    rng = np.random.default_rng(0)
    rows = [("all", 0), ("random", 5), ("all", 5), ("random", 15), ("all", 15), ("hand", 5), ("robots", 5)]
    return [
        {
            "source": source,
            "videos": videos,
            "task": task,
            "seed": seed,
            MAIN: level(source, videos) + 0.1 * number + spread * float(rng.normal()),
            FIRST: 1.3 * level(source, videos),
        }
        for source, videos in rows
        for number, task in enumerate(tasks)
        for seed in range(seeds)
        if source not in ("hand", "robots") or task in source_tasks
    ]


def level(source, videos):
    return {"random": 0.8, "hand": 0.6, "robots": 0.5, "all": 0.4}[source] - 0.005 * videos


def test_one_task_is_the_ordinary_t_interval():
    values = [0.31, 0.35, 0.30, 0.38]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    found = over_tasks({"a": values})
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))


def test_two_tasks_are_welchs_interval_of_half_the_sum():
    """The mean of two groups and their difference have the same variance and degrees of freedom, to a factor."""
    a, b = [0.31, 0.35, 0.30, 0.38], [0.7, 0.9, 0.65]
    low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    found = over_tasks({"a": a, "b": b})
    assert found.mean == pytest.approx((np.mean(a) + np.mean(b)) / 2)
    assert found.high - found.low == pytest.approx((high - low) / 2)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(1)
    truth = {"a": 0.3, "b": 0.5, "c": 0.7, "d": 0.4, "e": 0.6}
    hits = 0
    for _ in range(1000):
        found = over_tasks({task: list(rng.normal(mean, 0.05, 3)) for task, mean in truth.items()})
        hits += found.low <= 0.5 <= found.high
    assert 0.93 < hits / 1000 < 0.985


def test_differences_between_tasks_do_not_widen_it():
    near = over_tasks({"a": [0.30, 0.32], "b": [0.31, 0.33]})
    far = over_tasks({"a": [0.30, 0.32], "b": [0.91, 0.93]})
    assert far.high - far.low == pytest.approx(near.high - near.low)
    same = over_tasks({"a": [0.3, 0.3], "b": [0.9, 0.9]})
    assert (same.low, same.mean, same.high) == pytest.approx((0.6, 0.6, 0.6))


@pytest.mark.parametrize(
    ("few", "more", "holds"),
    [
        (Estimate(0.60, 0.58, 0.62), Estimate(0.50, 0.48, 0.52), True),
        (Estimate(0.58, 0.56, 0.60), Estimate(0.50, 0.48, 0.52), True),  # 31 %
        (Estimate(0.56, 0.54, 0.58), Estimate(0.50, 0.48, 0.52), False),  # 29 %
        (Estimate(0.60, 0.41, 0.79), Estimate(0.50, 0.48, 0.52), False),  # overlaps
        (Estimate(0.60, 0.58, 0.62), Estimate(0.42, 0.41, 0.43), False),  # fifteen videos: overlaps
        (Estimate(0.60, 0.58, 0.62), Estimate(0.35, 0.34, 0.36), False),  # fifteen videos are better
    ],
)
def test_the_claim_holds_only_if_all_of_it_does(few, more, holds):
    found = verdict(Estimate(0.40, 0.38, 0.42), few, more)
    assert found["holds"] is holds
    assert found["random_few"]["gain"] == pytest.approx(1 - 0.40 / few.mean)
    assert f"**{'holds' if holds else 'does not hold'}**" in verdict_lines(found, 5, 15)[-1]


def test_apart_means_nothing_in_common():
    assert Estimate(1, 0.9, 1.1).apart(Estimate(2, 1.2, 2.8))
    assert Estimate(2, 1.2, 2.8).apart(Estimate(1, 0.9, 1.1))
    assert not Estimate(1, 0.9, 1.2).apart(Estimate(2, 1.2, 2.8))
    assert not Estimate(1, 0.9, 1.1).apart(Estimate(1, 0, 2))


def test_rows_are_means_of_their_own_cells_in_any_order():
    made = cells(level)
    found = summary(made, (5, 15), TASKS[:2])
    assert found == summary(made[::-1], (5, 15), TASKS[:2])
    assert [(row["source"], row["videos"]) for row in found["warm_up"]] == [
        ("all", 0), ("random", 5), ("all", 5), ("random", 15), ("all", 15),
    ]  # fmt: skip
    assert [(row["source"], row["videos"]) for row in found["source"]] == [
        ("random", 5), ("hand", 5), ("robots", 5), ("all", 5),
    ]  # fmt: skip
    for table, tasks in (("warm_up", TASKS), ("source", TASKS[:2])):
        for row in found[table]:
            mine = [
                c for c in made if (c["source"], c["videos"]) == (row["source"], row["videos"]) and c["task"] in tasks
            ]
            assert list(row["by_task"]) == list(tasks)
            assert row["figures"][MAIN]["mean"] == pytest.approx(np.mean([c[MAIN] for c in mine]))
            assert row["figures"][FIRST]["mean"] == pytest.approx(np.mean([c[FIRST] for c in mine]))
            assert row["by_task"][tasks[0]] == pytest.approx(np.mean([c[MAIN] for c in mine if c["task"] == tasks[0]]))
    assert found["verdict"]["holds"]
    assert not summary(cells(level, spread=0.4), (5, 15), TASKS[:2])["verdict"]["holds"]


def figures():
    return {
        **summary(cells(level), (5, 15), TASKS[:2]),
        "options": {
            "arm": "other-arm", "pretrain_tasks": ["x"] * 45, "batch_pretrain": 16, "batch_warmup": 8, "size": "nano-1m",
            "steps_warmup": 200, "steps_random": None, "seeds": 3, "test_episodes": 8, "videos": [5, 15],
        },
        "sources": {"all": ["sawyer", "bare-gripper", "hand-like"], "hand": ["hand-like"], "robots": ["sawyer"]},
        "pretrain_episodes": 540,
        "pretrain_steps": 2345,
        "parameters": 1_359_326,
        "cost_minutes": {"simulate": 9.4, "pre-train": 23.7},
        "machine": {"cpus": 2, "arch": "x86_64"},
        "command": "python recipes/fewshot.py --out runs/fewshot",
    }  # fmt: skip


def test_the_section_says_what_the_figures_say():
    given = figures()
    text = section(given)
    for row in [*given["warm_up"], *given["source"]]:
        one = row["figures"][MAIN]
        assert f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" in text
    for said in (
        "2345 steps of 16",
        "200 steps of 8 windows (200 from random",
        "3 seeds",
        "simulate 9, pre-train 24",
        "540",
    ):
        assert said in text
    assert "```bash\npython recipes/fewshot.py --out runs/fewshot\n```" in text
    assert section(given) == text
    assert math.isfinite(given["verdict"]["random_few"]["gain"])


def test_tables_have_a_column_per_task():
    lines = table_of(figures()["source"]).splitlines()
    assert lines[0] == "| warm-up | pre-training | coffee-pull | door-close | best of 5 | first |"
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["random", "hand only", "other robots only", "all"]
