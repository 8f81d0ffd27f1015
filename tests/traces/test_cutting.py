from dataclasses import asdict, replace

import numpy as np
import pytest
from trace_clips import HEIGHT, WIDTH, K, make_clip, swaying_poses

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.traces.cutting import WindowConfig, arc_clock, cut_window
from traceworld.traces.types import Cameras, Clip, Traces


def uvz_by_hand(clip, xyz, frame):
    """Project [..., 3] world points into the camera of a frame, written out."""
    R, t = clip.cameras.cam_from_world[frame][:3, :3], clip.cameras.cam_from_world[frame][:3, 3]
    x, y, z = np.moveaxis(xyz.astype(float) @ R.T + t, -1, 0)
    x_px, y_px = K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]
    return np.stack([(x_px + 0.5) / WIDTH * 2 - 1, (y_px + 0.5) / HEIGHT * 2 - 1, z], -1)


def through_another_camera(clip, poses):
    return replace(clip, cameras=Cameras(clip.cameras.K, poses, WIDTH, HEIGHT))


def same(a, b, tolerance=2e-6):
    for name in ("anchor_uvz", "history_uvz", "future_uvz", "step_time_s", "history_time_s"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=tolerance, err_msg=name)
    for name in ("eligible", "history_valid", "future_valid", "part_id", "moving"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


# --- plain clock ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poses", [None, swaying_poses(60)])
def test_steps_of_a_frame_are_the_frames(poses):
    clip = make_clip(poses=poses, step_s=0.025)
    window = cut_window(clip, 20, WindowConfig(step=0.025))
    expected = uvz_by_hand(clip, clip.traces.xyz_world[12:53], 20).transpose(1, 0, 2)
    np.testing.assert_allclose(window.history_uvz, expected[:, :8], atol=2e-6)
    np.testing.assert_allclose(window.anchor_uvz, expected[:, 8], atol=2e-6)
    np.testing.assert_allclose(window.future_uvz, expected[:, 9:], atol=2e-6)
    assert window.future_valid.all()
    assert window.history_valid.all()
    np.testing.assert_allclose(window.step_time_s, 0.025 * np.arange(1, 33))
    np.testing.assert_allclose(window.history_time_s, 0.025 * np.arange(-8, 0))
    assert (window.clip_id, window.frame, window.clock, window.step) == ("clip", 20, "time", 0.025)


def test_steps_between_frames_are_interpolated_in_the_world():
    clip = make_clip(step_s=0.04)
    window = cut_window(clip, 10, WindowConfig(step=0.03))
    at = 10 + np.arange(1, 33) * 0.03 / 0.04
    xyz = clip.traces.xyz_world
    low = np.floor(at).astype(int)
    share = (at - low)[:, None, None]
    expected = uvz_by_hand(clip, xyz[low] * (1 - share) + xyz[low + 1] * share, 10).transpose(1, 0, 2)
    np.testing.assert_allclose(window.future_uvz, expected, atol=5e-6)


def test_uneven_time_stamps_are_honoured():
    even = make_clip(T=81, step_s=0.01)
    keep = np.sort(np.random.default_rng(0).permutation(81)[:60])
    keep[0], keep[-1] = 0, 80
    traces = even.traces
    uneven = Clip(
        "uneven",
        even.time_s[keep],
        Cameras.still(K, WIDTH, HEIGHT, 60),
        Traces(traces.xyz_world[keep], traces.visible[keep], traces.valid[keep], *(vars(traces)[n] for n in ("part_id", "moving", "query_frame"))),
    )  # fmt: skip
    frame = 20
    window = cut_window(uneven, frame, WindowConfig(step=0.02))
    reference = cut_window(even, int(keep[frame]), WindowConfig(step=0.02))
    both = window.future_valid & reference.future_valid
    assert both.any()
    assert np.abs(window.future_uvz - reference.future_uvz)[both].max() < 2e-3  # chords instead of the curve


def test_a_moving_camera_sees_what_a_still_one_sees():
    poses = swaying_poses(60)
    moving = make_clip(poses=poses, unknown=0.1)
    for frame in (9, 30):
        still = through_another_camera(moving, np.repeat(poses[frame : frame + 1], 60, 0))
        for clock in ("time", "arc"):
            same(
                cut_window(moving, frame, WindowConfig(clock=clock)),
                cut_window(still, frame, WindowConfig(clock=clock)),
            )


def test_the_world_frame_does_not_matter():
    clip = make_clip(poses=swaying_poses(60))
    turn = swaying_poses(60, 4.0)[33]
    xyz = (clip.traces.xyz_world @ turn[:3, :3].T + turn[:3, 3]).astype(np.float32)
    other = Clip(
        "clip",
        clip.time_s,
        Cameras(clip.cameras.K, clip.cameras.cam_from_world @ np.linalg.inv(turn), WIDTH, HEIGHT),
        replace(clip.traces, xyz_world=xyz),
    )
    same(cut_window(clip, 25, WindowConfig()), cut_window(other, 25, WindowConfig()), 2e-5)


def test_beyond_the_ends_nothing_is_valid():
    clip = make_clip(T=20, occluded=0)
    window = cut_window(clip, 15, WindowConfig())
    assert window.future_valid[:, :4].all()
    assert not window.future_valid[:, 4:].any()
    assert np.isnan(window.future_uvz[:, 4:]).all()
    np.testing.assert_allclose(window.step_time_s, 0.025 * np.arange(1, 33))  # the plain clock goes on
    assert not cut_window(clip, 19, WindowConfig()).future_valid.any()
    assert not cut_window(clip, 0, WindowConfig()).history_valid.any()
    for frame in (-1, 20):
        with pytest.raises(InvalidInputError, match="20 frames"):
            cut_window(clip, frame, WindowConfig())


def test_the_last_frame_is_not_lost_to_rounding():
    clip = make_clip(T=100, step_s=0.1)  # sums of 0.1 are not what they should be
    for frame in range(99):
        window = cut_window(clip, frame, WindowConfig(step=0.1, horizon=99 - frame))
        assert window.future_valid.all(), frame


def test_unknown_positions_are_never_valid_and_occluded_ones_are():
    clip = make_clip(unknown=0.3, occluded=0.3)
    traces, frame = clip.traces, 20
    window = cut_window(clip, frame, WindowConfig())
    np.testing.assert_array_equal(window.future_valid, traces.valid[21:53].T)
    np.testing.assert_array_equal(window.history_valid, traces.valid[12:20].T)
    np.testing.assert_array_equal(window.eligible, traces.visible[frame])
    assert np.isfinite(window.future_uvz[window.future_valid]).all()
    assert np.isnan(window.future_uvz[~window.future_valid]).all()
    occluded = (traces.valid & ~traces.visible)[21:53].T
    assert window.future_valid[occluded].all()
    halfway = cut_window(clip, frame, WindowConfig(step=0.0125))
    both = (traces.valid[20:36] & traces.valid[21:37]).T
    np.testing.assert_array_equal(halfway.future_valid[:, ::2], both)


def test_points_outside_the_image_or_behind_the_camera_are_not_asked_about():
    clip = make_clip(N=5, occluded=0)
    xyz = np.repeat(np.array([[[0, 0, 1], [0.65, 0, 1], [0.63, 0, 1], [0, 0.49, 1], [0, 0, -1]]], np.float32), 60, 0)
    window = cut_window(replace(clip, traces=replace(clip.traces, xyz_world=xyz)), 5, WindowConfig())
    assert window.eligible.tolist() == [True, False, True, False, False]
    assert not window.future_valid[4].any()
    assert window.future_valid[1].all()


@pytest.mark.parametrize("clock", ["time", "arc"])
def test_clips_too_small_to_move(clock):
    for clip in (make_clip(T=1), make_clip(N=0), make_clip(T=1, N=0)):
        window = cut_window(clip, 0, WindowConfig(clock=clock))
        assert window.future_uvz.shape == (clip.traces.num_keypoints, 32, 3)
        assert not window.usable().any() or clip.num_frames > 1


def test_order_of_the_points_does_not_matter():
    clip = make_clip(unknown=0.2)
    order = np.random.default_rng(1).permutation(12)
    shuffled = replace(clip, traces=clip.traces.select(order))
    for clock in ("time", "arc"):
        a, b = (cut_window(c, 20, WindowConfig(clock=clock)) for c in (clip, shuffled))
        np.testing.assert_array_equal(a.future_uvz[order], b.future_uvz)
        np.testing.assert_array_equal(a.usable()[order], b.usable())


# --- arc-length clock -------------------------------------------------------------------------------------------------


def straight_clip(speed, T=80, N=9, pause=None):
    """Points that all move along x at `speed(t)` m/s, 1 m before a still camera; a pause of frames if asked for."""
    t = np.arange(T) * 0.05
    rate = np.full(T - 1, speed, float) if np.isscalar(speed) else np.asarray([speed(x) for x in t[:-1]])
    if pause:
        rate[slice(*pause)] = 0
    path = np.concatenate([[0], np.cumsum(rate * 0.05)])
    start = np.stack([np.linspace(-0.5, -0.2, N), np.linspace(-0.2, 0.2, N), np.ones(N)], -1)
    xyz = (start[None] + path[:, None, None] * np.array([1.0, 0, 0])).astype(np.float32)
    yes = np.ones((T, N), bool)
    traces = Traces(xyz, yes, yes, np.zeros(N, np.int32), np.ones(N, bool), np.zeros(N, np.int32))
    return Clip("straight", t, Cameras.still(K, WIDTH, HEIGHT, T), traces)


ARC = WindowConfig(clock="arc", step=0.01)


def test_an_arc_step_is_a_hundredth_of_the_image_width():
    window = cut_window(straight_clip(0.2), 30, ARC)
    # At 1 m, K magnifies 1 m to 500 px = 0.78 image widths; a step of 0.01 widths is 0.02 in u.
    moved = window.future_uvz[:, :, 0] - window.anchor_uvz[:, None, 0]
    np.testing.assert_allclose(moved, np.broadcast_to(0.02 * np.arange(1, 33), moved.shape), atol=1e-4)
    np.testing.assert_allclose(window.step_time_s, 0.01 * 640 / 500 / 0.2 * np.arange(1, 33), rtol=1e-3)
    back = window.history_uvz[:, :, 0] - window.anchor_uvz[:, None, 0]
    np.testing.assert_allclose(back, np.broadcast_to(0.02 * np.arange(-8, 0), back.shape), atol=1e-4)
    np.testing.assert_allclose(window.history_time_s, 0.01 * 640 / 500 / 0.2 * np.arange(-8, 0), rtol=1e-3)


def test_speed_does_not_change_an_arc_window_but_its_times():
    slow, fast = cut_window(straight_clip(0.15), 20, ARC), cut_window(straight_clip(0.3), 20, ARC)
    rows = slow.future_valid & fast.future_valid
    shift = slow.anchor_uvz - fast.anchor_uvz
    np.testing.assert_allclose((slow.future_uvz - shift[:, None])[rows], fast.future_uvz[rows], atol=2e-4)
    both = np.isfinite(slow.step_time_s) & np.isfinite(fast.step_time_s)
    np.testing.assert_allclose(slow.step_time_s[both], 2 * fast.step_time_s[both], rtol=1e-2)


def test_a_pause_passes_in_no_step_but_in_real_time():
    window = cut_window(straight_clip(0.2, pause=(40, 60)), 30, ARC)
    gaps = np.diff(window.step_time_s[np.isfinite(window.step_time_s)])
    assert (gaps > 0.9).sum() == 1
    waiting = cut_window(straight_clip(0.2, pause=(40, 60)), 50, ARC)
    assert waiting.step_time_s[0] > 0.5 - 1e-9  # anchored in the pause: its rest comes before the first step
    assert waiting.history_time_s[-1] < -0.5 + 1e-9


def test_after_the_end_of_the_motion_there_are_no_arc_steps():
    clip = straight_clip(0.2)
    window = cut_window(clip, 75, ARC)
    left = arc_clock(clip, 75)[-1] - arc_clock(clip, 75)[75]
    known = window.future_valid.all(0)
    assert known.sum() == int(left / 0.01 + 1e-6)
    assert np.isnan(window.step_time_s[~known]).all()
    still = cut_window(straight_clip(0.0), 30, ARC)
    assert not still.future_valid.any()
    assert np.isnan(still.step_time_s).all()


def test_one_clock_for_all_points_and_moving_ones_wind_it():
    clip = make_clip(occluded=0)
    window = cut_window(clip, 5, ARC)
    some = clip.traces.select(np.arange(8))  # all moving points and two still ones
    fewer = cut_window(replace(clip, traces=some), 5, ARC)
    np.testing.assert_allclose(window.step_time_s, fewer.step_time_s)
    np.testing.assert_array_equal(window.future_uvz[:8], fewer.future_uvz)


# --- configuration ----------------------------------------------------------------------------------------------------


def test_default_steps():
    assert WindowConfig().step == 0.025
    assert WindowConfig(clock="arc").step == 0.01
    assert WindowConfig(**asdict(WindowConfig(clock="arc", step=0.05))) == WindowConfig(clock="arc", step=0.05)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clock": "sundial"},
        {"step": 0.0},
        {"history": -1},
        {"horizon": 0},
        {"min_keypoints": 0},
        {"min_keypoints": 9, "max_keypoints": 8},
        {"moving_share": 1.5},
        {"depth_drop": -0.1},
        {"min_valid_steps": 33},
    ],
)
def test_impossible_configs_are_refused(wrong):
    with pytest.raises((ConfigError, TypeError), match=f"WindowConfig|{next(iter(wrong))}"):
        WindowConfig(**wrong)


def test_no_history_is_a_choice():
    window = cut_window(make_clip(), 20, WindowConfig(history=0))
    assert window.history_uvz.shape == (12, 0, 3)
