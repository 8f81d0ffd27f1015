"""How far two paths are apart: resampled by arc length, then discrete Fréchet, Hausdorff, RMSE, MAE (TraceSpatial-Bench, ShareRobot, VABench-V).

Any dimension and unit: pixels, shares of the picture, metres. RMSE is the root of the mean squared Euclidean distance, MAE the mean of
|difference| over points and coordinates, as the published evaluators count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from traceworld.errors import InvalidInputError
from traceworld.geometry.alignment import prefix_alignments

NUM_POINTS = 100
_PAIRS_AT_ONCE = 64


class PathErrors(NamedTuple):
    """Distances between a predicted and a true path, in the unit of the paths."""

    frechet: float
    hausdorff: float
    rmse: float
    mae: float


def resample(path: Float[np.ndarray, "P D"], number: int = NUM_POINTS) -> Float[np.ndarray, "N D"]:
    """Points at equal arc length from the first to the last, straight between the given ones.

    A path without length repeats its first point; repeated points of a path do no harm.

    Raises:
        InvalidInputError: no point, NaN or infinity, or `number` < 2.
    """
    if len(path) == 0 or number < 2:
        raise InvalidInputError(f"{len(path)} points to {number}", where="resample", mend="give a point, ask for two")
    points = path.astype(np.float64)
    if not np.isfinite(points).all():
        raise InvalidInputError("the path holds NaN or infinity", where="resample.path", mend="refuse such an answer")
    pieces = np.linalg.norm(np.diff(points, axis=0), axis=1)
    moved = np.concatenate([[True], pieces > 0])
    points, along = points[moved], np.concatenate([[0.0], np.cumsum(pieces[pieces > 0])])
    wanted = np.linspace(0.0, along[-1], number)
    return np.stack([np.interp(wanted, along, points[:, axis]) for axis in range(points.shape[1])], axis=1)


def every(path: Float[np.ndarray, "P D"], step: float | int, at_most: int = 5_000) -> Float[np.ndarray, "N D"]:
    """The path as points at most `step` apart (no more than `at_most` of them), its corners kept.

    Raises:
        InvalidInputError: no point, or NaN or infinity.
    """
    points = path.astype(np.float64)
    if len(points) == 0 or not np.isfinite(points).all():
        raise InvalidInputError("no points, NaN or infinity", where="every.path", mend="refuse such an answer")
    pieces = np.linalg.norm(np.diff(points, axis=0), axis=1)
    step = max(step, float(pieces.sum()) / at_most)
    counts = np.maximum(np.ceil(pieces / step - 1e-9), 1).astype(int)
    parts = [a + (b - a) * np.arange(n)[:, None] / n for a, b, n in zip(points, points[1:], counts, strict=False)]
    return np.concatenate([*parts, points[-1:]])


def discrete_frechet(a: Float[np.ndarray, "P D"], b: Float[np.ndarray, "Q D"]) -> float:
    """Discrete Fréchet distance of two paths of any lengths."""
    length = max(len(a), len(b))  # waiting at the end changes no coupling's longest leash
    padded = [np.concatenate([each, np.repeat(each[-1:], length - len(each), axis=0)]) for each in (a, b)]
    return float(prefix_alignments(padded[0][None].astype(np.float64), padded[1][None].astype(np.float64))[1][-1, 0])


def hausdorff(a: Float[np.ndarray, "P D"], b: Float[np.ndarray, "Q D"]) -> float:
    """The larger of the two directed Hausdorff distances of two point sets."""
    distance = cdist(a, b)
    return float(max(distance.min(axis=1).max(), distance.min(axis=0).max()))


def rmse(a: Float[np.ndarray, "P D"], b: Float[np.ndarray, "P D"]) -> float:
    """Root of the mean over points of the squared Euclidean distance."""
    return float(np.sqrt(((a - b) ** 2).sum(axis=1).mean()))


def mae(a: Float[np.ndarray, "P D"], b: Float[np.ndarray, "P D"]) -> float:
    """Mean over points and coordinates of the absolute difference."""
    return float(np.abs(a - b).mean())


def path_errors(pred: Float[np.ndarray, "P D"], true: Float[np.ndarray, "Q D"], number: int = NUM_POINTS) -> PathErrors:
    """All four distances of one pair, both paths resampled to `number` points. Raises as `resample`."""
    return many_path_errors([(pred, true)], number)[0]


def many_path_errors(pairs: Sequence[tuple[np.ndarray, np.ndarray]], number: int = NUM_POINTS) -> list[PathErrors]:
    """`path_errors` of (predicted, true) pairs, all Fréchet tables filled together; equal to one at a time.

    Raises:
        InvalidInputError: a path is empty or holds NaN, or the paths of all pairs are not of one dimension.
    """
    if not pairs:
        return []
    if len({path.shape[-1] for pair in pairs for path in pair}) > 1:
        raise InvalidInputError("paths of two and of three dimensions", where="many_path_errors.pairs")
    pred, true = (np.stack([resample(pair[side], number) for pair in pairs]) for side in (0, 1))
    frechet = np.concatenate(
        [
            prefix_alignments(pred[at : at + _PAIRS_AT_ONCE], true[at : at + _PAIRS_AT_ONCE])[1][-1]
            for at in range(0, len(pairs), _PAIRS_AT_ONCE)
        ]
    )
    return [
        PathErrors(float(f), hausdorff(a, b), rmse(a, b), mae(a, b))
        for f, a, b in zip(frechet, pred, true, strict=True)
    ]
