"""A crowd of clients, some of them hostile; and a server that is told to go while it is asked."""

import asyncio
import os
import threading
import time

import numpy as np
import pytest
from serving_toys import right_actions
from soak import HALF_OPEN, MESSAGES, crowd, memory, server_process, terminate
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from traceworld.serving.adapters import METAWORLD
from traceworld.serving.codec import pack, unpack


def soak(clients, good, bad, growth_mb, record=lambda name, value: None):
    with server_process() as (process, url):
        warm = asyncio.run(crowd(url, clients, max(good // 10, clients), max(bad // 10, 2 * clients), seed=1))
        assert not warm.wrong
        before = memory(process)
        started = time.perf_counter()
        tally = asyncio.run(crowd(url, clients, good, bad, seed=2))
        seconds = time.perf_counter() - started
        after = memory(process)
        counts, code = terminate(process)
    record("requests", good + bad)
    record("seconds", round(seconds, 1))
    record("p50_ms", round(1000 * tally.percentile(50), 1))
    record("p99_ms", round(1000 * tally.percentile(99), 1))
    record("rss_mb", [round(before, 1), round(after, 1)])
    record("refused", tally.refused)
    assert (tally.right, tally.wrong) == (good, [])
    assert tally.unclear == []
    assert sum(tally.refused.values()) == bad
    assert set(tally.refused) == {*MESSAGES, HALF_OPEN}
    assert after - before < growth_mb
    assert code == 0
    told = sum(tally.refused[kind] + warm.refused[kind] for kind in MESSAGES)
    assert (counts["answered"], counts["invalid_request"]) == (good + warm.right, told)
    assert counts["failed"] == counts["busy"] == counts["timeout"] == counts["stopping"] == 0


def test_a_small_crowd_is_answered_and_refused():
    soak(clients=8, good=120, bad=42, growth_mb=16)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_large_crowd_is_answered_and_refused(record_property, capsys):
    """64 clients, 10,000 requests of which 1,000 are malformed."""
    figures = {}
    try:
        soak(clients=64, good=9000, bad=1000, growth_mb=16, record=figures.__setitem__)
    finally:
        for name, value in figures.items():
            record_property(name, value)
        with capsys.disabled():
            os.write(1, f"\nsoak: {figures}\n".encode())


def test_kill_term_loses_no_request_that_was_accepted():
    """12 clients ask as fast as they can; every request is answered, or its connection is closed without an answer owed."""
    answered, unanswered, wrong, ready = [], [], [], threading.Semaphore(0)

    def ask_on(url, number):
        with connect(url, compression=None) as ws:
            ws.recv(timeout=60)
            turn = 0
            while True:
                request = METAWORLD.example(1000 * number + turn, size=16)
                turn += 1
                try:
                    ws.send(pack(request))
                    answer = ws.recv(timeout=60)
                except ConnectionClosed as closed:
                    unanswered.append(closed.rcvd.code if closed.rcvd else None)
                    return
                pictures = [request[key] for key in ("observation/image", "observation/wrist_image")]
                right = right_actions(pictures, np.float32(request["observation/state"]), request["prompt"])
                if isinstance(answer, bytes) and np.array_equal(unpack(answer)["actions"], right):
                    answered.append(number)
                else:
                    wrong.append(answer)
                if turn == 2:
                    ready.release()

    with server_process(seconds=0.02) as (process, url):
        threads = [threading.Thread(target=ask_on, args=(url, number)) for number in range(12)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert ready.acquire(timeout=60)
        counts, code = terminate(process)
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    assert (code, wrong) == (0, [])
    assert unanswered == [1001] * 12  # told that the server goes away, with nothing in work
    assert counts["answered"] == len(answered)  # what the server has answered is what has arrived
    assert sum(counts.values()) == counts["answered"]  # and everything that it had read was answered
