"""Which points move together, and how: rigid parts of predicted traces and the rigid motion of one of them, step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.sparse.csgraph import connected_components

from traceworld.errors import InvalidInputError
from traceworld.geometry.cameras import transform
from traceworld.geometry.rigid import fit_rigid

NOISE_FLOOR_M = 0.002
"""Residuals below this are taken for noise of exact traces."""
TURN_GAIN = 0.5
"""A rotation is believed when it brings the residual below this share of what a pure translation leaves."""
_ROUNDS = 3
_OUTLIER_FACTOR = 3.0


@dataclass(frozen=True, eq=False)
class RigidMotion:
    """How one part moves from where it is now.

    Attributes:
        world_from_start: [T,4,4] transform of world points of the part, from step 0 to step t; the first is the identity.
        inlier: [N] points that move with the part.
        residual_m: [T] rms distance of the inliers from where the motion puts them.
        turns: False where only the translation was fitted (too few or too flat points, or no rotation to be seen).
    """

    world_from_start: Float64[np.ndarray, "T 4 4"]
    inlier: Bool[np.ndarray, " N"]
    residual_m: Float64[np.ndarray, " T"]
    turns: bool


def fit_motion(xyz_world: Float[np.ndarray, "T N 3"]) -> RigidMotion:
    """Robust rigid motion of points that are mostly one body.

    A translation and a rigid motion are fitted at every step, with points that leave the others voted down; the rigid
    one is taken only where it explains much more (`TURN_GAIN`): a rotation fitted to a few centimetres of noisy points
    is mostly noise, and the position of a tool that is some way off them would suffer.

    Args:
        xyz_world: [T,N,3] positions, step 0 first, finite.

    Raises:
        InvalidInputError: no points, or NaN.
    """
    T, N, _ = xyz_world.shape
    if not N or not T or not np.isfinite(xyz_world).all():
        raise InvalidInputError(f"{N} points at {T} steps, all must be known", where="fit_motion.xyz_world")
    path = xyz_world.astype(np.float64)
    shift, shift_weight, shift_residual = _robust(path, _translations)
    if N < 3:
        return _motion(shift, path, shift_weight, False)
    try:
        turn, turn_weight, turn_residual = _robust(path, _rigid_fits)
    except InvalidInputError:  # on a line: the rotation is free
        return _motion(shift, path, shift_weight, False)
    explained = turn_residual < TURN_GAIN * shift_residual and shift_residual > NOISE_FLOOR_M
    return _motion(turn, path, turn_weight, True) if explained else _motion(shift, path, shift_weight, False)


def rigid_parts(
    xyz_world: Float[np.ndarray, "T N 3"], tolerance_m: float = 0.015, reach_m: float = 0.2
) -> Int[np.ndarray, " N"]:
    """Points that keep their distances are one part: a label 0… per point, largest part first.

    Args:
        xyz_world: [T,N,3] finite.
        tolerance_m: how much a distance within a part may change (widened by 5 % of how far the points travel).
        reach_m: neighbours farther apart than this at the start are not compared (they may still be joined by others).
    """
    path = xyz_world.astype(np.float64)
    if path.shape[1] == 0:
        return np.zeros(0, np.int64)
    length = np.linalg.norm(path[:, :, None] - path[:, None], axis=-1)
    change = np.abs(length - length[0]).max(0)
    travel = travelled(path)
    # Two points may keep their distance by accident while they part ways around each other: their paths must agree too.
    parting = np.linalg.norm((path - path[0])[:, :, None] - (path - path[0])[:, None], axis=-1).max(0)
    allowed = tolerance_m + 0.05 * np.maximum(travel[:, None], travel)
    turning = 0.8 * np.maximum(length[0], tolerance_m)  # the most that two points part by turning about 45 degrees
    joined = (change <= allowed) & (length[0] <= reach_m) & (parting <= np.maximum(allowed, turning))
    count, label = connected_components(joined, directed=False)
    order = np.argsort(-np.bincount(label, minlength=count), kind="stable")
    return np.argsort(order, kind="stable")[label]


def travelled(xyz_world: Float[np.ndarray, "T N 3"]) -> Float64[np.ndarray, " N"]:
    """Greatest distance of each point from where it was at step 0."""
    return np.linalg.norm(xyz_world - xyz_world[:1], axis=-1).max(0, initial=0.0).astype(np.float64)


def _robust(path: np.ndarray, fit) -> tuple[np.ndarray, np.ndarray, float]:
    """Poses [T,4,4], weights [N] and the weighted rms residual over all steps."""
    weight = np.ones(path.shape[1])
    for _ in range(_ROUNDS):
        poses = fit(path, weight)
        miss = np.sqrt(((transform(poses, np.repeat(path[:1], len(path), 0)) - path) ** 2).sum(-1).mean(0))
        scale = max(_OUTLIER_FACTOR * float(np.median(miss)), NOISE_FLOOR_M)
        weight = 1 / (1 + (miss / scale) ** 2) ** 2
    poses = fit(path, weight)
    miss = ((transform(poses, np.repeat(path[:1], len(path), 0)) - path) ** 2).sum(-1).mean(0)
    return poses, weight, float(np.sqrt((weight * miss).sum() / weight.sum()))


def _translations(path: np.ndarray, weight: np.ndarray) -> np.ndarray:
    poses = np.tile(np.eye(4), (len(path), 1, 1))
    poses[:, :3, 3] = np.einsum("n,tnc->tc", weight / weight.sum(), path - path[:1])
    return poses


def _rigid_fits(path: np.ndarray, weight: np.ndarray) -> np.ndarray:
    poses = [np.eye(4)] + [fit_rigid(path[0], now, weight) for now in path[1:]]
    return np.array(poses)


def _motion(poses: np.ndarray, path: np.ndarray, weight: np.ndarray, turns: bool) -> RigidMotion:
    miss = np.linalg.norm(transform(poses, np.repeat(path[:1], len(path), 0)) - path, axis=-1)
    inlier = weight > 0.25  # farther off than one scale
    return RigidMotion(poses, inlier, np.sqrt((miss[:, inlier] ** 2).mean(1)), turns)
