"""What stands between the network and the prediction app: key, size, time, and connections that never say anything."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from traceworld.serving.keys import has_key
from traceworld.serving.metrics import ServerMetrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/healthz",)


@dataclass(frozen=True)
class Bounds:
    """What a request may cost before it is understood.

    Attributes:
        max_bytes: of its body.
        body_timeout_s: until its body has arrived.
        api_key: that it must show; None: nothing.
    """

    max_bytes: int
    body_timeout_s: float
    api_key: str | None = field(default=None, repr=False)


def error_body(kind: str, message: str, where: str | None = None, mend: str | None = None) -> bytes:
    """An `ErrorAnswer` as JSON bytes."""
    return json.dumps({"error": {"kind": kind, "message": message, "where": where, "mend": mend}}).encode()


class Guard:
    """ASGI middleware: 401 without the key, 413 over the size, 408 over the time; else the app gets the whole body."""

    def __init__(self, app: App, bounds: Bounds, metrics: ServerMetrics):
        self._app, self._bounds, self._metrics = app, bounds, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        given = headers.get(b"authorization", b"").decode("latin-1")
        if scope["path"] not in OPEN_PATHS and not has_key(given, self._bounds.api_key):
            self._metrics.refuse("key")
            await _refuse(send, 401, error_body("key", "no key", "Authorization", "send 'Authorization: Bearer KEY'"))
            return
        try:
            body = await asyncio.wait_for(self._body(headers, receive), self._bounds.body_timeout_s)
        except TimeoutError:
            self._metrics.refuse("slow")
            seconds = f"{self._bounds.body_timeout_s:g}"
            await _refuse(send, 408, error_body("timeout", f"the body took more than {seconds} s", "body"))
            return
        except _TooLargeError:
            self._metrics.refuse("size")
            most = self._bounds.max_bytes
            await _refuse(
                send, 413, error_body("too_large", "the body is too large", "body", f"send at most {most} bytes")
            )
            return
        if body is None:  # the caller has left
            self._metrics.refuse("left")
            return
        await self._app(scope, _replay(body, receive), send)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._bounds.max_bytes:
            raise _TooLargeError
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._bounds.max_bytes:
                raise _TooLargeError
            if not message.get("more_body", False):
                return b"".join(parts)


class _TooLargeError(Exception):
    pass


def _replay(body: bytes, receive: Receive) -> Receive:
    left = [body]

    async def again() -> MutableMapping[str, Any]:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return again


async def _refuse(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def close_silent(connections: Callable[[], set[Any]], timeout_s: float, metrics: ServerMetrics) -> None:
    """Close, for ever, connections that have not sent a request's headers in time (uvicorn itself waits for them).

    Args:
        connections: uvicorn's protocol objects (`server_state.connections`).
    """
    seen: dict[Any, float] = {}
    while True:
        await asyncio.sleep(min(1.0, timeout_s / 4))
        now, current = time.monotonic(), connections()
        silent = {each for each in current if getattr(each, "cycle", None) is None}
        seen = {each: seen.get(each, now) for each in silent}
        for each, since in seen.items():
            if now - since > timeout_s:
                metrics.refuse("silent")
                each.transport.close()
