"""Overlays: the right pixels are painted, the others are left alone."""

import cv2
import numpy as np
import pytest
import viewer_scenes as made

from traceworld.errors import InvalidInputError, MediaError
from traceworld.traces.types import Cameras, Clip, TracePrediction
from traceworld.viewer import overlay


def changed(before, after):
    return (before.astype(int) != after.astype(int)).any(-1)


def grey(width=200, height=150):
    return np.full((height, width, 3), 100, np.uint8)


def one_point(xy, *, visible=True, moving=True):
    xy = np.asarray(xy, float)[:, None]
    T = len(xy)
    seen = np.ones((T, 1), bool)
    seen[-1] = visible
    return {"xy_px": xy, "visible": seen, "valid": np.ones((T, 1), bool), "moving": np.array([moving])}


def test_the_head_of_a_moving_point_is_where_it_is_now_and_the_picture_given_is_untouched():
    image = grey()
    drawn = overlay.draw_tails(image, **one_point([[40, 60], [90, 60], [140, 60]]))
    assert (image == 100).all()
    assert tuple(drawn[60, 140]) == tuple(int(c) for c in overlay.time_colours(3)[-1])
    touched = np.argwhere(changed(image, drawn))
    assert abs(touched[:, 0] - 60).max() <= 6
    assert touched[:, 1].min() >= 34
    assert touched[:, 1].max() <= 146


def test_a_tail_goes_from_dark_violet_to_yellow():
    drawn = overlay.draw_tails(grey(), **one_point([[x, 75] for x in range(20, 180, 8)])).astype(int)
    old, new = drawn[75, 30], drawn[75, 150]
    assert old[2] > old[1]  # violet: more blue than green
    assert new[1] > new[2]  # yellow: more green than blue
    assert new.sum() > old.sum()


def test_a_hidden_point_is_hollow_and_a_seen_one_filled():
    path = [[100, 75]]
    filled = overlay.draw_tails(grey(), **one_point(path), radius=6.0)
    hollow = overlay.draw_tails(grey(), **one_point(path, visible=False), radius=6.0)
    assert changed(grey(), filled)[75, 100]
    assert not changed(grey(), hollow)[75, 100]
    assert changed(grey(), hollow)[75, 106]
    assert not changed(grey(), hollow)[75, 110]


def test_static_points_have_no_tail():
    drawn = overlay.draw_tails(grey(), **one_point([[20, 20], [100, 75]], moving=False))
    assert not changed(grey(), drawn)[45:50, 55:65].any()
    assert tuple(drawn[75, 100]) == overlay.STATIC


def test_invalid_positions_break_the_tail_and_are_not_drawn():
    state = one_point([[20, 75], [60, 75], [100, 75], [140, 75], [180, 75]])
    state["valid"][2] = False
    drawn = changed(grey(), overlay.draw_tails(grey(), **state))
    assert drawn[75, 40]
    assert drawn[75, 160]
    assert not drawn[:, 70:130].any()
    state["valid"][-1] = False
    state["visible"][-1] = False
    assert not changed(grey(), overlay.draw_tails(grey(), **state))[:, 165:].any()


def test_subpixel_positions_move_the_centre_of_what_is_drawn():
    def centre(x):
        cover = np.abs(overlay.draw_tails(grey(), **one_point([[x, 75.0]]), radius=5.0).astype(float) - 100).sum(-1)
        return (cover * np.arange(200)).sum() / cover.sum()

    assert centre(100.5) - centre(100.0) == pytest.approx(0.5, abs=0.02)


def test_points_far_outside_or_unknown_are_harmless():
    for xy in ([[1e9, -1e9]], [[np.nan, 5.0]], [[-50.0, 400.0]]):
        assert not changed(grey(), overlay.draw_tails(grey(), **one_point(xy))).any()
    empty = overlay.draw_tails(
        grey(), np.zeros((3, 0, 2)), np.zeros((3, 0), bool), np.zeros((3, 0), bool), np.zeros(0, bool)
    )
    assert (empty == 100).all()


def test_a_clip_is_drawn_at_its_projected_points_whatever_the_size_of_the_picture():
    clip = made.clip_of()
    drawn = overlay.overlay_clip(made.picture(), clip, 39, width=480)
    assert drawn.shape == (360, 480, 3)
    plain = overlay.resize_to_width(made.picture(), 480)
    for point in (1, 5):  # moving, visible
        x, y = (made.pixels(clip.traces.xyz_world[39, point].astype(float)) + 0.5) * 3 - 0.5
        head = drawn[round(y), round(x)].astype(int)
        assert abs(head - overlay.time_colours(17)[-1].astype(int)).max() <= 3
    assert not changed(plain, drawn)[:60].any()


def test_tails_stay_glued_to_the_scene_when_the_camera_moves():
    clip = made.clip_of(num_frames=10)
    poses = np.repeat(np.eye(4)[None], 10, 0)
    poses[:, 0, 3] = np.linspace(0, 0.3, 10)  # the camera goes left: everything shifts right in the picture
    moved = Clip("m", clip.time_s, Cameras(clip.cameras.K, poses, made.WIDTH, made.HEIGHT), clip.traces)
    drawn = changed(made.picture(), overlay.overlay_clip(made.picture(), moved, 9, tail=9))
    start = clip.traces.xyz_world[0, 2].astype(float) + np.array(
        [0.3, 0, 0]
    )  # where the path began, seen from the last camera
    x, y = made.pixels(start)
    assert drawn[round(y), round(x) + 1]
    old_x = made.pixels(clip.traces.xyz_world[0, 2].astype(float))[0]  # where it began in the first picture
    assert not drawn[:, : round(old_x) + 5].any()


def test_a_frame_outside_the_clip_is_refused():
    with pytest.raises(InvalidInputError, match="frame 40"):
        overlay.overlay_clip(made.picture(), made.clip_of(), 40)


def test_a_predicted_trace_ends_where_it_says_and_is_never_hidden_by_the_truth():
    samples = np.stack([np.linspace(30, 170, 15), np.full(15, 40.0)], -1)[None, None]
    valid = np.ones((1, 1, 15), bool)
    truth = samples[0] + [0.0, 60.0]
    known = np.zeros((1, 15), bool)  # nothing is known of what happened: the prediction is drawn all the same
    anchor = np.array([[20.0, 40.0]])
    drawn = changed(grey(), overlay.draw_fan(grey(), samples, valid, anchor, truth, known))
    assert drawn[40, 30:170].all()
    assert not drawn[90:].any()
    valid[..., 7:] = False
    ended = changed(grey(), overlay.draw_fan(grey(), samples, valid, anchor, truth, known))
    assert ended[40, 30:88].all()
    assert not ended[:, 100:].any()


def test_the_truth_is_green_and_the_samples_warm():
    samples = np.stack([np.linspace(30, 170, 15), np.full(15, 40.0)], -1)[None, None]
    drawn = overlay.draw_fan(
        grey(), samples, np.ones((1, 1, 15), bool), np.array([[20.0, 40.0]]), samples[0] + [0.0, 60.0]
    ).astype(int)
    red, green, blue = drawn[40, 100]
    assert red > green > blue
    red, green, blue = drawn[100, 100]
    assert green > red
    assert green > blue


def test_a_prediction_that_ended_does_not_come_back():
    uvz = np.zeros((1, 1, 8, 3), np.float32)
    uvz[..., 0] = np.linspace(-0.5, 0.9, 8)
    uvz[..., 2] = 1.0
    valid = np.array([[[True, True, False, True, True, True, True, True]]])
    drawn = overlay.overlay_prediction(grey(), TracePrediction(uvz, valid), np.array([[-0.7, 0.0]]))
    assert not changed(grey(), drawn)[:, 110:].any()


def test_only_the_points_asked_for_are_drawn():
    clip = made.clip_of()
    prediction, anchor = made.prediction_for(clip)
    every = changed(made.picture(), overlay.overlay_prediction(made.picture(), prediction, anchor[:, :2]))
    one = changed(
        made.picture(), overlay.overlay_prediction(made.picture(), prediction, anchor[:, :2], points=np.array([0]))
    )
    assert 0 < one.sum() < every.sum() / 3


def test_captions_touch_their_corner_only():
    named = overlay.label(grey(400, 300), "frame 3")
    assert changed(grey(400, 300), named)[:20, :60].any()
    assert not changed(grey(400, 300), named)[60:].any()


def test_pictures_side_by_side_must_be_of_one_height():
    row = overlay.side_by_side([grey(), grey(80)], gap=4)
    assert row.shape == (150, 284, 3)
    assert (row[:, 200:204] == 255).all()
    with pytest.raises(InvalidInputError):
        overlay.side_by_side([grey(), grey(height=90)])


def test_a_still_is_written_whole_and_reads_back_the_same(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    path = overlay.save_still(tmp_path / "deep" / "still.png", image)
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], image)
    assert [p.name for p in path.parent.iterdir()] == ["still.png"]
    with pytest.raises(MediaError, match=r"\.png"):
        overlay.save_still(tmp_path / "still.nonsense", image)
