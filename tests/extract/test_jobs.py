"""Batches: every input accounted for, resumable to the byte, and nothing takes the others with it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made_media import boards_clip, cut_off, moving_square, write_rgbd, write_video

from traceworld.errors import ConfigError, DatasetError
from traceworld.extract import jobs
from traceworld.extract.config import ExtractConfig
from traceworld.extract.jobs import ExtractReport, extract_many
from traceworld.traces.store import open_dataset

QUICK = ExtractConfig(num_keypoints=24, max_frames=8, tau_moving_px=15.0)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Two good inputs and every kind of bad one."""
    folder = tmp_path_factory.mktemp("inputs")
    write_video(folder / "good.mp4", moving_square(10, step=4))
    images, depths = boards_clip(8, step_m=0.012)
    write_rgbd(folder / "boards", images, depths)
    write_video(folder / "black.mp4", [np.zeros((96, 128, 3), np.uint8)] * 6)
    write_video(folder / "still.mp4", moving_square(1) * 6)
    write_video(folder / "one.mp4", moving_square(1))
    write_video(folder / "cut.mp4", moving_square(30))
    cut_off(folder / "cut.mp4", 0.5)
    (folder / "empty.mp4").touch()
    (folder / "words.mp4").write_text("no video")
    write_rgbd(folder / "eight_bit", images, depths)
    (folder / "eight_bit" / "depth" / "0000.png").write_bytes(
        (folder / "eight_bit" / "color" / "0000.png").read_bytes()
    )
    return folder


@pytest.fixture(scope="module")
def batch(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "clips"
    return extract_many([inputs, inputs / "absent.mp4"], out, QUICK, progress=False), out


def of(report: ExtractReport, name: str):
    return next(item for item in report.items if Path(item.input).name == name)


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "clips").glob("*.parquet"))}


def test_every_input_is_accounted_for(batch):
    report, out = batch
    assert len(report.items) == 10
    assert (report.ok, report.skipped, report.failed) == (3, 1, 6)
    assert {item["item_id"]: item["status"] for item in open_dataset(out).manifest} == {
        item.item_id: item.status for item in report.items
    }
    assert sorted(open_dataset(out).clip_ids) == sorted(item.item_id for item in report.items if item.status == "ok")


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("one.mp4", "MediaError", "1 readable frame"),
        ("cut.mp4", "MediaError", "cut off"),
        ("empty.mp4", "MediaError", "is empty"),
        ("words.mp4", "MediaError", "not a video"),
        ("absent.mp4", "MediaError", "does not exist"),
        ("eight_bit", "DepthError", "one channel"),
    ],
)
def test_failures_name_stage_class_file_and_mend(batch, name, error, words):
    report, out = batch
    item = of(report, name)
    assert (item.status, item.stage) == ("failed", "source")
    assert item.error.startswith(error)
    assert words in item.error
    assert name in item.error
    assert item.error.endswith(")")  # the mend
    stored = next(row for row in open_dataset(out).manifest if row["item_id"] == item.item_id)
    assert (stored["stage"], stored["error"]) == (item.stage, item.error)


def test_nothing_to_follow_is_skipped_and_nothing_moving_is_noted(batch):
    report, _ = batch
    black, still = of(report, "black.mp4"), of(report, "still.mp4")
    assert black.status == "skipped"
    assert black.error
    assert still.status == "ok"
    assert still.error.startswith("static_clip")


def test_the_report_is_plain_json(batch):
    told = json.loads(json.dumps(dataclasses.asdict(batch[0])))
    assert told["ok"] == 3
    assert told["items"][0]["item_id"]


def test_a_second_run_does_nothing_again_and_a_new_config_does(inputs, batch, monkeypatch):
    report, out = batch
    before = shards(out)
    real = jobs.extract_clip
    seen = []

    def watched(path, *rest):
        seen.append(Path(path).name)
        return real(path, *rest)

    monkeypatch.setattr(jobs, "extract_clip", watched)
    good = [inputs / "good.mp4", inputs / "black.mp4", inputs / "empty.mp4"]
    again = extract_many(good, out, QUICK, progress=False, retry_failed=False)
    assert seen == []
    assert all(item.resumed for item in again.items)
    assert (again.ok, again.skipped, again.failed) == (1, 1, 1)
    assert of(again, "empty.mp4").error == of(report, "empty.mp4").error
    assert shards(out) == before
    extract_many(good, out, QUICK, progress=False)
    assert seen == ["empty.mp4"]  # failed ones are tried again unless told otherwise
    other = dataclasses.replace(QUICK, num_keypoints=12)
    extract_many(good[:1], out, other, progress=False)
    assert seen == ["empty.mp4", "good.mp4"]
    assert shards(out) != before
    extract_many(good[:1], out, QUICK, progress=False)
    assert shards(out) == before


def test_processes_give_the_same_bytes(inputs, batch, tmp_path):
    report = extract_many(
        [inputs / "good.mp4", inputs / "boards", inputs / "empty.mp4"],
        tmp_path / "out",
        QUICK,
        executor="processes",
        workers=2,
        progress=False,
    )
    assert (report.ok, report.failed) == (2, 1)
    assert [Path(item.input).name for item in report.items] == ["good.mp4", "boards", "empty.mp4"]
    serial = shards(batch[1])
    for name, data in shards(tmp_path / "out").items():
        assert serial[name] == data


def test_unforeseen_errors_are_recorded_and_the_batch_goes_on(inputs, tmp_path, monkeypatch, caplog):
    real = jobs.extract_clip

    def fragile(path, *rest):
        if Path(path).name == "still.mp4":
            raise ZeroDivisionError("a bug")
        return real(path, *rest)

    monkeypatch.setattr(jobs, "extract_clip", fragile)
    report = extract_many([inputs / "still.mp4", inputs / "good.mp4"], tmp_path / "out", QUICK, progress=False)
    assert (report.ok, report.failed) == (1, 1)
    error = of(report, "still.mp4").error
    assert "ZeroDivisionError: a bug" in error
    assert "unexpected" in error
    assert "test_jobs.py" in error


def test_a_worker_that_dies_or_hangs_fails_its_item_only(inputs, tmp_path, monkeypatch):
    from traceworld.extract.workers import Loss

    def stand_in(items, work, workers, timeout_s, worn):
        for job in items:
            if "one" in job.item_id:
                yield Loss(job, "died", -9, 1.0)
            elif "empty" in job.item_id:
                yield Loss(job, "timeout", -9, 5.0)
            else:
                yield work(job)

    monkeypatch.setattr(jobs, "run_in_processes", stand_in)
    given = [inputs / "one.mp4", inputs / "empty.mp4", inputs / "good.mp4"]
    report = extract_many(given, tmp_path / "out", QUICK, executor="processes", timeout_s=5.0, progress=False)
    assert (report.ok, report.failed) == (1, 2)
    assert (of(report, "one.mp4").stage, of(report, "empty.mp4").stage) == ("worker", "timeout")
    assert "out of memory" in of(report, "one.mp4").error
    assert "longer than 5 s" in of(report, "empty.mp4").error
    assert {item["status"] for item in open_dataset(tmp_path / "out").manifest} == {"ok", "failed"}


def test_impossible_options(inputs, tmp_path):
    good = [inputs / "good.mp4"]
    for options in (
        {"executor": "dask"},
        {"max_attempts": 0},
        {"workers": 0},
        {"workers": 2},
        {"timeout_s": 3.0},
        {"gpus": 0.5},
    ):
        with pytest.raises((ConfigError, TypeError)):
            extract_many(good, tmp_path / "out", QUICK, progress=False, **options)
    with pytest.raises(ConfigError, match="no input"):
        extract_many([], tmp_path / "out", QUICK, progress=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(DatasetError):
        extract_many(good, tmp_path / "full", QUICK, progress=False)


def test_the_progress_bar_goes_to_stderr(inputs, tmp_path, capsys):
    extract_many([inputs / "empty.mp4"], tmp_path / "out", QUICK, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "1/1" in captured.err
    assert "1 failed" in captured.err


SCRIPT = """
import sys
from traceworld.extract.config import ExtractConfig
from traceworld.extract.jobs import extract_many
config = ExtractConfig(num_keypoints=24, max_frames=8, tau_moving_px=15.0)
extract_many(sys.argv[2:], sys.argv[1], config, progress=False)
"""


def test_killed_at_any_moment_and_started_again_gives_the_same_bytes(tmp_path):
    """SIGKILL at ever later moments of a batch of four, then let it finish: equal shards, one row per item, no debris."""
    videos = [write_video(tmp_path / f"v{k}.mp4", moving_square(8, step=3 + k)) for k in range(4)]
    whole = tmp_path / "whole"
    extract_many(videos, whole, QUICK, progress=False)
    out = tmp_path / "killed"
    arguments = [sys.executable, "-c", SCRIPT, str(out), *map(str, videos)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for wanted in (0, 2):  # kill when this many items are done
        process = subprocess.Popen(arguments, env=environment)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if len(list((out / "status").glob("[!.]*.json"))) >= wanted and (out / "status").is_dir():
                break
            time.sleep(0.01)
        time.sleep(0.15)
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = extract_many(videos, out, QUICK, progress=False)
    assert resumed.ok == 4
    assert any(item.resumed for item in resumed.items)
    assert shards(out) == shards(whole)
    assert (out / "dataset.json").read_bytes() == (whole / "dataset.json").read_bytes()
    assert len(open_dataset(out).manifest) == 4
    assert not [path for path in out.rglob("*") if path.name.endswith(".partial")]
