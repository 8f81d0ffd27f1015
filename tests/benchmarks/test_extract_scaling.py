"""benchmarks/extract_scaling.py: its verdict on known times, and a whole run at toy sizes."""

import os

import extract_scaling
import pytest
from extract_scaling import Options, run_once, verdict
from made_clips import write_clip

from traceworld.extract.config import ExtractConfig


def runs(*pairs):
    """(workers, wall, cpu) of 100 frames each."""
    names = ("workers", "wall_s", "cpu_s", "frames_per_s", "frames_per_cpu_s", "core_share")
    return [dict(zip(names, (n, w, c, 100 / w, 100 / c, c / w / n), strict=True)) for n, w, c in pairs]


def test_free_cores_are_judged_by_the_wall_clock():
    found = verdict(
        runs((1, 10.0, 9.9), (2, 5.5, 10.4), (1, 10.0, 9.9), (2, 5.0, 9.9), (1, 20.0, 19.8), (2, 11.0, 20.9)), False
    )
    assert found["scaling"] == pytest.approx(20 / 11)  # median of 1.82, 2 and 1.82
    assert (found["passed"], found["judged_by"]) == (True, "wall")
    assert found["frames_per_cpu_s"] == pytest.approx(100 / 9.9)
    slow = verdict(runs((1, 10.0, 9.9), (2, 6.2, 11.9)), False)
    assert slow["scaling"] == pytest.approx(10 / 6.2)
    assert slow["passed"] is False


def test_busy_cores_are_not_judged_unless_by_cpu():
    busy = runs((1, 30.0, 10.0), (2, 20.0, 10.5))
    assert verdict(busy, False)["passed"] is None
    by_cpu = verdict(busy, True)
    assert by_cpu["scaling_by_cpu"] == pytest.approx(2 * 10 / 10.5)
    assert by_cpu["passed"] is True
    assert verdict(runs((1, 30.0, 10.0), (2, 20.0, 12.0)), True)["passed"] is False


def test_a_batch_is_counted_and_the_cores_are_given_back(tmp_path, monkeypatch):
    clips = [write_clip(tmp_path / f"{i}.mp4", 6, 96, 72, seed=i) for i in range(2)]
    allowed, pinned = os.sched_getaffinity(0), []
    whole = extract_scaling.extract_many

    def serially(*args, executor, workers, **kwargs):
        pinned.append((executor, workers, os.sched_getaffinity(0)))
        return whole(*args, **kwargs)

    monkeypatch.setattr(extract_scaling, "extract_many", serially)
    found = run_once(clips, tmp_path / "out", 1, ExtractConfig(num_keypoints=16))
    assert found["frames_per_s"] * found["wall_s"] == pytest.approx(12)
    assert found["frames_per_cpu_s"] * found["cpu_s"] == pytest.approx(12)
    assert pinned == [("processes", 1, {min(allowed)})]
    assert os.sched_getaffinity(0) == allowed
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(RuntimeError, match="1 of 1 clips failed"):
        run_once([tmp_path / "bad.mp4"], tmp_path / "out2", 1, ExtractConfig(num_keypoints=16))
    assert os.sched_getaffinity(0) == allowed


@pytest.mark.slow
def test_a_whole_run():
    found = extract_scaling.measure(Options(clips=2, frames=8, width=96, height=72, keypoints=16, rounds=1))
    assert [run["workers"] for run in found["runs"]] == [1, 2]
