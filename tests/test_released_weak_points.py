"""Weak points of the released TraceExtract that are not tested elsewhere: each is set up here and does no harm.

The numbers are those of the list in docs/fidelity.md.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from made_media import write_video
from scripted_chat import GOOD, fails, says, serving
from trace_clips import make_clip, picture, write_dataset

from traceworld.errors import ConfigError, ExtractionError
from traceworld.extract.config import ExtractConfig
from traceworld.extract.jobs import extract_many
from traceworld.geometry.motion import trace_diameter
from traceworld.perception.backends.endpoint import EndpointCaptioner
from traceworld.perception.conventions import fit_size
from traceworld.perception.interfaces import CaptionRequest, PartMotion
from traceworld.traces.media import write_pictures
from traceworld.traces.store import open_dataset
from traceworld.traces.traceextract import windows
from traceworld.traces.traceextract.from_clips import export_traceextract
from traceworld.traces.traceextract.to_clips import import_traceextract
from traceworld.traces.writer import DatasetWriter


def test_portrait_pictures_are_fitted_whole():
    """1: the shape of the picture is kept to a patch, so nothing is cropped and one factor maps back on each axis."""
    for width, height in ((1080, 1920), (480, 640), (1920, 1080)):
        w, h = fit_size(width, height, 518, 14)
        assert max(w, h) == 518
        assert abs(w / h - width / height) < 14 / min(w, h)


def test_motion_after_a_long_rest_counts():
    """2: a point that rests for 100 frames and then travels 412 px has moved 412 px."""
    path = np.zeros((140, 1, 3))
    path[..., 2] = 1
    path[100:, 0, 0] = np.linspace(0, 412, 40)
    assert trace_diameter(path, np.ones((140, 1), bool))[0] == pytest.approx(412, rel=0.02)


def test_counts_do_not_depend_on_the_size_of_the_picture():
    """14: displacement and picture are measured in the same pixels."""
    clip = make_clip(T=40, N=20, step_s=0.1, occluded=0.0)
    large = windows.movement_counts(clip.traces, clip.cameras)
    K = clip.cameras.K * [[[0.5], [0.5], [1]]]
    small = windows.movement_counts(clip.traces, replace(clip.cameras, K=K, width=320, height=240))
    assert {k: int(v) for k, v in large.items()} == {k: int(v) for k, v in small.items()}
    assert 0 < large["n_above_005"] < large["total_unique_kps"] == 20


def test_the_first_episodes_are_always_the_same(tmp_path):
    """23: `max_episodes` takes them by name."""
    for name in ("c", "a", "b"):
        (tmp_path / "in" / name / "samples").mkdir(parents=True)
        (tmp_path / "in" / name / "images.npy").write_bytes(b"")
    for run in range(2):
        report = import_traceextract([tmp_path / "in"], tmp_path / str(run), max_episodes=2)
        assert [name for name, _ in report.failures] == ["a", "b"]


def test_rows_look_no_further_than_they_can_use(tmp_path, monkeypatch):
    """25: the cost of a frame is bounded; with the bound the frame-aligned windows and the near steps are as without."""
    clip = make_clip(T=60, N=6, step_s=0.1)
    made = []
    for number, reach in enumerate((1024, 40)):
        monkeypatch.setattr(windows, "REACH", reach)
        (tmp_path / str(number)).mkdir()
        made.append(
            windows.clip_rows(clip.traces, clip.cameras, np.array([0, 10]), tmp_path / str(number), 33, 9).samples
        )
    for name in ("raw_traj", "raw_valid_steps", "keypoints", "traj_history"):
        np.testing.assert_array_equal(made[0][name], made[1][name])
    both = made[0]["valid_steps"] & made[1]["valid_steps"]
    assert both.sum() >= made[1]["valid_steps"].sum() - len(both)  # the last sample before the bound may be cut short
    assert both.sum() > 3 * len(both)


def test_a_way_is_stored_once(tmp_path):
    """26: 24 frames of 12 points take a small part of the room of the episode's windows."""
    folder = write_dataset(tmp_path / "d", clips=1, pictures=range(24), T=24, step_s=0.1)
    export_traceextract(open_dataset(folder), tmp_path / "out")
    windows_bytes = sum(p.stat().st_size for p in (tmp_path / "out" / "clip-0" / "samples").glob("*.npy"))
    assert sum(p.stat().st_size for p in (folder / "clips").glob("*.parquet")) < windows_bytes / 15


def request(index=0):
    part = PartMotion(0, 5, (0.1, 0.0, 0.0), 0.12, True, (0.0, 0.0), (0.5, 0.0))
    return CaptionRequest((part,), 1.0 + index, 3.0, index, 2, images=(picture(0), picture(1), picture(2)))


def captioner(url, folder):
    return EndpointCaptioner(f"some/model@{url}/v1", retries=2, backoff_s=0.01, cache=str(folder))


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_wrong_key_or_request_is_asked_once_and_nothing_is_kept(tmp_path, status):
    """33, 34: no caption comes of it, none is kept, and no retry is made."""
    with serving(fails(status, "no such key"), says(json.dumps(GOOD))) as (url, script):
        with pytest.raises(ConfigError, match="no such key"):
            captioner(url, tmp_path).caption(request())
        assert len(script.requests) == 1
        assert list(tmp_path.rglob("*.json")) == []
        assert captioner(url, tmp_path).caption(request()).caption == GOOD["caption"]


def test_a_server_that_stays_down_fails_the_clip_and_a_passing_fault_does_not(tmp_path):
    """33, 34: what may pass is tried again; what does not pass is no empty caption."""
    with serving(fails(500), fails(429), says(json.dumps(GOOD))) as (url, script):
        assert captioner(url, tmp_path / "a").caption(request()).caption == GOOD["caption"]
        assert len(script.requests) == 3
    with serving(fails(503)) as (url, script):
        with pytest.raises(ExtractionError, match="3 attempts"):
            captioner(url, tmp_path / "b").caption(request())
        assert list((tmp_path / "b").rglob("*.json")) == []


def test_captions_are_kept_by_what_was_asked(tmp_path):
    """35: another span of frames is another question, the same one is not asked again."""
    with serving(says(json.dumps(GOOD))) as (url, script):
        for index in (0, 1, 0):
            captioner(url, tmp_path).caption(request(index))
        shifted = replace(request(), images=(picture(3), picture(4), picture(5)))
        captioner(url, tmp_path).caption(shifted)
        assert len(script.requests) == 3


def test_a_clip_without_motion_is_done_and_stays_done(tmp_path):
    """16: it is extracted, says that nothing moves, and a second run does not take it up again."""
    still = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    write_video(tmp_path / "still.mp4", [still] * 4)
    config = ExtractConfig(num_keypoints=16)
    first = extract_many([tmp_path / "still.mp4"], tmp_path / "d", config, progress=False)
    second = extract_many([tmp_path / "still.mp4"], tmp_path / "d", config, progress=False)
    assert len(open_dataset(tmp_path / "d").manifest) == 1
    assert [item.status for item in first.items] != ["failed"]
    assert [item.resumed for item in second.items] == [True]


def test_exports_of_long_clips_leave_no_pile_behind(tmp_path):
    """25: rows go to disk as they are made, and what they went through is gone afterwards."""
    writer = DatasetWriter(tmp_path / "d")
    media = write_pictures(writer.media_folder("x"), {f: picture(f) for f in range(20)}, relative_to=tmp_path / "d")
    writer.write_item("x", [replace(make_clip("x", T=20, step_s=0.1), media=media)])
    writer.finalise()
    export_traceextract(open_dataset(tmp_path / "d"), tmp_path / "out")
    assert not list((tmp_path / "out").rglob(".*"))
