"""Depth at points: slopes, edges, holes; gaps in paths."""

from __future__ import annotations

import numpy as np
import pytest

from traceworld.perception.lifting import depth_edges, fill_gaps, sample_depth


def test_a_slope_is_read_between_pixels():
    ys, xs = np.mgrid[:40, :60].astype(np.float32)
    depth = (1.0 + 0.001 * xs + 0.0005 * ys).astype(np.float32)
    xy = np.array([[20.3, 10.7], [5.0, 5.0], [40.49, 30.5]])
    z, edge = sample_depth(depth, xy)
    np.testing.assert_allclose(z, 1.0 + 0.001 * xy[:, 0] + 0.0005 * xy[:, 1], atol=1e-5)
    assert not edge.any()


def test_an_edge_gives_one_side_never_a_mixture():
    depth = np.full((20, 20), 2.0, np.float32)
    depth[:, 10:] = 1.0
    xy = np.array([[9.0, 10.0], [9.0, 10.0], [10.0, 10.0]])
    z, edge = sample_depth(depth, xy, np.array([2.0, 1.0, 5.0]))
    np.testing.assert_allclose(z, [2.0, 1.0, 1.0])  # expected side; expected side; near side when neither is expected
    assert edge.all()


def test_holes_are_bridged_if_small_and_reported_if_not():
    depth = np.full((30, 30), 1.5, np.float32)
    depth[10, 10] = np.nan
    depth[18:26, 18:26] = np.nan
    z, _ = sample_depth(depth, np.array([[10.0, 10.0], [22.0, 22.0], [-50.0, 3.0], [np.nan, 1.0]]))
    assert z[0] == pytest.approx(1.5)
    assert np.isnan(z[1:]).all()


def test_no_points():
    z, edge = sample_depth(np.ones((5, 5), np.float32), np.zeros((0, 2)))
    assert z.shape == edge.shape == (0,)


def test_edges_are_marked_with_their_reach_and_speckle_is_not():
    depth = np.full((40, 40), 2.0, np.float32)
    depth[:, 20:] = 1.0
    depth[5, 5] = np.nan
    marked = depth_edges(depth, reach_px=3)
    assert marked[20, 17:23].all()
    assert not marked[20, :15].any()
    assert not marked[20, 26:].any()
    assert not marked[5, 5]


def test_short_gaps_are_filled_by_straight_lines_and_long_ones_left():
    xyz = np.zeros((10, 2, 3), np.float32)
    xyz[:, 0, 0] = np.arange(10)
    valid = np.ones((10, 2), bool)
    valid[3:5, 0] = False
    valid[2:8, 1] = False
    valid[9, 0] = False
    broken = np.where(valid[..., None], xyz, np.nan).astype(np.float32)
    filled, ok = fill_gaps(broken, valid, max_gap=3)
    np.testing.assert_allclose(filled[3:5, 0, 0], [3, 4])
    assert ok[3:5, 0].all()
    assert not ok[2:8, 1].any()
    assert not ok[9, 0]
    assert np.isfinite(filled[ok]).all()
