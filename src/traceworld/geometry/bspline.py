"""Traces as cubic B-splines: basis, ridge fit of the control points, decoding (mu0-paper B.2, eq. 4)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from traceworld.errors import ConfigError, InvalidInputError

Knots = Literal["uniform", "official"]
"""`uniform`: clamped uniform knots, C2 curves. `official`: the knots of the released code, cubic Bézier pieces joined C0."""


def _knot_vector(num_controls: int, degree: int, knots: str) -> np.ndarray:
    if degree < 1 or num_controls < degree + 1:
        raise ConfigError(
            f"{num_controls} control points are too few for degree {degree}",
            where="bspline.num_controls",
            mend=f"use at least {degree + 1}",
        )
    if knots == "uniform":
        inner = np.linspace(0, 1, num_controls - degree + 1)[1:-1]
    elif knots == "official":
        pieces, rest = divmod(num_controls - 1, degree)
        if rest:
            raise ConfigError(
                f"{num_controls} control points do not make whole Bézier pieces of degree {degree}",
                where="bspline.num_controls",
                mend=f"use {degree} * pieces + 1 (4, 7, 10 for cubics) or knots='uniform'",
            )
        inner = np.repeat(np.arange(1, pieces) / pieces, degree)
    else:
        raise ConfigError(f"unknown knots {knots!r}", where="bspline.knots", mend="use 'uniform' or 'official'")
    return np.concatenate([np.zeros(degree + 1), inner, np.ones(degree + 1)])


@lru_cache(maxsize=64)
def _cached_basis(horizon: int, num_controls: int, degree: int, knots: str) -> np.ndarray:
    from scipy.interpolate import BSpline

    if horizon < 1:
        raise ConfigError(f"a horizon of {horizon} steps is empty", where="bspline.horizon", mend="use at least 1")
    vector = _knot_vector(num_controls, degree, knots)
    values = BSpline.design_matrix(np.arange(horizon + 1) / horizon, vector, degree).toarray()
    values.flags.writeable = False
    return values


def basis(
    horizon: int = 32, num_controls: int = 10, degree: int = 3, knots: str = "uniform"
) -> Float[np.ndarray, "steps D"]:
    """B-spline basis sampled at t = i/horizon, i = 0..horizon: curve = basis @ controls.

    Row 0 is the anchor (1, 0, ..., 0) and the last row the last control point: both ends are clamped.

    Returns:
        [horizon+1, num_controls], read-only float64. Rows sum to 1.

    Raises:
        ConfigError: unknown knots, or a number of control points that they cannot have.
    """
    return _cached_basis(horizon, num_controls, degree, knots)


@lru_cache(maxsize=64)
def _smoothness(num_controls: int) -> np.ndarray:
    """ΓᵀΓ of the first differences of consecutive control points."""
    difference = np.diff(np.eye(num_controls), axis=0)
    return difference.T @ difference


def _fit_operators(row_weights: np.ndarray, B: np.ndarray, ridge: float) -> np.ndarray:
    """[U,D,H+1]: for each pattern of valid rows the linear map from rows to control points that minimises eq. 4."""
    rows, D = B.shape
    outer = (B[:, :, None] * B[:, None, :]).reshape(rows, D * D)
    normal = (row_weights @ outer).reshape(-1, D, D) + ridge**2 * _smoothness(D)
    weighted = row_weights[:, None, :] * B.T
    if ridge > 0:
        return np.linalg.solve(normal, weighted)
    return np.linalg.pinv(normal, hermitian=True) @ weighted  # least norm where the valid steps leave controls free


def fit_controls(
    future: Float[np.ndarray, "N H 3"],
    valid: Bool[np.ndarray, "N H"],
    ridge: float | int = 0.2,
    clip: float | int | None = 1.5,
    knots: str = "uniform",
    num_controls: int = 10,
    degree: int = 3,
) -> tuple[Float[np.ndarray, "N D 3"], Bool[np.ndarray, " N"]]:
    """Control points of anchor-relative futures by row-weighted ridge least squares (mu0-paper eq. 4).

    Minimises ‖M (B P − [0; future])‖² + ridge² ‖Γ P‖² per keypoint, Γ first differences of consecutive control points,
    then clips every entry to ±clip. The anchor row has weight 1, invalid steps weight 0. All keypoints at once: the
    problem is linear in the future, so keypoints that share a pattern of valid steps share one solved operator.

    Args:
        future: (position − anchor) / s_delta for steps 1..H; anything (NaN too) where not valid.
        valid: steps that count.
        ridge: λ of eq. 4.
        clip: bound on every entry of the result; None for no bound.

    Returns:
        controls [N,D,3] (zeros where not usable, dtype of `future`) and usable [N]: at least D valid steps.

    Raises:
        InvalidInputError: a valid step is NaN or infinite.
        ConfigError: as `basis`; negative ridge.
    """
    N, H, _ = future.shape
    if ridge < 0:
        raise ConfigError(f"ridge {ridge} is negative", where="fit_controls.ridge", mend="use 0 or more")
    usable = valid.sum(1) >= num_controls
    controls = np.zeros((N, num_controls, 3), future.dtype)
    if not usable.any():
        return controls, usable
    B = basis(H, num_controls, degree, knots)
    everything = bool(usable.all()) and bool(valid.all())
    known = future[usable] if everything else np.where(valid[usable, :, None], future[usable], 0)
    if not np.isfinite(known).all():
        raise InvalidInputError(
            "a step marked valid is NaN or infinite", where="fit_controls.future", mend="mark it invalid"
        )
    if everything:
        patterns, which = np.ones((1, H), bool), None
    else:
        packed, which = np.unique(np.packbits(valid[usable], axis=1), axis=0, return_inverse=True)
        patterns = np.unpackbits(packed, axis=1, count=H).astype(bool)
        which = which.reshape(-1)
    row_weights = np.concatenate([np.ones((len(patterns), 1)), patterns], 1)
    operators = _fit_operators(row_weights, B, ridge)[:, :, 1:]  # the anchor row's target is 0
    fitted = np.matmul(operators[0] if which is None else operators[which], known.astype(np.float64))
    if clip is not None:
        np.clip(fitted, -clip, clip, out=fitted)
    controls[usable] = fitted
    return controls, usable


@lru_cache(maxsize=32)
def _torch_basis(horizon: int, num_controls: int, degree: int, knots: str, dtype: Any, device: Any) -> Any:
    import torch

    return torch.tensor(np.array(basis(horizon, num_controls, degree, knots)[1:]), dtype=dtype, device=device)


def decode(controls: Any, horizon: int = 32, knots: str = "uniform", degree: int = 3) -> Any:
    """Traces of control points: [..., D, C] -> [..., horizon, C], the anchor row stripped (mu0-paper B.2).

    Takes numpy arrays or torch tensors and returns the same kind. Torch half precision is raised to float32 and autocast
    is kept out, since a basis product in bfloat16 leaves only three digits of a position.
    """
    num_controls = controls.shape[-2]
    if isinstance(controls, np.ndarray):
        return basis(horizon, num_controls, degree, knots)[1:].astype(controls.dtype) @ controls
    import torch

    dtype = torch.promote_types(controls.dtype, torch.float32)
    with torch.autocast(controls.device.type, enabled=False):
        matrix = _torch_basis(horizon, num_controls, degree, knots, dtype, controls.device)
        return matrix @ controls.to(dtype)
