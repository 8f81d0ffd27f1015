"""benchmarks/extract_released.py at toy sizes: the plain way is the released rule, and what is compared is comparable."""

import dataclasses

import numpy as np
import pytest
import released_plain
from extract_released import LIMITS, NEAR_M, Options, make_scene, measure, mixed_share, our_depths

from traceworld.geometry.cameras import project
from traceworld.geometry.retime import official_retime

TOY = Options(frames=7, width=96, height=72, points=40, groups=3, every=3, rounds=1)


@pytest.mark.parametrize("frames", [1, 2, 9, 60])
def test_retargeting_is_the_released_rule(frames):
    """Against `official_retime`, which is checked against the released code's own numbers elsewhere."""
    rng = np.random.default_rng(frames)
    tracks = np.cumsum(rng.normal(0, [8, 5, 0.03], (11, frames, 3)), 1) + np.array([300, 200, 1])
    ours, valid = official_retime(tracks, max_length=32, image_size=(640, 480))
    plain, plain_valid = released_plain.retarget(tracks, (640, 480), 32)
    np.testing.assert_array_equal(valid, plain_valid)
    np.testing.assert_allclose(ours, plain, atol=1e-9)


def test_windows_start_at_their_frame_and_go_both_ways():
    scene = make_scene(TOY)
    cameras, traces = scene.clip.cameras, scene.clip.traces
    xyz = np.nan_to_num(traces.xyz_world.astype(float))
    group = np.arange(TOY.points) % 3
    frames = released_plain.windows_of_every_frame(xyz, group, cameras.K, cameras.cam_from_world, (96, 72))
    assert len(frames) == TOY.frames
    for t, (future, future_valid, history, history_valid) in enumerate(frames):
        known = traces.valid[t]
        here = project(traces.xyz_world[t, known].astype(float), cameras.K[t], cameras.cam_from_world[t])
        for window in (future, history):
            np.testing.assert_allclose(window[known, 0], here, atol=1e-4)
        assert (future_valid.sum(1) >= 1).all()
        assert (history_valid.sum(1) == 1).all() == (t == 0)


def test_cleaning_takes_the_nearest_good_depth():
    K = np.array([[80.0, 0, 20], [0, 80, 15], [0, 0, 1]])
    depth = np.full((30, 40), 2.0)
    depth[:, :20] = 1.0
    depth[:, 19] = 1.5  # a mixed column between two surfaces
    edges = released_plain.edges_of(depth, K)
    assert edges[:, 19].all()
    assert not edges[:, :15].any()
    assert not edges[:, 25:].any()
    assert set(np.unique(released_plain.clean_depth(depth, K))) == {1.0, 2.0}
    np.testing.assert_array_equal(released_plain.clean_depth(np.ones((9, 9)), K), np.ones((9, 9)))
    assert released_plain.clean_for_every_query(np.ones((7, 9, 9)), K, 3) == 7 + 4 + 1


def test_ours_reads_the_surface_that_it_follows():
    scene = make_scene(dataclasses.replace(TOY, frames=20, points=400))
    read = our_depths(scene)
    followed = np.isfinite(read[0])
    assert followed.mean() > 0.4
    assert mixed_share(read, scene.z_m) < 0.002
    on_box = followed & (scene.z_m[0] == NEAR_M)
    assert on_box.sum() > 20
    np.testing.assert_allclose(read[:, on_box], NEAR_M, atol=0.02)


def test_shares_of_mixed_depths():
    truth = np.array([[1.0, 1.0, 2.0, np.nan]])
    assert mixed_share(np.array([[1.04, 1.5, np.nan, 3.0]]), truth) == 0.5
    assert np.isnan(mixed_share(truth * np.nan, truth))


def test_a_whole_comparison():
    found = measure(TOY)
    assert found["depth"]["maps_cleaned"] == 7 + 4 + 1
    assert found["depth"]["mixed_share"]["raw"] > found["depth"]["mixed_share"]["plain"]
    assert found["depth"]["points"]["ours"] < found["depth"]["points"]["raw"] == TOY.points
    for part in ("depth", "windows"):
        told = found[part]
        assert told["ratio"] == pytest.approx(told["ours_cpu_s"] / told["plain_cpu_s"])  # one round
        assert part == "depth" or found["passed"][part] is (told["ratio"] <= LIMITS[part])
