"""RGB-D folders: units, sentinels, sizes, poses, registration, and every way they are known to be wrong."""

import json

import numpy as np
import pytest
from made_media import BRIDGE, K_of, boards_clip, needs_shared, render_boxes, write_rgbd
from PIL import Image

from traceworld.errors import DepthError, MediaError
from traceworld.perception.registration import near_edges
from traceworld.perception.sources import open_source

IMAGES, DEPTHS = boards_clip()


def read_all(path, **options):
    source = open_source(path, **options)
    return source, list(source)


def edit(folder, **fields):
    about = json.loads((folder / "clip.json").read_text()) | fields
    (folder / "clip.json").write_text(json.dumps({key: value for key, value in about.items() if value is not None}))


def test_depth_image_times_task_and_K_come_back(tmp_path):
    source, frames = read_all(write_rgbd(tmp_path / "clip", IMAGES, DEPTHS))
    assert source.task == "move the board"
    assert source.metric_depth
    assert source.num_frames == len(IMAGES)
    assert source.report["intrinsics"] == "given"
    np.testing.assert_allclose(source.K, K_of(160, 120, 176))
    for image, depth_m, frame in zip(IMAGES, DEPTHS, frames, strict=True):
        assert np.array_equal(frame.image, image)
        assert np.nanmax(np.abs(frame.depth_m - depth_m)) <= 0.00051
        assert frame.cam_from_world is None
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(len(IMAGES)) / 10)


def test_registered_depth_is_left_alone(tmp_path):
    source, _ = read_all(write_rgbd(tmp_path / "clip", IMAGES, DEPTHS))
    assert not source.report["registration"]["applied"]
    assert source.report["warnings"] == []
    assert source.report["registration"]["edge_score_as_is"] > 1.8


def test_poses_for_every_frame_or_one_for_all(tmp_path):
    poses = np.repeat(np.eye(4)[None], len(IMAGES), 0)
    poses[:, 0, 3] = np.arange(len(IMAGES)) * 0.01
    _, frames = read_all(write_rgbd(tmp_path / "a", IMAGES, DEPTHS, cam_from_world=poses.tolist()))
    np.testing.assert_allclose([frame.cam_from_world for frame in frames], poses)
    _, frames = read_all(write_rgbd(tmp_path / "b", IMAGES, DEPTHS, cam_from_world=poses[3].tolist()))
    np.testing.assert_allclose([frame.cam_from_world for frame in frames], [poses[3]] * len(IMAGES))


# -- sentinels and units ------------------------------------------------------------------------------------------------


def test_zero_and_65535_are_no_measurement(tmp_path):
    folder = write_rgbd(tmp_path / "clip", IMAGES, DEPTHS)
    stored = np.array(Image.open(folder / "depth" / "0001.png"))
    stored[:10], stored[10:20], stored[20:25] = 0, 65535, 4000
    Image.fromarray(stored).save(folder / "depth" / "0001.png")
    edit(folder, depth_invalid=4000)
    _, frames = read_all(folder)
    assert np.isnan(frames[1].depth_m[:25]).all()
    assert np.isfinite(frames[1].depth_m[25:]).all()


def test_float_depth_with_nan(tmp_path):
    depths = [depth_m.copy() for depth_m in DEPTHS]
    for depth_m in depths:
        depth_m[:30] = np.nan
    source, frames = read_all(write_rgbd(tmp_path / "clip", IMAGES, depths, unit_m=1.0, suffix=".npy"))
    assert np.isnan(frames[0].depth_m[:30]).all()
    np.testing.assert_allclose(frames[0].depth_m[30:], depths[0][30:])
    assert source.report["warnings"] == []


@pytest.mark.parametrize(
    ("stated", "suffix", "unit_m"), [(1.0, ".png", 0.001), (0.001, ".npy", 1.0), (1e-6, ".png", 0.001)]
)
def test_a_wrong_unit_is_found_and_mended(tmp_path, stated, suffix, unit_m):
    folder = write_rgbd(tmp_path / "clip", IMAGES, DEPTHS, unit_m=unit_m, suffix=suffix)
    edit(folder, depth_unit_m=stated)
    source, frames = read_all(folder)
    assert source.report["depth"]["unit_m"] == unit_m
    assert any("depth_unit_m" in warning for warning in source.report["warnings"])
    assert np.nanmax(np.abs(frames[0].depth_m - DEPTHS[0])) < 0.001


def test_an_unstated_unit_is_assumed_and_said(tmp_path):
    folder = write_rgbd(tmp_path / "clip", IMAGES, DEPTHS)
    edit(folder, depth_unit_m=None)
    source, frames = read_all(folder)
    assert any("not stated" in warning for warning in source.report["warnings"])
    assert np.nanmax(np.abs(frames[0].depth_m - DEPTHS[0])) < 0.001


def test_a_unit_that_nothing_explains(tmp_path):
    depths = [np.full((120, 160), 1e7, np.float32)] * 6
    folder = write_rgbd(tmp_path / "clip", IMAGES, depths, unit_m=1.0, suffix=".npy")
    with pytest.raises(DepthError, match="no common unit") as caught:
        open_source(folder)
    assert "depth_unit_m" in str(caught.value.mend)
    edit(folder, depth_unit_m=0.0)
    with pytest.raises(DepthError, match="is no unit"):
        open_source(folder)


# -- absent depth --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zero", "nan", "65535"])
def test_a_clip_without_any_measurement_counts_as_rgb(tmp_path, kind):
    value = {"zero": 0.0, "nan": np.nan, "65535": 65.535}[kind]
    depths = [np.full_like(depth_m, value) for depth_m in DEPTHS]
    source, frames = read_all(write_rgbd(tmp_path / "clip", IMAGES, depths, suffix=".npy" if kind == "nan" else ".png"))
    assert not source.metric_depth
    assert all(frame.depth_m is None for frame in frames)
    assert any("plain RGB" in warning for warning in source.report["warnings"])


def test_single_frames_without_measurement_are_tolerated(tmp_path):
    depths = [depth_m if k != 2 else np.zeros_like(depth_m) for k, depth_m in enumerate(DEPTHS)]
    folder = write_rgbd(tmp_path / "clip", IMAGES, depths)
    (folder / "depth" / "0004.png").unlink()
    source, frames = read_all(folder)
    assert source.metric_depth
    for k, frame in enumerate(frames):
        assert np.isnan(frame.depth_m).all() == (k in (2, 4))
    assert any("1 of 6 frames have no depth" in warning for warning in source.report["warnings"])


def test_no_depth_folder_at_all(tmp_path):
    folder = write_rgbd(tmp_path / "clip", IMAGES, DEPTHS)
    for path in (folder / "depth").iterdir():
        path.unlink()
    (folder / "depth").rmdir()
    source, _ = read_all(folder)
    assert not source.metric_depth


# -- sizes ---------------------------------------------------------------------------------------------------------------


def test_registered_depth_of_half_the_size(tmp_path):
    halves = [depth_m[::2, ::2] for depth_m in DEPTHS]
    source, frames = read_all(write_rgbd(tmp_path / "clip", IMAGES, halves))
    assert frames[0].depth_m.shape == (120, 160)
    assert np.median(np.abs(frames[0].depth_m - DEPTHS[0])) < 0.001
    assert source.report["depth"]["size"] == [80, 60]


def test_depth_of_another_shape_without_calibration(tmp_path):
    depths = [depth_m[:, :120] for depth_m in DEPTHS]
    with pytest.raises(DepthError, match="depth is 120×120, colour 160×120") as caught:
        open_source(write_rgbd(tmp_path / "clip", IMAGES, depths))
    assert "depth_K" in str(caught.value.mend)


def test_depth_that_changes_size(tmp_path):
    folder = write_rgbd(tmp_path / "clip", IMAGES, [*DEPTHS[:5], DEPTHS[5][:60, :80]])
    with pytest.raises(DepthError, match="different sizes"):
        open_source(folder)


def test_scaled_down_images_take_depth_and_K_with_them(tmp_path):
    source, frames = read_all(write_rgbd(tmp_path / "clip", IMAGES, DEPTHS), max_side=80)
    assert frames[0].image.shape == (60, 80, 3)
    assert frames[0].depth_m.shape == (60, 80)
    np.testing.assert_allclose(source.K[0, 0], 88)


def test_K_of_another_resolution_is_scaled(tmp_path):
    folder = write_rgbd(tmp_path / "clip", IMAGES, DEPTHS, width=320, height=240, color_K=K_of(320, 240, 352).tolist())
    np.testing.assert_allclose(open_source(folder).K, K_of(160, 120, 176))
    edit(folder, width=320, height=160)
    with pytest.raises(MediaError, match="says 320×160"):
        open_source(folder)


def test_color_without_K_gets_an_assumed_one(tmp_path):
    source = open_source(write_rgbd(tmp_path / "clip", IMAGES, DEPTHS, color_K=None))
    assert source.report["intrinsics"] == "assumed"


# -- faults of the files ------------------------------------------------------------------------------------------------


def test_eight_bit_and_colour_depth_are_refused(tmp_path):
    for name, bad, match in (
        ("a", (DEPTHS[0] * 100).astype(np.uint8), "8 bits"),
        ("b", np.zeros((120, 160, 3), np.uint8), "one channel"),
    ):
        folder = write_rgbd(tmp_path / name, IMAGES, DEPTHS)
        Image.fromarray(bad).save(folder / "depth" / "0000.png")
        with pytest.raises(DepthError, match=match):
            open_source(folder)


def test_damaged_depth_names_the_file(tmp_path):
    images, depths = IMAGES * 3, DEPTHS * 3  # so that the frame is not among those looked at when opening
    folder = write_rgbd(tmp_path / "clip", images, depths)
    path = folder / "depth" / "0001.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DepthError) as caught:
        list(open_source(folder))
    assert "0001.png" in str(caught.value.where)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"color_K": [[1, 2], [3, 4]]}, "color_K"),
        ({"color_K": np.diag([-5.0, 5.0, 1.0]).tolist()}, "focal"),
        ({"color_K": "wide"}, "not numeric"),
        ({"timestamps_s": [0.0, 0.1]}, "2 time stamps for 6"),
        ({"timestamps_s": [0.0, 0.1, 0.1, 0.3, 0.4, 0.5]}, "does not increase"),
        ({"cam_from_world": np.zeros((6, 4, 4)).tolist()}, "rigid"),
        ({"cam_from_world": np.eye(4)[None].tolist()}, "for 6 pictures"),
        ({"color_from_depth": (2 * np.eye(4)).tolist()}, "rigid"),
        ({"width": -3}, "positive"),
        ({"timestamps_s": None, "fps": 0}, "positive"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, fields, match):
    folder = write_rgbd(tmp_path / "clip", IMAGES, DEPTHS)
    edit(folder, **fields)
    with pytest.raises(MediaError, match=match) as caught:
        open_source(folder)
    assert "clip.json" in str(caught.value)


def test_clip_json_that_is_no_json(tmp_path):
    folder = write_rgbd(tmp_path / "clip", IMAGES, DEPTHS)
    for text in ("{", "[1, 2]"):
        (folder / "clip.json").write_text(text)
        with pytest.raises(MediaError, match="JSON"):
            open_source(folder)


def test_one_picture_or_none(tmp_path):
    with pytest.raises(MediaError, match="1 picture"):
        open_source(write_rgbd(tmp_path / "clip", IMAGES[:1], DEPTHS[:1]))


def test_fps_instead_of_time_stamps(tmp_path):
    _, frames = read_all(write_rgbd(tmp_path / "clip", IMAGES, DEPTHS, timestamps_s=None, fps=5))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(6) / 5)


def test_distortion_is_taken_out_of_picture_and_depth(tmp_path):
    source, frames = read_all(write_rgbd(tmp_path / "clip", IMAGES, DEPTHS, distortion=[-0.3, 0.1, 0, 0, 0]))
    assert source.report["undistorted"]
    assert not np.array_equal(frames[0].image, IMAGES[0])
    middle = np.s_[50:70, 70:90]  # near the centre a lens does little
    assert np.abs(frames[0].image[middle].astype(int) - IMAGES[0][middle]).mean() < 25
    assert np.nanmedian(np.abs(frames[0].depth_m[middle] - DEPTHS[0][middle])) < 0.01


# -- registration --------------------------------------------------------------------------------------------------------

RIG = np.eye(4)
RIG[:3, 3] = [0.02, 0.0, 0.0]
K_DEPTH = K_of(160, 120, 120)


def unregistered(folder, **fields):
    """Depth from a camera 2 cm beside the colour camera, with another focal length."""
    depths = [render_boxes(K_DEPTH, np.linalg.inv(RIG), 160, 120, 0.004 * frame)[1] for frame in range(6)]
    known = {"depth_K": K_DEPTH.tolist(), "color_from_depth": RIG.tolist(), "depth_registered": False}
    return write_rgbd(folder, IMAGES, depths, **(known | fields))


def share_right(frames) -> float:
    """Share of measured pixels, away from edges, whose depth is within 2 % of what the colour camera sees."""
    shares = []
    for frame, truth in zip(frames, DEPTHS, strict=True):
        away = np.ones(truth.shape, bool)
        xy, _ = near_edges(truth)
        for x, y in xy.astype(int):
            away[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5] = False
        measured = away & np.isfinite(frame.depth_m)
        shares.append((np.abs(frame.depth_m - truth)[measured] < 0.02 * truth[measured]).mean())
    return float(np.mean(shares))


def test_unregistered_depth_is_registered(tmp_path):
    source, frames = read_all(unregistered(tmp_path / "clip"))
    registration = source.report["registration"]
    assert registration["applied"]
    assert any("not registered" in warning for warning in source.report["warnings"])
    assert registration["edge_score_refined"] > 1.4 * registration["edge_score_as_is"]
    assert share_right(frames) > 0.97


def test_a_lie_about_registration_is_found_and_mended(tmp_path):
    source, frames = read_all(unregistered(tmp_path / "clip", depth_registered=True))
    assert source.report["registration"]["applied"]
    assert any("declared registered" in warning for warning in source.report["warnings"])
    assert share_right(frames) > 0.97


def test_trust_believes_the_folder(tmp_path):
    folder = unregistered(tmp_path / "clip", depth_registered=True)
    source, frames = read_all(folder, registration="trust")
    assert not source.report["registration"]["applied"]
    assert share_right(frames) < 0.9
    edit(folder, depth_registered=False)
    source, frames = read_all(folder, registration="trust")
    assert source.report["registration"]["applied"]
    assert share_right(frames) > 0.97


def test_without_depth_K_it_can_only_warn(tmp_path):
    source, _ = read_all(unregistered(tmp_path / "clip", depth_registered=True, depth_K=None, color_from_depth=None))
    assert not source.report["registration"]["applied"]
    assert any("looks unregistered" in warning for warning in source.report["warnings"])


def test_a_transform_stated_in_the_wrong_direction_is_found(tmp_path):
    folder = unregistered(tmp_path / "clip", color_from_depth=np.linalg.inv(RIG).tolist())
    _source, frames = read_all(folder)
    assert share_right(frames) > 0.95


def test_opening_is_deterministic(tmp_path):
    folder = unregistered(tmp_path / "clip")
    (one, frames_one), (two, frames_two) = read_all(folder), read_all(folder)
    assert one.report == two.report
    for a, b in zip(frames_one, frames_two, strict=True):
        assert np.array_equal(a.depth_m, b.depth_m, equal_nan=True)


@pytest.mark.shared_data
@needs_shared(BRIDGE)
def test_the_real_robot_clip_is_found_unregistered_and_resolved():
    source = open_source(BRIDGE)
    registration = source.report["registration"]
    assert registration["edge_score_as_is"] < 1.3
    assert registration["edge_score_refined"] > 1.8
    assert registration["applied"]
    assert any("not registered" in warning for warning in source.report["warnings"])
    # The pictures were turned upside down after recording, so the stated 15 mm point the wrong way.
    assert -0.025 < registration["color_from_depth"][0][3] < -0.008
    frames = list(source)
    assert len(frames) == 35
    assert np.mean([np.isfinite(frame.depth_m).mean() for frame in frames]) > 0.8
