"""Any trace predictor over HTTP: `POST /v1/predict` (JSON) and `POST /v1/predict/multipart` (files), documented in `/openapi.json`.

The predictor runs in one worker thread; questions that come within a few milliseconds of each other go to it together
(`predict_batches.py`). `GET /healthz`, `/metrics`, `/v1/model`. Errors are JSON: `{"error": {kind, message, where, mend}}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from traceworld.errors import ConfigError, InvalidInputError, TraceworldError
from traceworld.models.predictor import TracePredictor
from traceworld.serving import predict_schema as schema
from traceworld.serving.http_guard import Bounds, Guard, close_silent, error_body
from traceworld.serving.inference import InferenceWorker
from traceworld.serving.metrics import ServerMetrics
from traceworld.serving.predict_batches import Asked, predict_together
from traceworld.serving.refusals import BusyError, PolicyError, StoppingError, TooSlowError, word_of
from traceworld.traces.types import Observation, TracePrediction

log = logging.getLogger(__name__)

_STATUS = ((InvalidInputError, 400), (BusyError, 503), (StoppingError, 503), (TooSlowError, 504))
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.ErrorAnswer, "description": text}
    for status, text in (
        (400, "The question cannot be answered as it is"),
        (401, "No key"),
        (408, "The body took too long"),
        (413, "The body is too large"),
        (422, "The question has another form"),
        (500, "The predictor failed"),
        (503, "Too many questions wait; Retry-After says when to come back"),
        (504, "The answer took too long"),
    )
}
_FORM_FIELD: dict[str, Any] = {
    "contentMediaType": "application/json",
    "contentSchema": schema.MultipartQuestion.model_json_schema(),
}


@dataclass(frozen=True)
class PredictServerConfig:
    """How a predictor is served.

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
    port: int = 8001
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


class PredictService:
    """The predictor behind its queue, and its figures."""

    def __init__(self, predictor: TracePredictor, config: PredictServerConfig):
        self.predictor, self.config = predictor, config
        self.worker: InferenceWorker[Asked, TracePrediction] = InferenceWorker(
            predict_together(predictor), config.max_queue, config.max_batch, config.window_s
        )
        self.connections: Callable[[], set[Any]] = set
        self.metrics = ServerMetrics(lambda: self.worker.waiting, lambda: len(self.connections()))

    async def answer(self, question: schema.Question, observe: Callable[[], Observation]) -> Response:
        """Decode, ask, encode: all but the waiting is done off the event loop."""
        started = time.perf_counter()
        try:
            observation = await run_in_threadpool(observe)
            asked = Asked(observation, question.num_samples, question.seed)
            prediction = await self.worker.submit(asked, self.config.inference_timeout_s)
            body = await run_in_threadpool(schema.answer_json, self.predictor.name, prediction, question.arrays)
        except TraceworldError as error:
            return self.refusal(error)
        except Exception as error:
            log.exception("the predictor failed")
            text = f"the predictor failed: {type(error).__name__}: {error}"
            return self.refusal(PolicyError(text, where="predictor"))
        self.metrics.count("answered")
        self.metrics.took(float(prediction.timing.get("total", 0.0)), time.perf_counter() - started)
        return Response(body, media_type="application/json")

    def refusal(self, error: TraceworldError) -> Response:
        kind = InvalidInputError if isinstance(error, ConfigError) else type(error)
        word = "invalid_request" if kind is InvalidInputError else word_of(error)
        self.metrics.count(word)
        status = next((status for each, status in _STATUS if issubclass(kind, each)), 500)
        headers = {"Retry-After": "1"} if status == 503 else None
        body = error_body(word, error.message, error.where, error.mend)
        return Response(body, status, headers=headers, media_type="application/json")


def build_app(predictor: TracePredictor, config: PredictServerConfig | None = None) -> FastAPI:
    """The app of one predictor (`app.state.service` is its `PredictService`).

    Raises:
        MissingExtraError: the extra `serve` is not installed.
    """
    config = config or PredictServerConfig()
    service = PredictService(predictor, config)

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
        summary="Future 3D traces of points of a picture.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # the usual pages load scripts from elsewhere; /openapi.json says the same
        redoc_url=None,
    )
    app.state.service = service
    bounds = Bounds(config.max_request_bytes, config.body_timeout_s, config.api_key)
    app.add_middleware(Guard, bounds=bounds, metrics=service.metrics)  # type: ignore[arg-type]
    _add_questions(app, service)
    _add_figures(app, service)
    _add_errors(app, service)
    return app


def _add_questions(app: FastAPI, service: PredictService) -> None:
    @app.post("/v1/predict", response_model=schema.PredictAnswer, responses=_ERRORS)
    async def predict(request: schema.PredictRequest) -> Response:
        """Predict from a picture in base64."""
        return await service.answer(request, lambda: schema.observation_of(request))

    @app.post("/v1/predict/multipart", response_model=schema.PredictAnswer, responses=_ERRORS)
    async def predict_multipart(
        image: Annotated[UploadFile, File(description="A PNG or JPEG.")],
        request: Annotated[str, Form(description="The question as JSON.", json_schema_extra=_FORM_FIELD)],
        depth: Annotated[
            UploadFile | None, File(description="16-bit PNG of millimetres, or float32 metres with depth_shape.")
        ] = None,
    ) -> Response:
        """Predict from files."""
        try:
            question = schema.MultipartQuestion.model_validate_json(request)
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from error
        picture, map_ = await image.read(), None if depth is None else await depth.read()
        return await service.answer(question, lambda: schema.observation_of_files(question, picture, map_))


def _add_figures(app: FastAPI, service: PredictService) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        """Whether the server is up."""
        return Response("OK\n", media_type="text/plain")

    @app.get("/metrics")
    async def metrics() -> Response:
        """Figures in Prometheus' text format."""
        return Response(service.metrics.render(), headers={"Content-Type": service.metrics.content_type})

    @app.get("/v1/model", response_model=schema.ModelAnswer)
    async def model() -> schema.ModelAnswer:
        """What is served."""
        inner: Any = getattr(service.predictor, "model", None)
        count = getattr(service.predictor, "num_parameters", None)
        if count is None and inner is not None and hasattr(inner, "parameters"):
            count = sum(parameter.numel() for parameter in inner.parameters())
        return schema.ModelAnswer(
            model=service.predictor.name,
            num_parameters=count,
            max_keypoints=schema.MAX_KEYPOINTS,
            max_samples=schema.MAX_SAMPLES,
        )


def _add_errors(app: FastAPI, service: PredictService) -> None:
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


class _Uvicorn(uvicorn.Server):
    """uvicorn without its own signal handling, which would end the process by the signal in the end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve_predict(
    predictor: TracePredictor, config: PredictServerConfig | None = None, ready: Callable[[str], None] | None = None
) -> dict[str, int]:
    """Serve until SIGTERM or SIGINT; requests that had been read are answered first.

    Args:
        ready: called with the address when the server listens.

    Returns:
        requests by what came of them (`metrics.OUTCOMES`).

    Raises:
        ConfigError: the address cannot be listened on.
    """
    return asyncio.run(_serve_until_told(predictor, config or PredictServerConfig(), ready))


async def _serve_until_told(
    predictor: TracePredictor, config: PredictServerConfig, ready: Callable[[str], None] | None
) -> dict[str, int]:
    app = build_app(predictor, config)
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


def make_server(app: FastAPI, config: PredictServerConfig) -> uvicorn.Server:
    """The web server of an app of `build_app`, not yet running."""
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


def listen(config: PredictServerConfig) -> Any:
    """A bound socket.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    import socket

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
