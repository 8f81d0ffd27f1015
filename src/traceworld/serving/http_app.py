"""What the HTTP servers of predictors share: their limits, the queue in front of the predictor, figures, errors, start and end.

Errors are JSON, `{"error": {kind, message, where, mend}}`, with a 4xx status where the request is at fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from traceworld.errors import ConfigError, InvalidInputError, TraceworldError
from traceworld.models.predictor import TracePredictor
from traceworld.serving.http_guard import Bounds, Guard, close_silent, error_body
from traceworld.serving.inference import InferenceWorker
from traceworld.serving.metrics import ServerMetrics
from traceworld.serving.refusals import BusyError, PolicyError, StoppingError, TooSlowError, word_of

log = logging.getLogger(__name__)

_STATUS = ((InvalidInputError, 400), (BusyError, 503), (StoppingError, 503), (TooSlowError, 504))


@dataclass(frozen=True)
class HttpServerConfig:
    """How a predictor is served over HTTP.

    Attributes:
        host, port: where to listen; port 0: any free one.
        api_key: what clients must show; None: nothing.
        max_request_bytes: of one body.
        max_connections: beyond which requests are refused (503).
        max_queue: how many questions may wait; one more is refused (503).
        max_batch, window_s: how many questions go to the predictor together, and how long the first one waits for others.
        inference_timeout_s: from understanding a question to its answer.
        header_timeout_s, body_timeout_s: until a request's headers, its body have arrived.
        shutdown_timeout_s: how long requests may still take after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: int = 0
    api_key: str | None = field(default=None, repr=False)
    max_request_bytes: int = 32 * 2**20
    max_connections: int = 128
    max_queue: int = 64
    max_batch: int = 8
    window_s: float = 0.005
    inference_timeout_s: float = 60.0
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    shutdown_timeout_s: float = 60.0

    def __post_init__(self):
        for name in ("max_request_bytes", "max_connections", "max_queue", "max_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)}", where=name, mend="give 1 or more")
        for name in ("inference_timeout_s", "header_timeout_s", "body_timeout_s", "shutdown_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{getattr(self, name)}", where=name, mend="give more than 0 seconds")
        if self.window_s < 0:
            raise ConfigError(f"{self.window_s}", where="window_s", mend="give 0 or more seconds")


class HttpService:
    """A predictor behind its queue, and its figures."""

    def __init__(self, predictor: TracePredictor, config: HttpServerConfig, worker: InferenceWorker[Any, Any]):
        self.predictor, self.config, self.worker = predictor, config, worker
        self.connections: Callable[[], set[Any]] = set
        self.metrics = ServerMetrics(lambda: self.worker.waiting, lambda: len(self.connections()))

    def refusal(self, error: Exception) -> Response:
        """What the asker is told of an error; one that is not ours is the predictor's."""
        if not isinstance(error, TraceworldError):
            log.error("the predictor failed", exc_info=error)
            error = PolicyError(f"the predictor failed: {type(error).__name__}: {error}", where="predictor")
        kind = InvalidInputError if isinstance(error, ConfigError) else type(error)
        word = "invalid_request" if kind is InvalidInputError else word_of(error)
        self.metrics.count(word)
        status = next((status for each, status in _STATUS if issubclass(kind, each)), 500)
        headers = {"Retry-After": "1"} if status == 503 else None
        body = error_body(word, error.message, error.where, error.mend)
        return Response(body, status, headers=headers, media_type="application/json")


def make_app(service: HttpService, summary: str) -> FastAPI:
    """An app with the service's limits, its figures and its errors, still without questions (`app.state.service`)."""
    config = service.config

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        limits = config.header_timeout_s, service.metrics
        reaper = asyncio.create_task(close_silent(lambda: service.connections(), *limits))
        yield
        reaper.cancel()
        await service.worker.stop(config.shutdown_timeout_s)

    from traceworld import __version__

    app = FastAPI(
        title="traceworld",
        summary=summary,
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # the usual pages load scripts from elsewhere; /openapi.json says the same
        redoc_url=None,
    )
    app.state.service = service
    bounds = Bounds(config.max_request_bytes, config.body_timeout_s, config.api_key)
    app.add_middleware(Guard, bounds=bounds, metrics=service.metrics)  # type: ignore[arg-type]
    _add_figures(app, service)
    _add_errors(app, service)
    return app


def _add_figures(app: FastAPI, service: HttpService) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        """Whether the server is up."""
        return Response("OK\n", media_type="text/plain")

    @app.get("/metrics")
    async def metrics() -> Response:
        """Figures in Prometheus' text format."""
        return Response(service.metrics.render(), headers={"Content-Type": service.metrics.content_type})


def _add_errors(app: FastAPI, service: HttpService) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        service.metrics.count("invalid_request")
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")[:200]
        more = len(error.errors()) - 1
        text = str(first["msg"])[:400] + (f" (and {more} more)" if more else "")
        return Response(error_body("invalid_request", text, where or "body"), 422, media_type="application/json")

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        service.metrics.count("invalid_request")
        body = error_body("invalid_request", str(error.detail))
        return Response(body, error.status_code, headers=error.headers, media_type="application/json")


def serve_until_told(
    app: FastAPI, config: HttpServerConfig, ready: Callable[[str], None] | None = None
) -> dict[str, int]:
    """Serve an app until SIGTERM or SIGINT; requests that had been read are answered first.

    Args:
        ready: called with the address when the server listens.

    Returns:
        requests by what came of them (`metrics.OUTCOMES`).

    Raises:
        ConfigError: the address cannot be listened on.
    """
    return asyncio.run(_serve(app, config, ready))


async def _serve(app: FastAPI, config: HttpServerConfig, ready: Callable[[str], None] | None) -> dict[str, int]:
    server = make_server(app, config)
    loop = asyncio.get_running_loop()

    def end() -> None:
        server.should_exit = True

    for each in (signal.SIGTERM, signal.SIGINT):
        if sys.platform == "win32":
            signal.signal(each, lambda *_: end())
        else:
            loop.add_signal_handler(each, end)
    sock = listen(config)
    if ready is not None:
        ready(f"http://{config.host}:{sock.getsockname()[1]}")
    await server.serve(sockets=[sock])
    return app.state.service.metrics.counts()


class _Uvicorn(uvicorn.Server):
    """uvicorn without its own signal handling, which would end the process by the signal in the end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_server(app: FastAPI, config: HttpServerConfig) -> uvicorn.Server:
    """The web server of an app of `make_app`, not yet running."""
    server = _Uvicorn(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            log_level="warning",
            access_log=False,
            limit_concurrency=config.max_connections,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=max(1, round(config.shutdown_timeout_s)),
            server_header=False,
        )
    )
    app.state.service.connections = lambda: set(server.server_state.connections)
    return server


def listen(config: HttpServerConfig) -> Any:
    """A bound socket.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((config.host, config.port))
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"cannot listen: {error}", where=f"{config.host}:{config.port}", mend="choose another port or host"
        ) from error
    sock.listen(256)
    return sock
