"""200 inputs, 60 of them damaged in 20 ways, and workers that are killed at random: nothing is lost, nothing comes twice."""

import json
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
from made_media import boards_clip, cut_off, damage, moving_square, write_rgbd, write_video
from PIL import Image

from traceworld.extract.config import ExtractConfig
from traceworld.extract.jobs import extract_many
from traceworld.traces.store import open_dataset

pytestmark = pytest.mark.slow

QUICK = ExtractConfig(num_keypoints=16, max_frames=6, tau_moving_px=15.0)
GOOD, BAD = 140, 60


def rewrite(file, change):
    fields = json.loads(file.read_text())
    change(fields)
    file.write_text(json.dumps(fields))


def zero_out(file):
    file.write_bytes(bytes(file.stat().st_size))


def only_first(folder, kept):
    for file in sorted(folder.iterdir())[kept:]:
        file.unlink()


VIDEO_FAULTS = {
    "empty": lambda file: file.write_bytes(b""),
    "words": lambda file: file.write_text("no video"),
    "zeros": zero_out,
    "header only": lambda file: cut_off(file, 0.02),
    "half": lambda file: cut_off(file, 0.5),
    "no beginning": lambda file: file.write_bytes(file.read_bytes()[40:]),
    "index overwritten": lambda file: damage(file, 0.9, 100_000),
    "a picture": lambda file: Image.new("RGB", (8, 8)).save(file, format="BMP"),
    "one frame": lambda file: write_video(file, moving_square(1)),
    "not there": lambda file: file.unlink(),
}
FOLDER_FAULTS = {
    "clip.json is words": lambda folder: (folder / "clip.json").write_text("{"),
    "clip.json is a list": lambda folder: (folder / "clip.json").write_text("[]"),
    "K has two rows": lambda folder: rewrite(folder / "clip.json", lambda f: f.update(color_K=[[1, 0, 0], [0, 1, 0]])),
    "K is NaN": lambda folder: rewrite(folder / "clip.json", lambda f: f.update(color_K=[[float("nan")] * 3] * 3)),
    "depth unit is zero": lambda folder: rewrite(folder / "clip.json", lambda f: f.update(depth_unit_m=0)),
    "8-bit depth": lambda folder: shutil.copy(folder / "color" / "0000.png", folder / "depth" / "0000.png"),
    "a pose of one number": lambda folder: rewrite(folder / "clip.json", lambda f: f.update(cam_from_world=[[1]])),
    "a cut picture": lambda folder: cut_off(folder / "color" / "0002.png", 0.4),
    "a cut depth picture": lambda folder: cut_off(folder / "depth" / "0002.png", 0.4),
    "no colour pictures": lambda folder: only_first(folder / "color", 0),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    video = write_video(folder / "video.mp4", moving_square(8, step=4))
    rgbd = write_rgbd(folder / "rgbd", *boards_clip(6, step_m=0.012))
    good, bad = [], []
    for number in range(GOOD):
        if number % 4:
            good.append(Path(shutil.copy(video, folder / f"good{number}.mp4")))
        else:
            good.append(Path(shutil.copytree(rgbd, folder / f"good{number}")))
    each = BAD // (len(VIDEO_FAULTS) + len(FOLDER_FAULTS))
    for number in range(each):
        for kind, spoil in VIDEO_FAULTS.items():
            bad.append(Path(shutil.copy(video, folder / f"bad {kind} {number}.mp4")))
            spoil(bad[-1])
        for kind, spoil in FOLDER_FAULTS.items():
            bad.append(Path(shutil.copytree(rgbd, folder / f"bad {kind} {number}")))
            spoil(bad[-1])
    mixed = [*good, *bad]
    np.random.default_rng(0).shuffle(mixed)
    return mixed, good, bad


@pytest.fixture(scope="module")
def serial(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("serial") / "out"
    return extract_many(inputs[0], out, QUICK, progress=False), out


class Killer(threading.Thread):
    """Kills a worker every so often, as the kernel does when memory is short."""

    def __init__(self, marker, times, seed=0):
        super().__init__(daemon=True)
        self.marker, self.times, self.rng = marker, times, np.random.default_rng(seed)
        self.killed, self.stop = 0, threading.Event()

    def workers(self):
        for process in psutil.process_iter(["cmdline"]):
            if self.marker in " ".join(process.info["cmdline"] or []):
                yield process.pid

    def run(self):
        while self.killed < self.times and not self.stop.wait(float(self.rng.uniform(0.3, 2.0))):
            if victims := sorted(self.workers()):
                try:
                    os.kill(int(self.rng.choice(victims)), signal.SIGKILL)
                    self.killed += 1
                except ProcessLookupError:
                    continue


def names(paths):
    return sorted(path.name for path in paths)


def by_name(report, status):
    return sorted(Path(item.input).name for item in report.items if item.status == status)


def test_every_fault_is_one(inputs, serial):
    """If this fails the list of faults is wrong, not the executor."""
    _, good, bad = inputs
    report, _ = serial
    assert by_name(report, "ok") == names(good)
    assert by_name(report, "failed") == names(bad)
    assert len(VIDEO_FAULTS) + len(FOLDER_FAULTS) == 20
    assert all(item.stage and item.error for item in report.items if item.status == "failed")


@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_killed_workers_cost_nothing_but_time(executor, inputs, serial, tmp_path):
    given, good, bad = inputs
    marker = "spawn_main"
    if executor == "ray":
        ray = pytest.importorskip("ray", reason="Ray is not installed; `make test-ray`")
        marker = "ray::Worker"
        path = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=path)
    killer = Killer(marker, times=10)
    killer.start()
    try:
        first = extract_many(
            given, tmp_path / "out", QUICK, executor=executor, workers=2, timeout_s=60.0, progress=False
        )
        killer.stop.set()
        killer.join()
        assert killer.killed >= 3
        before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out" / "clips").iterdir()}
        again = extract_many(
            given, tmp_path / "out", QUICK, executor=executor, workers=2, timeout_s=60.0, progress=False
        )
    finally:
        killer.stop.set()
        if executor == "ray":
            ray.shutdown()
    assert len(first.items) == len(given)
    # the first run may lose an item whose worker was killed twice; the second does those and the bad ones, nothing else
    assert by_name(again, "ok") == names(good)
    assert by_name(again, "failed") == names(bad)
    assert sorted(Path(item.input).name for item in again.items if not item.resumed) == by_name(first, "failed")
    now = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out" / "clips").iterdir()}
    assert before.items() <= now.items()  # what was there was not made again

    manifest = open_dataset(tmp_path / "out").manifest
    assert Counter(row["status"] for row in manifest) == {"ok": GOOD, "failed": BAD}
    assert len({row["item_id"] for row in manifest}) == GOOD + BAD
    assert all(row["stage"] and row["error"] for row in manifest if row["status"] == "failed")
    whole = {file.name: file.read_bytes() for file in (serial[1] / "clips").iterdir()}
    assert {file.name: file.read_bytes() for file in (tmp_path / "out" / "clips").iterdir()} == whole
