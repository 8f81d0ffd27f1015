"""Questions and answers of the prediction server, as its OpenAPI page documents them."""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from traceworld.errors import InvalidInputError
from traceworld.geometry.cameras import px_to_uv
from traceworld.serving.pictures import decode_depth_float32, decode_depth_png, decode_picture, from_base64
from traceworld.traces.types import Observation, TracePrediction

MAX_KEYPOINTS = 2048
MAX_HISTORY = 64
MAX_SAMPLES = 64

Pair = tuple[float, float]
Place = tuple[float | None, float | None, float | None]


class Question(BaseModel):
    """What is asked about a picture. Either `keypoints_uv` or `keypoints_px` is needed."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    instruction: Annotated[str, Field(min_length=1, max_length=4096, description="What is to happen, in words.")]
    keypoints_uv: Annotated[
        list[Pair] | None, Field(min_length=1, max_length=MAX_KEYPOINTS, description="u, v in [-1,1]; ±1: outer edges.")
    ] = None
    keypoints_px: Annotated[
        list[Pair] | None,
        Field(min_length=1, max_length=MAX_KEYPOINTS, description="x, y in pixels; pixel centres are at integers."),
    ] = None
    keypoints_z_m: Annotated[
        list[float | None] | None, Field(max_length=MAX_KEYPOINTS, description="Metres; null: unknown.")
    ] = None
    history_uvz: Annotated[
        list[Annotated[list[Place], Field(max_length=MAX_HISTORY)]] | None,
        Field(max_length=MAX_KEYPOINTS, description="[N][h][3], oldest first, without the present; null: unknown."),
    ] = None
    part_id: Annotated[list[int] | None, Field(max_length=MAX_KEYPOINTS, description="Entity of each keypoint.")] = None
    K: Annotated[list[list[float]] | None, Field(description="Intrinsics [3][3] in pixels of the picture.")] = None
    clock: Annotated[Literal["time", "arc"], Field(description="What a step of the horizon is.")] = "time"
    step: Annotated[
        float, Field(gt=0, le=60, description="Seconds per step, or image widths per step (clock arc).")
    ] = 0.025
    num_samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES, description="How many futures.")] = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    arrays: Annotated[
        Literal["lists", "base64"],
        Field(description="How arrays are answered: lists (6 decimals), or base64 of little-endian C-order bytes."),
    ] = "lists"


class DepthPng(BaseModel):
    """A 16-bit grey PNG of millimetres, 0 unknown."""

    model_config = ConfigDict(extra="forbid")

    encoding: Literal["png16_mm"]
    data: Annotated[str, Field(description="base64")]


class DepthFloat32(BaseModel):
    """Little-endian float32 metres in C order; 0 or NaN unknown."""

    model_config = ConfigDict(extra="forbid")

    encoding: Literal["float32"]
    data: Annotated[str, Field(description="base64")]
    shape: Annotated[tuple[int, int], Field(description="[H, W]")]


class PredictRequest(Question):
    """A question with its pictures."""

    image: Annotated[str, Field(description="base64 of a PNG or JPEG file")]
    depth: Annotated[DepthPng | DepthFloat32 | None, Field(discriminator="encoding")] = None


class MultipartQuestion(Question):
    """The form field `request` of a multipart question."""

    depth_shape: Annotated[
        tuple[int, int] | None, Field(description="[H, W] if the file `depth` holds float32 metres; else it is a PNG.")
    ] = None


class PredictAnswer(BaseModel):
    """Predicted traces. Lists, or base64 (`uvz`, `valid_prob`: float32; `valid`: bytes 0 or 1), of the stated shape."""

    model: str
    shape: Annotated[tuple[int, int, int, int], Field(description="[S, N, H, 3]")]
    uvz: Annotated[list | str, Field(description="u, v in [-1,1], z in metres along the camera axis")]
    valid: Annotated[list | str, Field(description="[S,N,H] false from where the trace has ended")]
    valid_prob: Annotated[list | str | None, Field(description="[S,N,H] the probability behind `valid`")]
    clock: Literal["time", "arc"]
    step: float
    text: Annotated[str | None, Field(description="The model's words, if it has any")]
    timing_s: dict[str, float]


class ErrorBody(BaseModel):
    """Why there is no answer."""

    kind: str
    message: str
    where: str | None
    mend: str | None


class ErrorAnswer(BaseModel):
    error: ErrorBody


class ModelAnswer(BaseModel):
    """What is served."""

    model: str
    num_parameters: int | None
    max_keypoints: int
    max_samples: int


def observation_of(request: PredictRequest) -> Observation:
    """What the predictor is given. Decodes pictures: not for the event loop.

    Raises:
        InvalidInputError: a picture or an array that is not what it should be.
    """
    depth = request.depth
    depth_m = None
    if isinstance(depth, DepthPng):
        depth_m = decode_depth_png(from_base64(depth.data, "depth.data"))
    elif isinstance(depth, DepthFloat32):
        depth_m = decode_depth_float32(from_base64(depth.data, "depth.data"), depth.shape)
    return _observation(request, decode_picture(from_base64(request.image, "image")), depth_m)


def observation_of_files(question: MultipartQuestion, image: bytes, depth: bytes | None) -> Observation:
    """The same from files of a multipart question."""
    depth_m = None
    if depth is not None:
        shape = question.depth_shape
        depth_m = decode_depth_png(depth) if shape is None else decode_depth_float32(depth, shape)
    return _observation(question, decode_picture(image), depth_m)


def _observation(question: Question, image: np.ndarray, depth_m: np.ndarray | None) -> Observation:
    height, width = image.shape[:2]
    if (question.keypoints_uv is None) == (question.keypoints_px is None):
        raise InvalidInputError(
            "one of keypoints_uv and keypoints_px is needed", where="keypoints", mend="say whose future is asked for"
        )
    if question.keypoints_px is not None:
        uv = np.asarray(px_to_uv(np.asarray(question.keypoints_px, np.float64), width, height))
    else:
        uv = np.asarray(question.keypoints_uv, np.float64)
    if (np.abs(uv) > 1).any():
        raise InvalidInputError(
            f"keypoint {int(np.argmax((np.abs(uv) > 1).any(1)))} is outside the picture",
            where="keypoints",
            mend=f"it is {width}×{height} pixels",
        )
    for name in ("keypoints_z_m", "history_uvz", "part_id"):
        given = getattr(question, name)
        if given is not None and len(given) != len(uv):
            raise InvalidInputError(f"{len(given)} entries for {len(uv)} keypoints", where=name, mend="one for each")
    if depth_m is not None and depth_m.shape != (height, width):
        raise InvalidInputError(
            f"is {depth_m.shape[1]}×{depth_m.shape[0]} pixels, the picture {width}×{height}", where="depth"
        )
    return Observation(
        image=image,
        instruction=question.instruction,
        depth_m=depth_m,
        K=None if question.K is None else _array(question.K, (3, 3), "K"),
        keypoints_uv=uv,
        keypoints_z_m=None if question.keypoints_z_m is None else np.asarray(question.keypoints_z_m, np.float64),
        history_uvz=None if question.history_uvz is None else _array(question.history_uvz, (-1, -1, 3), "history_uvz"),
        part_id=None if question.part_id is None else _part_id(question.part_id),
        clock=question.clock,
        step=question.step,
    )


def _part_id(values: list[int]) -> np.ndarray:
    if not all(-1 <= value < 2**31 for value in values):
        raise InvalidInputError("holds a number below −1 or above 2³¹", where="part_id")
    return np.asarray(values, np.int64)


def _array(values: list, shape: tuple[int, ...], where: str) -> np.ndarray:
    try:
        array = np.asarray(values, np.float64)
    except ValueError:
        array = np.empty(0)
    if array.ndim != len(shape) or any(
        wanted not in (-1, size) for wanted, size in zip(shape, array.shape, strict=True)
    ):
        wanted = ", ".join("·" if size < 0 else str(size) for size in shape)
        raise InvalidInputError(f"is not of shape [{wanted}]", where=where, mend="rows of equal length")
    return array


def answer_json(name: str, prediction: TracePrediction, arrays: str) -> bytes:
    """A `PredictAnswer` as JSON bytes."""
    probability = prediction.valid_prob
    answer: dict[str, Any] = {
        "model": name,
        "shape": list(prediction.uvz.shape),
        "uvz": _written(prediction.uvz, arrays),
        "valid": _written(prediction.valid, arrays),
        "valid_prob": None if probability is None else _written(probability, arrays),
        "clock": prediction.clock,
        "step": float(prediction.step),
        "text": prediction.text,
        "timing_s": {stage: round(float(seconds), 6) for stage, seconds in prediction.timing.items()},
    }
    return json.dumps(answer, allow_nan=False).encode()


def _written(array: np.ndarray, arrays: str) -> Any:
    if arrays == "base64":
        kind = "u1" if array.dtype == bool else "<f4"
        return base64.b64encode(np.ascontiguousarray(array, kind).tobytes()).decode("ascii")
    return array.tolist() if array.dtype == bool else np.round(array.astype(np.float64), 6).tolist()
