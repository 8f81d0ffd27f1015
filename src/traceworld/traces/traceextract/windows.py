"""The rows of an episode from a clip: what each moving point does next and did before, as each frame's camera sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32, Int

from traceworld.geometry.cameras import project
from traceworld.geometry.motion import trace_diameter
from traceworld.geometry.retime import official_retime, official_times
from traceworld.traces.traceextract.layout import FUTURE, HISTORY, INTERVAL, TOP
from traceworld.traces.types import Cameras, Traces

_LARGEST = float(np.finfo(np.float16).max)
_MARGIN = 5
"""Frames on either side in which a point must be seen for its acceleration to count."""
REACH = 1024
"""Frames looked ahead and back; the clock of `traj` ends there (the released writer's cost grows with the clip squared)."""
LAMBDA_Z = 0.1
"""Weight of depth (pixels per metre) beside pixels in acceleration and displacement."""


@dataclass(frozen=True)
class Rows:
    """All rows of a clip under the names of samples/ (memory-mapped), and the number of the point of every row."""

    samples: dict[str, np.ndarray]
    points: Int[np.ndarray, " rows"]


def clip_rows(
    traces: Traces,
    cameras: Cameras,
    frames: Int[np.ndarray, " F"],
    scratch: Path,
    future: int = FUTURE,
    history: int = HISTORY,
) -> Rows | None:
    """The rows for some frames of a clip; None if there is nothing to tell (no moving point, or hardly any motion).

    A frame has a row for every moving point that is known there and lies in the picture. All points share one clock per
    frame (the released pipeline has one per group of points). A row is valid up to where its point is first unknown, behind
    the camera, or too large for float16; positions are filled in there only so that the others' clock goes on.

    Args:
        frames: frames that get rows, ascending (those with a picture).
        scratch: an empty folder for the arrays, which outgrow memory in long clips (2 kB per row).
    """
    kept: list[int] = []
    offsets = [0]
    shapes: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
    with contextlib.ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for frame, part in _rows_by_frame(traces, cameras, frames, future, history):
            kept.append(frame)
            offsets.append(offsets[-1] + len(part["points"]))
            for name, values in part.items():
                if name not in files:
                    files[name] = stack.enter_context(open(scratch / name, "wb"))
                    shapes[name] = values.dtype, values.shape[1:]
                files[name].write(np.ascontiguousarray(values).tobytes())
    if not kept:
        return None
    samples: dict[str, np.ndarray] = {
        name: np.memmap(scratch / name, dtype, "r", shape=(offsets[-1], *shape))
        for name, (dtype, shape) in shapes.items()
    }
    points = np.array(samples.pop("points"))
    samples["frame_indices"], samples["offsets"] = np.array(kept, np.int32), np.array(offsets, np.int64)
    return Rows(samples, points)


def _rows_by_frame(
    traces: Traces, cameras: Cameras, frames: np.ndarray, future: int, history: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Every frame that has rows, the arrays of its rows, and their points."""
    moving, size = np.flatnonzero(traces.moving), (cameras.width, cameras.height)
    for frame in frames.tolist():
        first = max(0, frame - REACH)
        near, here = slice(first, frame + REACH + 1), frame - first
        xyz = np.where(traces.valid[near, moving][..., None], traces.xyz_world[near, moving].astype(np.float64), np.nan)
        seen = project(xyz, cameras.K[frame], cameras.cam_from_world[frame])
        with np.errstate(invalid="ignore"):
            usable = np.isfinite(seen).all(-1) & (np.abs(seen) < _LARGEST).all(-1)
            shown = usable[here] & ((seen[here, :, :2] >= 0) & (seen[here, :, :2] <= size)).all(-1)
        chosen = np.flatnonzero(shown)
        if not len(chosen):
            continue
        part = _frame_rows(seen[:, chosen], usable[:, chosen], here, size, future, history)
        if not (part["valid_steps"].sum(1) >= 2).any():
            continue
        points = moving[chosen]
        part["points"] = points
        part["visibs"] = traces.visible[frame, points].astype(np.float16)
        part["cluster_ids"] = traces.part_id[points].astype(np.int32)
        part["is_moving"] = np.ones(len(points), bool)
        yield frame, part


def _frame_rows(
    seen: np.ndarray, usable: np.ndarray, frame: int, size: tuple[int, int], future: int, history: int
) -> dict[str, np.ndarray]:
    """The arrays of one frame's rows. `seen` [T,n,3] and `usable` [T,n] are in the frame's camera."""
    found: dict[str, np.ndarray] = {}
    for suffix, length, ways, known in (
        ("", future, seen[frame:], usable[frame:]),
        ("_history", history, seen[frame::-1], usable[frame::-1]),
    ):
        last = np.logical_and.accumulate(known, axis=0).sum(0) - 1  # until where the point is known without a gap
        tracks = _filled(ways, known).transpose(1, 0, 2).astype(np.float32)
        retimed, valid = official_retime(tracks, INTERVAL, TOP, length, size)
        times = np.full(length, np.inf)
        made = official_times(tracks, INTERVAL, TOP, length, size)
        times[: len(made)] = made
        steps = valid[None] & (times[None] <= last[:, None] + 1e-6)
        found[f"traj{suffix}"] = np.where(steps[..., None], retimed, -np.inf).astype(np.float16)
        found[f"valid_steps{suffix}"] = steps
        raw = np.full((tracks.shape[0], length, 3), -np.inf, np.float32)
        count = min(length, tracks.shape[1])
        raw[:, :count] = tracks[:, :count]
        raw_steps = np.arange(length)[None] <= last[:, None]
        found[f"raw_traj{suffix}"] = np.where(raw_steps[..., None], raw, -np.inf).astype(np.float16)
        found[f"raw_valid_steps{suffix}"] = raw_steps
    found["keypoints"] = found["traj"][:, 0, :2]
    return found


def _filled(ways: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Ways [H,n,3] with every unknown position replaced by the point's last known one: it stands still there."""
    last = np.maximum.accumulate(np.where(known, np.arange(len(ways))[:, None], 0), axis=0)
    return ways[last, np.arange(ways.shape[1])[None]]


def acceleration(traces: Traces, cameras: Cameras) -> Float32[np.ndarray, " T"]:
    """Mean acceleration of the moving points, first camera, pixels per frame² (depth weighs 0.1 px/m); 0 where none counts.

    A point counts where it is seen in the five frames before and after.
    """
    T = traces.num_frames
    seen = project(traces.xyz_world.astype(np.float64), cameras.K[0], cameras.cam_from_world[0]) * [1, 1, LAMBDA_Z]
    clear = traces.visible & np.isfinite(seen).all(-1) & traces.moving
    out = np.zeros(T, np.float32)
    if 2 * _MARGIN + 1 > T:
        return out
    run = np.lib.stride_tricks.sliding_window_view(clear, 2 * _MARGIN + 1, axis=0).all(-1)
    bend = np.linalg.norm(seen[2:] - 2 * seen[1:-1] + seen[:-2], axis=-1)[_MARGIN - 1 : T - _MARGIN - 1]
    total, count = np.where(run, bend, 0.0).sum(1), run.sum(1)
    out[_MARGIN : T - _MARGIN] = np.where(count > 0, total / np.maximum(count, 1), 0.0)
    return out


def movement_counts(traces: Traces, cameras: Cameras) -> dict[str, np.ndarray]:
    """Points in all, and those whose displacement exceeds 5 % and 10 % of the longer side (both in pixels of the picture)."""
    if not traces.num_keypoints:
        return {}
    seen = project(traces.xyz_world.astype(np.float64), cameras.K[0], cameras.cam_from_world[0])
    share = trace_diameter(seen, traces.visible, LAMBDA_Z) / max(cameras.width, cameras.height)
    return {
        "total_unique_kps": np.asarray(traces.num_keypoints, np.int64),
        "n_above_005": np.asarray((share > 0.05).sum(), np.int64),
        "n_above_010": np.asarray((share > 0.10).sum(), np.int64),
    }
