"""Metric depth as a picture: log depth, near = 1, through the Turbo colormap (mu0-paper B.1)."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

NEAREST_VALID_M = 1e-3
"""Depths up to this are sensor zeros, not distances."""


@functools.cache
def turbo_table() -> Float[Tensor, "256 3"]:
    """The 256 colours of the Turbo colormap, RGB in [0, 1]."""
    bgr = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0]
    return torch.from_numpy(np.ascontiguousarray(bgr[:, ::-1])).float() / 255


_TABLES = {torch.device("cpu"): turbo_table()}
"""The table on each device that asked for it. Made here, since a compiler cannot see through OpenCV; kept, since a copy from the
CPU cannot be part of a CUDA graph."""


def log_depth_unit(
    depth_m: Float[Tensor, "*batch"], log_range: Float[Tensor, " 2"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Log depth mapped so that the corpus range [log_min, log_max] becomes [1, 0] (near = 1), clipped; and validity.

    Args:
        depth_m: metres; NaN, infinite or ≤ 1 mm counts as unknown.
        log_range: natural logs of the corpus' near and far depth (1st and 99th percentile).

    Returns:
        (unit, known): unit is 0 where unknown; known is 1.0 or 0.0.
    """
    known = torch.isfinite(depth_m) & (depth_m > NEAREST_VALID_M)
    log_depth = torch.where(known, depth_m, torch.ones_like(depth_m)).float().log()
    unit = (log_range[1] - log_depth) / (log_range[1] - log_range[0])
    return unit.clamp(0, 1) * known, known.float()


def turbo_picture(depth_m: Float[Tensor, "B H W"], log_range: Float[Tensor, " 2"]) -> Float[Tensor, "B 3 H W"]:
    """Depth rendered as RGB in [0, 1]; unknown pixels get the colour of "far" (index 0), as in the released code."""
    unit, _ = log_depth_unit(depth_m, log_range)
    return _table_on(depth_m.device)[(unit * 255).long()].movedim(-1, 1)


def _table_on(device: torch.device) -> Float[Tensor, "256 3"]:
    if device not in _TABLES:
        _TABLES[device] = turbo_table().to(device)
    return _TABLES[device]
