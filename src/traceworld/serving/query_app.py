"""RoboTracer's and RoboRefer's `POST /query` over HTTP for our RoboTracer and any other predictor; `GET /` greets.

The predictor runs in one worker thread. Errors are JSON: `{"error": {kind, message, where, mend}}`, with a 4xx status where the
request is at fault. `query_schema` says what may be sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from traceworld.errors import ConfigError, InvalidInputError, TraceworldError
from traceworld.models.predictor import TracePredictor
from traceworld.serving.http_guard import Bounds, Guard, close_silent, error_body
from traceworld.serving.inference import InferenceWorker
from traceworld.serving.metrics import ServerMetrics
from traceworld.serving.predict_app import PredictServerConfig, listen, make_server
from traceworld.serving.query_answers import answer_one_by_one, answers_of
from traceworld.serving.query_files import SharedFolder
from traceworld.serving.query_schema import Answer, Query, QueryRequest, read_query
from traceworld.serving.refusals import BusyError, PolicyError, StoppingError, TooSlowError, word_of

log = logging.getLogger(__name__)

GREETING = "traceworld: POST /query\n"
_STATUS = ((InvalidInputError, 400), (BusyError, 503), (StoppingError, 503), (TooSlowError, 504))


@dataclass(frozen=True)
class QueryServerConfig(PredictServerConfig):
    """How a predictor answers queries. As `PredictServerConfig`, questions go to the predictor one by one.

    Attributes:
        folder: files below it may be named in requests (`image_paths`); None: none may.
    """

    port: int = 25547
    max_batch: int = 1
    window_s: float = 0.0
    inference_timeout_s: float = 120.0
    shutdown_timeout_s: float = 120.0
    folder: Path | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.max_batch != 1 or self.window_s != 0:
            raise ConfigError("questions are answered one by one", where="max_batch, window_s", mend="leave them out")


class QueryService:
    """The predictor behind its queue, and its figures."""

    def __init__(self, predictor: TracePredictor, config: QueryServerConfig):
        self.predictor, self.config = predictor, config
        self.folder = SharedFolder(config.folder, config.max_request_bytes)
        self.worker: InferenceWorker[Query, str] = InferenceWorker(
            answer_one_by_one(answers_of(predictor)), config.max_queue
        )
        self.connections: Callable[[], set[Any]] = set
        self.metrics = ServerMetrics(lambda: self.worker.waiting, lambda: len(self.connections()))

    async def answer(self, request: QueryRequest) -> Response:
        """Decode, ask, reply: all but the waiting is done off the event loop."""
        started = time.perf_counter()
        try:
            query = await run_in_threadpool(read_query, request, self.folder)
            asked = time.perf_counter()
            words = await self.worker.submit(query, self.config.inference_timeout_s)
        except TraceworldError as error:
            return self.refusal(error)
        except Exception as error:
            log.exception("the predictor failed")
            text = f"the predictor failed: {type(error).__name__}: {error}"
            return self.refusal(PolicyError(text, where="predictor"))
        self.metrics.count("answered")
        self.metrics.took(time.perf_counter() - asked, time.perf_counter() - started)
        reply = Answer(answer=words, result=1 if query.base64 else None, ignored=list(query.ignored) or None)
        return Response(reply.model_dump_json(exclude_none=True), media_type="application/json")

    def refusal(self, error: TraceworldError) -> Response:
        kind = InvalidInputError if isinstance(error, ConfigError) else type(error)
        word = "invalid_request" if kind is InvalidInputError else word_of(error)
        self.metrics.count(word)
        status = next((status for each, status in _STATUS if issubclass(kind, each)), 500)
        headers = {"Retry-After": "1"} if status == 503 else None
        body = error_body(word, error.message, error.where, error.mend)
        return Response(body, status, headers=headers, media_type="application/json")


def build_query_app(predictor: TracePredictor, config: QueryServerConfig | None = None) -> FastAPI:
    """The app of one predictor (`app.state.service` is its `QueryService`).

    Raises:
        MissingExtraError: the extra `serve` is not installed.
        ConfigError: the shared folder is none.
    """
    config = config or QueryServerConfig()
    service = QueryService(predictor, config)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        limits = config.header_timeout_s, service.metrics
        reaper = asyncio.create_task(close_silent(lambda: service.connections(), *limits))
        yield
        reaper.cancel()
        await service.worker.stop(config.shutdown_timeout_s)

    from traceworld import __version__

    app = FastAPI(title="traceworld", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    bounds = Bounds(config.max_request_bytes, config.body_timeout_s, config.api_key)
    app.add_middleware(Guard, bounds=bounds, metrics=service.metrics)  # type: ignore[arg-type]
    _add_routes(app, service)
    return app


def _add_routes(app: FastAPI, service: QueryService) -> None:
    @app.post("/query", response_model=Answer)
    async def query(request: QueryRequest) -> Response:
        """Ask about a picture."""
        return await service.answer(request)

    @app.get("/")
    async def greeting() -> Response:
        """Who is here."""
        return Response(GREETING, media_type="text/plain")

    @app.get("/healthz")
    async def healthz() -> Response:
        """Whether the server is up."""
        return Response("OK\n", media_type="text/plain")

    @app.get("/metrics")
    async def metrics() -> Response:
        """Figures in Prometheus' text format."""
        return Response(service.metrics.render(), headers={"Content-Type": service.metrics.content_type})

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        service.metrics.count("invalid_request")
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")[:200]
        return Response(
            error_body("invalid_request", str(first["msg"])[:400], where or "body"), 422, media_type="application/json"
        )

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        service.metrics.count("invalid_request")
        body = error_body("invalid_request", str(error.detail))
        return Response(body, error.status_code, headers=error.headers, media_type="application/json")


def serve_query(
    predictor: TracePredictor, config: QueryServerConfig | None = None, ready: Callable[[str], None] | None = None
) -> dict[str, int]:
    """Serve until SIGTERM or SIGINT; requests that had been read are answered first.

    Args:
        ready: called with the address when the server listens.

    Returns:
        requests by what came of them (`metrics.OUTCOMES`).

    Raises:
        ConfigError: the address cannot be listened on, or the shared folder is none.
    """
    return asyncio.run(_serve_until_told(predictor, config or QueryServerConfig(), ready))


async def _serve_until_told(
    predictor: TracePredictor, config: QueryServerConfig, ready: Callable[[str], None] | None
) -> dict[str, int]:
    app = build_query_app(predictor, config)
    server = make_server(app, config)
    loop = asyncio.get_running_loop()

    def end(*_: Any) -> None:
        server.should_exit = True

    for each in (signal.SIGTERM, signal.SIGINT):
        if sys.platform == "win32":
            signal.signal(each, end)
        else:
            loop.add_signal_handler(each, end)
    sock = listen(config)
    if ready is not None:
        ready(f"http://{config.host}:{sock.getsockname()[1]}")
    await server.serve(sockets=[sock])
    return app.state.service.metrics.counts()
