"""Starting noise that belongs to a keypoint and not to its place in the list.

Each number is a hash of (seed, sample, the keypoint's u and v, its index among the control values), turned into a Gaussian.
So permuting keypoints permutes the noise, adding a keypoint leaves the noise of the others alone, and sample s is the same
whatever the number of samples. Two queries for the very same place get the same noise, as they should: they are one point.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_UV_STEPS = 2.0**20


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): each input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keypoint_noise(
    uv: Float[np.ndarray, "N 2"], num_samples: int, num_controls: int, seed: int
) -> Float32[np.ndarray, "S N D 3"]:
    """Standard Gaussian noise for each sample and keypoint; uv is told apart in steps of 2⁻²⁰."""
    with np.errstate(over="ignore"):
        key = _mix(np.array([seed % 2**64], np.uint64) + _GOLDEN)
        key = _mix(key + _GOLDEN * (np.arange(num_samples, dtype=np.uint64) + np.uint64(1)))[:, None]
        cells = np.rint(np.asarray(uv, np.float64) * _UV_STEPS).astype(np.int64).astype(np.uint64)
        key = _mix(_mix(key ^ _mix(cells[:, 0] + _GOLDEN)) ^ cells[:, 1])
        counter = np.arange(2 * num_controls * 3, dtype=np.uint64) + np.uint64(1)
        bits = _mix(key[..., None] + _GOLDEN * counter)
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.split(uniform, 2, axis=-1)
    gauss = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)  # Box–Muller
    return gauss.astype(np.float32).reshape(num_samples, len(uv), num_controls, 3)
