import hashlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from traceworld.errors import ConfigError
from traceworld.geometry.cameras import project
from traceworld.sim import corpus
from traceworld.sim.corpus import build_corpus
from traceworld.traces.media import frames_with_pictures, read_depth, read_frame
from traceworld.traces.store import open_dataset

pytestmark = pytest.mark.render

TASKS = ("drawer-open-v3", "reach-v3")
SMALL = {
    "image_size": (96, 72),
    "pictures_per_episode": 3,
    "num_points": 48,
    "trace_stride": 4,
    "max_steps": 60,
    "block": 2,
}


def _digest(folder):
    whole = hashlib.sha256()
    for part in ("clips", "media"):
        for file in sorted(path for path in (folder / part).rglob("*") if path.is_file()):
            whole.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return whole.hexdigest()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus") / "here"
    described = build_corpus(out, TASKS, 3, seed=5, workers=0, **SMALL)
    assert described["counts"]["clips"] == 6
    return out


def test_opens_with_moving_points_and_text(built):
    dataset = open_dataset(built)
    assert len(dataset) == 6
    assert dataset.tasks == ["move the gripper to the goal", "open the drawer"]
    for clip in dataset:
        assert clip.traces.num_keypoints == 48
        assert 0.5 < clip.traces.moving.mean() <= 0.8
        assert clip.traces.valid.all()
        assert 0.3 < clip.traces.visible.mean() < 1
        assert np.allclose(np.diff(clip.time_s), 4 * 0.0125)
        assert clip.provenance["task"] in TASKS
        assert {"seed", "camera", "success", "versions"} <= set(clip.provenance)


def test_pictures_and_depth_show_what_the_traces_say(built):
    for clip in open_dataset(built):
        frames = frames_with_pictures(clip)
        assert frames[0] == 0
        assert len(frames) == 3
        spot = project(clip.traces.xyz_world.astype(float), clip.cameras.K, clip.cameras.cam_from_world)
        for frame in frames:
            assert read_frame(clip, int(frame)).shape == (72, 96, 3)
            depth = read_depth(clip, int(frame))
            seen = np.flatnonzero(clip.traces.visible[frame] & ~clip.traces.moving)
            x, y = np.rint(spot[frame, seen, :2]).astype(int).clip(0, [95, 71]).T
            error = np.abs(depth[y, x] - spot[frame, seen, 2])
            assert np.nanmedian(error) < 0.01


def test_points_are_seen_where_they_were_chosen(built):
    for clip in open_dataset(built):
        n = np.arange(clip.traces.num_keypoints)
        assert clip.traces.visible[clip.traces.query_frame, n].all()


def test_cameras_differ_between_episodes_and_stand_still(built):
    clips = list(open_dataset(built))
    assert len({clip.cameras.cam_from_world[0].tobytes() for clip in clips}) == len(clips)
    assert all(clip.cameras.static for clip in clips)


def test_two_workers_and_a_longer_second_run_give_the_same_bytes(built, tmp_path):
    build_corpus(tmp_path / "there", TASKS, 2, seed=5, workers=2, **SMALL)
    build_corpus(tmp_path / "there", TASKS, 3, seed=5, workers=0, **SMALL)
    assert _digest(tmp_path / "there") == _digest(built)


def test_finished_items_are_not_simulated_again(built, monkeypatch):
    monkeypatch.setattr(corpus, "build_item", lambda *args: pytest.fail("simulated again"))
    build_corpus(built, TASKS, 3, seed=5, workers=0, **SMALL)


def test_other_settings_in_the_same_folder_are_refused(built):
    with pytest.raises(ConfigError, match="other settings"):
        build_corpus(built, TASKS, 3, seed=6, workers=0, **SMALL)


def test_killed_run_resumes_to_the_same_bytes(built, tmp_path):
    out = tmp_path / "killed"
    code = (
        "from traceworld.sim.corpus import build_corpus\n"
        f"build_corpus({str(out)!r}, {TASKS!r}, 3, seed=5, workers=0, **{SMALL!r})"
    )
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(out.glob("status/*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 1 <= len(list(out.glob("status/*.json"))) < 4
    build_corpus(out, TASKS, 3, seed=5, workers=0, **SMALL)
    assert _digest(out) == _digest(built)


def test_failing_block_is_noted_and_the_rest_goes_on(tmp_path, monkeypatch):
    make = corpus.build_clip

    def fail_once(world, *args):
        if world.task == "reach-v3":
            raise ValueError("physics exploded")
        return make(world, *args)

    monkeypatch.setattr(corpus, "build_clip", fail_once)
    counts = build_corpus(tmp_path / "c", TASKS, 1, workers=0, **SMALL)["counts"]
    assert (counts["items_ok"], counts["items_failed"]) == (1, 1)
    failed = [item for item in open_dataset(tmp_path / "c").manifest if item["status"] == "failed"]
    assert "physics exploded" in failed[0]["error"]
    monkeypatch.undo()
    assert build_corpus(tmp_path / "c", TASKS, 1, workers=0, **SMALL)["counts"]["items_ok"] == 2


def test_bad_options():
    with pytest.raises(ConfigError, match="num_point"):
        build_corpus("nowhere", TASKS, 1, num_point=3)
    with pytest.raises(ConfigError, match="block"):
        build_corpus("nowhere", TASKS, 1, block=0)
