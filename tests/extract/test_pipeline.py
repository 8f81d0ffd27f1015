"""One clip from pictures to captioned traces, and what its provenance says."""

import itertools
import json

import numpy as np
import pytest
from made_media import BRIDGE, boards_clip, moving_square, needs_shared, write_rgbd, write_video
from PIL import Image

from traceworld.errors import ConfigError, DepthError, MediaError
from traceworld.extract.config import ExtractConfig
from traceworld.extract.keypoints import grid_points
from traceworld.extract.pipeline import extract_clip, failed_stage, read_images
from traceworld.geometry.cameras import project
from traceworld.perception.sources import open_source
from traceworld.traces.media import read_depth, read_frame

SMALL = ExtractConfig(num_keypoints=48, tau_moving_px=20.0)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("v") / "square.mp4", moving_square(24, step=4))


@pytest.fixture(scope="module")
def clip(video):
    return extract_clip(video, SMALL)


def test_a_plain_video_gives_traces_without_metres(clip, video):
    assert clip.clip_id == "square"
    assert clip.num_frames == 24
    assert not clip.metric
    assert (clip.media.kind, clip.media.path) == ("video", str(video))
    assert clip.traces.moving.any()
    np.testing.assert_allclose(clip.time_s, np.arange(24) / 30, atol=1e-6)


def test_provenance_says_how_and_is_plain_json(clip, video):
    told = json.loads(json.dumps(dict(clip.provenance)))
    assert told["source"]["uri"] == str(video)
    assert told["source"]["intrinsics"] == "assumed"
    assert told["config_hash"] == SMALL.hash
    assert told["config"]["num_keypoints"] == 48
    assert told["captions"]["source"] == "template"
    assert told["quality"]["keypoints"] == clip.traces.num_keypoints
    assert told["status"] == "ok"
    assert all({"name", "version", "licence"} <= set(backend) for backend in told["backends"].values())


def test_fine_events_tile_the_clip(clip):
    fine = [(event.start, event.end) for event in clip.events if event.level == 0]
    assert fine[0][0] == 0
    assert fine[-1][1] == 24
    assert all(a[1] == b[0] for a, b in itertools.pairwise(fine))
    assert all(event.caption and event.before and event.interaction and event.change for event in clip.events)


def test_the_same_input_gives_the_same_clip(clip, video):
    again = extract_clip(video, SMALL)
    assert np.array_equal(again.traces.xyz_world, clip.traces.xyz_world, equal_nan=True)
    assert np.array_equal(again.traces.visible, clip.traces.visible)
    assert again.events == clip.events
    assert again.provenance == clip.provenance


def test_rgbd_gives_metres_and_the_task(tmp_path):
    images, depths = boards_clip(12, 240, 180, step_m=0.012)
    folder = write_rgbd(tmp_path / "boards", images, depths)
    clip = extract_clip(folder, SMALL, "named")
    assert clip.clip_id == "named"
    assert clip.metric
    assert clip.task == "move the board"
    assert all(event.caption.startswith("move the board") for event in clip.events)
    known = clip.traces.xyz_world[clip.traces.valid]
    assert 0.4 < known[:, 2].min() < known[:, 2].max() < 1.3
    # Pictures of the stored clip are those that were tracked.
    assert np.array_equal(read_frame(clip, 3), images[3])
    assert np.nanmax(np.abs(read_depth(clip, 3) - depths[3])) < 0.001


def test_resampled_clips_know_their_source_frames(tmp_path):
    images = moving_square(30, step=3)
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"f{number}.png")
    config = ExtractConfig(num_keypoints=32, fps=10.0)
    clip = extract_clip(folder, config)
    assert clip.num_frames == 10
    assert clip.media.files[:3] == ("f0.png", "f3.png", "f6.png")
    assert np.array_equal(read_frame(clip, 2), images[6])
    path = write_video(tmp_path / "v.mkv", images, codec="ffv1", pixel_format="bgra")
    film = extract_clip(path, config)
    assert film.provenance["source_frames"] == list(range(0, 30, 3))
    assert np.array_equal(read_frame(film, 2), images[6])


def test_black_pictures_give_a_clip_without_keypoints(tmp_path):
    path = write_video(tmp_path / "black.mp4", [np.zeros((96, 128, 3), np.uint8)] * 8)
    clip = extract_clip(path, SMALL)
    assert clip.traces.num_keypoints == 0
    assert clip.provenance["status"] != "ok"
    assert [(event.start, event.end) for event in clip.events] == [(0, 8)]


def test_a_still_picture_gives_one_event_and_nothing_moving(tmp_path):
    path = write_video(tmp_path / "still.mp4", moving_square(1) * 10)
    clip = extract_clip(path, SMALL)
    assert clip.provenance["status"] == "static_clip"
    assert not clip.traces.moving.any()
    assert len(clip.events) == 1
    assert "nothing moves" in clip.events[0].caption


def test_depth_that_is_empty_makes_it_a_plain_video(tmp_path):
    images, depths = boards_clip(6)
    clip = extract_clip(write_rgbd(tmp_path / "c", images, [np.zeros_like(d) for d in depths]), SMALL)
    assert not clip.metric
    assert any("plain RGB" in warning for warning in clip.provenance["warnings"])


def test_failures_know_their_stage(tmp_path, video):
    with pytest.raises(MediaError) as caught:
        extract_clip(tmp_path / "absent.mp4")
    assert failed_stage(caught.value) == "source"
    with pytest.raises(ConfigError) as caught:
        extract_clip(video, ExtractConfig(captions="poet"))
    assert failed_stage(caught.value) == "config"
    images, depths = boards_clip(6)
    folder = write_rgbd(tmp_path / "c", images * 4, depths * 4)
    (folder / "depth" / "0001.png").write_bytes(b"damaged")
    with pytest.raises(DepthError) as caught:
        extract_clip(folder, SMALL)
    assert failed_stage(caught.value) == "source"
    assert failed_stage(ValueError()) == ""


def test_read_images_stops_at_the_last_one(video):
    with open_source(video) as source:
        images = read_images(source, [7, 2, 2])
        frames = list(source)
    assert np.array_equal(images[0], frames[7].image)
    assert np.array_equal(images[1], frames[2].image)
    assert len(images) == 3


@pytest.mark.shared_data
@needs_shared(BRIDGE)
def test_the_real_robot_clip():
    clip = extract_clip(BRIDGE, ExtractConfig(max_frames=12, num_keypoints=64))
    assert clip.metric
    assert clip.task == "it has opened the drawer"
    assert any("not registered" in warning for warning in clip.provenance["warnings"])
    assert clip.events
    depth_m = read_depth(clip, 5)
    assert depth_m is not None
    assert depth_m.shape == (480, 640)
    assert np.isfinite(depth_m).mean() > 0.8


def test_a_regular_grid_may_be_followed_instead_of_entities(video):
    clip = extract_clip(video, ExtractConfig(num_keypoints=64, grid=8, tau_moving_px=20.0))
    traces = clip.traces
    assert traces.num_keypoints == 64
    assert (traces.query_frame == 0).all()
    seen = project(traces.xyz_world[0].astype(np.float64), clip.cameras.K[0], clip.cameras.cam_from_world[0])
    np.testing.assert_allclose(seen[:, :2], grid_points(8, 160, 120), atol=1e-3)
    on_square = ((seen[:, :2] > [14, 34]) & (seen[:, :2] < [46, 66])).all(1)
    assert (traces.part_id[on_square] >= 0).all()
    assert traces.moving[on_square].all()
    assert not traces.moving[~on_square & (seen[:, 1] > 90)].any()
    assert clip.provenance["config"]["grid"] == 8
