"""Points that move together: weighted rigid fits over neighbours, and the pairwise affinity that says who is a neighbour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

_ROUNDS = 3
_PRIOR = 0.05  # weight of "does not turn", against groups too small or too flat to say


@dataclass(frozen=True, eq=False)
class RigidPrediction:
    """Where the neighbours say each point is now. `source` is the position before the step."""

    xyz_world: Float[np.ndarray, "M 3"]
    ok: Bool[np.ndarray, " M"]
    source: Float[np.ndarray, "M 3"]


def weighted_rigid(
    source: Float[np.ndarray, "M k 3"], target: Float[np.ndarray, "M k 3"], weight: Float[np.ndarray, "M k"]
) -> tuple[Float[np.ndarray, "M 3 3"], Float[np.ndarray, "M 3"]]:
    """Batched weighted Kabsch: rotation R and translation t of target ≈ R·source + t, leaning slightly to no rotation."""
    total = np.maximum(weight.sum(1), 1e-12)[:, None]
    mean_s = (weight[..., None] * source).sum(1) / total
    mean_t = (weight[..., None] * target).sum(1) / total
    ds, dt = source - mean_s[:, None], target - mean_t[:, None]
    moment = np.einsum("mki,mkj->mij", weight[..., None] * dt, ds)
    spread = (weight * (ds**2).sum(-1)).sum(1)
    moment = moment + (_PRIOR * spread + 1e-12)[:, None, None] * np.eye(3)
    u, _, vt = np.linalg.svd(moment)
    sign = np.sign(np.linalg.det(u @ vt))
    u[..., -1] *= sign[:, None]
    rotation = u @ vt
    return rotation, mean_t - np.einsum("mij,mj->mi", rotation, mean_s)


def predict_by_neighbours(
    source: Float[np.ndarray, "M 3"],
    target: Float[np.ndarray, "M 3"],
    trust: Float[np.ndarray, " M"],
    affinity: Float[np.ndarray, "M M"],
    noise_m: Float[np.ndarray, " M"],
    neighbours: int = 16,
) -> RigidPrediction:
    """Position of every point as its rigid group carries it (the point itself does not vote).

    Args:
        source, target: positions before and after; `target` counts only where `trust` > 0.
        trust: weight of each point's own match.
        affinity: pairwise likelihood of being one rigid body, times which nearness decides.
        noise_m: length below which a residual is noise.
    """
    count = len(source)
    k = min(neighbours, count - 1)
    if k < 3:
        return RigidPrediction(source.copy(), np.zeros(count, bool), source.copy())
    squared = ((source[:, None] - source[None]) ** 2).sum(-1)
    weight = affinity * trust[None, :]
    np.fill_diagonal(weight, 0.0)
    weight = np.where(np.isfinite(squared), weight, 0.0)
    reach2 = (60 * noise_m[:, None]) ** 2
    weight = weight / (1 + squared / reach2) ** 2
    pick = np.argpartition(-weight, k - 1, axis=1)[:, :k]
    w = np.take_along_axis(weight, pick, 1)
    src, dst = source[pick], np.where(np.isfinite(target), target, 0.0)[pick]
    robust = w
    for _ in range(_ROUNDS):
        rotation, shift = weighted_rigid(src, dst, robust)
        residual = np.linalg.norm(np.einsum("mij,mkj->mki", rotation, src) + shift[:, None] - dst, axis=-1)
        robust = w / (1 + (residual / noise_m[:, None]) ** 2) ** 2
    support = robust.sum(1)
    effective = support**2 / np.maximum((robust**2).sum(1), 1e-18)
    mean_residual = (robust * residual).sum(1) / np.maximum(support, 1e-12)
    predicted = np.einsum("mij,mj->mi", rotation, source) + shift
    ok = (effective >= 3.0) & (support > 0.05) & (mean_residual < 3 * noise_m) & np.isfinite(predicted).all(1)
    return RigidPrediction(np.where(ok[:, None], predicted, source), ok, source.copy())


def update_affinity(
    affinity: Float[np.ndarray, "M M"],
    before: Float[np.ndarray, "M 3"],
    after: Float[np.ndarray, "M 3"],
    measured: Bool[np.ndarray, " M"],
    noise_m: Float[np.ndarray, " M"],
) -> None:
    """Pairs whose distance changes lose affinity, pairs that keep it while moving regain some (in place)."""

    def lengths(points):
        return np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))

    change = np.abs(lengths(after) - lengths(before)) / noise_m[:, None]
    both = measured[:, None] & measured[None, :]
    agreement = np.exp(-((change / 1.5) ** 2))
    update = np.clip(0.8 * affinity + 0.2 * agreement, 0.01, 1.0)
    update = np.where(change > 2.0, np.minimum(update, 0.5 * affinity), update)
    affinity[both] = update[both]
