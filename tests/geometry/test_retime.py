"""The arc-length clock: units, deafness to noise, robustness; sampling and stepping along it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d

from traceworld.errors import InvalidInputError
from traceworld.geometry import cameras, retime
from traceworld.geometry.retime import (
    arc_length_clock,
    official_retime,
    official_times,
    sample_at,
    steps_ahead,
    steps_back,
)

WIDTH = 640
K = np.array([[600.0, 0, 319.5], [0, 600.0, 239.5], [0, 0, 1]])
EYE = np.eye(4)


def scene(speed_px, num_moving=40, num_points=200, noise_px=0.0, depth_noise=0.0, seed=0):
    """Points seen at random depths; the first `num_moving` slide along x, `speed_px` [T-1] pixels per frame."""
    rng = np.random.default_rng(seed)
    T = len(speed_px) + 1
    xy = np.repeat(rng.uniform(60, 400, (1, num_points, 2)), T, 0)
    xy[:, :num_moving, 0] += np.r_[0, np.cumsum(speed_px)][:, None]
    z = np.repeat(rng.uniform(0.8, 1.6, (1, num_points)), T, 0)
    xy += rng.normal(0, 1, xy.shape) * noise_px
    z *= 1 + rng.normal(0, 1, z.shape) * depth_noise
    return cameras.unproject(xy, z, K, EYE), np.ones((T, num_points), bool)


def clock_of(xyz, valid, moving=None, k=K, pose=EYE, width=WIDTH):
    return arc_length_clock(xyz, valid, k, pose, width, moving)


def test_exact_lateral_motion_reads_in_image_widths():
    speed = np.array([4.0] * 20 + [0.0] * 10 + [8.0] * 20)
    s = clock_of(*scene(speed))
    np.testing.assert_allclose(s, np.r_[0, np.cumsum(speed)] / WIDTH, atol=1e-9)


def test_motion_in_depth_counts_like_motion_across():
    """5 cm towards the camera at 1 m is worth as much as 5 cm sideways at 1 m."""
    T, step = 11, 0.005
    start = np.random.default_rng(0).uniform([-0.3, -0.2, 1.0], [0.3, 0.2, 1.0], (8, 3))
    move = np.arange(T)[:, None, None] * step
    valid = np.ones((T, 8), bool)
    across = clock_of(start + move * [1, 0, 0], valid)[-1]
    towards = clock_of(start - move * [0, 0, 1], valid)[-1]
    assert across == pytest.approx(10 * step * 600 / WIDTH)
    assert towards == pytest.approx(across, rel=0.04)  # nearer points move a little faster
    assert towards == pytest.approx(np.log(1 / 0.95) * 600 / WIDTH, rel=1e-3)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 100), st.floats(0.01, 100), st.sampled_from([0.25, 0.5, 3.0]), st.sampled_from([0.0, 0.7]))
def test_scaling_the_scene_or_the_image_changes_nothing(seed, scale, zoom, noise):
    xyz, valid = scene(np.full(40, 3.0), noise_px=noise, depth_noise=noise * 0.002, seed=seed)
    s = clock_of(xyz, valid)
    np.testing.assert_allclose(clock_of(xyz * scale, valid), s, atol=1e-9)
    resized = cameras.resize_K(K, (640, 480), (int(640 * zoom), int(480 * zoom)))
    np.testing.assert_allclose(clock_of(xyz, valid, k=resized, width=int(640 * zoom)), s, atol=1e-9)


def test_world_frame_and_order_of_points_change_nothing():
    xyz, valid = scene(np.full(30, 3.0), noise_px=0.5)
    pose = np.array([[0, -1, 0, 0.3], [1, 0, 0, -2], [0, 0, 1, 0.7], [0, 0, 0, 1.0]])
    moved = cameras.transform(cameras.invert_rigid(pose), xyz)
    np.testing.assert_allclose(clock_of(moved, valid, pose=pose), clock_of(xyz, valid), atol=1e-9)
    order = np.random.default_rng(0).permutation(xyz.shape[1])
    np.testing.assert_allclose(clock_of(xyz[:, order], valid[:, order]), clock_of(xyz, valid), atol=1e-12)


@pytest.mark.parametrize(("noise", "depth_noise"), [(0.5, 0.0), (1.0, 0.0), (0.5, 0.002), (0.5, 0.004)])
@pytest.mark.parametrize("moving", [None, np.arange(200) < 60])
def test_deaf_to_jitter_of_static_points(noise, depth_noise, moving):
    xyz, valid = scene(np.zeros(119), noise_px=noise, depth_noise=depth_noise, seed=3)
    assert clock_of(xyz, valid, moving)[-1] < 0.005  # half a default step in 120 frames


def test_deaf_to_slow_wobble_of_points_wrongly_marked_moving():
    rng = np.random.default_rng(0)
    wobble = np.zeros((120, 200, 2))
    for t in range(1, 120):  # correlated over about five frames, as tracking errors are
        wobble[t] = 0.8 * wobble[t - 1] + 0.6 * rng.normal(0, 0.7, (200, 2))
    xy = rng.uniform(60, 500, (200, 2)) + wobble
    xyz = cameras.unproject(xy, np.ones((120, 200)), K, EYE)
    assert clock_of(xyz, np.ones((120, 200), bool), np.arange(200) < 40)[-1] < 0.005


@pytest.mark.parametrize("speed", [1.5, 4.0, 10.0])
@pytest.mark.parametrize("moving", [None, np.arange(200) < 40])
def test_noisy_motion_reads_nearly_as_long_as_exact_motion(speed, moving):
    frames = int(240 / speed)
    xyz, valid = scene(np.full(frames, speed), noise_px=0.7, depth_noise=0.001, seed=1)
    assert clock_of(xyz, valid, moving)[-1] == pytest.approx(240 / WIDTH, rel=0.1)


def test_a_pause_stands_still_under_noise():
    speed = np.array([4.0] * 30 + [0.0] * 30 + [4.0] * 30)
    s = clock_of(*scene(speed, noise_px=0.6, seed=2), np.arange(200) < 40) * WIDTH
    assert s[55] - s[36] < 2  # pixels, away from the window's blur at both ends
    assert s[30] == pytest.approx(120, abs=6)
    assert s[-1] == pytest.approx(240, rel=0.05)


def test_one_wild_track_does_not_wind_the_clock():
    rng = np.random.default_rng(0)
    for speed in (0.0, 3.0):
        xyz, valid = scene(np.full(60, speed), noise_px=0.3, seed=4)
        calm = clock_of(xyz, valid)
        wild = xyz.copy()
        wild[:, -1] = cameras.unproject(rng.uniform(0, 480, (61, 2)), np.full(61, 1.0), K, EYE)
        np.testing.assert_allclose(clock_of(wild, valid), calm, atol=0.01)
        only = np.arange(200) == 199
        assert clock_of(wild, valid, only)[-1] == 0  # though the movement filter passes it and nothing else


def test_clips_too_short_to_judge_noise_still_have_a_clock():
    xyz, valid = scene(np.full(3, 5.0), noise_px=0.3)
    assert clock_of(xyz[:, :40], valid[:, :40])[-1] == pytest.approx(15 / WIDTH, rel=0.5)


def test_a_few_moving_points_among_many_are_enough():
    xyz, valid = scene(np.full(100, 2.0), num_moving=4, noise_px=0.3)
    assert clock_of(xyz, valid)[-1] == pytest.approx(200 / WIDTH, rel=0.05)
    one, one_valid = scene(np.full(10, 2.0), num_moving=1, num_points=1)
    assert clock_of(one, one_valid)[-1] == pytest.approx(20 / WIDTH)


def test_spikes_of_depth_are_not_a_journey():
    xyz, valid = scene(np.zeros(80), noise_px=0.4, depth_noise=0.001)
    rng = np.random.default_rng(0)
    spikes = rng.random(valid.shape) < 0.02
    xyz[spikes] *= 1.5
    assert clock_of(xyz, valid)[-1] < 0.01


@pytest.mark.parametrize("share", [0.01, 0.03])
def test_spikes_do_not_lengthen_a_motion(share):
    xyz, valid = scene(np.full(80, 3.0), noise_px=0.4, depth_noise=0.001)
    xyz[np.random.default_rng(0).random(valid.shape) < share] *= 1.5
    assert clock_of(xyz, valid)[-1] == pytest.approx(240 / WIDTH, rel=0.05)


def test_a_spike_with_no_neighbour_left_stays_where_it_is():
    xyz = np.ones((5, 1, 3)) * np.arange(5)[:, None, None]
    nothing = np.zeros((5, 1), bool)
    smooth, gain = retime._local_line(xyz, nothing, retime._SMOOTHING)
    np.testing.assert_array_equal(smooth, xyz)
    np.testing.assert_array_equal(gain, 1)


def test_invalid_positions_never_count():
    xyz, valid = scene(np.full(40, 3.0), seed=5)
    rng = np.random.default_rng(1)
    hidden = rng.random(valid.shape) < 0.2
    xyz[hidden] = rng.choice([np.nan, np.inf, 1e6, -1e6], (int(hidden.sum()), 3))
    s = clock_of(xyz, valid & ~hidden)
    np.testing.assert_allclose(s[-1], 120 / WIDTH, rtol=0.01)
    behind = xyz.copy()
    behind[:, 0] = [0, 0, -1]  # a point behind the camera has no image motion
    assert np.isfinite(clock_of(behind, valid & ~hidden)).all()
    # A gap is not bridged: a point that returns elsewhere has not been seen to travel there.
    lone, seen = scene(np.full(10, 5.0), num_moving=1, num_points=1)
    seen[4:6] = False
    assert clock_of(lone, seen)[-1] == pytest.approx(7 * 5 / WIDTH)


def test_empty_single_frame_nothing_valid_and_bad_camera():
    xyz, valid = scene(np.full(5, 3.0))
    np.testing.assert_array_equal(clock_of(xyz[:, :0], valid[:, :0]), np.zeros(6))
    np.testing.assert_array_equal(clock_of(xyz[:1], valid[:1]), [0])
    assert clock_of(xyz[:0], valid[:0]).shape == (0,)
    np.testing.assert_array_equal(clock_of(xyz * np.nan, valid), np.zeros(6))
    np.testing.assert_array_equal(clock_of(xyz, valid, np.zeros(200, bool)), np.zeros(6))
    assert (clock_of(xyz[:3].astype(np.float32), valid[:3])[1:] > 0).all()
    for k, width in ((K, 0), (K * 0, WIDTH)):
        with pytest.raises(InvalidInputError):
            clock_of(xyz, valid, k=k, width=width)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_never_decreases_whatever_comes(seed):
    rng = np.random.default_rng(seed)
    T, N = rng.integers(1, 12), rng.integers(0, 6)
    xyz = rng.normal(size=(T, N, 3)) + np.array([0, 0, 1])
    xyz[rng.random((T, N)) < 0.2] = np.nan
    s = clock_of(xyz, rng.random((T, N)) < 0.7, rng.random(N) < 0.7)
    assert s[0] == 0
    assert (np.diff(s) >= 0).all()
    assert np.isfinite(s).all()


def test_local_line_is_exact_on_lines_and_reports_its_noise():
    rng = np.random.default_rng(0)
    valid = rng.random((30, 50)) < 0.7
    line = np.arange(30)[:, None, None] * rng.normal(size=(1, 50, 3)) + rng.normal(size=(1, 50, 3))
    smooth, gain = retime._local_line(np.where(valid[..., None], line, 7.0), valid, retime._SMOOTHING)
    np.testing.assert_allclose(smooth[valid], line[valid], atol=1e-9)
    trials = np.stack(
        [retime._local_line(rng.normal(size=(30, 50, 3)), valid, retime._SMOOTHING)[0] for _ in range(200)]
    )
    np.testing.assert_allclose(trials.std((0, 4 - 1))[valid], gain[valid], rtol=0.2)


@given(st.integers(0, 10_000))
def test_sample_at_agrees_with_scipy_where_valid(seed):
    rng = np.random.default_rng(seed)
    T, N, Q = int(rng.integers(2, 9)), 3, 6
    times = np.cumsum(rng.uniform(0.1, 2, T))
    values, valid = rng.normal(size=(T, N, 3)), rng.random((T, N)) < 0.7
    query = np.r_[rng.uniform(times[0] - 1, times[-1] + 1, Q), rng.choice(times, 3), np.nan]
    hidden = np.where(valid[..., None], values, np.nan)
    sampled, ok = sample_at(times, hidden, valid, query)
    expected = interp1d(times, values, axis=0, bounds_error=False)(query)
    for q, at in enumerate(query):
        exact = np.flatnonzero(times == at)
        neighbours = exact if len(exact) else np.searchsorted(times, at) + np.array([-1, 0])
        inside = times[0] <= at <= times[-1]
        for n in range(N):
            assert ok[q, n] == (inside and valid[neighbours, n].all())
    np.testing.assert_allclose(sampled[ok], expected[ok])
    assert np.isnan(sampled[~ok]).all()


def test_sample_at_exact_hits_single_times_and_faults():
    values = np.array([[1.0], [np.nan], [3.0]], np.float32)[..., None]
    valid = np.array([[True], [False], [True]])
    sampled, ok = sample_at(np.arange(3.0), values, valid, np.array([0.0, 0.5, 2.0, 2 - 1e-12, 0.1 * 3 - 0.3]))
    assert ok[:, 0].tolist() == [True, False, True, True, True]
    assert sampled.dtype == np.float32
    assert sampled[0] == 1
    one, ok = sample_at(np.array([2.0]), values[:1], valid[:1], np.array([2.0, 3.0]))
    assert ok[:, 0].tolist() == [True, False]
    assert one[0] == 1
    flat, ok = sample_at(np.arange(3.0), np.arange(3.0), np.ones(3, bool), np.array([1.25]))  # values [T]
    assert (flat[0], ok[0]) == (1.25, True)
    with pytest.raises(InvalidInputError):
        sample_at(np.array([0.0, 0.0, 1.0]), values, valid, np.zeros(1))
    with pytest.raises(InvalidInputError):
        sample_at(np.arange(3.0), values, np.ones((3, 2), bool), np.zeros(1))


def test_steps_take_the_first_time_ahead_and_the_latest_behind():
    s = np.array([0, 0, 0.1, 0.2, 0.2, 0.2, 0.3, 0.35])
    np.testing.assert_allclose(steps_ahead(s, 0, 0.1, 4), [2, 3, 6, np.nan])  # 0.2 is reached at 3, before the pause
    np.testing.assert_allclose(steps_ahead(s, 4, 0.05, 3), [5.5, 6, 7])
    np.testing.assert_allclose(steps_back(s, 7, 0.15, 3), [5, 2 - 0.5, np.nan])  # 0.2 was left at 5, after the pause
    np.testing.assert_allclose(steps_back(s, 3, 0.1, 2), [2, 1])
    np.testing.assert_allclose(steps_ahead(s, 2.5, 0.05, 1), [3])
    assert np.isnan(steps_ahead(np.zeros(5), 2, 0.1, 3)).all()
    assert np.isnan(steps_back(np.zeros(1), 0, 0.1, 3)).all()
    assert steps_ahead(s, np.int64(0), 0.1, 0).shape == (0,)
    for call in (steps_ahead, steps_back):
        with pytest.raises(InvalidInputError):
            call(s, 0, 0.0, 3)
        with pytest.raises(InvalidInputError):
            call(s, 8, 0.1, 3)


@given(st.integers(0, 10_000), st.floats(0.01, 0.5))
def test_steps_land_on_their_lengths(seed, step):
    rng = np.random.default_rng(seed)
    s = np.cumsum(np.r_[0, rng.random(12) * (rng.random(12) < 0.6)])
    frame = int(rng.integers(0, 13))
    frames = np.arange(13.0)
    for times, sign in ((steps_ahead(s, frame, step, 5), 1), (steps_back(s, frame, step, 5), -1)):
        known = ~np.isnan(times)
        targets = s[frame] + sign * step * np.arange(1, 6)
        np.testing.assert_allclose(np.interp(times[known], frames, s), targets[known], atol=1e-9)
        assert (np.diff(times[known]) * sign > 0).all()
        assert ((times[known] - frame) * sign > 0).all()
        np.testing.assert_array_equal(known, (targets <= s[-1] + 1e-9 * step) & (targets >= -1e-9 * step))


def test_rounding_does_not_carry_a_step_across_a_pause():
    s = np.cumsum(np.r_[0, [0.1] * 3, [0.0] * 20, [0.1] * 3])
    np.testing.assert_allclose(steps_ahead(s, 0, 0.1, 6), [1, 2, 3, 24, 25, 26], atol=1e-6)
    np.testing.assert_allclose(steps_back(s, 26, 0.1, 6), [25, 24, 23, 2, 1, 0], atol=1e-6)


def released_rule(tracks, interval, top, max_length, image_size):
    """Both released rules in plain loops, from their description: TraceForge's without an image size."""
    N, H, _ = tracks.shape
    if image_size is None:
        scale = [float(s) if abs(s) >= 1e-12 else 1.0 for s in tracks[-1, 0, :2]]
        unit = np.concatenate([np.clip(tracks[..., :2] / scale, 0, 1), tracks[..., 2:]], -1)
    else:
        scale = image_size
        unit = np.concatenate([tracks[..., :2] / scale, tracks[..., 2:]], -1)
    k = max(1, int(np.ceil(top * N)))
    length = [np.mean(sorted(np.linalg.norm(unit[:, t + 1] - unit[:, t], axis=-1))[-k:]) for t in range(H - 1)]
    path = np.concatenate([[0.0], np.cumsum(length)])
    M = min(int(np.floor(path[-1] / interval)) + 1, max_length) if H > 1 else 1
    out = np.full((N, max_length, 3), -np.inf)
    for j in range(M):
        target = min(j * interval, path[-1])
        at = min(max(int(np.searchsorted(path, target, side="right")) - 1, 0), max(H - 2, 0))
        share = (target - path[at]) / max(length[at], 1e-12) if H > 1 else 0.0
        sample = unit[:, at] + share * (unit[:, min(at + 1, H - 1)] - unit[:, at])
        out[:, j] = sample * [*scale, 1.0]
    return out, M


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 120),
    st.integers(1, 25),
    st.sampled_from([None, (640, 480), (90, 160)]),
    st.sampled_from([(0.05, 0.02, 128), (0.03, 0.1, 7)]),
    st.integers(0, 2**31),
)
def test_official_retime_is_the_released_rule(N, H, size, options, seed):
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 8, (N, H, 3)) * [1, 1, 0.005] * (rng.random((1, H, 1)) < 0.7)  # with pauses
    tracks = np.cumsum(steps, axis=1) + np.concatenate([rng.uniform(0, 400, (N, 1, 2)), np.ones((N, 1, 1))], -1)
    got, valid = official_retime(tracks, *options, image_size=size)
    expected, M = released_rule(tracks, *options, size)
    assert valid.tolist() == [j < M for j in range(options[2])]
    np.testing.assert_allclose(got[:, :M], expected[:, :M], atol=1e-6)
    assert (got[:, M:] == -np.inf).all()
    assert got.shape == (N, options[2], 3)


def test_official_retime_by_hand():
    """One point crosses half the picture in ten frames, then rests: eleven samples, one frame apart, the rest padding."""
    tracks = np.zeros((3, 15, 3), np.float32)
    tracks[:, :, 2] = 1
    tracks[0, :, 0] = 32 * np.minimum(np.arange(15), 10)
    got, valid = official_retime(tracks, image_size=(640, 480))
    assert valid.sum() == 11
    np.testing.assert_allclose(got[0, :11, 0], 32 * np.arange(11), atol=1e-3)
    assert got.dtype == np.float32
    still, one = official_retime(tracks[1:], image_size=(640, 480))
    assert one.sum() == 1
    assert (still[:, 0] == tracks[1:, 0]).all()
    np.testing.assert_allclose(official_times(tracks, image_size=(640, 480))[:3], [0, 1, 2], atol=1e-5)


def test_official_retime_keeps_the_released_faults_and_refuses_nonsense():
    """TraceForge's rule: the last track sets the scale and cuts the others; metres count like shares of the picture."""
    tracks = np.ones((2, 3, 3))
    tracks[0, :, 0] = [10, 150, 300]
    tracks[1, :, :2] = [100, 100]
    cut, _ = official_retime(tracks)
    assert cut[0][np.isfinite(cut[0, :, 0]), 0].max() == 100  # the other point never gets beyond it
    deep = np.ones((1, 2, 3))
    deep[0, 1, 2] = 1.27
    assert official_retime(deep, image_size=(640, 480))[1].sum() == 6
    deep[0, :, 2] *= 100  # the same in centimetres
    assert official_retime(deep, image_size=(640, 480))[1].sum() == 128
    for bad in (np.ones((0, 3, 3)), np.ones((2, 0, 3)), np.full((1, 2, 3), np.nan)):
        with pytest.raises(InvalidInputError):
            official_retime(bad)
    for options in ({"interval": 0}, {"top": 0.0}, {"max_length": 0}, {"image_size": (0, 4)}):
        with pytest.raises(InvalidInputError):
            official_retime(tracks, **options)
