"""Forecast metrics of the μ0 paper (D.1): ADE, FDE, DTW and discrete Fréchet distance, top-1 and best of S.

All distances are Euclidean in (u, v, z): uv in [-1,1] and metres in one norm, as in the paper; `dims="uv"` leaves depth out
(the paper's 2D rows), `dims="z"` is depth alone. Three definitions are those of the released code: FDE is at the last valid step, DTW is the
accumulated cost divided by the number of valid steps (so DTW <= ADE), and averages run over keypoints, although the printed
formula is a mean over slots of the mean over their keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.geometry.alignment import prefix_alignments

METRICS = ("ade", "fde", "dtw", "fd")
DIMS = {"uvz": slice(0, 3), "uv": slice(0, 2), "z": slice(2, 3)}
"""Which axes a distance is over."""
_CHUNK_BYTES = 32 * 2**20


def dtw_reference(a: Float[np.ndarray, "L d"], b: Float[np.ndarray, "L d"]) -> float:
    """Plain dynamic time warping: least accumulated cost of a monotonic alignment, divided by L. For tests."""
    return _reference(a, b, lambda before, cost: before + cost) / len(a)


def frechet_reference(a: Float[np.ndarray, "L d"], b: Float[np.ndarray, "L d"]) -> float:
    """Plain discrete Fréchet distance: least possible largest cost of a monotonic alignment. For tests."""
    return _reference(a, b, max)


def _reference(a, b, join) -> float:
    L = len(a)
    table = np.zeros((L, L))
    for i in range(L):
        for j in range(L):
            cost = float(np.linalg.norm(a[i] - b[j]))
            before = [table[x, y] for x, y in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if x >= 0 and y >= 0]
            table[i, j] = join(min(before), cost) if before else cost
    return float(table[-1, -1])


def _compressed(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Steps of [..., K, T, d] rearranged by `order` [K,T], which puts the valid ones first."""
    index = np.broadcast_to(order[..., None], values.shape)
    return np.take_along_axis(values, index, axis=-2)


def _check(pred, true, valid, horizons: Sequence[int], dims: str) -> None:
    S, _, T = pred.shape[:3]
    if S < 1:
        raise InvalidInputError("no samples", where="forecast_metrics.pred_uvz", mend="give at least one")
    if dims not in DIMS:
        raise ConfigError(f"unknown dims {dims!r}", where="forecast_metrics.dims", mend=f"use one of {', '.join(DIMS)}")
    for horizon in horizons:
        if not 1 <= horizon <= T:
            raise InvalidInputError(
                f"horizon {horizon} with traces of {T} steps",
                where="forecast_metrics.horizons",
                mend=f"give horizons within 1..{T}",
            )
    used = DIMS[dims]
    for name, array in (("true_uvz", true[None]), ("pred_uvz", pred)):
        if not np.isfinite(array[:, valid][..., used]).all():
            raise InvalidInputError(
                "NaN or infinity at a valid step",
                where=f"forecast_metrics.{name}",
                mend="mark unknown truth invalid; a prediction must be a number wherever it is scored",
            )


def forecast_metrics_per_keypoint(
    pred_uvz: Float[np.ndarray, "S K T 3"],
    true_uvz: Float[np.ndarray, "K T 3"],
    valid: Bool[np.ndarray, "K T"],
    horizons: Sequence[int] = (8, 16, 32),
    dims: str = "uvz",
) -> dict[str, Float[np.ndarray, " K"]]:
    """As `forecast_metrics`, before the mean over keypoints: each key holds [K] values, NaN where a keypoint does not count.

    `average_keypoints` joins the results of many slots into one score.
    """
    _check(pred_uvz, true_uvz, valid, horizons, dims)
    S, K, T, _ = pred_uvz.shape
    used = DIMS[dims]
    d = len(dims)
    order = np.argsort(~valid, axis=1, kind="stable")
    mask = np.take_along_axis(valid, order, axis=1)
    true = np.where(mask[..., None], _compressed(true_uvz[..., used].astype(np.float64), order), 0.0)
    pred = np.where(mask[..., None], _compressed(pred_uvz[..., used].astype(np.float64), order), 0.0)
    distance = np.linalg.norm(pred - true, axis=-1)  # [S,K,T], 0 where padded
    running = np.cumsum(distance, axis=-1)
    pairs_a, pairs_b = pred.reshape(S * K, T, d), np.broadcast_to(true, pred.shape).reshape(S * K, T, d)
    dtw, frechet = np.empty((S * K, T)), np.empty((S * K, T))
    chunk = max(1, _CHUNK_BYTES // (8 * T * T)) if T else 1
    for at in range(0, S * K if T else 0, chunk):
        one_dtw, one_frechet = prefix_alignments(pairs_a[at : at + chunk], pairs_b[at : at + chunk])
        dtw[at : at + chunk], frechet[at : at + chunk] = one_dtw.T, one_frechet.T
    tables = {"ade": running, "fde": distance, "dtw": dtw.reshape(S, K, T), "fd": frechet.reshape(S, K, T)}

    result: dict[str, np.ndarray] = {}
    for horizon in horizons:
        steps = valid[:, :horizon].sum(1)
        last = np.maximum(steps - 1, 0)[None, :, None]
        for name in METRICS:
            values = np.take_along_axis(tables[name], np.broadcast_to(last, (S, K, 1)), axis=2)[..., 0]
            if name in ("ade", "dtw"):
                values = values / np.maximum(steps, 1)
            values = np.where(steps > 0, values, np.nan)
            result[f"top1_{name}@{horizon}"] = values[0]
            result[f"topS_{name}@{horizon}"] = values.min(0)
    return result


def average_keypoints(parts: Sequence[dict[str, Float[np.ndarray, " _"]]]) -> dict[str, float | int]:
    """Mean of each metric over all keypoints of all parts that count (not NaN): keypoints weigh alike, slots do not.

    Adds `num_keypoints@T` for every horizon. A metric that no keypoint counts for is NaN.
    """
    result: dict[str, float | int] = {}
    counts: dict[str, int] = {}
    for key in parts[0] if parts else ():
        values = np.concatenate([part[key] for part in parts])
        values = values[~np.isnan(values)]
        result[key] = float(values.mean()) if len(values) else float("nan")
        counts["num_keypoints@" + key.split("@")[1]] = len(values)
    return result | counts


def forecast_metrics(
    pred_uvz: Float[np.ndarray, "S K T 3"],
    true_uvz: Float[np.ndarray, "K T 3"],
    valid: Bool[np.ndarray, "K T"],
    horizons: Sequence[int] = (8, 16, 32),
    dims: str = "uvz",
) -> dict[str, float | int]:
    """Errors of S sampled futures of K keypoints (mu0-paper D.1).

    Per keypoint, over its valid steps up to each horizon T: `ade` mean distance; `fde` distance at the last valid step; `dtw`
    dynamic time warping cost over the valid steps divided by their number; `fd` discrete Fréchet distance. `topS` is the
    least over the samples, per keypoint and per metric; `top1` is the first sample. Then the mean over keypoints that have
    a valid step within the horizon.

    Args:
        pred_uvz: predictions for steps 1..T; must be finite at valid steps.
        true_uvz: truth, anything where not valid.
        valid: steps that count.
        horizons: each within 1..T.
        dims: "uvz", "uv" for 2D scores, or "z" for depth alone.

    Returns:
        `top1_ade@8`, `topS_ade@8`, ... for every metric and horizon (NaN if no keypoint counts) and `num_keypoints@8`, ...

    Raises:
        InvalidInputError: a horizon beyond T, no samples, NaN at a valid step.
        ConfigError: unknown dims.
    """
    return average_keypoints([forecast_metrics_per_keypoint(pred_uvz, true_uvz, valid, horizons, dims)])
