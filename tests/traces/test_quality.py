"""Quality figures of a dataset, and conditions on them."""

import dataclasses

import numpy as np
import pytest
from trace_clips import make_clip

from traceworld.errors import ConfigError
from traceworld.traces.quality import FIGURES, Condition, clips_that_meet, quality_table, quantiles
from traceworld.traces.store import open_dataset
from traceworld.traces.writer import DatasetWriter


def provenance(**figures):
    return {"quality": figures, "captions": {"source": "template"}, "status": "ok"}


@pytest.fixture
def dataset(tmp_path):
    writer = DatasetWriter(tmp_path / "d")
    chunked = provenance(visible_fraction=0.9, jitter_px=0.2)
    chunked["source"] = {"geometry": {"chunks": [{"residual": 0.01}, {"residual": 0.03}]}}
    writer.write_item("one", [make_clip("a", T=20, N=4, provenance=chunked)])
    low = provenance(visible_fraction=0.3, jitter_px=None) | {"captions": {"source": "vlm"}, "status": "static_clip"}
    writer.write_item("two", [make_clip("b", T=30, N=5, provenance=low), make_clip("c", T=40, N=6, provenance={})])
    writer.finalise()
    return open_dataset(tmp_path / "d")


def test_figures_come_from_the_provenance(dataset):
    table = quality_table(dataset)
    assert list(table) == dataset.clip_ids
    assert all(set(row) == set(FIGURES) for row in table.values())
    assert table["a"] | {} == {
        **dict.fromkeys(FIGURES),
        "visible_fraction": 0.9,
        "jitter_px": 0.2,
        "alignment_residual": 0.03,  # the worst chunk
        "captions": "template",
        "status": "ok",
        "frames": 20.0,
        "keypoints": 4.0,
    }
    assert (table["b"]["captions"], table["b"]["status"]) == ("vlm", "static_clip")
    assert table["c"]["visible_fraction"] is None


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        ((), {"a", "b", "c"}),
        (("visible_fraction>=0.3",), {"a", "b"}),
        (("visible_fraction > 0.3",), {"a"}),
        (("frames<=30", "keypoints!=4"), {"b"}),
        (("captions!=template",), {"b"}),  # a clip that does not say is not taken
        (("status==ok",), {"a"}),
        (("frames<5",), set()),
    ],
)
def test_conditions(dataset, conditions, kept):
    assert clips_that_meet(dataset, conditions) == kept


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("visible_fraction", "is no condition"),
        ("sharpness>1", "no figure 'sharpness'"),
        ("frames>many", "is no number"),
        ("status>ok", "is a word"),
        ("", "is no condition"),
    ],
)
def test_what_is_no_condition(text, words):
    with pytest.raises(ConfigError, match=words):
        Condition.parse(text)


def test_a_figure_that_nobody_measured_is_an_error_not_an_empty_dataset(dataset):
    with pytest.raises(ConfigError, match="no clip has the figure 'moving_fraction'"):
        clips_that_meet(dataset, ["moving_fraction>0.1"])


def test_quantiles():
    table = {str(i): {"jitter_px": float(i)} for i in range(101)} | {"none": {"jitter_px": None}}
    assert quantiles(table, "jitter_px") == {
        "min": 0.0, "p5": 5.0, "median": 50.0, "p95": 95.0, "max": 100.0, "clips": 101,
    }  # fmt: skip
    assert quantiles({"x": {"jitter_px": None}}, "jitter_px") is None


def test_windows_are_cut_from_the_chosen_clips_only(tmp_path):
    from trace_clips import write_dataset

    from traceworld.traces.windows import WindowSet

    dataset = open_dataset(write_dataset(tmp_path / "d"))
    everything = WindowSet(dataset)
    name = dataset.clip_ids[0]
    chosen = WindowSet(dataset, only={dataset.path: {name}})
    assert {chosen.place(i)[0].clip_id for i in range(len(chosen))} == {name}
    assert 0 < len(chosen) < len(everything)
    assert len(WindowSet(dataset, only={tmp_path / "other": set()})) == len(everything)
    np.testing.assert_array_equal(chosen.s_delta, everything.s_delta)


def test_training_keeps_to_the_conditions(dataset):
    from traceworld.training.config import TrainConfig
    from traceworld.training.sources import open_training_data

    with pytest.raises(ConfigError, match="no figure"):
        TrainConfig(data=("d",), out="o", keep=("sharpness>1",))
    config = TrainConfig(data=(str(dataset.path),), out="o", keep=("frames>1000",), val_fraction=0.0)
    with pytest.raises(ConfigError, match="no clip meets all"):
        open_training_data(config, (32, 32))
    assert dataclasses.replace(config, keep=()).keep == ()


def test_a_condition_that_all_meet_changes_no_window(tmp_path):
    from trace_clips import write_dataset

    from traceworld.training.config import TrainConfig
    from traceworld.training.sources import open_training_data

    folder = str(write_dataset(tmp_path / "d"))
    plain, kept = (
        open_training_data(TrainConfig(data=(folder,), out="o", keep=keep, val_fraction=0.0), (32, 32))
        for keep in ((), ("frames>=1", "keypoints>1"))
    )
    assert [len(source) for source in kept.train] == [len(source) for source in plain.train]
