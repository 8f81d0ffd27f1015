"""Parts of a corpus as stores of their own."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from clips import choose_clips, episodes_by_task, part_of, task_of
from toy_corpus import build_corpus
from trace_clips import assert_same_clip

from traceworld.errors import ConfigError, DatasetError
from traceworld.traces.media import media_path, read_frame
from traceworld.traces.store import open_dataset

TASKS = ("drawer-open-v3", "reach-v3", "door-open-v3")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus") / "train"
    build_corpus(out, TASKS, {"drawer-open-v3": 8, "reach-v3": 3, "door-open-v3": 1})
    return out


def test_tasks_and_episodes_are_read_off_the_ids(corpus):
    found = episodes_by_task(open_dataset(corpus))
    assert list(found) == ["door-open-v3", "drawer-open-v3", "reach-v3"]
    assert [len(episodes) for episodes in found.values()] == [1, 8, 3]
    assert found["reach-v3"] == ["reach-v3-00000", "reach-v3-00001", "reach-v3-00002"]
    assert task_of("button-press-topdown-wall-v3-00012") == "button-press-topdown-wall-v3"


def test_parts_are_nested_and_every_task_has_one(corpus):
    dataset = open_dataset(corpus)
    parts = [part_of(dataset, fraction) for fraction in (0.01, 0.05, 0.25, 0.5, 1.0)]
    for smaller, larger in itertools.pairwise(parts):
        assert set(smaller) <= set(larger)
    assert [len(part) for part in parts] == [3, 3, 4, 7, 12]
    assert all({task_of(clip) for clip in part} == set(TASKS) for part in parts)


def test_chosen_clips_are_the_clips_with_their_pictures_in_place(corpus, tmp_path):
    wanted = ["reach-v3-00002", "door-open-v3-00000"]
    chosen, source = open_dataset(choose_clips(corpus, tmp_path / "few", wanted)), open_dataset(corpus)
    assert chosen.clip_ids == wanted
    for clip_id in wanted:
        ours, theirs = chosen.clip(clip_id), source.clip(clip_id)
        assert media_path(ours) == media_path(theirs).resolve()
        np.testing.assert_array_equal(read_frame(ours, 8), read_frame(theirs, 8))
        assert_same_clip(replace(ours, media=theirs.media), theirs)
    assert not (tmp_path / "few" / "media").exists()
    assert chosen.counts["clips"] == 2


def test_again_is_nothing_and_other_clips_are_refused(corpus, tmp_path):
    out = choose_clips(corpus, tmp_path / "few", ["reach-v3-00000"])
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    choose_clips(corpus, out, ["reach-v3-00000"])
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(ConfigError, match="other clips"):
        choose_clips(corpus, out, ["reach-v3-00001"])
    with pytest.raises(DatasetError, match="reach-v3-00009"):
        choose_clips(corpus, tmp_path / "none", ["reach-v3-00009"])


def test_a_kill_before_the_end_is_mended(corpus, tmp_path):
    out = choose_clips(corpus, tmp_path / "few", ["reach-v3-00000"])
    described = (out / "dataset.json").read_bytes()
    (out / "dataset.json").write_text('{"format_version": 1}')  # killed between the clips and the description
    choose_clips(corpus, out, ["reach-v3-00000"])
    assert (out / "dataset.json").read_bytes() == described
