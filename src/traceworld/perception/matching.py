"""Lucas–Kanade with a forward–backward check: where points of one image are in another."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, UInt8


def lucas_kanade(
    gray_a: UInt8[np.ndarray, "H W"],
    gray_b: UInt8[np.ndarray, "H W"],
    xy_px: Float[np.ndarray, "N 2"],
    guess_px: Float[np.ndarray, "N 2"],
    window: int = 21,
    levels: int = 4,
    rounds: int = 20,
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, " N"]]:
    """Follow points from a to b, starting the search at `guess_px`, and back again.

    Returns:
        positions in b, and the distance in pixels by which the way back misses the start: infinity where either way failed.
    """
    if len(xy_px) == 0:
        return np.zeros((0, 2)), np.zeros(0)
    source = np.ascontiguousarray(xy_px, np.float32).reshape(-1, 1, 2)
    guess = np.ascontiguousarray(guess_px, np.float32).reshape(-1, 1, 2)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, rounds, 0.01)

    def follow(a, b, points, start):
        moved, found, _ = cv2.calcOpticalFlowPyrLK(
            a,
            b,
            points,
            start,
            winSize=(window, window),
            maxLevel=levels - 1,
            criteria=criteria,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
            minEigThreshold=1e-6,
        )
        return moved, found[:, 0] > 0

    there, ok = follow(gray_a, gray_b, source, guess)
    back, ok_back = follow(gray_b, gray_a, there, source.copy())
    error = np.linalg.norm(back - source, axis=-1)[:, 0].astype(np.float64)
    error[~(ok & ok_back)] = np.inf
    return there[:, 0].astype(np.float64), error
