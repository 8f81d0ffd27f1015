"""From a window to a training sample: which keypoints, what the model may see of them, its targets; samples to a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from traceworld.errors import InvalidInputError
from traceworld.geometry.bspline import fit_controls
from traceworld.geometry.cameras import K_to_uv
from traceworld.traces.cutting import TraceWindow, WindowConfig
from traceworld.traces.types import Clip

Sample = dict[str, Any]

NO_INSTRUCTION = "predict future trajectory"
"""What the model is told where nothing is known of the clip (as the released code does)."""

PADDING: dict[str, float | int | bool] = {
    "anchor_uvz": 0.0,
    "anchor_z_known": False,
    "history": 0.0,
    "history_valid": False,
    "present": False,
    "part_id": -1,
    "moving": False,
    "future": 0.0,
    "future_valid": False,
    "controls": 0.0,
    "controls_usable": False,
}
"""What is filled in behind the keypoints of a sample when others of the batch have more."""


def choose_keypoints(window: TraceWindow, config: WindowConfig, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Draw a sample's keypoints in random order: how many is uniform, moving ones are preferred, small parts not starved.

    Returns:
        Indices into the window's points; empty if no point can be used.
    """
    usable = window.usable(config.min_valid_steps)
    moving, still = np.flatnonzero(usable & window.moving), np.flatnonzero(usable & ~window.moving)
    available = len(moving) + len(still)
    if available == 0:
        return np.zeros(0, np.int64)
    most = min(config.max_keypoints, available)
    count = int(rng.integers(min(config.min_keypoints, most), most + 1))
    from_moving = int(rng.binomial(count, config.moving_share))
    # Where one kind has too few, the other fills up.
    from_moving = min(max(from_moving, count - len(still)), len(moving))
    chosen = np.concatenate(
        [
            _draw(moving, window.part_id, from_moving, config.part_balanced, rng),
            _draw(still, window.part_id, count - from_moving, config.part_balanced, rng),
        ]
    )
    return rng.permutation(chosen)


def _draw(
    points: np.ndarray, part_id: np.ndarray, count: int, part_balanced: bool, rng: np.random.Generator
) -> np.ndarray:
    """`count` of `points` without repetition, each part with the same weight in total (or each point)."""
    if count >= len(points):
        return points
    # The first of independent exponential clocks: a weighted draw without replacement, without a loop.
    clocks = rng.standard_exponential(len(points))
    if part_balanced:
        part = part_id[points].astype(np.int64)
        part -= part.min()
        if part.max() >= 1 << 16:  # part ids of another source may be any numbers
            part = np.unique(part, return_inverse=True)[1]
        size = np.bincount(part)
        clocks = clocks * size[part]
    return points[np.argpartition(clocks, count)[:count]] if count else points[:0]


def drop_history(
    history_valid: Bool[np.ndarray, "N h"], config: WindowConfig, rng: np.random.Generator
) -> Bool[np.ndarray, "N h"]:
    """App. C: hide the history of all keypoints, or else of each keypoint on its own."""
    if rng.random() < config.history_drop_all:
        return np.zeros_like(history_valid)
    return history_valid & (rng.random(len(history_valid)) >= config.history_drop_each)[:, None]


def choose_instruction(clip: Clip, frame: int, rng: np.random.Generator | None) -> str:
    """One of the captions that cover the frame and the clip's task; the finest caption if nothing is drawn.

    Without any: `NO_INSTRUCTION`.
    """
    covering = sorted((e.level, e.start, e.caption) for e in clip.events if e.start <= frame < e.end)
    texts = [text for text in [*(caption for *_, caption in covering), clip.task] if text.strip()]
    if not texts:
        return NO_INSTRUCTION
    if rng is None:
        return clip.task if clip.task.strip() else texts[0]
    return texts[int(rng.integers(len(texts)))]


def point_fields(
    window: TraceWindow,
    keypoints: Int[np.ndarray, " n"],
    config: WindowConfig,
    s_delta: Float32[np.ndarray, " 3"],
    *,
    history_valid: Bool[np.ndarray, "n h"],
    z_known: bool,
) -> Sample:
    """The fields of a sample that have a row per keypoint (eq. 3 and 4).

    Args:
        keypoints: indices into the window's points.
        s_delta: per-axis scale of the future, eq. 3.
        history_valid: what of the history may be shown.
        z_known: whether the z of the anchors may be shown.
    """
    anchor = window.anchor_uvz[keypoints]
    future_valid = window.future_valid[keypoints]
    future = np.where(future_valid[..., None], (window.future_uvz[keypoints] - anchor[:, None]) / s_delta, 0)
    history = np.where(history_valid[..., None], window.history_uvz[keypoints] - anchor[:, None], 0)
    controls, usable = fit_controls(
        future, future_valid, ridge=config.ridge, clip=config.clip, knots=config.knots, num_controls=config.num_controls
    )
    shown = anchor.copy()
    if not z_known:
        shown[:, 2] = 0
    return {
        "anchor_uvz": shown,
        "anchor_z_known": np.full(len(keypoints), z_known),
        "history": history.astype(np.float32),
        "history_valid": history_valid,
        "present": np.ones(len(keypoints), bool),
        "part_id": window.part_id[keypoints].astype(np.int64),
        "moving": np.array(window.moving[keypoints]),
        "future": future.astype(np.float32),
        "future_valid": future_valid,
        "controls": controls.astype(np.float32),
        "controls_usable": usable,
    }


def camera_fields(K: Float[np.ndarray, "3 3"], width: int, height: int) -> Sample:
    """`K_uv` [4] of a camera, K in pixels of its picture of width × height: fx, fy, u0, v0 in uv units, the same at every resolution of the picture.

    Part of the batch contract, though μ0 as published does not read it: a rigidity loss in metres needs it to turn (u, v, z)
    into space, and so will models that take the camera as input.
    """
    return {"K_uv": K_to_uv(np.asarray(K, np.float64), width, height).astype(np.float32)}


def resize_picture(image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Resize to (width, height), area-averaged; the whole image, so uv stays what it is."""
    return image if image.shape[1::-1] == size else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def resize_depth(depth_m: Float32[np.ndarray, "H W"], size: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """Resize to (width, height) by the nearest pixel: depths of two surfaces are never mixed."""
    if depth_m.shape[1::-1] == size:
        return depth_m
    return cv2.resize(depth_m, size, interpolation=cv2.INTER_NEAREST_EXACT)


def collate(samples: Sequence[Mapping[str, Any]]) -> Sample:
    """Stack samples to a batch of numpy arrays, keypoints padded to the largest number among them.

    Raises:
        InvalidInputError: no samples, or pictures of different sizes.
    """
    if not samples:
        raise InvalidInputError("no samples", where="collate")
    most = max(len(sample["anchor_uvz"]) for sample in samples)
    batch: Sample = {}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        if key in PADDING:
            stacked = np.full((len(values), most, *first.shape[1:]), PADDING[key], first.dtype)
            for row, value in zip(stacked, values, strict=True):
                row[: len(value)] = value
            batch[key] = stacked
        elif isinstance(first, str):
            batch[key] = values
        elif np.ndim(first) == 0:
            batch[key] = np.array(values)
        else:
            if len({np.shape(value) for value in values}) > 1:
                raise InvalidInputError(
                    "differs in size within the batch", where=f"collate.{key}", mend="give the WindowSet an image_size"
                )
            batch[key] = np.stack([np.asarray(value) for value in values])
    return batch
