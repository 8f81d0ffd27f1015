"""What a dataset holds, in figures that tell a good extraction from a bad one (`traceworld info`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from traceworld.traces.store import Dataset
from traceworld.traces.types import Clip


def describe_dataset(dataset: Dataset, max_clips: int = 100) -> dict[str, Any]:
    """Counts, statistics, every input that failed, and figures of the first `max_clips` clips (JSON-able)."""
    ids = dataset.clip_ids
    manifest = dataset.manifest
    return {
        "path": str(dataset.path),
        "format_version": dataset.format_version,
        "counts": {**dataset.counts, "clips": len(ids)},
        "status": {status: sum(row["status"] == status for row in manifest) for status in ("ok", "skipped", "failed")},
        "failed": [
            {"id": row["item_id"], "stage": row["stage"], "error": row["error"]}
            for row in manifest
            if row["status"] == "failed"
        ],
        "tasks": dataset.tasks[:max_clips],
        "statistics": dict(dataset.statistics),
        "clips": [describe_clip(dataset.clip(name)) for name in ids[:max_clips]],
        "clips_not_shown": max(len(ids) - max_clips, 0),
    }


def describe_clip(clip: Clip) -> dict[str, Any]:
    """Figures of one clip; `quality` is what extraction measured (`static_wander_px`, …)."""
    traces = clip.traces
    return {
        "clip_id": clip.clip_id,
        "task": clip.task,
        "frames": clip.num_frames,
        "seconds": round(float(clip.time_s[-1] - clip.time_s[0]), 3),
        "size": [clip.cameras.width, clip.cameras.height],
        "static_camera": clip.cameras.static,
        "metric": clip.metric,
        "keypoints": traces.num_keypoints,
        "moving_share": round(float(traces.moving.mean()), 4) if traces.num_keypoints else 0.0,
        "visible_share": round(float(traces.visible.mean()), 4) if traces.num_keypoints else 0.0,
        "parts": len(np.unique(traces.part_id[traces.part_id >= 0])),
        "events": [{"start": e.start, "end": e.end, "level": e.level, "caption": e.caption} for e in clip.events],
        "status": clip.provenance.get("status"),
        "warnings": list(clip.provenance.get("warnings", ())),
        "source": clip.provenance.get("source"),
        "quality": clip.provenance.get("quality"),
    }
