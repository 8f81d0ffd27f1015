"""Augmentation of pictures and depth (mu0-paper App. B.1): colour jitter, and noise in metres before the colour map."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def colour_jitter(
    image: UInt8[np.ndarray, "H W 3"], strength: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """Brightness, contrast and saturation by a factor in [1-s, 1+s], hue by up to ±s/2 turns (at most half), in random order.

    Args:
        image: [H,W,3] RGB.
        strength: s; 0.3 in the paper. 0 returns the picture as it is.
        rng: all randomness.
    """
    if strength == 0:
        return image
    low, high = max(0.0, 1 - strength), 1 + strength
    factor = rng.uniform(low, high, 3)
    turn = rng.uniform(-1, 1) * min(strength / 2, 0.5)
    x = image.astype(np.float32)
    x /= 255
    for what in rng.permutation(4):  # in place: a picture is read once per window, and copies are most of the work
        if what == 0:
            x *= np.float32(factor[0])
        elif what == 1:
            _blend(x, (x @ _LUMA).mean(), factor[1])
        elif what == 2:
            _blend(x, (x @ _LUMA)[..., None], factor[2])
        else:
            x = _turn_hue(x, turn)
        np.clip(x, 0, 1, out=x)
    x *= 255
    return np.rint(x, out=x).astype(np.uint8)


def depth_noise(
    depth_m: Float32[np.ndarray, "H W"], sigma_m: float, rng: np.random.Generator
) -> Float32[np.ndarray, "H W"]:
    """Zero-mean Gaussian noise on valid pixels; NaN stays NaN and no depth falls to zero or below."""
    if sigma_m == 0:
        return depth_m
    noisy = depth_m + rng.normal(0, sigma_m, depth_m.shape).astype(np.float32)
    return np.where(noisy > 0, noisy, depth_m)


def _blend(x: np.ndarray, towards: np.ndarray | np.floating, factor: float) -> None:
    x -= towards
    x *= np.float32(factor)
    x += towards


def _turn_hue(x: np.ndarray, turn: float) -> np.ndarray:
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)  # float images: hue in degrees
    hsv[..., 0] = (hsv[..., 0] + np.float32(360 * turn)) % 360
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
