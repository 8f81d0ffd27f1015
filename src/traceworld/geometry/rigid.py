"""Rigid and similarity transforms: point fits, rotation means, alignment of chunk poses to global ones (mu0-paper A.3, eq. 1)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from traceworld.errors import InvalidInputError


def _nearest_rotation(M: np.ndarray) -> np.ndarray:
    """The rotation R that maximises trace(Rᵀ M), by SVD with the sign of the determinant mended."""
    U, _, Vt = np.linalg.svd(M)
    U[..., :, 2] *= np.sign(np.linalg.det(U @ Vt))[..., None]
    return U @ Vt


def _rigid(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, t
    return T


def mean_rotation(
    rotations: Float[np.ndarray, "M 3 3"], weights: Float[np.ndarray, " M"] | None = None
) -> Float[np.ndarray, "3 3"]:
    """Chordal mean of rotations: the rotation nearest to all of them in Frobenius norm."""
    if len(rotations) == 0:
        raise InvalidInputError("no rotations to average", where="mean_rotation")
    return _nearest_rotation(np.average(rotations.astype(np.float64), axis=0, weights=weights))


def _usable_pairs(src, dst, weights, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weights = np.ones(len(src)) if weights is None else weights.astype(np.float64)
    keep = np.isfinite(src).all(-1) & np.isfinite(dst).all(-1) & (weights > 0)
    if keep.sum() < 3:
        raise InvalidInputError(
            f"{int(keep.sum())} usable point pairs, a fit needs 3", where=where, mend="give more finite, weighted pairs"
        )
    return src[keep].astype(np.float64), dst[keep].astype(np.float64), weights[keep] / weights[keep].sum()


def _centred_fit(src, dst, weights, where: str):
    mean_src, mean_dst = weights @ src, weights @ dst
    a, b = src - mean_src, dst - mean_dst
    spread = np.linalg.svd(np.sqrt(weights)[:, None] * a, compute_uv=False)
    if spread[1] <= 1e-9 * max(spread[0], np.finfo(float).tiny):
        raise InvalidInputError("the points lie on a line or in one place: the rotation is free", where=where)
    R = _nearest_rotation((weights[:, None] * b).T @ a)
    return R, mean_src, mean_dst, a, b


def fit_rigid(
    src: Float[np.ndarray, "N 3"], dst: Float[np.ndarray, "N 3"], weights: Float[np.ndarray, " N"] | None = None
) -> Float[np.ndarray, "4 4"]:
    """Rigid T that minimises Σ w ‖T src − dst‖² (Kabsch). Pairs with NaN or weight ≤ 0 are left out.

    Raises:
        InvalidInputError: fewer than 3 usable pairs, or all on one line (a wrong rotation is worse than an error).
    """
    src, dst, weights = _usable_pairs(src, dst, weights, "fit_rigid")
    R, mean_src, mean_dst, _, _ = _centred_fit(src, dst, weights, "fit_rigid")
    return _rigid(R, mean_dst - R @ mean_src)


def fit_similarity(
    src: Float[np.ndarray, "N 3"], dst: Float[np.ndarray, "N 3"], weights: Float[np.ndarray, " N"] | None = None
) -> Float[np.ndarray, "4 4"]:
    """Similarity S = [sR | t] that minimises Σ w ‖S src − dst‖² (Umeyama). Errors as `fit_rigid`."""
    src, dst, weights = _usable_pairs(src, dst, weights, "fit_similarity")
    R, mean_src, mean_dst, a, b = _centred_fit(src, dst, weights, "fit_similarity")
    scale = float((weights * ((a @ R.T) * b).sum(-1)).sum() / (weights * (a**2).sum(-1)).sum())
    return _rigid(scale * R, mean_dst - scale * R @ mean_src)


def similarity_scale(S: Float[np.ndarray, "4 4"]) -> float:
    """The scale s of a similarity [sR | t]."""
    return float(np.cbrt(np.linalg.det(S[:3, :3])))


def transform_poses(
    S: Float[np.ndarray, "4 4"], world_from_cam: Float[np.ndarray, "T 4 4"]
) -> Float[np.ndarray, "T 4 4"]:
    """Poses in a new world: rotation R R_t, camera centre S c_t. For a rigid S this is the product S @ world_from_cam.

    With a similarity the poses stay rigid; depths seen from them must be multiplied by `similarity_scale(S)`.
    """
    moved = S @ world_from_cam
    moved[:, :3, :3] /= similarity_scale(S)
    return moved


def _check_poses(chunk: np.ndarray, ref: np.ndarray, where: str) -> None:
    if len(chunk) == 0:
        raise InvalidInputError(
            "no shared anchor frame", where=where, mend="place anchors so that every chunk holds at least one"
        )
    if len(chunk) != len(ref):
        raise InvalidInputError(
            f"{len(chunk)} poses against {len(ref)}", where=where, mend="give the same anchor frames"
        )
    if not (np.isfinite(chunk).all() and np.isfinite(ref).all()):
        raise InvalidInputError("poses hold NaN or infinity", where=where)


def _minimise_eq1(chunk: np.ndarray, ref: np.ndarray) -> np.ndarray:
    R_c, t_c, R_r, t_r = chunk[:, :3, :3], chunk[:, :3, 3], ref[:, :3, :3], ref[:, :3, 3]
    # For a given rotation the best translation joins the mean centres; what is left is linear in the rotation.
    mean_c, mean_r = t_c.mean(0), t_r.mean(0)
    R = _nearest_rotation(np.einsum("tij,tkj->ik", R_r, R_c) + (t_r - mean_r).T @ (t_c - mean_c))
    return _rigid(R, mean_r - R @ mean_c)


def alignment_residuals(
    A: Float[np.ndarray, "4 4"],
    world_from_cam_chunk: Float[np.ndarray, "T 4 4"],
    world_from_cam_ref: Float[np.ndarray, "T 4 4"],
) -> Float[np.ndarray, " T"]:
    """‖A E_t^chunk − E_t^ref‖_F per anchor: the terms of eq. 1 (rotation entries and metres in one norm, as printed)."""
    return np.linalg.norm((A @ world_from_cam_chunk - world_from_cam_ref)[:, :3], axis=(1, 2))


def _inliers(chunk: np.ndarray, ref: np.ndarray, outlier_factor: float | int) -> np.ndarray:
    """Anchors that agree: least median of squares over the transforms that single anchors propose, then a cut."""
    candidates = ref @ np.linalg.inv(chunk)
    moved = np.einsum("aij,tjk->atik", candidates, chunk)
    residuals = np.linalg.norm((moved - ref)[:, :, :3], axis=(2, 3))
    best = residuals[np.median(residuals, axis=1).argmin()]
    # The anchor that proposed the transform has residual 0, so the median is over the others' agreement too.
    return best <= outlier_factor * 1.4826 * np.median(best) + 1e-9


def align_se3(
    world_from_cam_chunk: Float[np.ndarray, "T 4 4"],
    world_from_cam_ref: Float[np.ndarray, "T 4 4"],
    outlier_factor: float | int | None = None,
) -> Float[np.ndarray, "4 4"]:
    """A in SE(3) that minimises Σ_t ‖A E_t^chunk − E_t^ref‖_F² exactly (mu0-paper eq. 1).

    E must be **camera-to-world** (a pose): A acts on the left and carries the chunk's world to the global one,
    E^ref = A E^chunk. Our stored arrays are `cam_from_world`; pass `invert_rigid(cam_from_world)`. (With world-to-camera
    arrays a left factor would move the camera, not the world, and the result would be wrong.) Points and poses of the
    chunk follow by `transform(A, xyz_world)` and `A @ world_from_cam`.

    The translation is free, so it joins the mean camera centres; the rotation then maximises a trace, solved by one SVD
    over rotations and centred translations together. Rotation and metres share one norm, as printed in the paper. One
    anchor is enough.

    Args:
        outlier_factor: None for plain least squares; else anchors whose term in eq. 1 exceeds this many robust standard
            deviations (3 is usual) under the best single-anchor transform are left out. Needs 3 anchors to have effect.

    Raises:
        InvalidInputError: no anchor, or NaN poses.
    """
    _check_poses(world_from_cam_chunk, world_from_cam_ref, "align_se3")
    chunk, ref = world_from_cam_chunk.astype(np.float64), world_from_cam_ref.astype(np.float64)
    if outlier_factor is not None and len(chunk) >= 3:
        keep = _inliers(chunk, ref, outlier_factor)
        chunk, ref = chunk[keep], ref[keep]
    return _minimise_eq1(chunk, ref)


def scale_from_depths(
    depth_chunk: Float[np.ndarray, "*image"], depth_ref: Float[np.ndarray, "*image"], min_pixels: int = 16
) -> float:
    """Scale that brings the chunk's depth to the reference's: the median ratio over pixels known in both.

    Give the depth of all shared anchor frames at once. A reconstruction network normalises each pass by the scene's mean
    distance, so chunks differ in scale; depth shows it even where a camera that stands still leaves poses silent.

    Raises:
        InvalidInputError: fewer than `min_pixels` pixels are finite and positive in both.
    """
    known = np.isfinite(depth_chunk) & np.isfinite(depth_ref) & (depth_chunk > 0) & (depth_ref > 0)
    if known.sum() < min_pixels:
        raise InvalidInputError(
            f"{int(known.sum())} pixels have depth in both, {min_pixels} needed",
            where="scale_from_depths",
            mend="give anchor frames with depth",
        )
    return float(np.median(depth_ref[known].astype(np.float64) / depth_chunk[known]))


def align_sim3(
    world_from_cam_chunk: Float[np.ndarray, "T 4 4"],
    world_from_cam_ref: Float[np.ndarray, "T 4 4"],
    scale: float | int | np.number,
    outlier_factor: float | int | None = None,
) -> Float[np.ndarray, "4 4"]:
    """Scale-aware eq. 1: S = [sR | t] from chunk world to global world with a known scale s.

    The scale comes from depth (`scale_from_depths`): it cannot be read off the poses of a camera that hardly moves. The
    chunk's camera centres are multiplied by it, then eq. 1 is solved. Use `transform(S, xyz)` for points,
    `transform_poses(S, poses)` for poses, and multiply depths by s. Poses are camera-to-world as in `align_se3`.

    Raises:
        InvalidInputError: as `align_se3`; scale not positive.
    """
    if not (np.isfinite(scale) and scale > 0):
        raise InvalidInputError(f"scale {scale} is not positive", where="align_sim3.scale")
    scaled = world_from_cam_chunk.astype(np.float64)
    scaled[:, :3, 3] *= float(scale)
    S = align_se3(scaled, world_from_cam_ref, outlier_factor)
    S[:3, :3] *= float(scale)
    return S
