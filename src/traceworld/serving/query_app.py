"""RoboTracer's and RoboRefer's `POST /query` over HTTP for our RoboTracer and any other predictor; `GET /` greets.

`query_schema` says what may be sent; the rest is that of every server (`http_app.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Response
from starlette.concurrency import run_in_threadpool

from traceworld.errors import ConfigError
from traceworld.models.predictor import TracePredictor
from traceworld.serving.http_app import HttpServerConfig, HttpService, make_app, serve_until_told
from traceworld.serving.inference import InferenceWorker
from traceworld.serving.query_answers import answer_one_by_one, answers_of
from traceworld.serving.query_files import SharedFolder
from traceworld.serving.query_schema import Answer, Query, QueryRequest, read_query

GREETING = "traceworld: POST /query\n"


@dataclass(frozen=True)
class QueryServerConfig(HttpServerConfig):
    """How a predictor answers queries. As `HttpServerConfig`, but questions go to the predictor one by one.

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


class QueryService(HttpService):
    """Questions in words about files."""

    def __init__(self, predictor: TracePredictor, config: QueryServerConfig):
        self.folder = SharedFolder(config.folder, config.max_request_bytes)
        worker: InferenceWorker[Query, str] = InferenceWorker(
            answer_one_by_one(answers_of(predictor)), config.max_queue
        )
        super().__init__(predictor, config, worker)

    async def answer(self, request: QueryRequest) -> Response:
        """Decode, ask, reply: all but the waiting is done off the event loop."""
        started = time.perf_counter()
        try:
            query = await run_in_threadpool(read_query, request, self.folder)
            asked = time.perf_counter()
            words = await self.worker.submit(query, self.config.inference_timeout_s)
        except Exception as error:
            return self.refusal(error)
        self.metrics.count("answered")
        self.metrics.took(time.perf_counter() - asked, time.perf_counter() - started)
        reply = Answer(answer=words, result=1 if query.base64 else None, ignored=list(query.ignored) or None)
        return Response(reply.model_dump_json(exclude_none=True), media_type="application/json")


def build_query_app(predictor: TracePredictor, config: QueryServerConfig | None = None) -> FastAPI:
    """The app of one predictor (`app.state.service` is its `QueryService`).

    Raises:
        MissingExtraError: the extra `serve` is not installed.
        ConfigError: the shared folder is none.
    """
    service = QueryService(predictor, config or QueryServerConfig())
    app = make_app(service, "Spatial traces in words.")
    _add_questions(app, service)
    return app


def _add_questions(app: FastAPI, service: QueryService) -> None:
    @app.post("/query", response_model=Answer)
    async def query(request: QueryRequest) -> Response:
        """Ask about a picture."""
        return await service.answer(request)

    @app.get("/")
    async def greeting() -> Response:
        """Who is here."""
        return Response(GREETING, media_type="text/plain")


def serve_query(
    predictor: TracePredictor, config: QueryServerConfig | None = None, ready: Callable[[str], None] | None = None
) -> dict[str, int]:
    """Serve until SIGTERM or SIGINT, as `http_app.serve_until_told`.

    Raises:
        ConfigError: the address cannot be listened on, or the shared folder is none.
    """
    config = config or QueryServerConfig()
    return serve_until_told(build_query_app(predictor, config), config, ready)
