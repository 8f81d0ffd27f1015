"""Damaged media of every kind through the real job runner: each input is done or put aside with a reason, within its limits."""

from __future__ import annotations

import os
import re
import shutil
import signal
import struct
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import psutil
import pytest
from limited_jobs import break_down, open_first_frame, process_number, take
from mutations import FOLDERS, KINDS, huge_gif, huge_mov, huge_png, huge_webm, make_seeds, mutate

from traceworld.errors import ConfigError, DepthError, MediaError
from traceworld.extract.config import ExtractConfig
from traceworld.extract.jobs import extract_many
from traceworld.extract.memory import LEAST_GB, ran_out_of_memory
from traceworld.extract.workers import Loss, run_in_processes
from traceworld.perception.depth_files import read_depth_file
from traceworld.perception.rgbd_layout import read_clip_file
from traceworld.perception.sources import open_source
from traceworld.traces.picture_size import MAX_PIXELS
from traceworld.traces.store import open_dataset

QUICK = ExtractConfig(num_keypoints=12, max_frames=6, tau_moving_px=10.0)
MEMORY_GB = 0.6
CODE_GB = 0.4
"""Libraries that are read from their files: no memory of the process's own, but counted where RSS is."""


class Watch(threading.Thread):
    """The most memory that any child of this process has had."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most_gb, self.stop = 0.0, threading.Event()

    def run(self):
        while not self.stop.wait(0.2):
            for child in psutil.Process().children(recursive=True):
                try:
                    told = Path(f"/proc/{child.pid}/status").read_text()
                except OSError:
                    continue
                if found := re.search(r"VmHWM:\s+(\d+) kB", told):
                    self.most_gb = max(self.most_gb, int(found[1]) * 1024 / 1e9)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.stop.set()
        self.join()


def run_all(inputs, out, timeout_s, **options):
    with Watch() as watch:
        report = extract_many(
            inputs,
            out,
            QUICK,
            executor="processes",
            workers=2,
            timeout_s=timeout_s,
            memory_gb=MEMORY_GB,
            max_attempts=1,
            progress=False,
            **options,
        )
    return report, watch.most_gb


def check(report, out, inputs):
    """Every input is accounted for exactly once, here and in the manifest; what failed says where and why, in words of ours."""
    assert [item.input for item in report.items] == [str(path) for path in inputs]
    assert report.ok + report.skipped + report.failed == len(inputs)
    failed = [item for item in report.items if item.status == "failed"]
    assert all(item.stage and item.error for item in failed)
    surprises = [f"{item.input}: {item.error}" for item in failed if "[unexpected" in item.error]
    assert surprises == []
    rows = open_dataset(out).manifest
    assert Counter(row["item_id"] for row in rows) == dict.fromkeys((item.item_id for item in report.items), 1)
    assert all(row["stage"] and row["error"] for row in rows if row["status"] == "failed")


def two_vast_pictures(folder: Path, side: int) -> Path:
    folder.mkdir()
    shutil.copy(huge_png(folder / "0.png", side), folder / "1.png")
    return folder


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    return make_seeds(tmp_path_factory.mktemp("seeds"))


def test_whole_inputs_are_all_done(seeds, tmp_path):
    """If this fails, the inputs are at fault before anything is damaged."""
    out = tmp_path / "out"
    report = extract_many(seeds.values(), out, QUICK, progress=False)
    assert [item.error for item in report.items if item.status != "ok"] == []
    assert len(report.items) == len(KINDS)


def test_the_same_seed_does_the_same_damage(seeds, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for number in range(2 * len(KINDS)):
        one, two = (mutate(seeds, tmp_path / name, number) for name in ("a", "b"))
        pair = [
            {file.relative_to(path): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
            if path.is_dir()
            else path.read_bytes()
            for path in (one, two)
        ]
        assert pair[0] == pair[1]


def test_thirty_damaged_inputs(seeds, tmp_path):
    inputs = [mutate(seeds, tmp_path, number, seed=1) for number in range(30)]
    report, most_gb = run_all(inputs, tmp_path / "out", timeout_s=120.0)
    check(report, tmp_path / "out", inputs)
    assert report.failed >= 5
    assert report.ok >= 5
    assert most_gb < MEMORY_GB + CODE_GB
    again, _ = run_all(inputs, tmp_path / "out", timeout_s=120.0)
    assert (again.ok, again.failed, again.quarantined) == (report.ok, report.failed, report.failed)
    assert all(item.resumed for item in again.items)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_thousand_damaged_inputs(seeds, tmp_path, record_property):
    inputs = [mutate(seeds, tmp_path, number) for number in range(1000)]
    hanging = Path(shutil.copytree(seeds["rgbd_png"], tmp_path / "hanging"))
    (hanging / "depth" / "0002.png").unlink()
    os.mkfifo(hanging / "depth" / "0002.png")  # whoever opens it waits for ever
    vast = two_vast_pictures(tmp_path / "vast", 8000)  # more than a process may hold
    inputs += [hanging, vast, *seeds.values()]
    began = time.monotonic()
    report, most_gb = run_all(inputs, tmp_path / "out", timeout_s=60.0)
    stages = Counter(item.stage for item in report.items if item.status == "failed")
    record_property("figures", f"{report.ok=} {report.skipped=} {report.failed=} {dict(stages)} {most_gb=:.3f}")
    record_property("seconds", round(time.monotonic() - began))
    record_property("slowest", sorted((round(item.seconds, 1), item.input) for item in report.items)[-5:])
    check(report, tmp_path / "out", inputs)
    named = {Path(item.input).name: item for item in report.items}
    assert named["hanging"].stage == "timeout"
    assert named["vast"].stage == "memory"
    assert all(named[path.name].status == "ok" for path in seeds.values())  # nobody else's damage is theirs
    assert stages["timeout"] == 1
    assert stages["worker"] == 0
    assert max(item.seconds for item in report.items) < 60 + 10
    assert min(report.ok, report.failed) >= 100
    assert most_gb < MEMORY_GB + CODE_GB
    lost = Counter(path.name[5:] for path in inputs[:1000] if named[path.name].status == "failed")
    assert set(lost) == set(KINDS)  # no kind of input is so robust that nothing was tested


# ---------------------------------------------------------------------- what the thousand have brought to light


def npy(header: str, body: bytes = bytes(64)) -> bytes:
    words = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(words)) + words + body


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4,",  # numpy raises TokenError
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }",
        "{'descr': '<c8', 'fortran_order': False, 'shape': (2, 4), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2, 4), }",
        "",
    ],
)
def test_a_broken_npy_header_is_no_surprise(header, tmp_path):
    file = tmp_path / "depth.npy"
    file.write_bytes(npy(header))
    with pytest.raises(DepthError, match=r"depth\.npy"):
        read_depth_file(file)


def test_a_whole_npy_is_read_as_it_is(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "depth.npy", values)
    np.testing.assert_array_equal(read_depth_file(tmp_path / "depth.npy"), values)
    (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04" + bytes(100))  # numpy's own reader would open an archive
    with pytest.raises(DepthError):
        read_depth_file(tmp_path / "zip.npy")


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, '{"width": 1' + "0" * 400 + "}", '{"fps": [1, [2]]}'])
def test_a_wild_description_is_no_surprise(text, tmp_path):
    (tmp_path / "clip.json").write_text(text)
    with pytest.raises(MediaError, match=r"clip\.json"):
        read_clip_file(tmp_path / "clip.json")


def test_lack_of_memory_is_not_taken_for_damage(seeds):
    """With `allow_partial` a damaged frame ends the clip; a frame for which there was no memory must not."""
    source = open_source(seeds["h264.mp4"], allow_partial=True)

    def decode(video):
        raise av.error.MemoryError(12, "Cannot allocate memory")
        yield

    with pytest.raises(MemoryError):
        list(source._decoded(SimpleNamespace(decode=decode)))


# ---------------------------------------------------------------------- the limits


def test_a_segmentation_fault_costs_its_job_only():
    answers = list(run_in_processes(range(3), break_down, 1))
    (loss,) = (answer for answer in answers if isinstance(answer, Loss))
    assert (loss.job, loss.reason, loss.exit_code) == (1, "died", -signal.SIGSEGV)
    assert sorted(answer for answer in answers if not isinstance(answer, Loss)) == [0, 2]


def test_memory_beyond_the_limit_is_refused_and_the_process_lives_on():
    with Watch() as watch:
        answers = list(run_in_processes([0.1, 3.0, 0.1], take, 1))
    assert answers == ["100000000", "refused True", "100000000"]
    assert watch.most_gb < 1.0 + CODE_GB


def test_what_lack_of_memory_looks_like():
    assert ran_out_of_memory(MemoryError())
    wrapped = MediaError("cannot be decoded")
    wrapped.__cause__ = MemoryError()
    assert ran_out_of_memory(wrapped)
    assert not ran_out_of_memory(MediaError("cannot be decoded"))
    assert not ran_out_of_memory(None)


def test_a_worn_process_is_replaced():
    assert len(set(run_in_processes(range(3), process_number, 1))) == 1
    assert len(set(run_in_processes(range(3), process_number, 1, worn=lambda answer: True))) == 3


def test_a_clip_that_needs_more_memory_than_there_is_fails_alone(seeds, tmp_path):
    vast = two_vast_pictures(tmp_path / "vast", 8000)
    inputs = [vast, seeds["png"]]
    report = extract_many(
        inputs, tmp_path / "out", QUICK, executor="processes", memory_gb=LEAST_GB, max_attempts=1, progress=False
    )
    check(report, tmp_path / "out", inputs)
    assert [(item.status, item.stage) for item in report.items] == [("failed", "memory"), ("ok", "")]
    assert "memory_gb" in report.items[0].error


def test_limits_that_cannot_be_kept(seeds, tmp_path):
    for options in ({"memory_gb": 1.0}, {"executor": "processes", "memory_gb": 0.1}):
        with pytest.raises(ConfigError, match="memory_gb"):
            extract_many([seeds["png"]], tmp_path / "out", QUICK, progress=False, **options)


# ---------------------------------------------------------------------- pictures that claim to be vast


def test_a_header_cannot_make_the_reader_take_memory(tmp_path):
    """16,000 × 16,000 is within what FFmpeg itself allows, and would be a gigabyte; 65,535 × 65,535 is not."""
    made = []
    for side in (16_000, 65_535):
        for make, suffix in ((huge_gif, "gif"), (huge_webm, "webm"), (huge_mov, "mov")):
            made.append(str(make(tmp_path / f"{side}.{suffix}", side)))
    assert MAX_PIXELS < 16_000**2
    answers = list(run_in_processes(made, open_first_frame, 1))
    assert len(answers) == len(made)
    for path, (error, grown_mb) in zip(made, answers, strict=True):
        assert error.startswith("MediaError"), (path, error)
        assert "million pixels" in error or "65535" in path
        assert grown_mb < 100, (path, grown_mb)


def test_a_vast_picture_in_a_folder_is_refused_by_its_header(tmp_path):
    frames = two_vast_pictures(tmp_path / "frames", 9000)
    with pytest.raises(MediaError, match=r"9000×9000.*67 million"):
        open_source(frames)


def test_every_kind_is_damaged():
    assert len(KINDS) >= 12
    assert set(FOLDERS) < set(KINDS)
