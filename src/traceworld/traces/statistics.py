"""Statistics of a corpus: the scale of the future s_Δ (mu0-paper eq. 3), the range of depth, and counts.

Percentiles come from histograms with fixed logarithmic bins (0.6 % wide, interpolated within): one pass, little memory,
and the result does not depend on the order of the clips.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from traceworld.errors import DatasetError
from traceworld.geometry.cameras import project
from traceworld.traces.cache import TraceCache
from traceworld.traces.cutting import WindowConfig, cut_window
from traceworld.traces.media import frames_with_pictures, read_depth
from traceworld.traces.schema import Shard
from traceworld.traces.store import Dataset
from traceworld.traces.types import Clip

PERCENTILE = 95.0
DEPTH_PERCENTILES = (1.0, 99.0)
WINDOWS_PER_CLIP = 24
CLIPS = 2000
"""Of a larger corpus the stored statistics read as many clips as this, evenly spread: at 50 ms a clip, a million would take
half a day, for a percentile that is known to 2 % already."""
DEPTH_FRAMES_PER_CLIP = 4
_BINS_PER_DECADE, _LOW, _HIGH = 400, -7, 4
_EDGES = np.logspace(_LOW, _HIGH, (_HIGH - _LOW) * _BINS_PER_DECADE + 1)
_DEPTH_STRIDE = 8


class LogHistogram:
    """Counts of non-negative numbers in logarithmic bins; percentiles to within 0.6 %. Numbers below 1e-7 count as 0."""

    def __init__(self) -> None:
        self.counts = np.zeros(len(_EDGES) + 1)

    def add(self, values: np.ndarray, weight: float = 1.0) -> None:
        """Count finite values, each `weight` times."""
        values = values[np.isfinite(values)]
        self.counts += weight * np.bincount(np.searchsorted(_EDGES, values, side="right"), minlength=len(self.counts))

    def percentile(self, percent: float | int) -> float:
        """The value below which `percent` % of the counted numbers lie; NaN if there are none."""
        cumulative = np.cumsum(self.counts)
        if cumulative[-1] <= 0:
            return float("nan")
        wanted = percent / 100 * cumulative[-1]
        bin_number = int(np.searchsorted(cumulative, wanted, side="left"))
        if bin_number == 0:
            return 0.0
        if bin_number == len(_EDGES):
            return float(_EDGES[-1])
        within = (wanted - cumulative[bin_number - 1]) / self.counts[bin_number]
        low, high = _EDGES[bin_number - 1 : bin_number + 1]
        return float(low * (high / low) ** within)


def _spread(frames: Sequence[int], most: int) -> list[int]:
    """At most `most` of the frames, evenly spread."""
    if len(frames) <= most:
        return list(frames)
    return [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, most).round().astype(int))]


class _Deltas:
    """|future − anchor| per axis of one window config, in histograms."""

    def __init__(self, config: WindowConfig, moving_only: bool):
        self.config, self.moving_only = config, moving_only
        self.axes = [LogHistogram() for _ in range(3)]
        self.windows = self.steps = 0

    def add(self, clip: Clip, weight: float = 1.0) -> None:
        frames = frames_with_pictures(clip) or range(clip.num_frames)
        for frame in _spread(frames, WINDOWS_PER_CLIP):
            window = cut_window(clip, frame, self.config)
            points = window.usable(self.config.min_valid_steps)
            if self.moving_only:
                points = points & window.moving
            if not points.any():
                continue
            moved = np.abs(window.future_uvz[points] - window.anchor_uvz[points, None])[window.future_valid[points]]
            self.windows, self.steps = self.windows + 1, self.steps + len(moved)
            for axis, histogram in enumerate(self.axes):
                histogram.add(moved[:, axis], weight)

    def result(self) -> dict[str, Any]:
        return {
            "s_delta": _scale(self.axes),
            "percentile": PERCENTILE,
            "moving_only": self.moving_only,
            "windows": self.windows,
            "steps": self.steps,
            "config": self.config.shape(),
        }


def _scale(axes: Sequence[LogHistogram]) -> list[float] | None:
    """95th percentile per axis; an axis in which nothing moves gets the largest of the others (1 if nothing moves)."""
    values = [histogram.percentile(PERCENTILE) for histogram in axes]
    if not np.isfinite(values).all():
        return None
    largest = max(values)
    return [value if value > 1e-6 else (largest if largest > 1e-6 else 1.0) for value in values]


class _Depths:
    """Metres: of the stored depth pictures, or of the keypoints where a clip has no depth pictures."""

    def __init__(self) -> None:
        self.pictures, self.points = LogHistogram(), LogHistogram()

    def add(self, clip: Clip) -> None:
        for frame in _spread(frames_with_pictures(clip), DEPTH_FRAMES_PER_CLIP):
            depth_m = read_depth(clip, frame)
            if depth_m is None:
                break
            self.pictures.add(depth_m[::_DEPTH_STRIDE, ::_DEPTH_STRIDE].ravel())
        for frame in _spread(range(clip.num_frames), DEPTH_FRAMES_PER_CLIP):
            xyz = clip.traces.xyz_world[frame][clip.traces.valid[frame]].astype(np.float64)
            z = project(xyz, clip.cameras.K[frame], clip.cameras.cam_from_world[frame])[:, 2]
            self.points.add(z[z > 0])

    def result(self) -> dict[str, Any]:
        source = "pictures" if self.pictures.counts.any() else "keypoints"
        histogram = self.pictures if source == "pictures" else self.points
        low, high = (histogram.percentile(percent) for percent in DEPTH_PERCENTILES)
        if not (np.isfinite([low, high]).all() and 0 < low < high):
            return {"source": "none", "log_min": None, "log_max": None, "p1_m": None, "p99_m": None}
        return {
            "source": source,
            "log_min": float(np.log(low)),
            "log_max": float(np.log(high)),
            "p1_m": low,
            "p99_m": high,
        }


def compute_statistics(
    dataset: Dataset | Iterable[Clip],
    config: WindowConfig | Sequence[WindowConfig],
    *,
    moving_only: bool = True,
) -> dict[str, Any]:
    """Statistics of a corpus for one or several window configs.

    Args:
        dataset: clips.
        config: what a window is; only its clock, step and lengths matter.
        moving_only: over moving points, the ones that are trained on; False: over all points, as the paper's wording has
            it (static points then make the scale too small and the clip of eq. 4 cuts real motion).

    Returns:
        JSON-able: `windows`: one record per config with `s_delta` [3] (eq. 3: 95th percentile of |future − anchor| in u, v,
        z; None without any), `percentile`, `moving_only`, `windows`, `steps`, `config`; `depth`: p1 and p99 of depth as
        `log_min`, `log_max` (natural log of metres), `p1_m`, `p99_m`, `source` (`pictures`, `keypoints` or `none`).
    """
    configs = [config] if isinstance(config, WindowConfig) else list(config)
    deltas, depths = [_Deltas(one, moving_only) for one in configs], _Depths()
    for clip in dataset:
        for one in deltas:
            one.add(clip)
        depths.add(clip)
    return {"windows": [one.result() for one in deltas], "depth": depths.result()}


def default_statistics(dataset: Dataset) -> dict[str, Any]:
    """What `finalise` stores: statistics for the default config of each clock, over at most `CLIPS` clips (`clips` of the
    result says how many)."""
    ids = sorted(dataset.clip_ids)
    chosen = [ids[i] for i in _spread(range(len(ids)), CLIPS)]
    found = compute_statistics(
        (dataset.clip(clip_id) for clip_id in chosen), [WindowConfig(clock="time"), WindowConfig(clock="arc")]
    )
    return {**found, "clips": len(chosen)}


def stored_statistics(dataset: Dataset, config: WindowConfig) -> dict[str, Any] | None:
    """The record of `dataset.json` for this config, if there is one."""
    for record in dataset.statistics.get("windows", []):
        if record["config"] == config.shape() and record["moving_only"]:
            return record
    return None


def combined(
    datasets: Sequence[Dataset],
    caches: Sequence[TraceCache],
    configs: Sequence[WindowConfig],
    weights: Sequence[float],
) -> dict[str, Any]:
    """`s_delta` [3] and `depth` for a mixture: stored numbers where they apply, else computed over all clips.

    All clips, whichever side of a split they are on: training and validation must share one scale.

    Raises:
        DatasetError: no moving point has a future.
    """
    used = [(one, weight) for one, weight in zip(configs, weights, strict=True) if weight > 0]
    if len(datasets) == 1 and len(used) == 1:
        record = stored_statistics(datasets[0], used[0][0])
        if record is not None and record["s_delta"] is not None:
            return {"s_delta": record["s_delta"], "depth": datasets[0].statistics["depth"]}
    total, depths = _Deltas(used[0][0], moving_only=True), _Depths()
    for cache in caches:
        for clip in cache:
            depths.add(clip)
            for one, weight in used:
                total.config = one
                total.add(clip, weight)
    scale = _scale(total.axes)
    if scale is None:
        raise DatasetError(
            "no moving point has a future",
            where=", ".join(str(dataset.path) for dataset in datasets),
            mend="give s_delta, or data in which something moves",
        )
    return {"s_delta": scale, "depth": depths.result()}


def count_contents(dataset: Dataset, statuses: Sequence[str]) -> dict[str, int]:
    """Numbers of items by status, clips, frames, keypoints, moving keypoints, events."""
    counts = {f"items_{status}": list(statuses).count(status) for status in ("ok", "skipped", "failed")}
    counts |= dict.fromkeys(("clips", "frames", "keypoints", "keypoints_moving", "events"), 0)
    for path in dataset.shards:
        columns = Shard(path).columns(["num_frames", "num_keypoints", "moving", "events"])
        counts["clips"] += len(columns["num_frames"])
        counts["frames"] += sum(columns["num_frames"])
        counts["keypoints"] += sum(columns["num_keypoints"])
        counts["keypoints_moving"] += sum(map(sum, columns["moving"]))
        counts["events"] += sum(map(len, columns["events"]))
    return counts
