"""The packed scene: unpacking it by hand gives the traces back, upright and in the first camera's frame."""

import base64
import json

import numpy as np
import pytest
import viewer_scenes as made

from traceworld.errors import InvalidInputError
from traceworld.traces.types import Camera, Cameras, Clip, TracePrediction, Traces
from traceworld.viewer import scene as scenes


def unpack(text, box):
    """What report.js does."""
    raw = np.frombuffer(base64.b64decode(text), "<u2").reshape(-1, 3).astype(float)
    low, high = np.array(box)
    return np.where(raw == 65535, np.nan, low + raw * (high - low) / 65534)


def test_paths_come_back_upright_to_a_tenth_of_a_millimetre():
    clip = made.clip_of()
    packed = scenes.build_scene(clip)
    back = unpack(packed["paths"], packed["box"]).reshape(40, 14, 3)
    want = clip.traces.xyz_world.astype(float)
    np.testing.assert_allclose(back[..., 0], want[..., 0], atol=1e-4)
    np.testing.assert_allclose(back[..., 1], want[..., 2], atol=1e-4)  # away from the camera
    np.testing.assert_allclose(back[..., 2], -want[..., 1], atol=1e-4)  # up
    assert np.linalg.det(scenes.UPRIGHT) == pytest.approx(1)
    assert json.loads(json.dumps(packed, allow_nan=False)) == packed


def test_a_scene_seen_by_a_turned_camera_is_shown_in_that_cameras_frame():
    clip = made.clip_of()
    pose = np.array([[0.0, 1, 0, 0.3], [-1, 0, 0, 0.1], [0, 0, 1, 0.5], [0, 0, 0, 1]])
    poses = np.repeat(pose[None], clip.num_frames, 0)
    world = (clip.traces.xyz_world - pose[:3, 3]) @ pose[:3, :3]  # inverse by hand
    traces = clip.traces
    turned = Clip(
        "t", clip.time_s, Cameras(clip.cameras.K, poses, 160, 120),
        Traces(world.astype(np.float32), traces.visible, traces.valid, traces.part_id, traces.moving, traces.query_frame),
    )  # fmt: skip
    a, b = scenes.build_scene(clip), scenes.build_scene(turned)
    np.testing.assert_allclose(unpack(a["paths"], a["box"]), unpack(b["paths"], b["box"]), atol=2e-4)
    np.testing.assert_allclose(a["frustum"], b["frustum"], atol=1e-4)


def test_unknown_positions_stay_unknown_and_visibility_bits_survive():
    clip = made.clip_of()
    xyz, valid, visible = clip.traces.xyz_world.copy(), clip.traces.valid.copy(), clip.traces.visible.copy()
    xyz[3, 2], valid[3, 2], visible[3, 2] = np.nan, False, False
    traces = Traces(xyz, visible, valid, clip.traces.part_id, clip.traces.moving, clip.traces.query_frame)
    packed = scenes.build_scene(Clip("n", clip.time_s, clip.cameras, traces))
    back = unpack(packed["paths"], packed["box"]).reshape(40, 14, 3)
    assert np.isnan(back[3, 2]).all()
    assert np.isfinite(np.delete(back.reshape(-1, 3), 3 * 14 + 2, axis=0)).all()
    bits = np.unpackbits(np.frombuffer(base64.b64decode(packed["visible"]), np.uint8))[: 40 * 14].reshape(40, 14)
    np.testing.assert_array_equal(bits.astype(bool), visible)


def test_long_clips_are_thinned_and_moving_points_kept_first():
    clip = made.clip_of(num_frames=300, moving=5, static=20)
    packed = scenes.build_scene(clip, max_frames=50, max_points=8)
    assert len(packed["time_s"]) == 50
    assert packed["frames"][0] == 0
    assert packed["frames"][-1] == 299
    assert packed["moving"] == [1] * 5 + [0] * 3


def test_a_forecast_is_lifted_to_metres_and_ends_where_it_says():
    clip = made.clip_of()
    prediction, anchor = made.prediction_for(clip)
    forecast = scenes.forecast_from_prediction(
        prediction, clip.cameras[0], anchor, name="m", frame=0, start_s=0.0, true_uvz=prediction.uvz[1].astype(float)
    )
    np.testing.assert_allclose(forecast.anchor_xyz, clip.traces.xyz_world[0, :6], atol=1e-5)
    u, v, z = np.moveaxis(prediction.uvz[1].astype(float), -1, 0)
    by_hand = np.stack([((u + 1) * 80 - 0.5 - 79.5) / 140 * z, ((v + 1) * 60 - 0.5 - 59.5) / 140 * z, z], -1)
    np.testing.assert_allclose(forecast.xyz_world[1], by_hand, atol=1e-6)
    np.testing.assert_allclose(forecast.true_xyz, by_hand, atol=1e-6)
    np.testing.assert_allclose(forecast.time_s[[0, -1]], [0.025, 0.4])
    packed = scenes.build_scene(clip, forecasts=[forecast])["forecasts"][0]
    assert packed["shape"] == [3, 6, 17]
    box = scenes.build_scene(clip, forecasts=[forecast])["box"]
    back = unpack(packed["samples"], box).reshape(3, 6, 17, 3)
    assert np.isfinite(back[0, 0, :9]).all()
    assert np.isnan(back[0, 0, 9:]).all()
    assert np.isfinite(back[1:]).all()


def test_an_arc_length_prediction_has_no_time_and_is_refused():
    uvz = np.ones((1, 2, 4, 3), np.float32)
    arc = TracePrediction(uvz, np.ones((1, 2, 4), bool), clock="arc", step=0.01)
    with pytest.raises(InvalidInputError, match="arc"):
        scenes.forecast_from_prediction(arc, made.clip_of().cameras[0], np.ones((2, 3)), name="a", frame=0, start_s=0.0)


def test_truth_of_other_points_is_refused():
    with pytest.raises(InvalidInputError, match="truth"):
        scenes.build_scene(made.clip_of(), truth=made.clip_of(moving=3).traces)


def test_the_cloud_lifts_pixels_skips_holes_edges_and_the_far_and_keeps_colours():
    depth = np.full((120, 160), 1.0, np.float32)
    depth[:, 80:] = 2.0
    depth[0] = np.nan
    depth[1] = 0.0
    image = np.zeros((120, 160, 3), np.uint8)
    image[:, :80] = (200, 10, 10)
    camera = Camera(made.K, np.eye(4), 160, 120)
    xyz, rgb = scenes.cloud_from_depth(image, depth, camera, max_points=10**6)
    xy = made.pixels(xyz.astype(float))
    np.testing.assert_allclose(xy, np.rint(xy), atol=1e-3)
    assert set(np.unique(xyz[:, 2])) == {1.0, 2.0}
    assert xy[:, 1].min() > 1.5  # neither NaN nor zero, nor the jump beside them
    assert not (np.rint(xy[:, 0]) == 80).any()  # the step in depth
    assert (rgb[np.rint(xy[:, 0]) < 80] == (200, 10, 10)).all()
    near, _ = scenes.cloud_from_depth(image, depth, camera, max_points=500, max_depth_m=1.5)
    assert near[:, 2].max() == 1.0
    assert 200 <= len(near) <= 500
    with pytest.raises(InvalidInputError):
        scenes.cloud_from_depth(image, depth[:60], camera)


def test_a_cloud_of_a_smaller_picture_covers_the_same_view():
    camera = Camera(made.K, np.eye(4), 160, 120)
    full, _ = scenes.cloud_from_depth(made.picture(), made.depth(), camera, max_points=10**6)
    half, _ = scenes.cloud_from_depth(made.picture()[::2, ::2], made.depth()[::2, ::2], camera, max_points=10**6)
    np.testing.assert_allclose(full.mean(0, float), half.mean(0, float), atol=1e-4)


def test_a_clip_without_points_still_makes_a_scene():
    clip = Clip("e", np.arange(5.0), Cameras.still(made.K, 160, 120, 5), Traces.empty(5))
    packed = scenes.build_scene(clip)
    assert packed["points"] == 0
    assert np.isfinite(packed["view_box"]).all()


def test_the_view_is_deaf_to_a_few_wild_points_but_holds_every_number():
    clip = made.clip_of()
    cloud = np.concatenate([np.random.default_rng(0).normal(size=(1000, 3)) * 0.1 + [0, 0, 1], [[0, 0, 500.0]]])
    packed = scenes.build_scene(clip, cloud=(cloud.astype(np.float32), np.zeros((1001, 3), np.uint8)))
    assert packed["view_box"][1][1] < 3
    assert packed["box"][1][1] == pytest.approx(500)
