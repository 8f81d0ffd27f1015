"""Quality figures against hand-made traces."""

import numpy as np
import pytest

from traceworld.extract.quality import STATUS_NOTES, status_note, trace_quality
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
