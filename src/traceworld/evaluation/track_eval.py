"""How true extracted traces are: clips extracted from simulated recordings against the exact truth beside them.

Truth is asked for at the pixel where a clip's own trace starts (its query frame), so every point is judged as the surface
point it was put on. Both sides are compared in the camera of each frame, each through its own cameras: an error of the
estimated camera motion then moves no still point, and the extracted world may be another than the simulator's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from traceworld.errors import DatasetError
from traceworld.evaluation.tracks import tapvid3d_metrics
from traceworld.geometry.cameras import project, px_to_uv, transform, uv_to_px
from traceworld.sim.film import Film
from traceworld.sim.glue import traces_of
from traceworld.sim.truth import read_truth, truth_folder_of
from traceworld.traces.store import Dataset, open_dataset
from traceworld.traces.types import Clip

SCORES = ("aj", "apd3d", "oa")
_SUBSETS = ("all", "moving")


def evaluate_tracks(
    data: str | Path | Dataset, recordings: str | Path | None = None, *, scaling: str | None = None
) -> dict[str, Any]:
    """Score every clip of a store that was extracted from a simulated recording.

    Args:
        data: the extracted clip store.
        recordings: folder with `<episode>.truth/`; None: beside each clip's source (`provenance["source"]`).
        scaling: `none` or `median` (see `tapvid3d_metrics`); None: `median` for clips that are not metric.

    Returns:
        JSON-able: `mean` over clips and `clips` (one entry each) with `all` and `moving` (points that truly move), each
        {aj, apd3d, oa}; numbers of `points`, `moving_points` and `left_out` points (their first pixel shows nothing, or
        the trace is not known there); `without_truth`: clips that come from no recording; `failed`: items of the store
        that gave no clip, by their error.

    Raises:
        DatasetError: no clip has a truth.
    """
    store = data if isinstance(data, Dataset) else open_dataset(data)
    clips, without = [], []
    for clip in store:
        truth = _truth_folder(clip, recordings)
        if truth is None:
            without.append(clip.clip_id)
        else:
            clips.append({"clip_id": clip.clip_id, "truth": str(truth), **score_clip(clip, read_truth(truth), scaling)})
    if not clips:
        raise DatasetError(
            "holds no clip with a simulator's truth",
            where=str(store.path),
            mend="extract recordings of `traceworld sim record`, and say where they are",
        )
    return {
        "mean": {subset: {key: _mean(clips, subset, key) for key in SCORES} for subset in _SUBSETS},
        **{key: sum(clip[key] for clip in clips) for key in ("points", "moving_points", "left_out")},
        "clips": clips,
        "without_truth": without,
        "failed": {item["item_id"]: item["error"] for item in store.manifest if item["status"] == "failed"},
    }


def score_clip(clip: Clip, film: Film, scaling: str | None = None) -> dict[str, Any]:
    """TAPVid-3D scores of one clip against the exact film it was extracted from; `scaling` as for `evaluate_tracks`.

    Raises:
        DatasetError: the clip shows frames that the film does not have.
    """
    frames = _source_frames(clip, film)
    traces, cameras = clip.traces, clip.cameras
    points = np.arange(traces.num_keypoints)
    start = traces.query_frame
    own = project(traces.xyz_world[start, points].astype(np.float64), cameras.K[start], cameras.cam_from_world[start])
    width, height = film.cameras.width, film.cameras.height
    at_px = uv_to_px(px_to_uv(own[:, :2], cameras.width, cameras.height), width, height)
    located = traces.valid[start, points] & np.isfinite(at_px).all(-1)
    true = traces_of(film, frames[start], np.where(located[:, None], at_px, -9.0))
    known = located & true.valid.any(0)
    true_cam = transform(film.cameras.cam_from_world[frames], true.xyz_world[frames].astype(np.float64))
    pred_cam = transform(cameras.cam_from_world, traces.xyz_world.astype(np.float64))
    pred_cam[~traces.valid] = np.nan
    scores = {}
    for subset, chosen in (("all", known), ("moving", known & true.moving)):
        scores[subset] = tapvid3d_metrics(
            true_cam[:, chosen].transpose(1, 0, 2),
            true.visible[frames][:, chosen].T,
            pred_cam[:, chosen].transpose(1, 0, 2),
            (traces.visible & traces.valid)[:, chosen].T,
            film.cameras.K[0],
            (width, height),
            scaling=scaling or ("none" if clip.metric else "median"),
        )
    return {
        **scores,
        "points": int(known.sum()),
        "moving_points": int((known & true.moving).sum()),
        "left_out": int((~known).sum()),
    }


def _source_frames(clip: Clip, film: Film) -> np.ndarray:
    """[T] the film's frame that each clip frame shows."""
    listed = clip.provenance.get("source_frames")
    frames = np.arange(clip.num_frames) if listed is None else np.asarray(listed, int)
    if len(frames) != clip.num_frames or frames.max() >= film.num_frames:
        raise DatasetError(
            f"shows {clip.num_frames} frames up to {frames.max()}, the recording has {film.num_frames}",
            where=f"clip {clip.clip_id}",
            mend="score it against the recording it was extracted from",
        )
    return frames


def _truth_folder(clip: Clip, recordings: str | Path | None) -> Path | None:
    source = clip.provenance.get("source")
    if isinstance(source, Mapping):
        source = source.get("uri")
    if not source:
        return None
    source = Path(str(source))
    truth = truth_folder_of(Path(recordings) / source.name if recordings else source)
    return truth if truth.is_dir() else None


def _mean(clips: list[dict[str, Any]], subset: str, key: str) -> float:
    """Mean over clips where it is defined (a clip may have no moving point)."""
    values = np.array([clip[subset][key] for clip in clips])
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def tracks_table(report: Mapping[str, Any]) -> Table:
    """The report of `evaluate_tracks` for a terminal."""
    table = Table(title=f"{len(report['clips'])} clips, {report['points']} points, {report['left_out']} left out")
    table.add_column("clip")
    for subset in _SUBSETS:
        for key in SCORES:
            table.add_column(f"{key} {subset}", justify="right")
    for column in ("points", "moving"):
        table.add_column(column, justify="right")
    for clip in report["clips"]:
        scores = [f"{clip[subset][key]:.3f}" for subset in _SUBSETS for key in SCORES]
        table.add_row(clip["clip_id"], *scores, str(clip["points"]), str(clip["moving_points"]))
    table.add_section()
    means = [f"{report['mean'][subset][key]:.3f}" for subset in _SUBSETS for key in SCORES]
    table.add_row("mean", *means, str(report["points"]), str(report["moving_points"]))
    return table
