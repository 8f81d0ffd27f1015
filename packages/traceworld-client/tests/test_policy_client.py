"""The policy client against a server that speaks plain openpi, and misbehaves as it is told."""

import contextlib
import socket
import threading
import time

import numpy as np
import pytest
from websockets.sync.server import serve

from traceworld_client import ConnectionLostError, InvalidRequestError, PolicyClient, ServerError, ServerTimeoutError
from traceworld_client.codec import pack, unpack


def doubles(ws, request):
    ws.send(pack({"actions": np.stack([request["x"] * 2.0] * 3)}))


@contextlib.contextmanager
def openpi_server(*turns, metadata=None, port=0):
    """A server that does with each request in turn (the last one for ever) what it is told: (socket, request)."""
    left, got, lock = list(turns), [], threading.Lock()

    def handler(ws):
        ws.send(pack(metadata or {"reset_pose": [1, 2]}))
        for message in ws:
            request = unpack(message)
            with lock:
                got.append(request)
                turn = left.pop(0) if len(left) > 1 else left[0]
            turn(ws, request)

    with serve(handler, "127.0.0.1", port, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1], got
        finally:
            server.shutdown()
            thread.join(20)


def test_an_openpi_server_is_driven():
    with openpi_server(doubles) as (port, got), PolicyClient("127.0.0.1", port) as policy:
        assert policy.metadata == {"reset_pose": [1, 2]}
        policy.reset(seed=4)  # nothing that an openpi server could misread is sent
        for x in range(3):
            answer = policy.infer({"x": np.float32(x), "prompt": "go"})
            assert answer["actions"].tolist() == [2.0 * x] * 3
        assert set(got[0]) == {"x", "prompt"}


def test_an_episode_is_said_once_to_servers_that_know_episodes():
    with openpi_server(doubles, metadata={"extensions": ["traceworld/reset"]}) as (port, got):
        policy = PolicyClient(f"ws://127.0.0.1:{port}")
        policy.reset(seed=4)
        for _ in range(2):
            policy.infer({"x": 1.0})
        policy.close()
    assert [request.get("traceworld/reset") for request in got] == [4, None]


def test_a_late_answer_is_never_taken_for_the_next():
    given_up, sent = threading.Event(), threading.Event()

    def late(ws, request):
        assert given_up.wait(30)
        with contextlib.suppress(Exception):
            ws.send(pack({"actions": np.full(1, -1.0)}))
        sent.set()

    with openpi_server(late, doubles) as (port, _), PolicyClient("127.0.0.1", port, timeout_s=0.2) as policy:
        with pytest.raises(ServerTimeoutError, match=r"0\.2 s"):
            policy.infer({"x": 1.0})
        given_up.set()
        assert sent.wait(30)
        assert policy.infer({"x": 3.0})["actions"].tolist() == [6.0] * 3


def test_errors_of_the_server_are_raised_and_the_next_request_connects_again():
    def fails(ws, request):
        ws.send("Traceback (most recent call last):\n  KeyError: 'x'")
        ws.close(1011)

    def refuses(ws, request):
        ws.send("[invalid_request] observation/image: is missing")
        ws.close(1011)

    with openpi_server(fails, refuses, doubles) as (port, _), PolicyClient("127.0.0.1", port) as policy:
        with pytest.raises(ServerError, match="KeyError"):
            policy.infer({"x": 1.0})
        with pytest.raises(InvalidRequestError, match="observation/image"):
            policy.infer({"x": 1.0})
        assert policy.infer({"x": 1.0})["actions"][0] == 2


def test_a_lost_connection_is_an_error_or_tried_again():
    def drops(ws, request):
        ws.close(1001)

    def breaks(ws, request):
        ws.socket.shutdown(socket.SHUT_RDWR)

    with openpi_server(drops, breaks, drops, doubles) as (port, got), PolicyClient("127.0.0.1", port) as policy:
        for _ in range(2):
            with pytest.raises(ConnectionLostError):
                policy.infer({"x": 1.0})
        assert policy.infer({"x": 1.0}, retries=2)["actions"][0] == 2
        assert len(got) == 4


def test_a_full_queue_is_tried_again_on_the_same_connection():
    def busy(ws, request):
        ws.send("[busy] 64 requests wait already")

    with openpi_server(busy, busy, doubles) as (port, _), PolicyClient("127.0.0.1", port) as policy:
        first = policy._socket
        assert policy.infer({"x": 1.0}, retries=2)["actions"][0] == 2
        assert policy._socket is first


def test_answers_that_cannot_be_read_are_errors():
    with openpi_server(lambda ws, _: ws.send(b"\xc1")) as (port, _), PolicyClient("127.0.0.1", port) as policy:
        policy.reset()
        with pytest.raises(ServerError, match="cannot be read"):
            policy.infer({"x": 1.0})


def test_what_cannot_be_sent_is_told_before_it_is_sent():
    with openpi_server(doubles) as (port, got), PolicyClient("127.0.0.1", port) as policy:
        with pytest.raises(InvalidRequestError):
            policy.infer({"x": object()})
        assert not got


def test_the_server_may_come_up_later_and_may_stay_away():
    with openpi_server(doubles) as (port, _):
        pass
    with pytest.raises(ConnectionLostError, match="cannot be reached"):
        PolicyClient("127.0.0.1", port, connect_timeout_s=0.3)
    found = []
    thread = threading.Thread(target=lambda: found.append(PolicyClient("127.0.0.1", port, connect_timeout_s=20)))
    thread.start()
    time.sleep(0.2)
    with openpi_server(doubles, port=port):
        thread.join(20)
        assert found[0].infer({"x": 2.0})["actions"][0] == 4
        found[0].close()
        assert found[0].infer({"x": 2.0})["actions"][0] == 4
        found[0].close()
