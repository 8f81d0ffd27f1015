"""The few-shot study: nothing leaks from test to training, and all of it runs, with made clips and with the simulator."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import fewshot
import pytest
import toy_corpus
from fewshot import Cell, FewShot
from results import DOCUMENT, read_section

from traceworld.errors import ConfigError
from traceworld.sim.tasks import HELD_OUT, TRAINED
from traceworld.traces.store import open_dataset

TINY = {
    "tasks": ("door-close-v3", "reach-wall-v3"),
    "source_tasks": ("door-close-v3",),
    "pretrain_tasks": ("drawer-open-v3", "door-open-v3"),
    "episodes": 1,
    "videos": (1, 2),
    "seeds": 2,
    "test_episodes": 1,
    "steps_pretrain": 2,
    "steps_warmup": 1,
    "batch_pretrain": 2,
    "batch_warmup": 2,
    "jobs": 0,
    "sim_workers": 0,
    "threads": 1,
}


@pytest.fixture
def made(monkeypatch):
    """Made clips instead of simulated ones."""
    monkeypatch.setattr(fewshot, "build_corpus", toy_corpus.build_corpus)


def test_defaults_are_the_claim(tmp_path):
    options = FewShot(out=tmp_path)
    assert (options.videos, options.tasks, options.arm) == ((5, 15), HELD_OUT, "other-arm")
    assert options.pretrain_tasks == TRAINED
    assert options.seeds >= 3
    assert fewshot.sources(options) == {
        "all": ["sawyer", "bare-gripper", "hand-like"],
        "hand": ["hand-like"],
        "robots": ["sawyer", "bare-gripper"],
    }
    cells = list(fewshot.cells_of(options))
    assert len(set(cells)) == len(cells)
    assert sum(cell.videos > 0 for cell in cells) == 72  # as the planned cost says
    assert len({cell.name for cell in cells}) == len(cells)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"arm": "hand-like"}, "hold out a robot"),
        ({"arm": "saywer"}, "sawyer"),
        ({"pretrain_tasks": ("door-close",)}, "door-close-v3"),
        ({"pretrain_tasks": ("all",)}, "coffee-pull-v3"),
        ({"source_tasks": ("drawer-open-v3",)}, "source_tasks"),
        ({"videos": (5, 5)}, "videos"),
        ({"seeds": 1}, "seeds"),
        ({"shipped": "mu9-nano"}, "does not ship"),
    ],
)
def test_designs_that_leak_or_compare_nothing_are_refused(tmp_path, change, named):
    with pytest.raises(ConfigError, match=named):
        FewShot(out=tmp_path, **change)


def test_warm_up_and_test_share_no_episode(tmp_path, made):
    options = FewShot(out=tmp_path, **TINY | {"videos": (2, 3), "seeds": 3, "test_episodes": 2})
    fewshot.simulate(options)
    target = open_dataset(tmp_path / "target")
    used = []
    for task in options.tasks:
        for seed in range(3):
            shares = fewshot.share_out(options, task, seed)
            assert [len(shares[name]) for name in ("2", "3", "test")] == [2, 3, 2]
            assert shares["2"] == shares["3"][:2]
            assert not set(shares["3"]) & set(shares["test"])
            assert all(target.clip(clip).provenance["task"] == task for clip in shares["test"])
            used += shares["3"] + shares["test"]
    assert sorted(used) == sorted(target.clip_ids)  # no two cells of a row share an episode, none is left over
    assert {clip.provenance["embodiment"] for clip in target} == {"other-arm"}


def test_sources_never_show_the_held_out_arm_or_tasks_and_have_motions_of_their_own(tmp_path, made):
    options = FewShot(out=tmp_path, **TINY)
    fewshot.simulate(options)
    played = {}
    for store in fewshot.stores(options, "all"):
        clips = list(open_dataset(store))
        assert {clip.provenance["task"] for clip in clips} == set(options.pretrain_tasks)
        played[store.name] = ({clip.provenance["embodiment"] for clip in clips}, clips[0].traces.xyz_world.tobytes())
    assert [names for names, _ in played.values()] == [{"sawyer"}, {"bare-gripper"}, {"hand-like"}]
    assert len({motion for _, motion in played.values()}) == 3
    parts = {source: set(fewshot.stores(options, source)) for source in ("hand", "robots", "all")}
    assert parts["hand"] | parts["robots"] == parts["all"]
    assert not parts["hand"] & parts["robots"]


def test_every_row_of_a_cell_sees_the_same_videos_and_the_same_test(tmp_path, made):
    options = FewShot(out=tmp_path, **TINY | {"steps_random": 5})
    fewshot.simulate(options)
    pretrained = {source: {"model": f"{source}/model"} for source in fewshot.sources(options)}
    jobs = {
        (source, videos): fewshot.job_of(options, Cell(source, videos, "door-close-v3", 1), pretrained)
        for source, videos in (("random", 1), ("all", 1), ("hand", 1), ("random", 2), ("all", 0))
    }
    assert len({job.test for job in jobs.values()}) == 1
    ours, fresh, none = jobs["all", 1], jobs["random", 1], jobs["all", 0]
    assert none.train is None
    assert none.model == Path("all/model")
    assert (fresh.train.init_from, ours.train.init_from, jobs["hand", 1].train.init_from) == (
        None,
        "all/model",
        "hand/model",
    )
    assert (fresh.train.steps, ours.train.steps) == (5, 1)
    same = {"init_from": None, "out": "", "lr": 1.0, "steps": 9, "warmup": 0}
    assert replace(ours.train, **same) == replace(fresh.train, **same)
    assert jobs["random", 2].train.data != fresh.train.data
    other = fewshot.job_of(options, Cell("random", 1, "door-close-v3", 0), pretrained)
    assert other.train.seed != fresh.train.seed
    assert other.train.data != fresh.train.data
    assert other.test != fresh.test


def test_the_whole_study_with_made_clips_and_again(tmp_path, made, monkeypatch):
    document = tmp_path / "results.md"
    document.write_text(DOCUMENT.read_text())
    monkeypatch.setattr(sys, "argv", ["fewshot.py", "--out", "x"])
    options = FewShot(out=tmp_path / "run", results=document, **TINY | {"tasks": TINY["source_tasks"]})
    figures = fewshot.main(options)
    assert figures["pretrain_steps"] == 2
    assert figures["pretrain_episodes"] == 6
    assert len(list((tmp_path / "run" / "cells").rglob("*.json"))) == 2 * (5 + 2)
    assert not [path for path in (tmp_path / "run" / "cells").glob("*/*") if path.is_dir()]  # only results are left
    cell = json.loads((tmp_path / "run" / "cells" / "all-1" / "door-close-v3-0.json").read_text())
    assert 0 < cell["topS_ade@32"] <= cell["top1_ade@32"]
    assert cell["steps"] == 1
    text = read_section(document, "fewshot")
    assert f"{figures['warm_up'][0]['figures']['topS_ade@32']['mean']:.3f}" in text
    assert document.read_text().replace(text, "") == DOCUMENT.read_text().replace(read_section(DOCUMENT, "fewshot"), "")

    before = document.read_bytes()
    monkeypatch.setattr(fewshot, "run_cell", lambda job: pytest.fail("made again"))
    assert fewshot.main(replace(options, jobs=0)) == figures
    assert document.read_bytes() == before
    with pytest.raises(ConfigError, match="steps_warmup: was 1"):
        fewshot.main(replace(options, steps_warmup=3))


def test_a_shipped_model_takes_the_place_of_pre_training(tmp_path, made, monkeypatch):
    document = tmp_path / "results.md"
    document.write_text(DOCUMENT.read_text())
    monkeypatch.setattr(sys, "argv", ["fewshot.py", "--shipped", "mu0-nano"])
    tiny = TINY | {"tasks": TINY["source_tasks"], "videos": (1, 2), "shipped": "mu0-nano", "size": "nano"}
    figures = fewshot.main(FewShot(out=tmp_path / "run", results=document, **tiny))
    assert not (tmp_path / "run" / "pretrain").exists()
    assert figures["source"] == []
    assert len(list((tmp_path / "run" / "cells").rglob("*.json"))) == 2 * 5
    text = read_section(document, "fewshot-shipped")
    assert "the shipped `mu0-nano`" in text
    assert "Pre-training source" not in text
    assert read_section(document, "fewshot") == read_section(DOCUMENT, "fewshot")
    job = fewshot.job_of(
        FewShot(out=tmp_path / "run", **tiny),
        Cell("all", 1, "door-close-v3", 0),
        fewshot.pretrain(FewShot(out=tmp_path, **tiny)),
    )
    assert job.train.init_from.endswith("mu0-nano")


@pytest.mark.slow
@pytest.mark.render
@pytest.mark.timeout(1800)
def test_the_smoke_run_with_the_simulator(tmp_path):
    figures = fewshot.main(FewShot(out=tmp_path / "smoke", smoke=True, jobs=1, sim_workers=1, threads=1))
    assert len(figures["warm_up"]) == 5
    text = read_section(tmp_path / "smoke" / "results.md", "fewshot")
    assert "The claim" in text
    assert "coffee-pull" in text
