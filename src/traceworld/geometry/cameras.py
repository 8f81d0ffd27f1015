"""Pinhole cameras: project, unproject, change of frame, pixels ↔ uv, intrinsics under resize and crop.

Conventions: OpenCV axes (x right, y down, z forward), metres, pixel centres at integers, `cam_from_world` [4,4] maps world
metres to camera metres. `uv` is in [-1,1] with the image's outer edges at ±1, so u = (x_px + 0.5) / width * 2 - 1.

Leading dimensions broadcast from the left: a camera per frame, K [T,3,3] and cam_from_world [T,4,4], goes with points
[T,N,3]; one camera, [3,3] and [4,4], goes with any points. (A camera array with as many leading dimensions as the points,
or more, broadcasts as numpy does.)
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from traceworld.errors import InvalidInputError


def _beside(matrix: np.ndarray, lead: int) -> np.ndarray:
    """A matrix array whose leading dimensions line up, from the left, with points of `lead` leading dimensions."""
    missing = lead - (matrix.ndim - 2)
    if missing <= 0 or matrix.ndim == 2:
        return matrix
    return matrix.reshape(matrix.shape[:-2] + (1,) * missing + matrix.shape[-2:])


def _check_size(width: int, height: int, where: str) -> None:
    if width < 1 or height < 1:
        raise InvalidInputError(f"size {width}×{height} is empty", where=where, mend="give the image size in pixels")


def transform(T: Float[np.ndarray, "*cameras 4 4"], xyz: Float[np.ndarray, "*points 3"]) -> Float[np.ndarray, "... 3"]:
    """Apply the affine part of T (rigid or similarity) to points: out = R xyz + t. NaN stays NaN."""
    if T.ndim == 2:
        return xyz @ T[:3, :3].T + T[:3, 3]
    T = _beside(T, xyz.ndim - 1)
    if xyz.ndim > 1 and T.shape[-3] == 1:  # one matrix for the whole last axis of points: a matrix product is fastest
        return xyz @ np.swapaxes(T[..., 0, :3, :3], -1, -2) + T[..., 0, None, :3, 3]
    return np.einsum("...ij,...j->...i", T[..., :3, :3], xyz) + T[..., :3, 3]


def invert_rigid(T: Float[np.ndarray, "*batch 4 4"]) -> Float[np.ndarray, "*batch 4 4"]:
    """Inverse of rigid transforms, exact in the bottom row: R^T, -R^T t."""
    R_inverse = np.swapaxes(T[..., :3, :3], -1, -2)
    inverse = np.zeros_like(T)
    inverse[..., :3, :3] = R_inverse
    inverse[..., :3, 3] = -np.einsum("...ij,...j->...i", R_inverse, T[..., :3, 3])
    inverse[..., 3, 3] = 1
    return inverse


def project_cam(
    xyz_cam: Float[np.ndarray, "*points 3"], K: Float[np.ndarray, "*cameras 3 3"]
) -> Float[np.ndarray, "... 3"]:
    """Camera metres -> (x_px, y_px, z_m). Points with z <= 0 get NaN pixels and keep their z."""
    K = _beside(K, xyz_cam.ndim - 1)
    x, y, z = xyz_cam[..., 0], xyz_cam[..., 1], xyz_cam[..., 2]
    in_front = np.where(z > 0, z, np.nan)
    y_ray = y / in_front
    x_px = K[..., 0, 0] * (x / in_front) + K[..., 0, 1] * y_ray + K[..., 0, 2]
    y_px = K[..., 1, 1] * y_ray + K[..., 1, 2]
    return np.stack(np.broadcast_arrays(x_px, y_px, z), -1)


def unproject_cam(
    xy_px: Float[np.ndarray, "*points 2"], z_m: Float[np.ndarray, "*points"], K: Float[np.ndarray, "*cameras 3 3"]
) -> Float[np.ndarray, "... 3"]:
    """Pixels and metres along the camera axis -> camera metres. NaN pixels or depth give NaN."""
    K = _beside(K, xy_px.ndim - 1)
    y_ray = (xy_px[..., 1] - K[..., 1, 2]) / K[..., 1, 1]
    x_ray = (xy_px[..., 0] - K[..., 0, 2] - K[..., 0, 1] * y_ray) / K[..., 0, 0]
    return np.stack(np.broadcast_arrays(x_ray * z_m, y_ray * z_m, z_m), -1)


def project(
    xyz_world: Float[np.ndarray, "*points 3"],
    K: Float[np.ndarray, "*cameras_K 3 3"],
    cam_from_world: Float[np.ndarray, "*cameras_E 4 4"],
) -> Float[np.ndarray, "... 3"]:
    """World metres -> (x_px, y_px, z_m). NaN in, NaN out; points behind the camera (z <= 0) get NaN pixels."""
    return project_cam(transform(cam_from_world, xyz_world), K)


def unproject(
    xy_px: Float[np.ndarray, "*points 2"],
    z_m: Float[np.ndarray, "*points"],
    K: Float[np.ndarray, "*cameras_K 3 3"],
    cam_from_world: Float[np.ndarray, "*cameras_E 4 4"],
) -> Float[np.ndarray, "... 3"]:
    """Pixels and metres along the camera axis -> world metres; inverse of `project`."""
    return transform(invert_rigid(cam_from_world), unproject_cam(xy_px, z_m, K))


def px_to_uv(xy_px: Float[np.ndarray, "*points 2"], width: int, height: int) -> Float[np.ndarray, "*points 2"]:
    """Pixels (centres at integers) -> uv in [-1,1] (outer edges at ±1), keeping the dtype."""
    _check_size(width, height, "px_to_uv")
    return (xy_px + 0.5) * np.array([2 / width, 2 / height], xy_px.dtype) - 1


def uv_to_px(uv: Float[np.ndarray, "*points 2"], width: int, height: int) -> Float[np.ndarray, "*points 2"]:
    """uv in [-1,1] -> pixels; inverse of `px_to_uv`."""
    _check_size(width, height, "uv_to_px")
    return (uv + 1) * np.array([width / 2, height / 2], uv.dtype) - 0.5


def world_to_uvz(
    xyz_world: Float[np.ndarray, "*points 3"],
    K: Float[np.ndarray, "*cameras_K 3 3"],
    cam_from_world: Float[np.ndarray, "*cameras_E 4 4"],
    width: int,
    height: int,
) -> Float[np.ndarray, "... 3"]:
    """World metres -> (u, v, z_m). NaN where unknown or behind the camera (u and v only)."""
    xyz_px_z = project(xyz_world, K, cam_from_world)
    return np.concatenate([px_to_uv(xyz_px_z[..., :2], width, height), xyz_px_z[..., 2:]], -1)


def uvz_to_world(
    uvz: Float[np.ndarray, "*points 3"],
    K: Float[np.ndarray, "*cameras_K 3 3"],
    cam_from_world: Float[np.ndarray, "*cameras_E 4 4"],
    width: int,
    height: int,
) -> Float[np.ndarray, "... 3"]:
    """(u, v, z_m) -> world metres; inverse of `world_to_uvz`."""
    return unproject(uv_to_px(uvz[..., :2], width, height), uvz[..., 2], K, cam_from_world)


def scale_K(
    K: Float[np.ndarray, "*batch 3 3"], scale_x: float | int | np.number, scale_y: float | int | np.number
) -> Float[np.ndarray, "*batch 3 3"]:
    """Intrinsics of an image magnified by (scale_x, scale_y) about its outer corner (pixel centres stay at integers)."""
    scaled = K.copy()
    scaled[..., 0, :2] *= scale_x
    scaled[..., 1, 1] *= scale_y
    scaled[..., 0, 2] = (K[..., 0, 2] + 0.5) * scale_x - 0.5
    scaled[..., 1, 2] = (K[..., 1, 2] + 0.5) * scale_y - 0.5
    return scaled


def resize_K(
    K: Float[np.ndarray, "*batch 3 3"], size_from: tuple[int, int], size_to: tuple[int, int]
) -> Float[np.ndarray, "*batch 3 3"]:
    """Intrinsics after resizing an image from (width, height) `size_from` to `size_to`."""
    _check_size(*size_from, "resize_K.size_from")
    _check_size(*size_to, "resize_K.size_to")
    return scale_K(K, size_to[0] / size_from[0], size_to[1] / size_from[1])


def crop_K(
    K: Float[np.ndarray, "*batch 3 3"], x0: float | int | np.number, y0: float | int | np.number
) -> Float[np.ndarray, "*batch 3 3"]:
    """Intrinsics after cropping so that old pixel (x0, y0) becomes pixel (0, 0); negative values pad."""
    cropped = K.copy()
    cropped[..., 0, 2] -= x0
    cropped[..., 1, 2] -= y0
    return cropped


def K_to_uv(K: Float[np.ndarray, "*batch 3 3"], width: int, height: int) -> Float[np.ndarray, "*batch 4"]:
    """Intrinsics in uv units, (fx, fy, u0, v0): u = fx * x/z + u0. Independent of the image's resolution."""
    _check_size(width, height, "K_to_uv")
    focal = np.stack([K[..., 0, 0] * 2 / width, K[..., 1, 1] * 2 / height], -1)
    return np.concatenate([focal, px_to_uv(K[..., :2, 2], width, height)], -1)
