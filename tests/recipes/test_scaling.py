"""The scaling study: same budget for every cell, nested parts of the data, and all of it runs."""

import sys
from dataclasses import replace

import pytest
import scaling
import toy_corpus
from results import DOCUMENT, read_section
from scaling import Scaling
from toy_corpus import build_corpus

from traceworld.errors import ConfigError
from traceworld.models.mu0.counting import count_parameters
from traceworld.traces.store import open_dataset

TASKS = ("drawer-open-v3", "reach-v3")
TINY = {
    "tasks": TASKS,
    "episodes": 3,
    "test_episodes": 1,
    "fractions": (0.2, 1.0),
    "sizes": ("nano-1m", "nano-2m"),
    "steps": 2,
    "batch": 2,
    "sim_workers": 0,
    "workers": 0,
    "threads": 1,
}


@pytest.fixture(scope="module")
def other_run(tmp_path_factory):
    """The corpora of a run of mu0_nano.py, of made clips."""
    out = tmp_path_factory.mktemp("other")
    build_corpus(out / "train", (*TASKS, "door-open-v3"), 4)
    build_corpus(out / "unseen", (*TASKS, "door-open-v3"), 2, seed=9)
    return out


def test_defaults_are_the_papers_shape(tmp_path):
    options = Scaling(out=tmp_path)
    assert options.fractions == (0.05, 0.2, 1.0)
    widths = [count_parameters(size)["total"] for size in options.sizes]
    assert len(widths) == 3
    assert widths == sorted(widths)
    assert widths[-1] / widths[0] > 3
    assert options.episodes * options.fractions[0] == 1  # so that 5 % is an episode of each task
    assert len(list(scaling.cells_of(options))) == 9


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"fractions": ()}, "fractions"),
        ({"fractions": (0.05, 0.2)}, "the last one 1"),
        ({"fractions": (0.2, 0.05, 1.0)}, "ascending"),
        ({"fractions": (0.0, 1.0)}, "fractions"),
        ({"sizes": ()}, "sizes"),
        ({"sizes": ("nano", "nano")}, "twice"),
    ],
)
def test_impossible_designs(tmp_path, change, named):
    with pytest.raises(ConfigError, match=named):
        Scaling(out=tmp_path, **change)


def test_cells_differ_in_size_and_data_alone(tmp_path):
    options = Scaling(out=tmp_path)
    configs = [
        scaling.config_of(options, size, tmp_path / f"{part}", tmp_path / f"{size}-{part}", 1000)
        for size, part in scaling.cells_of(options)
    ]
    same = {"size": "nano", "data": ("x",), "out": "x"}
    assert len({replace(config, **same) for config in configs}) == 1
    assert len({config.out for config in configs}) == 9


def test_steps_share_the_minutes_over_all_cells(tmp_path, monkeypatch):
    cost = {"nano-1m": 0.2, "nano-2m": 0.25, "nano": 0.4}
    asked = []
    monkeypatch.setattr(
        scaling, "seconds_per_step", lambda config, trial: asked.append(config.size) or cost[config.size]
    )
    options = Scaling(out=tmp_path, minutes=42)
    steps = scaling.steps_of(options, tmp_path)
    assert 3 * steps * sum(cost.values()) == pytest.approx(42 * 60, rel=1e-3)
    assert scaling.steps_of(replace(options, minutes=7), tmp_path) == steps  # measured and decided once
    assert asked == list(cost)
    assert scaling.steps_of(replace(options, steps=5), tmp_path) == 5


def test_another_runs_corpus_gives_the_first_episodes(tmp_path, other_run):
    options = Scaling(out=tmp_path, corpus=other_run, **TINY)
    train, test = scaling.corpora(options)
    assert set(open_dataset(train).clip_ids) == {f"{task}-{number:05d}" for task in TASKS for number in range(3)}
    assert set(open_dataset(test).clip_ids) == {f"{task}-00000" for task in TASKS}
    part = scaling.choose_part(options, train, 0.2)
    assert set(open_dataset(part).clip_ids) == {f"{task}-00000" for task in TASKS}
    with pytest.raises(ConfigError, match="fewer than 5 episodes of drawer-open-v3"):
        scaling.corpora(replace(options, out=tmp_path / "b", episodes=5))


def test_the_whole_study_with_made_clips_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "build_corpus", toy_corpus.build_corpus)
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--out", "x"])
    document = tmp_path / "results.md"
    document.write_text(DOCUMENT.read_text())
    options = Scaling(out=tmp_path / "run", results=document, **TINY)
    figures = scaling.main(options)
    assert figures["episodes"] == {"0.2": 2, "1": 6}
    assert figures["steps"] == 2
    text = read_section(document, "scaling")
    for cell in figures["cells"]:
        assert cell["interval95"][0] <= cell["ratio"] <= cell["interval95"][1]
        assert f"{cell['ratio']:.3f} [{cell['interval95'][0]:.3f}, {cell['interval95'][1]:.3f}]" in text
        assert cell["parameters"] == count_parameters(cell["size"])["total"]
    assert text.count(f"{figures['cells'][-1]['dtw']['topS_dtw@32']:.4f}") == 2  # all data at the largest: both scales
    assert "20 % (2 episodes)" in text
    assert "nano-1m (1.4M)" in text

    before = document.read_bytes()
    monkeypatch.setattr(scaling, "evaluate_forecast", lambda *a, **k: pytest.fail("scored again"))
    assert scaling.main(options) == figures
    assert document.read_bytes() == before


@pytest.mark.slow
@pytest.mark.render
@pytest.mark.timeout(1800)
def test_the_smoke_run_with_the_simulator(tmp_path):
    figures = scaling.main(Scaling(out=tmp_path / "smoke", smoke=True, sim_workers=0, workers=0, threads=1))
    assert len(figures["cells"]) == 6
    assert "Table 7" in read_section(tmp_path / "smoke" / "results.md", "scaling")
