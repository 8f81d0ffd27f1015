"""Processes that hang or die take only their own job with them."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

from traceworld.extract import workers
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


def raise_outright(job: int) -> int:
    raise ValueError(job)


def test_the_exit_code_is_the_process_own():
    """The pipe closes a little before the process ends; killing it in between would change the code."""
    assert [(loss.reason, loss.exit_code) for loss in run_in_processes([0], raise_outright, 1)] == [("died", 1)]


def slow_to_unpack():
    time.sleep(1.5)
    return square


class SlowStart:
    """Work whose arrival in the process takes longer than its jobs may."""

    def __call__(self, job: int) -> int:
        return job * job

    def __reduce__(self):
        return slow_to_unpack, ()


def test_starting_the_process_is_not_the_jobs_time():
    assert list(run_in_processes([3], SlowStart(), 1, timeout_s=1.2)) == [9]


def test_a_process_that_never_starts_is_given_up(monkeypatch):
    monkeypatch.setattr(workers, "_START_S", 0.2)
    (loss,) = run_in_processes([3], SlowStart(), 1)
    assert (loss.job, loss.reason, loss.exit_code) == (3, "died", -signal.SIGKILL)


def test_a_worker_that_died_idle_is_not_counted_against_the_next_job(tmp_path):
    def jobs():
        yield str(tmp_path)  # exists: answered at once
        (child,) = multiprocessing.active_children()
        child.kill()
        child.join()
        yield str(tmp_path / "mark")  # dies once, so one more death would be its second

    assert list(run_in_processes(jobs(), die_the_first_time, 1)) == ["alive", "alive"]


def answer_and_leave(job: int) -> int:
    threading.Timer(0.2, os._exit, (7,)).start()
    return job


def test_an_answer_counts_even_if_the_process_is_gone_when_it_is_read():
    answers = run_in_processes(range(2), answer_and_leave, 2)
    got = [next(answers)]
    time.sleep(1.0)  # the other answer lies in its pipe while its process ends
    assert sorted([*got, *answers]) == [0, 1]


def test_stopping_early_leaves_no_process_behind():
    answers = run_in_processes(range(5), sometimes_die, 2)
    next(answers)
    answers.close()
    assert multiprocessing.active_children() == []
