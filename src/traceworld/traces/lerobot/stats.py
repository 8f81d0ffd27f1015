"""Statistics per feature as LeRobot stores them: min, max, mean, std, count and five quantiles, per episode and merged.

Quantiles come from a histogram of 5000 bins per element, as LeRobot's do, and are merged over episodes by weighted mean:
that is what its policies were normalised with, so it is what its readers expect. Sums are taken in float64 here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int, UInt8

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_BINS = 5000

FeatureStats = dict[str, np.ndarray]
Stats = dict[str, FeatureStats]
"""Feature → statistic → array."""


def column_stats(values: np.ndarray) -> FeatureStats:
    """Statistics over the frames of [T,D] (each [D]) or of [T] (each [1]); `count` is [1]."""
    T = len(values)
    flat = np.asarray(values, np.float64).reshape(T, -1)
    return _stats(flat, T)


def picture_stats(samples: UInt8[np.ndarray, "K H W C"]) -> FeatureStats:
    """Statistics per channel of pictures scaled to [0,1], each of shape [C,1,1]."""
    K, channels = len(samples), samples.shape[-1]
    stats = _stats(samples.reshape(-1, channels).astype(np.float64), K)
    return {name: value if name == "count" else value.reshape(channels, 1, 1) / 255.0 for name, value in stats.items()}


def depth_stats(samples: np.ndarray) -> FeatureStats:
    """Statistics of depth maps [K,H,W] in their stored unit, each of shape [1,1,1]."""
    stats = _stats(samples.reshape(-1, 1).astype(np.float64), len(samples))
    return {name: value if name == "count" else value.reshape(1, 1, 1) for name, value in stats.items()}


def sampled_frames(num_frames: int) -> Int[np.ndarray, " K"]:
    """The frames whose pictures the statistics are taken from: T^0.75 of them, at least 100 (or all), evenly spread."""
    wanted = max(min(100, num_frames), min(int(num_frames**0.75), 10_000))
    return np.round(np.linspace(0, num_frames - 1, wanted)).astype(np.int64)


def thinned(picture: np.ndarray) -> np.ndarray:
    """Every n-th pixel of a picture [H,W,...] of 300 pixels or more, so that its longer side keeps at least 150."""
    height, width = picture.shape[:2]
    if max(height, width) < 300:
        return picture
    step = int(width / 150) if width > height else int(height / 150)
    return picture[::step, ::step]


def merge_stats(episodes: Sequence[Stats]) -> Stats:
    """Statistics of all episodes together, each weighted by its count; quantiles by weighted mean (an approximation)."""
    keys = list(dict.fromkeys(key for stats in episodes for key in stats))
    return {key: _merge([stats[key] for stats in episodes if key in stats]) for key in keys}


def _merge(parts: Sequence[Mapping[str, np.ndarray]]) -> FeatureStats:
    means = np.stack([part["mean"] for part in parts])
    counts = np.stack([part["count"] for part in parts])
    weights = counts.reshape(len(parts), *[1] * (means.ndim - 1)).astype(np.float64)
    total = weights.sum(0)
    mean = (means * weights).sum(0) / total
    spread = np.stack([part["std"] for part in parts]) ** 2 + (means - mean) ** 2
    merged = {
        "min": np.stack([part["min"] for part in parts]).min(0),
        "max": np.stack([part["max"] for part in parts]).max(0),
        "mean": mean,
        "std": np.sqrt((spread * weights).sum(0) / total),
        "count": counts.sum(0),
    }
    for name in QUANTILES:
        if all(name in part for part in parts):
            merged[name] = (np.stack([part[name] for part in parts]) * weights).sum(0) / total
    return merged


def _stats(flat: Float64[np.ndarray, "M D"], count: int) -> FeatureStats:
    stats = {
        "min": flat.min(0),
        "max": flat.max(0),
        "mean": flat.mean(0),
        "std": flat.std(0),
        "count": np.array([count]),
    }
    if len(flat) < 2:
        return stats | {name: stats["mean"].copy() for name in QUANTILES}
    quantiles = np.stack([_histogram_quantiles(column) for column in flat.T], -1)
    return stats | dict(zip(QUANTILES, quantiles, strict=True))


def _histogram_quantiles(column: Float64[np.ndarray, " M"]) -> Float64[np.ndarray, " Q"]:
    low, high = column.min(), column.max()
    if low == high:
        return np.full(len(QUANTILES), low)
    edges = np.linspace(low - 1e-10, high + 1e-10, _BINS + 1)
    counts, _ = np.histogram(column, bins=edges)
    below = np.cumsum(counts)
    found = []
    for share in QUANTILES.values():
        target = share * len(column)
        bin_ = int(np.searchsorted(below, target))
        if bin_ == 0:
            found.append(edges[0])
            continue
        fraction = (target - below[bin_ - 1]) / max(counts[bin_], 1)
        found.append(edges[bin_] + fraction * (edges[bin_ + 1] - edges[bin_]))
    return np.array(found)
