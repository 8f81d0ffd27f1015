"""A trace predictor on a server, asked with the standard library alone."""

from __future__ import annotations

import base64
import json
import socket
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Union

import numpy as np

from traceworld_client.errors import (
    BusyError,
    ClientError,
    ConnectionLostError,
    InvalidRequestError,
    ServerError,
    ServerTimeoutError,
    error_of_kind,
)
from traceworld_client.png import encode_png

Picture = Union[np.ndarray, bytes]


@dataclass(frozen=True, eq=False)
class TraceAnswer:
    """Predicted traces.

    Attributes:
        uvz: [S,N,H,3] u, v in [-1,1], z in metres along the camera axis.
        valid: [S,N,H] False from where a trace has ended.
        valid_prob: [S,N,H] the probability behind it, if the model gives one.
        clock, step: what a step of the horizon is.
        model: its name. text: its words, if it has any. timing_s: seconds by stage.
    """

    uvz: np.ndarray
    valid: np.ndarray
    valid_prob: Optional[np.ndarray]
    clock: str
    step: float
    model: str
    text: Optional[str] = None
    timing_s: Dict[str, float] = field(default_factory=dict)


class PredictClient:
    """Asks a prediction server.

    Args:
        url: its root, e.g. `http://localhost:8001`.
        api_key: sent as `Authorization: Bearer …`.
        timeout_s: of one answer.
    """

    def __init__(self, url: str = "http://127.0.0.1:8001", api_key: Optional[str] = None, timeout_s: float = 60.0):
        if not url.startswith(("http://", "https://")):
            raise InvalidRequestError(f"'{url}' is no http address")
        self._url, self._timeout_s = url.rstrip("/"), timeout_s
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = "Bearer " + api_key

    def predict(
        self,
        image: Picture,
        instruction: str,
        keypoints_px: Optional[Any] = None,
        keypoints_uv: Optional[Any] = None,
        depth_m: Optional[np.ndarray] = None,
        num_samples: int = 1,
        seed: int = 0,
        **more: Any,
    ) -> TraceAnswer:
        """Futures of the keypoints.

        Args:
            image: uint8 [H,W,3] RGB, or the bytes of a PNG or JPEG.
            keypoints_px: [N,2] pixels; or keypoints_uv: [N,2] in [-1,1].
            depth_m: [H,W] metres, 0 or NaN unknown.
            more: other fields of the server's `PredictRequest` (K, history_uvz, keypoints_z_m, part_id, clock, step).

        Raises:
            InvalidRequestError, BusyError, ServerTimeoutError, ConnectionLostError, ServerError.
        """
        request = {"instruction": instruction, "num_samples": num_samples, "seed": seed, "arrays": "base64"}
        request.update({name: _listed(value) for name, value in more.items() if value is not None})
        try:
            data = image if isinstance(image, (bytes, bytearray)) else encode_png(np.asarray(image))
        except ValueError as error:
            raise InvalidRequestError(str(error)) from error
        request["image"] = _text(bytes(data))
        for name, points in (("keypoints_px", keypoints_px), ("keypoints_uv", keypoints_uv)):
            if points is not None:
                request[name] = np.asarray(points, float).tolist()
        if depth_m is not None:
            depth = np.ascontiguousarray(depth_m, "<f4")
            request["depth"] = {"encoding": "float32", "data": _text(depth.tobytes()), "shape": list(depth.shape)}
        return _answer(self._post("/v1/predict", request))

    def describe(self) -> Dict[str, Any]:
        """What the server says of its model."""
        return self._ask(urllib.request.Request(self._url + "/v1/model", headers=self._headers))

    def _post(self, path: str, request: Dict[str, Any]) -> Dict[str, Any]:
        try:
            body = json.dumps(request).encode()
        except (TypeError, ValueError) as error:
            raise InvalidRequestError(str(error)) from error
        return self._ask(urllib.request.Request(self._url + path, body, self._headers))

    def _ask(self, request: urllib.request.Request) -> Dict[str, Any]:
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as reply:
                value = json.loads(reply.read().decode("utf-8"))
        except urllib.error.HTTPError as error:
            raise _refusal(error) from error
        except (socket.timeout, TimeoutError) as error:
            raise ServerTimeoutError(f"no answer within {self._timeout_s:g} s") from error
        except (urllib.error.URLError, OSError) as error:
            late = isinstance(getattr(error, "reason", None), (socket.timeout, TimeoutError))
            kind = ServerTimeoutError if late else ConnectionLostError
            raise kind(f"{self._url}: {error}") from error
        except ValueError as error:
            raise ServerError(f"an answer that cannot be read: {error}") from error
        if not isinstance(value, dict):
            raise ServerError("an answer that is no map")
        return value


def _answer(value: Dict[str, Any]) -> TraceAnswer:
    try:
        shape = [int(size) for size in value["shape"]]
        probability = value["valid_prob"]
        return TraceAnswer(
            uvz=_array(value["uvz"], "<f4", shape),
            valid=_array(value["valid"], "u1", shape[:3]).astype(bool),
            valid_prob=None if probability is None else _array(probability, "<f4", shape[:3]),
            clock=value["clock"],
            step=float(value["step"]),
            model=value["model"],
            text=value["text"],
            timing_s=value["timing_s"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(f"an answer that cannot be read: {error}") from error


def _array(text: str, dtype: str, shape: List[int]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype).reshape(shape)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _listed(value: Any) -> Any:
    """Lists of an array, NaN (unknown) as null."""
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.kind != "f":
        return value.tolist()
    return np.where(np.isfinite(value), value.astype(object), None).tolist()


def _refusal(error: urllib.error.HTTPError) -> ClientError:
    try:
        said = json.loads(error.read().decode("utf-8"))["error"]
        where, mend = said.get("where"), said.get("mend")
        text = "{}{}{}".format(where + ": " if where else "", said["message"], f" ({mend})" if mend else "")
        kind = str(said["kind"])
    except (ValueError, KeyError, TypeError, AttributeError):
        text, kind = f"the server answers {error.code}", ""
    if error.code == 503:
        return BusyError(text)
    return InvalidRequestError(text) if error.code in (401, 403, 413, 422) else error_of_kind(kind, text)
