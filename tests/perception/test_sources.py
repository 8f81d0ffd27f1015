"""What a path is taken for, the frame contract, and pictures of stored RGB-D clips."""

import subprocess
import sys

import numpy as np
import pytest
from made_media import boards_clip, moving_square, render_boxes, write_rgbd, write_video
from PIL import Image

from traceworld.errors import InvalidInputError, MediaError
from traceworld.perception import clip_media
from traceworld.perception.interfaces import Frame, FrameSource
from traceworld.perception.source_base import StrictClock, capped_size
from traceworld.perception.sources import clip_kind, is_truth, open_source
from traceworld.traces.media import read_depth, read_frame
from traceworld.traces.types import Cameras, Clip, Media, Traces

IMAGES, DEPTHS = boards_clip(6)


def test_kinds(tmp_path):
    video = write_video(tmp_path / "a.mp4", moving_square(3))
    rgbd = write_rgbd(tmp_path / "rgbd", IMAGES, DEPTHS)
    assert clip_kind(video) == "video"
    assert clip_kind(rgbd) == "rgbd"
    assert clip_kind(rgbd / "color") == "frames"
    assert clip_kind(tmp_path) is None  # a folder of clips, although it may hold a cover picture
    Image.fromarray(IMAGES[0]).save(tmp_path / "cover.jpg")
    assert clip_kind(tmp_path) is None
    assert clip_kind(tmp_path / "absent.txt") is None
    for path in (video, rgbd, rgbd / "color"):
        with open_source(path) as source:
            assert isinstance(source, FrameSource)
            assert source.kind == clip_kind(path)


def test_depth_without_its_description_does_not_pass_for_plain_pictures(tmp_path):
    folder = write_rgbd(tmp_path / "rgbd", IMAGES, DEPTHS)
    (folder / "clip.json").unlink()
    assert clip_kind(folder) == "rgbd"
    with pytest.raises(MediaError, match=r"clip\.json: is missing"):
        open_source(folder)


def test_truth_folders_and_what_is_in_them(tmp_path):
    folder = write_rgbd(tmp_path / "e.truth", IMAGES, DEPTHS)
    assert is_truth(folder)
    assert clip_kind(folder) is None
    for path in (folder, folder / "color"):
        with pytest.raises(MediaError, match="exact answers"):
            open_source(path)


def test_a_frame_needs_depth_of_its_own_size():
    image = np.zeros((20, 30, 3), np.uint8)
    with pytest.raises(InvalidInputError, match="depth of size"):
        Frame(0, 0.0, image, np.zeros((20, 20), np.float32))


@pytest.mark.parametrize(
    ("size", "cap", "expected"),
    [
        ((640, 480), 960, (640, 480)),
        ((1920, 1080), 960, (960, 540)),
        ((1080, 1920), 960, (540, 960)),
        ((1001, 10), 100, (100, 1)),
    ],
)
def test_capped_size(size, cap, expected):
    assert capped_size(*size, cap) == expected


def test_the_clock_only_runs_forward():
    clock = StrictClock(0.1)
    times = [clock(t) for t in (5.0, 5.1, None, 5.05, 5.5)]
    np.testing.assert_allclose(times, [5.0, 5.1, 5.2, 5.3, 5.5])
    assert clock.mended == 2


def stored_clip(source, provenance):
    T = len(source.files)
    cameras = Cameras.still(source.K, source.width, source.height, T)
    return Clip("c", np.arange(T) / 10, cameras, Traces.empty(T), Media("rgbd", source.uri), provenance=provenance)


def test_stored_clips_show_the_depth_that_was_tracked(tmp_path, monkeypatch):
    """Registered with the recorded calibration, without searching again, at the size of the clip's cameras."""
    rig = np.eye(4)
    rig[0, 3] = 0.02
    K_depth = np.array([[120.0, 0, 79.5], [0, 120.0, 59.5], [0, 0, 1]])
    depths = [render_boxes(K_depth, np.linalg.inv(rig), 160, 120, 0.004 * k)[1] for k in range(6)]
    folder = write_rgbd(
        tmp_path / "c", IMAGES, depths, depth_registered=False, depth_K=K_depth.tolist(), color_from_depth=rig.tolist()
    )
    source = open_source(folder, max_side=120)
    frames = list(source)
    monkeypatch.setattr("traceworld.perception.rgbd_folder.check_registration", None)  # calling it would fail
    clip = stored_clip(source, {"source": source.report})
    for k in (0, 4):
        assert np.array_equal(read_frame(clip, k), frames[k].image)
        assert np.array_equal(read_depth(clip, k), frames[k].depth_m, equal_nan=True)


def test_stored_clips_without_depth_and_resampled_ones(tmp_path):
    source = open_source(write_rgbd(tmp_path / "c", IMAGES, [np.zeros_like(d) for d in DEPTHS]))
    clip = stored_clip(source, {"source": source.report})
    assert read_depth(clip, 1) is None
    assert clip_media.RegisteredRgbdReader().frames(clip) == list(range(6))
    resampled = stored_clip(source, {"source": source.report, "source_frames": [0, 5, 1, 2, 3, 4]})
    assert np.array_equal(read_frame(resampled, 1), IMAGES[5])


def test_a_clip_of_unknown_make_is_settled_anew(tmp_path):
    source = open_source(write_rgbd(tmp_path / "c", IMAGES, DEPTHS))
    clip = stored_clip(source, {})
    assert np.nanmax(np.abs(read_depth(clip, 2) - DEPTHS[2])) < 0.001


@pytest.mark.parametrize(
    "opening",
    [
        "from traceworld.evaluation.forecast import SlotChoice, choose_slots as go\narguments = path, SlotChoice(None)",
        "from traceworld.training.sources import open_training_data as go\n"
        "from traceworld.training.config import TrainConfig\narguments = TrainConfig((path,), path), (8, 8)",
        "from traceworld.viewer.server import view as go\narguments = (path,)",
    ],
    ids=["evaluation", "training", "viewer"],
)
def test_rooms_that_open_stores_read_registered_depth(tmp_path, opening):
    """In a fresh process that imports nothing else: whoever opens a store sees depth as extraction saw it."""
    code = f"path = {str(tmp_path / 'none')!r}\n{opening}\n" + (
        "from traceworld.errors import DatasetError\nfrom traceworld.traces import media\n"
        "try:\n    go(*arguments)\nexcept DatasetError:\n    print(type(media._READERS['rgbd']).__name__)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == "RegisteredRgbdReader", out.stderr
