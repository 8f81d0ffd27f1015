"""Processes that hang or die take only their own job with them."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

from traceworld.extract.workers import Loss, run_in_processes


def square(job: int) -> int:
    return job * job


def sometimes_die(job: int) -> int:
    if job == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if job == 2:
        time.sleep(60)
    return job


def test_every_job_is_answered_once():
    assert sorted(run_in_processes(range(7), square, 2)) == [0, 1, 4, 9, 16, 25, 36]
    assert list(run_in_processes([], square, 2)) == []


def test_death_and_delay_are_reported_and_the_rest_goes_on():
    answers = list(run_in_processes([0, 1, 2, 3, 4], sometimes_die, 2, timeout_s=6.0))
    losses = {answer.job: answer for answer in answers if isinstance(answer, Loss)}
    assert sorted(answer for answer in answers if not isinstance(answer, Loss)) == [0, 3, 4]
    assert losses[1].reason == "died", losses
    assert losses[1].exit_code == -signal.SIGKILL
    assert losses[2].reason == "timeout", losses
    assert losses[2].seconds >= 6


def die_the_first_time(job: str) -> str:
    mark = Path(job)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def test_a_job_whose_process_died_once_is_tried_again(tmp_path):
    assert list(run_in_processes([str(tmp_path / "mark")], die_the_first_time, 1)) == ["alive"]


def test_stopping_early_leaves_no_process_behind():
    answers = run_in_processes(range(5), sometimes_die, 2)
    next(answers)
    answers.close()
    assert multiprocessing.active_children() == []
