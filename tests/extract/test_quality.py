"""Quality figures against hand-made traces."""

import numpy as np
import pytest

from traceworld.extract.quality import STATUS_NOTES, path_jitter, status_note, trace_quality
from traceworld.traces.types import Cameras, Traces


def test_figures():
    T, N = 10, 4
    xyz = np.zeros((T, N, 3), np.float32) + np.array([0, 0, 1], np.float32)
    xyz[:, 0, 0] = np.linspace(0, 0.5, T)
    xyz[5:, 1, 0] = 0.01  # a still point that wanders by 5 px
    valid = np.ones((T, N), bool)
    valid[5:, 2] = False
    xyz[5:, 2] = np.nan
    query = np.array([0, 0, 0, 8])
    valid[:8, 3] = False
    traces = Traces(xyz, valid.copy(), valid, np.array([3, -1, -1, -1]), np.array([True, False, False, False]), query)
    K = np.array([[500.0, 0, 319.5], [0, 500, 239.5], [0, 0, 1]])
    figures = trace_quality(traces, Cameras.still(K, 640, 480, T), 0.1)
    assert figures["keypoints"] == 4
    assert figures["moving"] == 1
    assert figures["moving_fraction"] == 0.25
    assert figures["parts"] == 1
    assert figures["alive_at_end"] == 0.75
    assert figures["visible_fraction"] == pytest.approx(27 / 32, abs=1e-4)
    assert figures["static_wander_px"] == pytest.approx(0, abs=1e-6)  # median of 5, 0, 0
    assert trace_quality(Traces.empty(3), Cameras.still(K, 640, 480, 3), 0.1) == {"keypoints": 0, "moving": 0}


def test_every_status_but_ok_has_a_note_with_a_mend():
    assert status_note("ok") == ""
    for status in (*STATUS_NOTES, "something new"):
        assert status in status_note(status)
        assert "(" in status_note(status)


def test_jitter_is_the_standard_deviation_of_the_noise():
    rng = np.random.default_rng(0)
    t = np.arange(400.0)
    path = np.stack([40 * np.sin(t / 60), 0.5 * t], -1)[:, None] + np.zeros((1, 30, 1))
    noisy = path + rng.normal(0, 0.7, path.shape)
    assert path_jitter(path) < 0.02
    assert path_jitter(noisy) == pytest.approx(0.7, rel=0.03)
    noisy[rng.random(noisy.shape[:2]) < 0.2] = np.nan
    assert path_jitter(noisy) == pytest.approx(0.7, rel=0.05)
    assert np.isnan(path_jitter(path[:4]))
    assert np.isnan(path_jitter(np.full((9, 2, 2), np.nan)))


def test_a_wrong_pose_shows_as_reprojection_error_and_motion_does_not():
    T, N = 12, 6
    rng = np.random.default_rng(1)
    still = np.concatenate([rng.uniform(-0.3, 0.3, (N, 2)), np.full((N, 1), 2.0)], -1)
    xyz = np.repeat(still[None], T, 0).astype(np.float32)
    xyz[:, 0, 0] += np.linspace(0, 0.5, T)
    moving = np.arange(N) == 0
    ones = np.ones((T, N), bool)
    K = np.array([[500.0, 0, 319.5], [0, 500, 239.5], [0, 0, 1]])

    def figures(xyz):
        traces = Traces(xyz, ones, ones, np.full(N, -1), moving, np.zeros(N, int))
        return trace_quality(traces, Cameras.still(K, 640, 480, T), 0.1)

    assert figures(xyz)["reprojection_px"] == 0
    shifted = xyz.copy()
    shifted[T // 2 :, 1:, 0] += (
        0.008  # half of the frames believe the camera 8 mm beside: 2 px at 2 m, 1 px from the mean
    )
    assert figures(shifted)["reprojection_px"] == pytest.approx(1.0, abs=0.01)
