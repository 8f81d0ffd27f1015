"""The policy server over real sockets: openpi's protocol, refusals, back-pressure, time-outs, shutdown."""

import contextlib
import http.client
import socket
import threading
import time

import numpy as np
import pytest
from serving_toys import Counting, Echo, Failing, Forking, Gate, Together, policy_server, right_actions
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from traceworld.errors import ConfigError
from traceworld.serving.adapters import LIBERO, METAWORLD, adapter_for
from traceworld.serving.codec import CodecLimits, pack, unpack
from traceworld.serving.policy_server import PolicyServerConfig
from traceworld.traces.robot import ActionSpec

EXAMPLE = METAWORLD.example(0, size=32)


@contextlib.contextmanager
def talking(running, **options):
    """A connection that has got its metadata."""
    with connect(running.url, compression=None, max_size=None, **options) as ws:
        assert isinstance(ws.recv(timeout=20), bytes)
        yield ws


def ask(ws, request=EXAMPLE, **more):
    ws.send(pack({**request, **more}))
    answer = ws.recv(timeout=30)
    assert isinstance(answer, bytes), answer
    return unpack(answer)


def expected(request, dim=4):
    pictures = [request[key] for key in ("observation/image", "observation/wrist_image")]
    return right_actions(pictures, np.float32(request["observation/state"]), request["prompt"], dim)


def refused(ws, message, word, close=1011):
    """Send what must be refused; the words of the refusal."""
    ws.send(message)
    text = ws.recv(timeout=30)
    assert isinstance(text, str)
    assert text.startswith(f"[{word}] ")
    if close:
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(timeout=30)
        assert closed.value.rcvd.code == close
    return text


def get(port, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers=headers)
    reply = connection.getresponse()
    return reply.status, reply.read().decode(), reply.getheader("Content-Type")


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def echo():
    with policy_server(metadata={"reset_pose": [0, 1]}) as running:
        yield running


def test_the_server_speaks_first_and_says_what_it_is(echo):
    with connect(echo.url, compression=None) as ws:
        metadata = unpack(ws.recv(timeout=20))
    assert metadata["reset_pose"] == [0, 1]
    assert (metadata["policy"], metadata["adapter"], metadata["action_dim"]) == ("echo", "metaworld", 4)
    assert "traceworld/return_traces" in metadata["extensions"]


def test_a_policy_that_knows_what_its_numbers_mean_says_so():
    policy = Echo(dim=2)
    policy.spec = ActionSpec(("dx", "grip"), (-1.0, -1.0), (1.0, 1.0), 20.0, ("x", "opening"))
    policy.cameras = ("top",)
    with policy_server(policy, adapter_for("lerobot", policy)) as running, connect(running.url, compression=None) as ws:
        metadata = unpack(ws.recv(timeout=20))
    assert metadata["control_hz"] == 20.0
    assert (metadata["action_names"], metadata["state_names"]) == (["dx", "grip"], ["x", "opening"])
    assert metadata["images"] == ["observation.images.top"]


def test_an_answer_is_right_and_holds_what_openpi_clients_read(echo):
    with talking(echo) as ws:
        for seed in range(3):
            request = METAWORLD.example(seed, size=32)
            answer = ask(ws, request)
            assert np.array_equal(answer["actions"], expected(request))
            assert answer["policy_timing"]["infer_ms"] >= 0
            assert answer["policy_timing"]["total_ms"] == 500
            assert answer["server_timing"]["infer_ms"] >= answer["policy_timing"]["infer_ms"]
            assert ("prev_total_ms" in answer["server_timing"]) == (seed > 0)
            arrays = [key for key, value in answer.items() if isinstance(value, np.ndarray)]
            assert arrays == ["actions"]  # ActionChunkBroker cuts every array by step


def test_traces_are_handed_out_on_request_only(echo):
    with talking(echo) as ws:
        assert "traceworld/traces" not in ask(ws)
        traces = ask(ws, **{"traceworld/return_traces": True})["traceworld/traces"]
        assert traces["uvz"].shape == (1, 3, 5, 3)
        assert "traceworld/traces" not in ask(ws)


def test_health_and_figures_are_on_the_same_port(echo):
    assert get(echo.port, "/healthz") == (200, "OK\n", "text/plain; charset=utf-8")
    wait_for(lambda: echo.server._open == 0)
    before = echo.counts()["answered"]
    with talking(echo) as ws:
        ask(ws)
        wait_for(lambda: echo.counts()["answered"] == before + 1)
        status, text, kind = get(echo.port, "/metrics")
    assert status == 200
    assert kind.startswith("text/plain; version=")
    assert f'traceworld_requests_total{{outcome="answered"}} {before + 1}.0' in text
    assert "traceworld_inference_seconds_bucket" in text
    assert "traceworld_connections 1.0" in text
    assert get(echo.port, "/")[0] == 426


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"\xc1\x00\xff", "message: is not readable"),
        (b"", "message"),
        ("text", "message: is text"),
        (pack([1, 2]), "request: is a list"),
        (pack({}), "observation/image: is missing"),
        (pack({**EXAMPLE, "observation/state": np.zeros(7)}), "observation/state: has shape (7,)"),
        (pack({**EXAMPLE, "observation/image": np.zeros((4, 4, 3), np.int32)}), "observation/image: is of int32"),
        (pack({**EXAMPLE, "traceworld/rest": True}), "traceworld/rest: is unknown"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong_and_hurts_nobody_else(echo, message, says):
    before = echo.counts()["invalid_request"]
    with talking(echo) as other, talking(echo) as ws:
        assert says in refused(ws, message, "invalid_request")
        assert np.array_equal(ask(other)["actions"], expected(EXAMPLE))
    assert echo.counts()["invalid_request"] == before + 1


def test_a_message_over_the_size_is_refused_before_it_is_read():
    with policy_server(limits=CodecLimits(max_bytes=50_000)) as running:
        with talking(running) as ws:
            ws.send(bytes(60_000))
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv(timeout=20)
            assert closed.value.rcvd.code == 1009
        with talking(running) as ws:
            ask(ws)
        wait_for(lambda: running.counts()["invalid_request"] == 1)


def test_the_key_opens_the_server_and_only_the_key():
    with policy_server(api_key="s3cret") as running:
        for header in (
            {},
            {"Authorization": "Api-Key wrong"},
            {"Authorization": "s3cret"},
            {"Authorization": "Basic s3cret"},
        ):
            with pytest.raises(InvalidStatus) as error:
                connect(running.url, additional_headers=header)
            assert error.value.response.status_code == 401
        for scheme in ("Api-Key", "Bearer"):
            with talking(running, additional_headers={"Authorization": f"{scheme} s3cret"}) as ws:
                ask(ws)
        assert get(running.port, "/healthz")[0] == 200
        assert get(running.port, "/metrics")[0] == 401
        assert get(running.port, "/metrics", Authorization="Bearer s3cret")[0] == 200
        assert "s3cret" not in repr(running.server.config)


def test_pages_of_other_servers_are_turned_away(echo):
    with pytest.raises(InvalidStatus) as error:
        connect(echo.url, additional_headers={"Origin": "http://evil.example"})
    assert error.value.response.status_code == 403
    with talking(echo, additional_headers={"Origin": f"http://127.0.0.1:{echo.port}"}) as ws:
        ask(ws)


def test_the_policys_own_fault_is_told_with_its_name():
    with policy_server(Failing()) as running:
        with talking(running) as ws:
            assert "ZeroDivisionError: the policy's own fault" in refused(ws, pack(EXAMPLE), "failed")
        assert running.counts()["failed"] == 1


def test_a_policy_of_another_robot_is_told():
    request = LIBERO.example(0, size=32)
    with policy_server(Echo(dim=4), adapter=LIBERO) as running, talking(running) as ws:
        assert "4 numbers per action, 'libero' takes 7" in refused(ws, pack(request), "failed")
    with policy_server(Echo(dim=7), adapter=LIBERO) as running, talking(running) as ws:
        assert np.array_equal(ask(ws, request)["actions"], expected(request, dim=7))


def test_an_episode_belongs_to_its_connection():
    with policy_server(Forking()) as running, talking(running) as one, talking(running) as two:
        asked = lambda ws, **more: ask(ws, **more)["actions"][0, :3].tolist()  # noqa: E731
        assert [asked(one), asked(one), asked(two), asked(one)] == [[1, 0, 0], [2, 0, 1], [1, 0, 0], [3, 0, 2]]
        assert asked(one, **{"traceworld/reset": 7}) == [1, 7, 0]
        assert asked(one) == [2, 7, 1]
        assert asked(one, **{"traceworld/step": 40}) == [3, 7, 40]
        assert asked(two) == [2, 0, 1]


def test_steps_are_counted_by_what_clients_play():
    with policy_server(Counting(), steps_per_request=8) as running, talking(running) as ws:
        assert [ask(ws)["actions"][0, 2] for _ in range(3)] == [0, 8, 16]


def test_a_policy_that_remembers_and_cannot_fork_serves_one_at_a_time():
    with policy_server(Counting()) as running:
        with talking(running) as one:
            assert ask(one)["actions"][0, 0] == 1
            with pytest.raises(InvalidStatus) as error:
                connect(running.url)
            assert error.value.response.status_code == 503
            assert b"one connection at a time" in error.value.response.body
            assert ask(one)["actions"][0, 0] == 2
        wait_for(lambda: not running.server._sessions.full)
        with talking(running) as two:
            assert ask(two)["actions"][0, 0] == 1


def test_a_policy_that_takes_several_gets_them_in_one_call():
    policy = Together(seconds=0.05)
    with policy_server(policy, max_batch=4) as running, contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(talking(running)) for _ in range(8)]
        for seed, ws in enumerate(sockets):
            ws.send(pack({**EXAMPLE, "traceworld/reset": seed}))
        for seed, ws in enumerate(sockets):
            assert np.array_equal(unpack(ws.recv(timeout=30))["actions"], expected(EXAMPLE) + seed)
        assert sum(policy.sizes) == 8
        assert 1 < max(policy.sizes) <= 4


def test_too_many_connections_are_turned_away():
    with policy_server(max_connections=2) as running, talking(running), talking(running):
        with pytest.raises(InvalidStatus) as error:
            connect(running.url)
        assert error.value.response.status_code == 503
        assert "2 connections" in error.value.response.body.decode()


def test_a_full_queue_refuses_and_the_connection_may_ask_again():
    gate = Gate()
    with policy_server(gate, max_queue=1) as running, contextlib.ExitStack() as stack:
        running_one, waiting, refused_one = (stack.enter_context(talking(running)) for _ in range(3))
        running_one.send(pack(EXAMPLE))
        assert gate.entered.acquire(timeout=10)
        waiting.send(pack(EXAMPLE))
        wait_for(lambda: running.server._worker.waiting == 1)
        assert "ask again later" in refused(refused_one, pack(EXAMPLE), "busy", close=None)
        assert get(running.port, "/healthz")[0] == 200  # the loop is free while the policy is stuck
        gate.opened.set()
        for ws in (running_one, waiting):
            assert np.array_equal(unpack(ws.recv(timeout=20))["actions"], expected(EXAMPLE))
        assert np.array_equal(ask(refused_one)["actions"], expected(EXAMPLE))
        wait_for(lambda: running.counts() == {**dict.fromkeys(running.counts(), 0), "answered": 3, "busy": 1})


def test_a_policy_that_takes_one_at_a_time_keeps_no_answer_back_for_the_next():
    gate = Gate(each=True)
    with policy_server(gate) as running, contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(talking(running)) for _ in range(3)]
        sockets[0].send(pack(EXAMPLE))
        assert gate.entered.acquire(timeout=10)
        for waiting, ws in enumerate(sockets[1:], 1):
            ws.send(pack(EXAMPLE))
            wait_for(lambda waiting=waiting: running.server._worker.waiting == waiting)
        for ws in sockets:
            gate.let_one()
            assert np.array_equal(unpack(ws.recv(timeout=10))["actions"], expected(EXAMPLE))


def test_a_policy_that_takes_too_long_is_told_as_that():
    gate = Gate()
    with policy_server(gate, inference_timeout_s=0.2) as running:
        with talking(running) as ws:
            refused(ws, pack(EXAMPLE), "timeout")
        gate.opened.set()
        with talking(running) as ws:
            ask(ws)


def test_a_caller_who_leaves_is_not_worked_for():
    gate = Gate()
    with policy_server(gate) as running, talking(running) as first:
        first.send(pack(EXAMPLE))
        assert gate.entered.acquire(timeout=10)
        with talking(running) as leaver:
            leaver.send(pack(EXAMPLE))
            wait_for(lambda: running.server._worker.waiting == 1)
        gate.opened.set()
        assert isinstance(first.recv(timeout=20), bytes)
        ask(first)
        assert gate.acted == 2


def test_pings_are_answered_while_the_policy_works():
    gate = Gate()
    with policy_server(gate) as running, talking(running) as ws:
        ws.send(pack(EXAMPLE))
        assert gate.entered.acquire(timeout=10)
        assert ws.ping().wait(10)
        gate.opened.set()
        assert isinstance(ws.recv(timeout=20), bytes)


def test_half_open_sockets_are_cut_off():
    options = {"open_timeout_s": 0.5, "ping_interval_s": 0.3, "ping_timeout_s": 0.3}
    with policy_server(**options) as running:
        silent = socket.create_connection(("127.0.0.1", running.port))
        dead = socket.create_connection(("127.0.0.1", running.port))
        dead.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert dead.recv(12) == b"HTTP/1.1 101"
        dead.sendall(b"\x82\xfe\x10\x00mask")  # the beginning of a message, and never more
        for each in (silent, dead):
            each.settimeout(20)
            while each.recv(4096):  # until the server closes
                pass
            each.close()
        wait_for(lambda: running.server._open == 0)
        assert running.counts()["answered"] == 0


def test_garbage_instead_of_a_handshake_is_cut_off():
    with policy_server(open_timeout_s=0.5) as running:
        for garbage in (b"\x00\xff" * 50, b"POST / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nUpgrade: x\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", running.port), timeout=20) as raw:
                raw.sendall(garbage)
                with contextlib.suppress(ConnectionResetError):
                    while raw.recv(4096):
                        pass
        with talking(running) as ws:
            ask(ws)


def test_shutting_down_answers_everything_that_was_read():
    gate, answers = Gate(), []
    with policy_server(gate) as running, contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(talking(running)) for _ in range(5)]
        idle = stack.enter_context(talking(running))
        for ws in sockets:
            ws.send(pack(EXAMPLE))
        assert gate.entered.acquire(timeout=10)
        wait_for(lambda: running.server._worker.waiting == 4)
        stopping = running.begin_stop()
        with pytest.raises(ConnectionClosed) as closed:
            idle.recv(timeout=20)
        assert closed.value.rcvd.code == 1001
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", running.port), timeout=2).recv(1)
        gate.opened.set()
        for ws in sockets:
            answers.append(unpack(ws.recv(timeout=20))["actions"])
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv(timeout=20)
            assert closed.value.rcvd.code == 1001
        assert stopping.result(20) is True
    assert all(np.array_equal(actions, expected(EXAMPLE)) for actions in answers)
    assert gate.acted == 5


def test_shutting_down_does_not_wait_for_ever():
    gate = Gate()
    with policy_server(gate, shutdown_timeout_s=0.3) as running, talking(running) as ws:
        ws.send(pack(EXAMPLE))
        assert gate.entered.acquire(timeout=10)
        assert running.begin_stop().result(20) is False
        gate.opened.set()


def test_many_clients_get_their_own_answers(echo):
    failures = []

    def client(number):
        try:
            with talking(echo) as ws:
                for turn in range(10):
                    request = METAWORLD.example(100 * number + turn, size=16)
                    assert np.array_equal(ask(ws, request)["actions"], expected(request))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures


def test_a_port_that_is_taken_is_an_error_with_a_mend(echo):
    with pytest.raises(ConfigError, match=r"cannot listen.*choose another port"), policy_server(port=echo.port):
        pass


@pytest.mark.parametrize(
    "option", [{"max_queue": 0}, {"max_connections": 0}, {"ping_timeout_s": 0.0}, {"inference_timeout_s": float("nan")}]
)
def test_impossible_options_are_refused(option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        PolicyServerConfig(**option)
