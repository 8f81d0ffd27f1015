"""Events: the signal is in seconds and image widths, eq. 2 holds, spans tile the clip."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traceworld.extract.events import (
    acceleration_signal,
    accelerations,
    cut_events,
    enforce_durations,
    reference_widths,
    repeated_frames,
    smooth,
    valleys,
)
from traceworld.traces.types import Cameras, Traces


def cameras_of(num_frames, width=640, height=480):
    K = np.array([[width * 1.0, 0, (width - 1) / 2], [0, width * 1.0, (height - 1) / 2], [0, 0, 1]])
    return Cameras.still(K, width, height, num_frames)


def traces_of(x_m, moving=True, num_points=4, seed=0):
    """Points 1 m away that all move sideways by `x_m` [T] metres; one image width is one metre there."""
    T = len(x_m)
    start = np.random.default_rng(seed).uniform(-0.2, 0.2, (num_points, 3)) * [1, 1, 0] + [0, 0, 1]
    xyz = np.repeat(start[None], T, 0).astype(np.float32)
    xyz[..., 0] += np.asarray(x_m, np.float32)[:, None]
    known = np.ones((T, num_points), bool)
    return Traces(
        xyz,
        known,
        known.copy(),
        np.zeros(num_points, np.int64),
        np.full(num_points, moving),
        np.zeros(num_points, np.int64),
    )


def bursts(time_s, centres, size=0.2, duration=0.6):
    """A path with a smooth move of `size` metres around each centre (seconds)."""
    x = np.zeros_like(time_s)
    for number, centre in enumerate(centres):
        phase = np.clip((time_s - centre) / duration + 0.5, 0, 1)
        x += (-1) ** number * size * (10 * phase**3 - 15 * phase**4 + 6 * phase**5)
    return x


def test_constant_acceleration_is_measured_in_widths_per_second_squared():
    for fps, width in ((10, 640), (30, 640), (30, 1280)):
        time_s = np.arange(2 * fps) / fps
        signal = acceleration_signal(
            traces_of(0.5 * 0.3 * time_s**2), cameras_of(len(time_s), width, width * 3 // 4), time_s
        )
        np.testing.assert_allclose(signal[1:-1], 0.3, rtol=2e-3)


def test_uneven_times_do_not_disturb_it():
    rng = np.random.default_rng(0)
    time_s = np.cumsum(rng.uniform(0.02, 0.3, 40))
    signal = acceleration_signal(traces_of(0.5 * 0.4 * (time_s - 2) ** 2), cameras_of(40), time_s)
    np.testing.assert_allclose(signal[1:-1], 0.4, rtol=0.02)


def test_three_frames_give_the_central_difference():
    time_s = np.array([0.0, 0.4, 1.0])
    positions = np.random.default_rng(0).normal(size=(3, 5, 3))
    v1 = (positions[1] - positions[0]) / 0.4
    v2 = (positions[2] - positions[1]) / 0.6
    np.testing.assert_allclose(accelerations(positions, time_s)[1], np.linalg.norm((v2 - v1) / 0.5, axis=-1))


def test_gaps_are_skipped_and_too_few_positions_say_nothing():
    time_s = np.arange(9) / 30
    positions = np.zeros((9, 2, 3))
    positions[:, 0, 0] = 0.5 * 2.0 * time_s**2
    positions[4, 0] = np.nan  # still enough neighbours
    positions[1:, 1] = np.nan
    values = accelerations(positions, time_s)
    assert values[4, 0] == pytest.approx(2.0)
    assert np.isnan(values[:, 1]).all()
    assert np.isnan(values[[0, -1]]).all()


def test_depth_counts_with_its_weight_whatever_the_unit():
    time_s = np.arange(30) / 30
    traces = traces_of(np.zeros(30))
    xyz = traces.xyz_world.copy()
    xyz[:, :, :2] = 0
    xyz[..., 2] = 1 + 0.05 * time_s[:, None]
    for scale in (1.0, 7.0):  # the same scene in another unit
        scaled = Traces(
            (xyz * scale).astype(np.float32),
            traces.visible,
            traces.valid,
            traces.part_id,
            traces.moving,
            traces.query_frame,
        )
        widths = reference_widths(scaled, cameras_of(30), 0.1)
        expected = 0.1 * (xyz[-1, 0, 2] - xyz[0, 0, 2]) / xyz[:, 0, 2].mean()
        assert np.ptp(widths[:, 0, 2]) == pytest.approx(expected, rel=1e-4)


def test_only_valid_moving_points_count():
    time_s = np.arange(30) / 30
    still = traces_of(0.5 * time_s**2, moving=False)
    assert (acceleration_signal(still, cameras_of(30), time_s) == 0).all()
    assert (acceleration_signal(Traces.empty(30), cameras_of(30), time_s) == 0).all()
    assert (acceleration_signal(traces_of(np.zeros(2)), cameras_of(2), time_s[:2]) == 0).all()


def test_a_moving_camera_is_taken_out():
    time_s = np.arange(60) / 30
    traces = traces_of(np.zeros(60))
    still = cameras_of(60)
    poses = still.cam_from_world.copy()
    poses[:, 0, 3] = np.sin(5 * time_s)
    moving = Cameras(still.K, poses, still.width, still.height)
    np.testing.assert_allclose(acceleration_signal(traces, moving, time_s), 0, atol=1e-4)


# -- eq. 2 ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 5), min_size=3, max_size=40), st.sets(st.integers(0, 39), min_size=2, max_size=6))
def test_boundaries_are_the_lowest_frames_between_peaks(values, chosen):
    signal = np.array(values)
    peaks = np.array(sorted({p % len(signal) for p in chosen}), np.int64)
    found = valleys(signal, peaks)
    assert len(found) == max(0, len(peaks) - 1)
    for (start, end), valley in zip(itertools.pairwise(peaks), found, strict=True):
        lowest = min(range(start, end + 1), key=lambda frame: (signal[frame], frame))  # brute force, first on ties
        assert valley == lowest


def test_two_actions_are_cut_where_it_is_quietest():
    time_s = np.arange(180) / 30
    cut = cut_events(traces_of(bursts(time_s, [1.0, 4.5])), cameras_of(180), time_s)
    assert len(cut.spans) == 2
    boundary = cut.spans[1][0]
    assert 1.4 < time_s[boundary] < 4.2
    first, last = cut.peaks[0], cut.peaks[-1]
    assert first < boundary < last


def test_frame_rate_and_resolution_do_not_move_events():
    cuts = []
    for fps, width in ((10, 320), (30, 640), (60, 1280)):
        time_s = np.arange(8 * fps) / fps
        traces = traces_of(bursts(time_s, [1.0, 3.5, 6.0]))
        cut = cut_events(traces, cameras_of(len(time_s), width, width * 3 // 4), time_s)
        cuts.append([time_s[start] for start, _ in cut.spans])
    assert len({len(cut) for cut in cuts}) == 1
    assert len(cuts[0]) == 3


def test_jitter_makes_no_events():
    rng = np.random.default_rng(0)
    time_s = np.arange(150) / 30
    traces = traces_of(rng.normal(0, 2e-5, 150))
    assert len(cut_events(traces, cameras_of(150), time_s).spans) == 1


def test_no_motion_is_one_event_however_long():
    time_s = np.arange(3000) / 30
    cut = cut_events(traces_of(np.zeros(3000), moving=False), cameras_of(3000), time_s)
    assert cut.spans == ((0, 3000),)
    assert cut.peaks == ()


def test_a_repeated_picture_makes_no_event():
    time_s = np.arange(60) / 10
    x = bursts(time_s, [3.0], size=0.6, duration=5.0)
    plain = cut_events(traces_of(x), cameras_of(60), time_s)
    repeated = x.copy()
    repeated[25] = repeated[24]
    again = cut_events(traces_of(repeated), cameras_of(60), time_s)
    assert len(again.spans) == len(plain.spans)
    assert np.abs(again.smoothed - plain.smoothed).max() < 0.25 * plain.smoothed.max()


def test_only_lone_repeats_are_left_out():
    x = np.arange(12) * 0.02
    x[5] = x[4]  # a repeat
    x[8:] = x[7]  # a stop
    positions = np.zeros((12, 3, 3))
    positions[..., 0] = x[:, None]
    assert np.flatnonzero(repeated_frames(positions)).tolist() == [5]


def test_a_pause_between_actions_is_where_they_are_cut():
    time_s = np.arange(150) / 30
    cut = cut_events(traces_of(bursts(time_s, [1.0, 4.0], duration=0.8)), cameras_of(150), time_s)
    assert len(cut.spans) == 2
    assert 1.4 <= time_s[cut.spans[1][0]] <= 3.6


# -- durations -----------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.floats(0.01, 1.5), min_size=1, max_size=60),
    st.sets(st.integers(0, 60), max_size=8),
    st.floats(0.2, 2.0),
    st.floats(2.0, 5.0),
)
def test_spans_tile_the_clip_and_keep_their_limits(steps, boundaries, min_s, factor):
    time_s = np.concatenate([[0.0], np.cumsum(steps)])
    max_s = factor * min_s
    spans = enforce_durations(sorted(boundaries), time_s, min_s, max_s)
    T = len(time_s)
    assert spans[0][0] == 0
    assert spans[-1][1] == T
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    assert all(start < end for start, end in spans)
    ends = np.append(time_s, 2 * time_s[-1] - time_s[-2])
    for start, end in spans:
        # A cut falls on a frame, so a span may be longer than the limit by the frame steps on its two sides.
        slack = max(np.diff(ends)[max(start - 1, 0) : end + 1])
        assert ends[end] - ends[start] <= max_s + 2 * slack + 1e-9


def test_short_spans_join_their_shorter_neighbour():
    time_s = np.arange(100) / 10
    assert enforce_durations([50, 53], time_s, 1.0, 60.0) == ((0, 50), (50, 100))  # 4.7 s on the right
    assert enforce_durations([30, 33], time_s, 1.0, 60.0) == ((0, 33), (33, 100))
    assert enforce_durations([3, 98], time_s, 1.0, 60.0) == ((0, 100),)


def test_long_spans_are_cut_into_equal_times():
    time_s = np.arange(100) / 10
    assert enforce_durations([], time_s, 1.0, 4.0) == ((0, 33), (33, 67), (67, 100))


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 7])
def test_tiny_clips(num_frames):
    time_s = np.arange(num_frames) / 5
    cut = cut_events(traces_of(np.arange(num_frames) ** 2 * 0.05), cameras_of(num_frames), time_s)
    assert cut.spans[0][0] == 0
    assert cut.spans[-1][1] == num_frames


def test_smoothing_is_savitzky_golay_on_even_times_and_stands_a_gap():
    from scipy.signal import savgol_filter

    signal = np.random.default_rng(0).uniform(1, 2, 60)
    time_s = np.arange(60) / 20
    grid, values = smooth(signal, time_s, 0.55)
    np.testing.assert_allclose(grid, time_s, atol=1e-12)
    np.testing.assert_allclose(values, savgol_filter(signal, 11, 2))
    gap = time_s.copy()
    gap[30:] += 1e7
    grid, values = smooth(signal, gap, 0.55)
    assert len(grid) <= 20 * 60
    assert np.isfinite(values).all()


def test_a_camera_that_looks_round_sees_every_action():
    """A camera turns by half a circle while actions go on in front of it: each is as strong as for a camera that stands."""
    time_s = np.arange(240) / 30
    angle = np.pi * time_s / time_s[-1]
    still = traces_of(bursts(time_s, (1.5, 4.0, 6.5)))
    poses = np.repeat(np.eye(4)[None], len(time_s), 0)
    poses[:, 0, 0] = poses[:, 2, 2] = np.cos(angle)
    poses[:, 0, 2], poses[:, 2, 0] = np.sin(angle), -np.sin(angle)
    world_from_cam = np.linalg.inv(poses)
    # The same motion in front of wherever the camera looks at the time of each action.
    xyz = np.empty_like(still.xyz_world)
    for low, high, at in ((0, 82, 45), (82, 158, 120), (158, 240, 195)):
        xyz[low:high] = still.xyz_world[low:high] @ world_from_cam[at, :3, :3].T
    known = np.ones(xyz.shape[:2], bool)
    known[[81, 82, 157, 158]] = False  # the scene changes there
    turning = Traces(xyz, known, known.copy(), still.part_id, still.moving, still.query_frame)
    K = cameras_of(1).K
    cameras = Cameras(np.repeat(K, len(time_s), 0), poses, 640, 480)
    expected = acceleration_signal(still, cameras_of(len(time_s)), time_s)
    found = acceleration_signal(turning, cameras, time_s)
    for centre in (1.5, 4.0, 6.5):
        near = np.abs(time_s - centre) < 0.4
        assert found[near].max() == pytest.approx(expected[near].max(), rel=0.25)
