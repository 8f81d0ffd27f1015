"""One picture and one sentence in, a spatial trace in words and metres out: what `traceworld ask` does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.geometry.cameras import unproject_cam
from traceworld.models.predictor import load_predictor
from traceworld.models.words import PUBLISHED, TextModel, trace_prompt, trace_question
from traceworld.perception.depth_files import read_depth_file, settle_unit, to_metres
from traceworld.tracespatial.answers import FAILURES, ParsedTrace, parse_trace, to_pixels
from traceworld.viewer.overlay import draw_fan, resize_to_width, save_still
from traceworld.viewer.prediction import first_frame

Form = Literal["3D", "2D", "raw"]


def ask_about_picture(
    path: str | Path,
    text: str,
    *,
    model: str = "robotracer-nano",
    form: Form = "3D",
    intrinsics: tuple[float, float, float, float] | None = None,
    depth: str | Path | None = None,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Ask a model that answers in words (a RoboTracer) for the trace of an instruction, or anything.

    Args:
        path: a picture, or a video, RGB-D folder or folder of frames (its first frame; an RGB-D folder gives depth and intrinsics).
        text: the instruction; with `form="raw"` the question itself.
        model: for `load_predictor`.
        form: 3D: a trace of (u, v, d); 2D: of (u, v), each asked for in the words that the model was trained on.
        intrinsics: fx, fy, cx, cy in pixels of the picture. depth: its depth map (16-bit PNG, TIFF, NPY). Both win over the folder's.
        out: also draw the trace into the picture and write it here (PNG or JPEG).

    Returns:
        JSON-able: model, question, words, `failure` (why no point could be read; None if one could), `points_px` [P,2],
        `depth_m` [P] and `xyz_cam` [P,3] in metres (None without depth in the answer, without intrinsics), `given` beside the picture,
        seconds, picture.

    Raises:
        MediaError, DepthError: the picture or the depth map cannot be read.
        ConfigError: the model does not answer in words.
        InvalidInputError: an empty text, or geometry that cannot be.
    """
    if not text.strip():
        raise InvalidInputError("is empty", where="text", mend="say what is to happen")
    speaker = load_predictor(model)
    if not isinstance(speaker, TextModel):
        raise ConfigError(
            "says how given points move and answers nothing in words",
            where=f"model {model}",
            mend="use `traceworld predict`, or a RoboTracer",
        )
    frame, K = first_frame(Path(path))
    K = K if intrinsics is None else _matrix(intrinsics)
    depth_m = frame.depth_m if depth is None else _depth_map(Path(depth))
    question = text if form == "raw" else trace_question(trace_prompt(speaker, form) or PUBLISHED[form], text)
    started = time.perf_counter()
    words = speaker.answer(frame.image, question, K=K, depth_m=depth_m)
    seconds = time.perf_counter() - started
    parsed = parse_trace(words, None if form == "raw" else int(form[0]))
    height, width = frame.image.shape[:2]
    px = to_pixels(parsed.points[:, :2], width, height)
    metres = parsed.points[:, 2] if parsed.points.shape[1] == 3 else None
    if out is not None:
        save_still(Path(out), drawn(frame.image, px))
    return {
        "model": speaker.name,
        "question": question,
        "words": words,
        "failure": _failure(parsed),
        "points_px": px.round(2).tolist(),
        "depth_m": None if metres is None else metres.tolist(),
        "xyz_cam": None if metres is None or K is None else unproject_cam(px, metres, K).round(4).tolist(),
        "given": {"intrinsics": K is not None, "depth": depth_m is not None},
        "seconds": round(seconds, 3),
        "picture": None if out is None else str(out),
    }


def drawn(image: UInt8[np.ndarray, "Himg Wimg 3"], px: Float[np.ndarray, "P 2"]) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with the points joined, the first one white; unchanged in all but size without points."""
    canvas = resize_to_width(image, max(image.shape[1], 640))
    if not len(px):
        return canvas
    there = (px + 0.5) * (canvas.shape[1] / image.shape[1]) - 0.5
    bold = canvas.shape[1] / 90  # one trace, not a fan of many
    return draw_fan(canvas, there[None, None], np.ones((1, 1, len(there)), bool), there[:1], radius=bold)


def _failure(parsed: ParsedTrace) -> str | None:
    return None if parsed.ok else f"{parsed.failure}: {FAILURES[parsed.failure]}"


def _matrix(intrinsics: tuple[float, float, float, float]) -> Float[np.ndarray, "3 3"]:
    fx, fy, cx, cy = intrinsics
    if not (np.isfinite(intrinsics).all() and fx > 0 and fy > 0):
        raise InvalidInputError(f"{intrinsics}", where="intrinsics", mend="give fx fy cx cy in pixels")
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def _depth_map(path: Path) -> Float[np.ndarray, "H W"]:
    raw = read_depth_file(path)
    return to_metres(raw, settle_unit([raw], None, None, str(path))[0])
