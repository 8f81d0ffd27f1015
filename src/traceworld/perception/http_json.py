"""One POST of JSON with a deadline that holds: bounded retries, back-off, Retry-After; nothing here can hang.

A time-out of a socket bounds the wait for the next byte, not for an answer: a server that sends a byte now and then would
hold its caller for ever. Here a watchdog closes the connection when an attempt's time is over.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import random
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

MAX_ANSWER_BYTES = 32 * 2**20
RETRIED = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""Status codes after which the same request may succeed later."""


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Attributes:
        timeout_s: of one attempt, from connecting to the last byte.
        deadline_s: of all attempts and pauses together.
        retries: attempts after the first.
        backoff_s: pause before the first retry; doubles with each (Retry-After, where given, replaces it).
        jitter: share of a pause that chance may add, so that many clients do not come back at the same moment.
    """

    timeout_s: float = 120.0
    deadline_s: float = 300.0
    retries: int = 3
    backoff_s: float = 1.0
    jitter: float = 0.0


@dataclass(frozen=True)
class Reply:
    """What came of a request.

    Attributes:
        failure: "" if there is a JSON answer; else `timeout`, `connection`, `http_<status>`, `not_json`, `too_large`.
        value: the answer's JSON (of an error answer too, where it has some).
        status: the HTTP status, 0 without an answer.
        seconds: of the last attempt. attempts: how many there were.
    """

    failure: str
    value: Any
    status: int
    seconds: float
    attempts: int


def post_json(
    url: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    patience: Patience,
    chance: random.Random | None = None,
) -> Reply:
    """POST JSON and read the JSON answer; whatever goes wrong is in the reply, never an exception.

    `chance`: where jitter comes from; None: a generator of its own.
    """
    chance = chance or random.Random()
    payload = json.dumps(body).encode()
    end = time.monotonic() + patience.deadline_s
    attempt = 0
    while True:
        started = time.monotonic()
        limit = min(patience.timeout_s, end - started)
        failure, value, status, wait = _attempt(url, payload, headers, limit)
        attempt += 1
        now = time.monotonic()
        pause = patience.backoff_s * 2 ** (attempt - 1) if wait is None else wait
        pause *= 1.0 + patience.jitter * chance.random()
        last = attempt > patience.retries or now + pause >= end or not _may_pass(failure, status)
        if not failure or last:
            return Reply(failure, value, status, now - started, attempt)
        time.sleep(pause)


def _may_pass(failure: str, status: int) -> bool:
    return failure in ("timeout", "connection") or status in RETRIED


def _attempt(
    url: str, payload: bytes, headers: Mapping[str, str], limit_s: float
) -> tuple[str, Any, int, float | None]:
    """(failure, value, status, seconds the server asks to wait)."""
    over = threading.Event()
    connection, path = _connection(url, limit_s)
    opened: list[socket.socket] = []  # http.client forgets its socket once the headers of a last answer are read

    def close() -> None:
        over.set()
        for sock in opened:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    watchdog = threading.Timer(limit_s, close)
    watchdog.daemon = True
    watchdog.start()
    try:
        connection.connect()
        opened.append(connection.sock)
        if over.is_set():  # several addresses were tried; the watchdog had nothing to close yet
            return "timeout", None, 0, None
        connection.request("POST", path, payload, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        data = response.read(MAX_ANSWER_BYTES + 1)
    except TimeoutError:
        return "timeout", None, 0, None
    except (OSError, http.client.HTTPException, ValueError):
        return ("timeout" if over.is_set() else "connection"), None, 0, None
    finally:
        watchdog.cancel()
        connection.close()
    if over.is_set():  # cut short: what was read is not the whole answer
        return "timeout", None, 0, None
    if response.length and len(data) <= MAX_ANSWER_BYTES:  # fewer bytes than announced
        return "connection", None, 0, None
    return _judged(response, data)


def _judged(response: http.client.HTTPResponse, data: bytes) -> tuple[str, Any, int, float | None]:
    status = response.status
    wait = _retry_after(response.getheader("Retry-After"))
    if len(data) > MAX_ANSWER_BYTES:
        return "too_large", None, status, wait
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not 200 <= status < 300:
        return f"http_{status}", value, status, wait
    return ("not_json" if value is None else ""), value, status, wait


def _retry_after(text: str | None) -> float | None:
    """Seconds to wait; None if the header is missing or unreadable."""
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _connection(url: str, limit_s: float) -> tuple[http.client.HTTPConnection, str]:
    """A connection (not yet made) and what to ask for on it, through the environment's proxy if there is one."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(parts.scheme)
    if proxy is None:
        if parts.scheme == "https":
            return http.client.HTTPSConnection(host, parts.port, timeout=limit_s, context=_tls()), path
        return http.client.HTTPConnection(host, parts.port, timeout=limit_s), path
    via = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    if parts.scheme == "https":
        tunnel = http.client.HTTPSConnection(via.hostname or "", via.port, timeout=limit_s, context=_tls())
        tunnel.set_tunnel(host, parts.port or 443)
        return tunnel, path
    return http.client.HTTPConnection(
        via.hostname or "", via.port, timeout=limit_s
    ), f"{parts.scheme}://{parts.netloc}{path}"


def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
