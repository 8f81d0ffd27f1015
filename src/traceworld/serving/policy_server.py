"""A policy behind openpi's websocket protocol: the published `openpi-client` drives it as it is.

1. `GET /healthz` answers 200 `OK`, `GET /metrics` Prometheus' text; any other request is a websocket handshake, with
   `Authorization: Api-Key KEY` if the server has a key. Port 8000 unless told otherwise.
2. The server speaks first: one msgpack map of metadata (keys and sizes of observations; what the policy's numbers mean, and its rate).
3. The client sends an observation (`adapters.py`), the server answers `actions` [K,A], `policy_timing`, `server_timing`.
4. An error is a text message, `[word] where: what (mend)` with the words of `refusals.py`, and the connection is closed with
   code 1011; after `[busy]` it stays open, for the same request may succeed later.

The policy runs in one worker thread (`inference.py`), so pings are answered however slow it is. On SIGTERM the server takes no new
connection, answers every request that it has read, closes with code 1001 and ends.
"""

from __future__ import annotations

import asyncio
import http
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from traceworld.errors import ConfigError, InvalidInputError, TraceworldError
from traceworld.extras import require
from traceworld.policies.policy import Policy
from traceworld.serving.adapters import Adapter
from traceworld.serving.codec import CodecLimits, pack, unpack
from traceworld.serving.extensions import EXTENSIONS, PREFIX, write_traces
from traceworld.serving.inference import InferenceWorker
from traceworld.serving.keys import has_key
from traceworld.serving.metrics import ServerMetrics
from traceworld.serving.refusals import BusyError, PolicyError, StoppingError, word_of
from traceworld.serving.sessions import Episode, Outcome, Sessions, Turn
from traceworld.traces.robot import ActionSpec

log = logging.getLogger(__name__)

ERROR_CODE, GOING_CODE, LATER_CODE = 1011, 1001, 1013
_OPEN, _TOO_BIG = 1, 1009
_GRACE_S = 0.05
"""After SIGTERM: how long a request that is already on its way is waited for."""


_LIMITS = CodecLimits()


@dataclass(frozen=True)
class PolicyServerConfig:
    """How a policy is served.

    Attributes:
        host, port: where to listen; port 0: any free one.
        api_key: what clients must show; None: nothing.
        default_prompt: the instruction of requests without one.
        steps_per_request: how many actions of a chunk clients play before they ask again: the step that a policy is told when
            a request does not say it (`traceworld/step`).
        limits: of one message.
        max_connections: beyond which new ones are refused (503).
        max_queue: how many requests may wait for the policy; one more is refused (`[busy]`).
        max_batch: how many requests go to a policy in one call, if it can take several.
        inference_timeout_s: from reading a request to its actions.
        open_timeout_s: for the handshake.
        ping_interval_s, ping_timeout_s: a peer that does not answer a ping in time is cut off.
        shutdown_timeout_s: how long requests that were read may still take after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = field(default=None, repr=False)
    default_prompt: str | None = None
    steps_per_request: int = 1
    limits: CodecLimits = _LIMITS
    max_connections: int = 128
    max_queue: int = 64
    max_batch: int = 8
    inference_timeout_s: float = 30.0
    open_timeout_s: float = 10.0
    ping_interval_s: float = 20.0
    ping_timeout_s: float = 20.0
    shutdown_timeout_s: float = 30.0

    def __post_init__(self):
        for name in ("max_connections", "max_queue", "max_batch", "steps_per_request"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)}", where=name, mend="give 1 or more")
        for name in (
            "inference_timeout_s", "open_timeout_s", "ping_interval_s", "ping_timeout_s", "shutdown_timeout_s"
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ConfigError(f"{getattr(self, name)}", where=name, mend="give more than 0 seconds")


@dataclass(eq=False)
class _Conversation:
    """One connection."""

    socket: Any
    episode: Episode
    previous_s: float | None = None


class PolicyServer:
    """A policy on a socket. `await start()`, then `await stop()`; or `serve_policy` for a process of its own.

    Args:
        policy: see `sessions.py` for how one policy serves several connections.
        adapter: what observations look like.
        metadata: more for the client's `get_server_metadata()`.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
    """

    def __init__(
        self,
        policy: Policy,
        adapter: Adapter,
        config: PolicyServerConfig | None = None,
        metadata: Mapping[str, Any] | None = None,
    ):
        self._sockets = require("websockets.asyncio.server")
        self._exceptions = require("websockets.exceptions")
        self._policy, self._adapter, self.config = policy, adapter, config or PolicyServerConfig()
        self._sessions = Sessions(policy)
        self._metadata = pack(
            {
                **adapter.describe(),
                **_meaning(getattr(policy, "spec", None)),
                "policy": policy.name,
                "prompt": self.config.default_prompt,
                "extensions": [PREFIX + name for name in EXTENSIONS],
                **(metadata or {}),
            }
        )
        self._worker: InferenceWorker[Turn, Outcome] = InferenceWorker(
            self._sessions.act, self.config.max_queue, self.config.max_batch if self._sessions.takes_several else 1
        )
        self._open = 0
        self.metrics = ServerMetrics(lambda: self._worker.waiting, lambda: self._open)
        self._stopping = asyncio.Event()
        self._last_read = math.inf
        self._server: Any = None
        self.port = 0
        """The port that it listens on, once it does."""

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        config = self.config
        quiet = logging.getLogger(f"{__name__}.websockets")
        quiet.setLevel(logging.CRITICAL)  # every port scan would else leave a traceback in the log
        try:
            self._server = await self._sockets.serve(
                self._converse,
                config.host,
                config.port,
                process_request=self._greet,
                compression=None,
                max_size=config.limits.max_bytes,
                max_queue=1,  # frames that wait behind the one in work: a caller gets one answer at a time
                open_timeout=config.open_timeout_s,
                ping_interval=config.ping_interval_s,
                ping_timeout=config.ping_timeout_s,
                close_timeout=min(10.0, config.ping_timeout_s),
                logger=quiet,
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen: {error}", where=f"{config.host}:{config.port}", mend="choose another port or host"
            ) from error
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> bool:
        """Take nothing new, answer what was read, close. False: some answers were not ready in time."""
        end = time.monotonic() + self.config.shutdown_timeout_s
        self._last_read = time.monotonic() + _GRACE_S
        self._stopping.set()
        self._server.close(close_connections=False)
        in_time = True
        try:
            await asyncio.wait_for(self._server.wait_closed(), self.config.shutdown_timeout_s)
        except TimeoutError:
            in_time = False
        finished = await self._worker.stop(max(0.0, end - time.monotonic()))
        return in_time and finished

    def _greet(self, connection: Any, request: Any) -> Any:
        """What a connection asks for first: health, figures, or to talk."""
        path = urlsplit(request.path).path
        if path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if not has_key(request.headers.get("Authorization"), self.config.api_key):
            self.metrics.refuse("key")
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "Send the header 'Authorization: Api-Key KEY'.\n")
        if path == "/metrics":
            response = connection.respond(http.HTTPStatus.OK, self.metrics.render().decode())
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = self.metrics.content_type
            return response
        if _foreign_page(request.headers):
            self.metrics.refuse("origin")
            return connection.respond(http.HTTPStatus.FORBIDDEN, "Pages of other servers may not talk to this one.\n")
        if self._open >= self.config.max_connections:
            self.metrics.refuse("connections")
            return connection.respond(
                http.HTTPStatus.SERVICE_UNAVAILABLE, f"{self.config.max_connections} connections are open already.\n"
            )
        if self._sessions.full:
            self.metrics.refuse("policy")
            return connection.respond(
                http.HTTPStatus.SERVICE_UNAVAILABLE,
                "The policy remembers its episode and serves one connection at a time; another one is open.\n",
            )
        return None

    async def _converse(self, socket: Any) -> None:
        try:
            episode = self._sessions.open()
        except BusyError as error:  # two handshakes at the same time
            self.metrics.refuse("policy")
            await self._say_no(socket, error, LATER_CODE)
            return
        self._open += 1
        conversation = _Conversation(socket, episode)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await socket.send(self._metadata)
            while await self._exchange(conversation, stopping):
                pass
        except self._exceptions.ConnectionClosed as closed:
            if closed.sent is not None and closed.sent.code == _TOO_BIG:  # websockets has said so to the peer
                self.metrics.count("invalid_request")
        finally:
            stopping.cancel()
            self._open -= 1
            self._sessions.close()

    async def _exchange(self, conversation: _Conversation, stopping: asyncio.Future) -> bool:
        """Read one request and answer it; whether the conversation goes on."""
        socket = conversation.socket
        if (reading := await self._read(socket, stopping)) is None:
            await socket.close(GOING_CODE, "the server is shutting down")
            return False
        started = time.perf_counter()
        message = reading.result()
        try:
            answer, inference_s = await self._answer(conversation, message)
        except TraceworldError as error:
            self.metrics.count(word_of(error))
            lasting = not isinstance(error, BusyError)
            await self._say_no(socket, error, ERROR_CODE if lasting else None)
            return not lasting
        try:
            await socket.send(answer)
        except self._exceptions.ConnectionClosed:
            self.metrics.count("left")
            raise
        total_s = time.perf_counter() - started
        conversation.previous_s = total_s
        self.metrics.count("answered")
        self.metrics.took(inference_s, total_s)
        return True

    async def _read(self, socket: Any, stopping: asyncio.Future) -> asyncio.Future | None:
        """The next message (or what ended the connection); None: the server stops, and nothing was read that an answer is owed to.

        What comes later than `_GRACE_S` after the signal is not read: a client that asks again as soon as it is answered
        would else keep the server up for ever.
        """
        if self._stopping.is_set() and time.monotonic() > self._last_read:
            return None
        reading = asyncio.ensure_future(socket.recv())
        await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            await asyncio.wait((reading,), timeout=max(0.0, self._last_read - time.monotonic()))
        if reading.done():
            return reading
        reading.cancel()
        return None

    async def _answer(self, conversation: _Conversation, message: bytes | str) -> tuple[bytes, float]:
        """The answer to a message, and the seconds that the policy took."""
        started = time.perf_counter()
        if isinstance(message, str):
            raise InvalidInputError("is text", where="message", mend="send one msgpack map in a binary message")
        episode = conversation.episode
        step = episode.requests * self.config.steps_per_request
        observation, extras = self._adapter.read(unpack(message, self.config.limits), self.config.default_prompt, step)
        turn = Turn(episode, observation, extras.reset_seed, extras.return_traces, extras.committed)
        try:
            chunk, seconds = await self._worker.submit(
                turn, self.config.inference_timeout_s, lambda: conversation.socket.state == _OPEN
            )
            answer = self._adapter.write(chunk)
            if extras.return_traces:
                answer[f"{PREFIX}traces"] = write_traces(chunk.prediction)
            stages = {f"{stage}_ms": 1000 * float(each) for stage, each in chunk.timing.items()}
            server_timing = {"infer_ms": 1000 * (time.perf_counter() - started)}
            if conversation.previous_s is not None:
                server_timing["prev_total_ms"] = 1000 * conversation.previous_s
            answer |= {"policy_timing": {**stages, "infer_ms": 1000 * seconds}, "server_timing": server_timing}
            return pack(answer), seconds
        except TraceworldError:
            raise
        except Exception as error:
            log.exception("the policy failed")
            raise PolicyError(f"the policy failed: {type(error).__name__}: {error}", where="policy") from error

    async def _say_no(self, socket: Any, error: TraceworldError, code: int | None) -> None:
        """Say what is wrong, and with a code close the connection."""
        await socket.send(f"[{word_of(error)}] {error}")
        if code is not None:
            await socket.close(code, f"{word_of(error)}: see the message before")


def _meaning(spec: ActionSpec | None) -> dict[str, Any]:
    """What the policy's numbers mean, where it says so."""
    if spec is None:
        return {}
    return {
        "control_hz": spec.control_hz,
        "action_names": list(spec.names),
        "state_names": list(spec.state_names),
    }


def _foreign_page(headers: Any) -> bool:
    """Whether a browser says that a page of another server is behind this (a page may open sockets to any host)."""
    origins = headers.get_all("Origin")
    return any(urlsplit(origin).netloc != headers.get("Host", "") for origin in origins)


def serve_policy(
    policy: Policy,
    adapter: Adapter,
    config: PolicyServerConfig | None = None,
    metadata: Mapping[str, Any] | None = None,
    ready: Callable[[str], None] | None = None,
) -> dict[str, int]:
    """Serve until SIGTERM or SIGINT; returns what came of the requests (`metrics.OUTCOMES`).

    Args:
        ready: called with the address when the server listens.

    Raises:
        ConfigError: the address cannot be listened on.
        StoppingError: requests that had been read were not answered within `shutdown_timeout_s`.
    """
    return asyncio.run(_serve_until_told(partial(PolicyServer, policy, adapter, config, metadata), ready))


async def _serve_until_told(make: Callable[[], PolicyServer], ready: Callable[[str], None] | None) -> dict[str, int]:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for each in signals:
        if sys.platform == "win32":
            signal.signal(each, lambda *_: loop.call_soon_threadsafe(told.set))
        else:
            loop.add_signal_handler(each, told.set)
    server = make()
    await server.start()
    if ready is not None:
        ready(f"ws://{server.config.host}:{server.port}")
    await told.wait()
    if sys.platform != "win32":
        for each in signals:  # a second one ends the process at once
            loop.remove_signal_handler(each)
    finished = await server.stop()
    if not finished:
        raise StoppingError(
            f"requests were not answered within {server.config.shutdown_timeout_s:g} s of the signal",
            where="policy server",
        )
    return server.metrics.counts()
