"""benchmarks/extract_overhead.py at toy sizes: the sleeping backend is used, and its time is told from the pipeline's."""

import dataclasses

import numpy as np
import pytest
from extract_overhead import Options, main, measure
from made_clips import pictures, write_clip
from sleeping_backends import SleepingTracker, register

from traceworld.errors import ConfigError
from traceworld.extract.config import ExtractConfig
from traceworld.extract.pipeline import extract_clip
from traceworld.perception import registry
from traceworld.perception.backend_spec import BackendSpec


@pytest.fixture(autouse=True)
def _no_backend_stays(monkeypatch):
    """Other tests compare the list of backends."""
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))


TOY = Options(frames=10, width=96, height=72, backend_ms=0.5, rounds=1)


def test_a_whole_measurement():
    found = measure(TOY)
    (run,) = found["runs"]
    assert run["slept_s"] == pytest.approx(10 * 0.0005)  # every frame once: the clip is one chunk
    assert found["overhead_by_cpu"] == pytest.approx(run["cpu_s"] / run["slept_s"])
    assert found["overhead_by_wall"] == pytest.approx((run["wall_s"] - run["slept_s"]) / run["slept_s"])
    assert found["overhead"] == min(found["overhead_by_cpu"], found["overhead_by_wall"])
    assert found["cpu_ms_per_frame"] == pytest.approx(100 * run["cpu_s"])
    assert found["passed"] is (found["overhead"] <= 0.1)
    assert "profile" not in found


def test_a_profile_names_the_pipelines_functions(capsys):
    assert main(dataclasses.replace(TOY, profile=True, instant=("features",))) in (0, 1)
    shown = capsys.readouterr().out
    assert '"passed"' in shown
    assert "function calls" in shown


def test_the_backends_are_found_by_name(tmp_path):
    register()
    register()  # once more does no harm
    clip = write_clip(tmp_path / "clip.mp4", 12, 160, 120)
    before = SleepingTracker.slept
    found = extract_clip(clip, ExtractConfig(tracker="sleeping#ms_per_frame=1", features="instant", num_keypoints=32))
    assert SleepingTracker.slept - before == pytest.approx(0.012)
    assert found.provenance["backends"]["tracker"]["name"] == "sleeping"
    assert found.provenance["backends"]["features"]["name"] == "instant"
    xyz = found.traces.xyz_world[found.traces.valid.all(1)]
    assert len(xyz) > 0
    np.testing.assert_array_equal(xyz, np.broadcast_to(xyz[:1], xyz.shape))  # nothing moves, it says
    with pytest.raises(ConfigError):
        registry.register(BackendSpec("tracking", "sleeping", "another:Thing", "MIT", ""))


def test_made_clips_move_and_repeat():
    frames = list(pictures(121, 96, 72, seed=3))
    assert frames[0].shape == (72, 96, 3)
    np.testing.assert_array_equal(frames[0], frames[120])  # four seconds
    assert (frames[0] != frames[30]).any(-1).mean() > 0.05
    assert (frames[0] != next(pictures(1, 96, 72, seed=4))).any()
