"""A frame of a clip as a predictor sees it, with the future that came true: for forecasting and its evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from traceworld.errors import InvalidInputError
from traceworld.geometry.cameras import resize_K
from traceworld.traces.batching import choose_instruction, resize_depth
from traceworld.traces.cutting import TraceWindow, WindowConfig, cut_window
from traceworld.traces.media import read_depth, read_frame
from traceworld.traces.types import Clip, Observation


def observation_at(
    clip: Clip,
    frame: int,
    config: WindowConfig,
    keypoints: Int[np.ndarray, " n"] | Sequence[int] | None = None,
    *,
    with_history: bool = True,
    with_depth: bool = True,
) -> tuple[Observation, Float32[np.ndarray, "n H 3"], Bool[np.ndarray, "n H"], TraceWindow]:
    """What a predictor is given at a frame, and what happened next. Nothing is drawn: equal arguments, equal result.

    Args:
        clip: with pictures.
        frame: one that has a picture.
        config: of the window (clock, step, lengths).
        keypoints: indices of the clip's points; None: all that can be asked about and have a future.
        with_history: give the past of the points.
        with_depth: give the depth map (if stored) and the z of the points. A clip whose z is only up to scale has neither.
            Without depth the history's z counts from the point's current one, as in training with depth dropped.

    Returns:
        observation; true future uvz [n,H,3] (0 where not valid); valid [n,H]; the window with all points.

    Raises:
        InvalidInputError: no keypoint is left, or one that was asked for cannot be seen at the frame.
        MediaError, DepthError: the picture cannot be read.
    """
    window = cut_window(clip, frame, config)
    where = f"clip {clip.clip_id}, frame {frame}"
    if keypoints is None:
        chosen = np.flatnonzero(window.usable(config.min_valid_steps))
        if not len(chosen):
            raise InvalidInputError("no point is visible and has a future", where=where, mend="choose another frame")
    else:
        chosen = np.asarray(keypoints, np.int64)
        hidden = chosen[~window.eligible[chosen]]
        if len(hidden):
            raise InvalidInputError(
                f"keypoint {hidden[0]} is not visible", where=where, mend="choose among window.eligible"
            )
    image = read_frame(clip, frame)
    height, width = image.shape[:2]
    with_depth = with_depth and clip.metric
    depth_m = read_depth(clip, frame) if with_depth else None
    anchor, valid = window.anchor_uvz[chosen], window.future_valid[chosen]
    history = window.history_uvz[chosen]
    camera = clip.cameras[frame]
    observation = Observation(
        image=image,
        instruction=choose_instruction(clip, frame, None),
        depth_m=None if depth_m is None else resize_depth(depth_m, (width, height)),
        K=resize_K(np.asarray(camera.K, np.float64), (camera.width, camera.height), (width, height)),
        keypoints_uv=anchor[:, :2],
        keypoints_z_m=anchor[:, 2] if with_depth else None,
        history_uvz=(history if with_depth else relative_z(history, anchor[:, 2])) if with_history else None,
        part_id=window.part_id[chosen],
        clock=config.clock,
        step=config.step_size,
    )
    return observation, np.where(valid[..., None], window.future_uvz[chosen], np.float32(0)), valid, window


def relative_z(
    history_uvz: Float[np.ndarray, "n h 3"], anchor_z_m: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n h 3"]:
    """The past with its z counted from the current one, as an `Observation` without depth holds it."""
    history_uvz = history_uvz.copy()
    history_uvz[..., 2] -= anchor_z_m[:, None]
    return history_uvz
