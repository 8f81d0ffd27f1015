"""Extraction on Ray: real actors, some of which die or hang. Needs the extra `ray`: `make test-ray`."""

import os
import sys
import time
from pathlib import Path

import pytest
from made_media import moving_square, write_video

from traceworld.errors import ConfigError
from traceworld.extract.config import ExtractConfig
from traceworld.extract.jobs import extract_many
from traceworld.extract.ray_workers import run_on_ray
from traceworld.extract.workers import Loss

ray = pytest.importorskip("ray", reason="Ray is not installed; `make test-ray`")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    path = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}  # actors import this file
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=path)
    yield
    ray.shutdown()


def work(job):
    """`die`: always; a path: the first time only; a number: take so long; else answer."""
    if job == "die" or (isinstance(job, Path) and not job.exists()):
        if isinstance(job, Path):
            job.touch()
        os._exit(7)
    if isinstance(job, float):
        time.sleep(job)
    return f"did {job}", os.getpid()


def test_each_job_is_answered_once_and_processes_are_used_again():
    answers = list(run_on_ray(range(12), work, workers=2))
    assert sorted(answer for answer, _ in answers) == sorted(f"did {number}" for number in range(12))
    assert len({pid for _, pid in answers}) <= 2


def test_a_death_gets_a_second_chance_and_then_is_a_loss(tmp_path):
    answers = list(run_on_ray(["a", "die", tmp_path / "once", "b"], work, workers=2))
    losses = [answer for answer in answers if isinstance(answer, Loss)]
    assert [(loss.job, loss.reason) for loss in losses] == [("die", "died")]
    done = {answer[0] for answer in answers if not isinstance(answer, Loss)}
    assert done == {"did a", "did b", f"did {tmp_path / 'once'}"}


def test_a_job_that_hangs_costs_only_itself():
    began = time.monotonic()
    answers = list(run_on_ray(["a", 600.0, "b", "c"], work, workers=2, timeout_s=3.0))
    assert time.monotonic() - began < 300
    losses = [answer for answer in answers if isinstance(answer, Loss)]
    assert [(loss.job, loss.reason) for loss in losses] == [(600.0, "timeout")]
    assert losses[0].seconds >= 3.0
    assert len(answers) == 4


def test_a_worn_process_is_replaced():
    answers = list(run_on_ray(range(3), work, workers=1, worn=lambda answer: answer[0] == "did 0"))
    pids = dict(answers)
    assert pids["did 1"] == pids["did 2"] != pids["did 0"]


def test_a_share_of_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"gpus(?s:.*)the cluster has 0"):
        next(run_on_ray(["a"], work, workers=1, gpus=0.5))


def test_actors_are_gone_when_the_caller_stops_early():
    answers = run_on_ray(["a", 600.0], work, workers=2)
    next(answers)
    answers.close()
    for _ in range(200):
        if ray.available_resources().get("CPU") == 2.0:
            return
        time.sleep(0.1)
    pytest.fail("an actor still holds its CPU")


def test_the_same_bytes_as_one_after_the_other(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(3):
        write_video(tmp_path / "in" / f"{number}.mp4", moving_square(8, step=3 + number))
    (tmp_path / "in" / "words.mp4").write_text("no video")
    config = ExtractConfig(num_keypoints=24, max_frames=8, tau_moving_px=15.0)
    reports = [
        extract_many([tmp_path / "in"], tmp_path / name, config, executor=name, workers=workers, progress=False)
        for name, workers in (("serial", 1), ("ray", 2))
    ]
    assert [(report.ok, report.failed) for report in reports] == [(3, 1), (3, 1)]
    files = [sorted((tmp_path / name / "clips").iterdir()) for name in ("serial", "ray")]
    assert [file.name for file in files[0]] == [file.name for file in files[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))
