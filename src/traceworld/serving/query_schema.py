"""`POST /query` in both published shapes, and what a request in either comes down to.

RoboRefer, RoboTracer's Qwen3-VL server: pictures in base64 (`image_url`, `depth_url`, `enable_depth`). RoboTracer's own client:
names of files (`image_paths`, `depth_z_paths`, `intrinsics`, `enable_spatial`). Beside them, ours: metric depth in base64
(`depth_mm_url`), `intrinsics` with it, `seed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float, UInt8
from pydantic import BaseModel, ConfigDict, Field

from traceworld.errors import InvalidInputError
from traceworld.serving.pictures import decode_depth_png, decode_picture, from_base64
from traceworld.serving.query_files import SharedFolder

MAX_TEXT = 16_384
_Base64 = Annotated[list[str], Field(max_length=8)]
_Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(max_length=8)]
_Row = Annotated[list[float], Field(min_length=3, max_length=4)]
_Switch = Literal[0, 1]


class QueryRequest(BaseModel):
    """A question about a picture: either `image_url` or `image_paths`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT, description="The question.")]
    image_url: Annotated[_Base64 | None, Field(description="The picture: base64 of a PNG or JPEG file.")] = None
    depth_url: Annotated[
        _Base64, Field(description="8-bit relative depth, as RoboRefer takes it. Not metric: checked, but not used.")
    ] = []
    enable_depth: Annotated[
        _Switch, Field(description="RoboRefer estimates depth for 1 without depth_url; this server does not.")
    ] = 0
    depth_mm_url: Annotated[
        _Base64,
        Field(description="Metric depth: base64 of a 16-bit grey PNG of millimetres along the axis, 0 unknown."),
    ] = []
    image_paths: Annotated[_Names | None, Field(description="The picture as a file below the shared folder.")] = None
    depth_z_paths: Annotated[_Names | None, Field(description="Metric depth as such a file, as in depth_mm_url.")] = (
        None
    )
    intrinsics: Annotated[
        Annotated[list[_Row], Field(min_length=3, max_length=4)] | None,
        Field(description="[3][3] (or [4][4]) in pixels of the picture."),
    ] = None
    enable_spatial: Annotated[_Switch, Field(description="0: intrinsics and depth are not used.")] = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Answer(BaseModel):
    """The reply to either shape; `result` is 1 where pictures came in base64 and absent else."""

    answer: str
    result: Literal[1] | None = None
    ignored: Annotated[list[str] | None, Field(description="Fields of the request that changed nothing.")] = None


@dataclass(frozen=True, eq=False)
class Query:
    """What is asked.

    Attributes:
        image: [H,W,3] RGB. K: [3,3] its pixels. depth_m: [H,W] metres, NaN unknown.
        base64: which shape of reply is wanted.
        ignored: fields that change nothing.
    """

    image: UInt8[np.ndarray, "H W 3"]
    text: str
    K: Float[np.ndarray, "3 3"] | None = None
    depth_m: Float[np.ndarray, "H W"] | None = None
    seed: int = 0
    base64: bool = True
    ignored: tuple[str, ...] = ()


def read_query(request: QueryRequest, folder: SharedFolder) -> Query:
    """Decode the pictures of a request.

    Raises:
        InvalidInputError: both shapes or neither; not exactly one picture; a picture, depth map, matrix or file that cannot be
            used (named).
    """
    if (request.image_url is None) == (request.image_paths is None):
        raise InvalidInputError(
            "needs either", where="image_url, image_paths", mend="send one picture as base64, or name its file"
        )
    if not request.text.strip():
        raise InvalidInputError("is blank", where="text", mend="ask something")
    if request.image_url is not None:
        return _from_base64(request)
    return _from_paths(request, folder)


def _from_base64(request: QueryRequest) -> Query:
    if request.depth_z_paths is not None:
        raise InvalidInputError("comes with image_paths", where="depth_z_paths", mend="send depth_mm_url")
    image = decode_picture(from_base64(_only(request.image_url or [], "image_url"), "image_url"), "image_url")
    if len(request.depth_url) > 1:
        raise InvalidInputError(
            f"{len(request.depth_url)} depth maps of one picture", where="depth_url", mend="send one or none"
        )
    for text in request.depth_url:
        decode_picture(from_base64(text, "depth_url"), "depth_url")
    depth = None
    if request.depth_mm_url:
        depth = decode_depth_png(
            from_base64(_only(request.depth_mm_url, "depth_mm_url"), "depth_mm_url"), "depth_mm_url"
        )
    unused = [
        name for name, there in (("depth_url", request.depth_url), ("enable_depth", request.enable_depth)) if there
    ]
    return _query(request, image, depth, "depth_mm_url", True, unused)


def _from_paths(request: QueryRequest, folder: SharedFolder) -> Query:
    for name in ("depth_url", "depth_mm_url", "enable_depth"):
        if getattr(request, name):
            raise InvalidInputError("comes with image_url", where=name, mend="send depth_z_paths")
    name = _only(request.image_paths or [], "image_paths")
    image = decode_picture(folder.read(name, "image_paths"), "image_paths")
    depth = None
    if request.depth_z_paths:
        depth = decode_depth_png(
            folder.read(_only(request.depth_z_paths, "depth_z_paths"), "depth_z_paths"), "depth_z_paths"
        )
    return _query(request, image, depth, "depth_z_paths", False, [])


def _query(
    request: QueryRequest, image: np.ndarray, depth: np.ndarray | None, depth_name: str, base64: bool, unused: list[str]
) -> Query:
    if depth is not None and depth.shape != image.shape[:2]:
        raise InvalidInputError(
            f"is {depth.shape[1]}×{depth.shape[0]} pixels, the picture {image.shape[1]}×{image.shape[0]}",
            where=depth_name,
            mend="send depth of the picture's size",
        )
    K = None if request.intrinsics is None else _matrix(request.intrinsics)
    if not request.enable_spatial:
        unused += [name for name, there in (("intrinsics", K), (depth_name, depth)) if there is not None]
        K = depth = None
    return Query(image, request.text, K, depth, request.seed, base64, tuple(unused))


def _matrix(rows: list[list[float]]) -> Float[np.ndarray, "3 3"]:
    if {len(row) for row in rows} != {len(rows)}:
        raise InvalidInputError("is not square", where="intrinsics", mend="send [3][3] or [4][4]")
    K = np.asarray(rows, np.float64)[:3, :3]
    if K[0, 0] <= 0 or K[1, 1] <= 0 or not np.array_equal(K[2], [0, 0, 1]):
        raise InvalidInputError(
            "is no camera matrix", where="intrinsics", mend="send [[fx,0,cx],[0,fy,cy],[0,0,1]] in pixels"
        )
    return K


def _only(items: list[str], where: str) -> str:
    if len(items) != 1:
        raise InvalidInputError(f"{len(items)} of them", where=where, mend="send one; ask about pictures one by one")
    return items[0]
