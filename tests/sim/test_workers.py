"""Worker processes: what they are given, and that they end with who started them."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from traceworld.sim.workers import worker_pool

PARENT = """
import os, sys, time
from traceworld.sim.workers import worker_pool
if __name__ == "__main__":
    with worker_pool(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        if sys.argv[1] == "busy":
            pool.submit(time.sleep, 600)
        time.sleep(600)
"""


def remember(name, value):
    os.environ[name] = value


def test_each_has_one_core_and_what_it_is_given():
    with worker_pool(1, remember, "TRACEWORLD_TEST", "given") as pool:
        for name, value in (("TRACEWORLD_TEST", "given"), ("OMP_NUM_THREADS", "1"), ("LP_NUM_THREADS", "1")):
            assert pool.submit(os.getenv, name).result() == value
    assert "TRACEWORLD_TEST" not in os.environ


@pytest.mark.parametrize("state", ["idle", "busy"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_they_end_with_a_parent_that_is_killed(tmp_path, how, state):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script), state], stdout=subprocess.PIPE, text=True)
    worker = psutil.Process(int(parent.stdout.readline()))
    assert worker.is_running()
    parent.send_signal(how)
    parent.wait(20)
    end = time.monotonic() + 20
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        time.sleep(0.05)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
