"""Video files, whole and broken: what comes out is compared with what was put in."""

import numpy as np
import pytest
from made_media import cut_off, damage, moving_square, texture, turn_mp4, write_video

from traceworld.errors import ConfigError, MediaError
from traceworld.perception.sources import open_source


def test_frames_times_and_size_come_back(tmp_path):
    images = moving_square(12)
    source = open_source(write_video(tmp_path / "a.mp4", images))
    frames = list(source)
    assert [frame.index for frame in frames] == list(range(12))
    assert (source.width, source.height, source.kind) == (160, 120, "video")
    assert not source.metric_depth
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(12) / 30, atol=1e-6)
    for image, frame in zip(images, frames, strict=True):
        assert np.abs(frame.image.astype(int) - image).mean() < 12  # lossy chroma, no more
        assert frame.depth_m is None


def test_it_can_be_read_twice_with_the_same_result(tmp_path):
    source = open_source(write_video(tmp_path / "a.mp4", moving_square(8)))
    first, second = list(source), list(source)
    assert all(np.array_equal(a.image, b.image) and a.time_s == b.time_s for a, b in zip(first, second, strict=True))
    assert source.num_frames == 8
    assert source.report["decoded_frames"] == 8


def test_leaving_early_closes_the_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_square(8))
    with open_source(path) as source:
        next(iter(source))
    path.unlink()
    assert not path.exists()


def test_variable_frame_rate_keeps_true_times(tmp_path):
    pts = [0, 40, 50, 200, 1000, 1010, 1500]
    path = write_video(tmp_path / "vfr.mkv", moving_square(7), pts_ms=pts)
    times = [frame.time_s for frame in open_source(path)]
    np.testing.assert_allclose(times, np.array(pts) / 1000, atol=1e-3)


def test_time_starts_at_zero_even_if_the_stream_does_not(tmp_path):
    path = write_video(tmp_path / "late.mkv", moving_square(4), pts_ms=[5000, 5033, 5067, 5100])
    times = [frame.time_s for frame in open_source(path)]
    assert times[0] == 0
    assert times[-1] == pytest.approx(0.1, abs=2e-3)


def test_avi_has_no_presentation_times_but_gets_even_ones(tmp_path):
    source = open_source(write_video(tmp_path / "a.avi", moving_square(12)))
    np.testing.assert_allclose([frame.time_s for frame in source], np.arange(12) / 30, atol=1e-6)


@pytest.mark.parametrize("degrees", [90, 180])
def test_rotation_is_applied(tmp_path, degrees):
    images = moving_square(4)
    path = write_video(tmp_path / "turned.mp4", images)
    plain = next(iter(open_source(path))).image
    turn_mp4(path, degrees)
    source = open_source(path)
    turned = next(iter(source)).image
    # A matrix of +90° shows the stored picture turned clockwise.
    assert np.array_equal(turned, np.rot90(plain, -degrees // 90))
    assert (source.height, source.width) == turned.shape[:2]


@pytest.mark.parametrize(
    ("codec", "pixel_format", "name"),
    [
        ("ffv1", "yuv420p10le", "ten_bit.mkv"),
        ("ffv1", "gray", "grey.mkv"),
        ("ffv1", "bgra", "alpha.mkv"),
        ("mpeg4", "yuv420p", "part2.mp4"),
    ],
)
def test_every_pixel_format_becomes_rgb(tmp_path, codec, pixel_format, name):
    images = [np.repeat(texture(i, 64, 96)[..., :1], 3, -1) for i in range(3)]
    path = write_video(tmp_path / name, images, codec=codec, pixel_format=pixel_format)
    frames = list(open_source(path))
    assert frames[0].image.shape == (64, 96, 3)
    assert frames[0].image.dtype == np.uint8
    assert np.abs(frames[1].image.astype(int) - images[1]).mean() < 10


def test_odd_sizes_are_kept(tmp_path):
    images = [texture(i, 67, 101) for i in range(3)]
    path = write_video(tmp_path / "odd.mkv", images, codec="ffv1", pixel_format="bgra")
    frame = next(iter(open_source(path)))
    assert np.array_equal(frame.image, images[0])


def test_4k_is_scaled_down_with_its_intrinsics(tmp_path):
    image = texture(0, 2160, 3840, 40)
    path = write_video(tmp_path / "4k.mp4", [image, image])
    source = open_source(path, max_side=640)
    frame = next(iter(source))
    assert frame.image.shape == (360, 640, 3)
    full = open_source(path, max_side=3840)
    # The same ray hits the same uv in both.
    np.testing.assert_allclose(source.K[0, 0] / 640, full.K[0, 0] / 3840)
    np.testing.assert_allclose((source.K[0, 2] + 0.5) / 640, (full.K[0, 2] + 0.5) / 3840)


def test_assumed_intrinsics_follow_the_field_of_view(tmp_path):
    source = open_source(write_video(tmp_path / "a.mp4", moving_square(3)), fov_deg=90.0)
    assert source.report["intrinsics"] == "assumed"
    assert source.K[0, 0] == pytest.approx(80)  # half the width / tan 45°
    np.testing.assert_allclose(source.K[:2, 2], [79.5, 59.5])


def test_resampling_keeps_true_times_and_says_which_frames(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_square(30))
    source = open_source(path, fps=10.0)
    frames = list(source)
    assert [frame.source_index for frame in frames] == list(range(0, 30, 3))
    assert [frame.index for frame in frames] == list(range(10))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(10) / 10, atol=1e-6)
    assert source.report["source_frames"] == list(range(0, 30, 3))


def test_resampling_to_more_than_there_is_changes_nothing(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_square(10))
    source = open_source(path, fps=200.0)
    assert len(list(source)) == 10
    assert "source_frames" not in source.report


def test_max_frames(tmp_path):
    source = open_source(write_video(tmp_path / "a.mp4", moving_square(10)), max_frames=4)
    assert len(list(source)) == 4
    assert source.num_frames == 4


# -- broken files ------------------------------------------------------------------------------------------------------


def refused(path, match, **options) -> MediaError:
    """Opening and reading it raises a MediaError that names the file and a mend."""
    with pytest.raises(MediaError, match=match) as caught:
        list(open_source(path, **options))
    assert path.name in str(caught.value.where)
    assert caught.value.mend
    return caught.value


def test_missing(tmp_path):
    refused(tmp_path / "nothing.mp4", "does not exist")


def test_empty(tmp_path):
    path = tmp_path / "empty.mp4"
    path.touch()
    refused(path, "empty")


@pytest.mark.parametrize("name", ["noise.mp4", "notes.txt", "notes.mp4"])
def test_not_a_video(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"just some words\n" * 100 if "notes" in name else np.random.default_rng(0).bytes(5000))
    refused(path, "video")


def test_a_single_frame(tmp_path):
    refused(write_video(tmp_path / "one.mp4", moving_square(1)), "1 readable frame")


def test_a_picture_is_no_clip(tmp_path):
    from PIL import Image

    path = tmp_path / "picture.png"
    Image.fromarray(texture(0, 64, 64)).save(path)
    refused(path, "single picture")


def test_tiny_frames(tmp_path):
    images = [texture(i, 8, 12) for i in range(3)]
    refused(write_video(tmp_path / "tiny.mkv", images, codec="ffv1", pixel_format="bgra"), "too small")


def test_header_missing_because_cut_off(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_square(30))
    cut_off(path, 0.5)
    refused(path, "cut off")


@pytest.mark.parametrize(("name", "options"), [("a.mp4", {"movflags": "faststart"}), ("a.mkv", {}), ("a.avi", {})])
def test_cut_off_names_the_frame_and_the_rest_can_be_kept(tmp_path, name, options):
    path = write_video(tmp_path / name, moving_square(60), options=options)
    cut_off(path, 0.6)
    error = refused(path, "cut off|ends after|damaged|decoded")
    assert "frame" in str(error.where)
    source = open_source(path, allow_partial=True)
    kept = list(source)
    assert 5 < len(kept) < 59
    assert source.report["partial"]
    assert source.report["warnings"]


def test_damage_in_the_middle_names_the_frame_and_the_frames_before_can_be_kept(tmp_path):
    images = moving_square(60)
    path = write_video(tmp_path / "a.mp4", images)
    damage(path, 0.5)
    error = refused(path, "damaged|decoded")
    frame = int(str(error.where).split("frame ")[1])
    source = open_source(path, allow_partial=True)
    kept = list(source)
    assert len(kept) == frame
    assert source.report["partial"]
    for image, got in zip(images, kept, strict=False):
        assert np.abs(got.image.astype(int) - image).mean() < 12


def test_wrong_frame_count_in_the_header_is_ignored_and_noted(tmp_path):
    path = write_video(tmp_path / "a.avi", moving_square(20), codec="mpeg4")
    data = bytearray(path.read_bytes())
    at = data.index(b"avih") + 8 + 16
    assert int.from_bytes(data[at : at + 4], "little") == 20
    strh = data.index(b"strh") + 8 + 32
    data[at : at + 4] = data[strh : strh + 4] = (35).to_bytes(4, "little")
    path.write_bytes(data)
    source = open_source(path)
    assert len(list(source)) == 20
    if source.report["header_frames"] != 20:
        assert any("header" in warning for warning in source.report["warnings"])


def test_all_black_is_a_video_like_any_other(tmp_path):
    path = write_video(tmp_path / "black.mp4", [np.zeros((64, 96, 3), np.uint8)] * 5)
    assert all(frame.image.max() < 20 for frame in open_source(path))


def test_options_are_checked(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_square(3))
    for bad in (
        {"max_side": 4},
        {"fps": 0.0},
        {"max_frames": 1},
        {"frame_rate": -1.0},
        {"fov_deg": 200.0},
        {"colour": 1},
    ):
        with pytest.raises(ConfigError):
            open_source(path, **bad)


def test_fps_that_leaves_one_frame_is_refused(tmp_path):
    refused(write_video(tmp_path / "a.mp4", moving_square(5)), "only 1 frame", fps=0.5)
