import dataclasses

import numpy as np
import pytest

from traceworld.traces.describe import describe_clip, describe_dataset
from traceworld.traces.store import open_dataset
from traceworld.traces.types import Cameras, Clip, Event, Traces
from traceworld.traces.writer import DatasetWriter


def clip_of_two() -> Clip:
    """One point that crosses the picture and one that wobbles, one metre away."""
    K = np.array([[100.0, 0, 49.5], [0, 100.0, 39.5], [0, 0, 1]])
    xyz = np.zeros((5, 2, 3), np.float32)
    xyz[..., 2] = 1.0
    xyz[:, 0, 0] = np.linspace(-0.3, 0.3, 5)
    xyz[1::2, 1, 1] = 0.02
    traces = Traces(
        xyz,
        np.ones((5, 2), bool),
        np.ones((5, 2), bool),
        np.array([0, -1], np.int32),
        np.array([True, False]),
        np.zeros(2, np.int32),
    )
    return Clip(
        "one",
        np.arange(5) * 0.1,
        Cameras.still(K, 100, 80, 5),
        traces,
        events=(Event(0, 5, "it moves"),),
        provenance={"warnings": ["look here"], "status": "ok"},
    )


def test_figures_of_a_clip():
    described = describe_clip(clip_of_two())
    assert described["visible_share"] == 1.0
    assert described["seconds"] == pytest.approx(0.4)
    assert described["moving_share"] == 0.5
    assert described["parts"] == 1
    assert described["warnings"] == ["look here"]
    assert described["events"][0]["caption"] == "it moves"


def test_a_clip_without_points_has_figures_too():
    described = describe_clip(dataclasses.replace(clip_of_two(), traces=Traces.empty(5)))
    assert described["keypoints"] == 0
    assert described["moving_share"] == 0.0


def test_a_dataset_names_its_failures(tmp_path):
    writer = DatasetWriter(tmp_path, source="test")
    writer.write_item("good", [clip_of_two()])
    writer.write_item("bad", [], status="failed", stage="source", error="MediaError: not a video")
    writer.finalise()
    described = describe_dataset(open_dataset(tmp_path))
    assert described["status"] == {"ok": 1, "skipped": 0, "failed": 1}
    assert described["failed"] == [{"id": "bad", "stage": "source", "error": "MediaError: not a video"}]
    assert [clip["clip_id"] for clip in described["clips"]] == ["one"]
