"""One picture in, futures of its points out: what `traceworld predict` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from traceworld.errors import InvalidInputError, MediaError
from traceworld.geometry.cameras import px_to_uv, resize_K
from traceworld.geometry.sampling import farthest_point_sampling
from traceworld.models.predictor import load_predictor
from traceworld.perception.interfaces import Frame
from traceworld.traces.types import Observation
from traceworld.viewer.overlay import overlay_prediction, save_still

PICTURES = {".jpg", ".jpeg", ".png"}


def predict_picture(
    path: str | Path,
    instruction: str,
    *,
    model: str = "mu0-nano",
    points_px: Sequence[tuple[float, float]] = (),
    num_points: int = 64,
    num_samples: int = 5,
    seed: int = 0,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Predict how points of a picture, or of the first frame of a clip, will move.

    Args:
        path: a picture, or a video, RGB-D folder or folder of frames (its first frame; an RGB-D folder gives depth too).
        instruction: what is to happen.
        model: for `load_predictor`.
        points_px: (x, y) pixels of the points; without them `num_points` spread corners of the picture are taken.
        num_samples, seed: futures, and the seed of their noise.
        out: also draw the futures into the picture and write it here (PNG or JPEG).

    Returns:
        JSON-able: model, instruction, points_px [N,2], step_s, `uvz` [S,N,H,3], `valid` [S,N,H], timing, picture.

    Raises:
        MediaError: the picture cannot be read.
        InvalidInputError: a point outside the picture, an empty instruction, or a picture without any corner.
    """
    predictor = load_predictor(model)
    frame, K = first_frame(Path(path))
    points = _points(frame.image, points_px, num_points, str(path))
    height, width = frame.image.shape[:2]
    uv = np.asarray(px_to_uv(points, width, height))
    observation = Observation(frame.image, instruction, depth_m=frame.depth_m, K=K, keypoints_uv=uv)
    prediction = predictor.predict(observation, num_samples=num_samples, seed=seed)
    if out is not None:
        save_still(Path(out), overlay_prediction(frame.image, prediction, uv, width=max(width, 640)))
    return {
        "model": predictor.name,
        "instruction": instruction,
        "points_px": points.tolist(),
        "step_s": prediction.step,
        "depth": frame.depth_m is not None,
        "uvz": prediction.uvz.astype(float).round(6).tolist(),
        "valid": prediction.valid.tolist(),
        "timing_s": {name: round(value, 4) for name, value in prediction.timing.items()},
        "picture": None if out is None else str(out),
    }


def first_frame(path: Path) -> tuple[Frame, np.ndarray | None]:
    """The picture with depth and K where the input has them."""
    if path.is_file() and path.suffix.lower() in PICTURES:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if pixels is None:
            raise MediaError("is not a readable picture", where=str(path), mend="give a JPEG or PNG file")
        return Frame(0, 0.0, pixels), None
    if not path.exists():
        raise MediaError("does not exist", where=str(path), mend="give a picture, a video or a folder of frames")
    from traceworld.perception.sources import open_source

    with open_source(path) as source:
        frame = next(iter(source))
        K = None if source.K is None else resize_K(source.K, (source.width, source.height), frame.image.shape[1::-1])
        return frame, K


def _points(
    image: UInt8[np.ndarray, "H W 3"], given: Sequence[tuple[float, float]], count: int, where: str
) -> Float[np.ndarray, "N 2"]:
    height, width = image.shape[:2]
    if given:
        points = np.asarray(given, np.float64)
        outside = (points < -0.5).any(1) | (points[:, 0] > width - 0.5) | (points[:, 1] > height - 0.5)
        if outside.any():
            x, y = points[outside][0]
            raise InvalidInputError(
                f"the point ({x:g}, {y:g}) is outside the picture", where=where, mend=f"it is {width}×{height} pixels"
            )
        return points
    corners = cv2.goodFeaturesToTrack(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), 16 * count, 0.01, 3)
    if corners is None:
        raise InvalidInputError("the picture shows no corner to follow", where=where, mend="give points yourself")
    corners = corners[:, 0].astype(np.float64)
    return corners[np.sort(farthest_point_sampling(corners, count))]
