"""POST with a deadline, against a real server: what is retried, what is not, and that nothing outlasts its time."""

import email.utils
import socket
import time

import pytest
from scripted_chat import breaks_off, drips, drips_headers, drops, never, sends, serving

from traceworld.perception import http_json as http
from traceworld.perception.http_json import Patience, post_json

QUICK = Patience(timeout_s=2.0, deadline_s=4.0, retries=2, backoff_s=0.01)
GOOD = sends(200, {"fine": True})


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_a_good_answer():
    with serving(GOOD) as (url, script):
        reply = post_json(f"{url}/a/b?c=1", {"x": [1, "ü"]}, {"X-Own": "yes"}, QUICK)
    assert (reply.failure, reply.value, reply.status, reply.attempts) == ("", {"fine": True}, 200, 1)
    assert script.requests == [{"x": [1, "ü"]}]
    assert script.paths == ["/a/b?c=1"]
    assert script.headers[0]["X-Own"] == "yes"


@pytest.mark.parametrize("bad", [sends(429), sends(500), sends(503), drops, breaks_off])
def test_what_may_pass_is_tried_again(bad):
    with serving(bad, bad, GOOD) as (url, script):
        reply = post_json(url, {}, {}, QUICK)
    assert (reply.failure, reply.attempts, len(script.requests)) == ("", 3, 3)


@pytest.mark.parametrize(
    ("bad", "failure"),
    [(sends(429), "http_429"), (sends(500), "http_500"), (drops, "connection"), (breaks_off, "connection")],
)
def test_retries_are_bounded(bad, failure):
    with serving(bad) as (url, script):
        reply = post_json(url, {}, {}, QUICK)
    assert (reply.failure, reply.attempts, len(script.requests)) == (failure, 3, 3)


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_what_will_not_pass_is_asked_once(status):
    with serving(sends(status, {"error": "why"}, Location="http://127.0.0.1:1/")) as (url, script):
        reply = post_json(url, {}, {}, QUICK)
    assert (reply.failure, reply.value, len(script.requests)) == (f"http_{status}", {"error": "why"}, 1)


@pytest.mark.parametrize("hung", [never, drips, drips_headers])
def test_nothing_outlasts_its_time(hung):
    with serving(hung) as (url, _):
        started = time.monotonic()
        reply = post_json(url, {}, {}, Patience(timeout_s=0.3, deadline_s=10.0, retries=1, backoff_s=0.01))
        took = time.monotonic() - started
    assert (reply.failure, reply.attempts) == ("timeout", 2)
    assert 0.6 <= took < 30  # seconds, on a machine that may be busy


def test_the_deadline_ends_the_last_attempt_too():
    with serving(drips) as (url, _):
        started = time.monotonic()
        reply = post_json(url, {}, {}, Patience(timeout_s=30.0, deadline_s=0.3, retries=5, backoff_s=0.01))
    assert reply.failure == "timeout"
    assert time.monotonic() - started < 30


def test_retry_after_is_kept_and_not_waited_for_beyond_the_deadline():
    with serving(sends(429, Retry_After="0.4"), GOOD) as (url, _):
        started = time.monotonic()
        assert post_json(url, {}, {}, QUICK).failure == ""
        assert time.monotonic() - started >= 0.4
    with serving(sends(429, Retry_After="3600")) as (url, script):
        started = time.monotonic()
        assert post_json(url, {}, {}, QUICK).failure == "http_429"
        assert time.monotonic() - started < 30
        assert len(script.requests) == 1


def test_retry_after_as_a_date_or_nonsense():
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 20 < http._retry_after(soon) <= 30
    assert http._retry_after(email.utils.formatdate(time.time() - 30, usegmt=True)) == 0
    assert http._retry_after("soon") is None
    assert http._retry_after(None) is None


def test_back_off_doubles(monkeypatch):
    pauses = []
    monkeypatch.setattr(http.time, "sleep", pauses.append)
    monkeypatch.setattr(http, "_attempt", lambda *_: ("http_500", None, 500, None))
    post_json("http://nowhere", {}, {}, Patience(deadline_s=1000.0, retries=3, backoff_s=0.5))
    assert pauses == [0.5, 1.0, 2.0]


def test_nobody_there_and_no_json():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert post_json(f"http://127.0.0.1:{port}", {}, {}, QUICK).failure == "connection"
    with serving(sends(200, b"<html>")) as (url, script):
        assert post_json(url, {}, {}, QUICK).failure == "not_json"
        assert len(script.requests) == 1


def test_an_endless_answer_is_too_large(monkeypatch):
    monkeypatch.setattr(http, "MAX_ANSWER_BYTES", 10)
    with serving(sends(200, b"[" + b"1," * 20 + b"1]")) as (url, _):
        assert post_json(url, {}, {}, QUICK).failure == "too_large"


def test_a_proxy_is_used(monkeypatch):
    with serving(GOOD) as (proxy, script):
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("no_proxy", "")
        assert post_json("http://far.example:8000/v1/x", {}, {}, QUICK).failure == ""
    assert script.paths == ["http://far.example:8000/v1/x"]
