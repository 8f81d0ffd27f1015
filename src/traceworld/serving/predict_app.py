"""Any trace predictor over HTTP: `POST /v1/predict` (JSON) and `POST /v1/predict/multipart` (files), documented in `/openapi.json`.

The predictor runs in one worker thread; questions that come within a few milliseconds of each other go to it together
(`predict_batches.py`). `GET /v1/model` says what is served; the rest is that of every server (`http_app.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from traceworld.models.predictor import TracePredictor
from traceworld.serving import predict_schema as schema
from traceworld.serving.http_app import HttpServerConfig, HttpService, make_app, serve_until_told
from traceworld.serving.inference import InferenceWorker
from traceworld.serving.predict_batches import Asked, predict_together
from traceworld.traces.types import Observation, TracePrediction

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
class PredictServerConfig(HttpServerConfig):
    """As `HttpServerConfig`."""

    port: int = 8001


class PredictService(HttpService):
    """Questions about observations."""

    def __init__(self, predictor: TracePredictor, config: PredictServerConfig):
        worker: InferenceWorker[Asked, TracePrediction] = InferenceWorker(
            predict_together(predictor), config.max_queue, config.max_batch, config.window_s
        )
        super().__init__(predictor, config, worker)

    async def answer(self, question: schema.Question, observe: Callable[[], Observation]) -> Response:
        """Decode, ask, encode: all but the waiting is done off the event loop."""
        started = time.perf_counter()
        try:
            observation = await run_in_threadpool(observe)
            asked = Asked(observation, question.num_samples, question.seed)
            prediction = await self.worker.submit(asked, self.config.inference_timeout_s)
            body = await run_in_threadpool(schema.answer_json, self.predictor.name, prediction, question.arrays)
        except Exception as error:
            return self.refusal(error)
        self.metrics.count("answered")
        self.metrics.took(float(prediction.timing.get("total", 0.0)), time.perf_counter() - started)
        return Response(body, media_type="application/json")


def build_app(predictor: TracePredictor, config: PredictServerConfig | None = None) -> FastAPI:
    """The app of one predictor (`app.state.service` is its `PredictService`).

    Raises:
        MissingExtraError: the extra `serve` is not installed.
    """
    service = PredictService(predictor, config or PredictServerConfig())
    app = make_app(service, "Future 3D traces of points of a picture.")
    _add_questions(app, service)
    _add_model(app, service)
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


def _add_model(app: FastAPI, service: PredictService) -> None:
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


def serve_predict(
    predictor: TracePredictor, config: PredictServerConfig | None = None, ready: Callable[[str], None] | None = None
) -> dict[str, int]:
    """Serve until SIGTERM or SIGINT, as `http_app.serve_until_told`."""
    config = config or PredictServerConfig()
    return serve_until_told(build_app(predictor, config), config, ready)
