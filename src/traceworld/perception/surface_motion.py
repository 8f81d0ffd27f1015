"""How the visible surface around each point moves: a local rigid motion fitted to dense flow and depth.

A plain surface has no patch worth following, but its surroundings do: edges, rims, the shape itself. Cells of the image are
lifted to 3D in both frames; each says where it went, firmly across strong gradients and along the surface normal, weakly
where a match may slide (the aperture problem). Around every tracked point the rigid motion that the nearby cells agree on
is found by reweighted least squares; what belongs to other bodies drops out as outliers.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from traceworld.geometry.cameras import unproject_cam
from traceworld.perception.lifting import jump_gate, sample_depth
from traceworld.perception.matching import lucas_kanade
from traceworld.perception.motion import FlowField

_ROUNDS = 4
_SOFT_GRADIENT = 4.0  # grey levels per pixel: weaker texture counts for less
_MATCH_SIGMA_PX = 0.5  # at 640 px width
_NORMAL_SIGMA = 0.0015  # share of the depth
_TURN_SIGMA = 0.15  # radians between two frames: prior that keeps ill-posed fits from spinning
_SHIFT_SIGMA_M = 0.3


@dataclass(frozen=True, eq=False)
class SurfaceCells:
    """C cells that were found in both frames, in the first camera's coordinates (metres).

    `shift` is where each went, in the second camera's coordinates minus `xyz`; `information` [C,3,3] is how firmly that is
    known in which direction (1/m²).
    """

    xyz: Float[np.ndarray, "C 3"]
    shift: Float[np.ndarray, "C 3"]
    information: Float[np.ndarray, "C 3 3"]


def measure_cells(
    gray_a: UInt8[np.ndarray, "H W"],
    gray_b: UInt8[np.ndarray, "H W"],
    depth_a: Float[np.ndarray, "H W"] | None,
    depth_b: Float[np.ndarray, "H W"] | None,
    flow_ab: FlowField,
    K: Float[np.ndarray, "3 3"],
    cell_px: int,
    wanted: Bool[np.ndarray, "h w"],
    plane_m: float = 1.0,
) -> SurfaceCells:
    """Match the cells marked in `wanted` (grid of `cell_px`) from frame a to frame b.

    Each cell is represented by its pixel of strongest gradient. Without depth the scene is the plane z = `plane_m`.
    """
    height, width = gray_a.shape
    px = width / 640
    tensor, strength = _structure(gray_a)
    xy = _strongest_pixel(strength, cell_px, wanted)
    there, error = lucas_kanade(gray_a, gray_b, xy, xy + flow_ab.at(xy), window=13, levels=3, rounds=10)
    inside = (there >= 0).all(1) & (there[:, 0] <= width - 1) & (there[:, 1] <= height - 1)
    keep = inside & (error < 1.5 * px)
    xy, there = xy[keep], there[keep]
    if depth_a is None or depth_b is None:
        z_a = z_b = np.full(len(xy), plane_m)
        normal = np.broadcast_to(np.array([0.0, 0.0, 1.0]), (len(xy), 3))
    else:
        z_a, _ = sample_depth(depth_a, xy)
        z_b, _ = sample_depth(depth_b, there, z_a)
        normal = surface_normals(depth_a, xy, K)
    ok = np.isfinite(z_a) & np.isfinite(z_b) & (np.abs(z_b - z_a) < 3 * jump_gate(z_a)) & np.isfinite(normal).all(1)
    xy, there, z_a, z_b, normal = xy[ok], there[ok], z_a[ok].astype(np.float64), z_b[ok].astype(np.float64), normal[ok]
    start = unproject_cam(xy.astype(np.float64), z_a, K)
    end = unproject_cam(there.astype(np.float64), z_b, K)
    pixel = np.rint(xy).astype(int)
    info_px = _saturate(tensor[pixel[:, 1], pixel[:, 0]]) / (_MATCH_SIGMA_PX * px) ** 2
    jacobian = np.zeros((len(xy), 2, 3))
    jacobian[:, 0, 0], jacobian[:, 1, 1] = K[0, 0] / z_b, K[1, 1] / z_b
    jacobian[:, 0, 2], jacobian[:, 1, 2] = -K[0, 0] * end[:, 0] / z_b**2, -K[1, 1] * end[:, 1] / z_b**2
    information = np.einsum("cji,cjk,ckl->cil", jacobian, info_px, jacobian)
    information += normal[:, :, None] * normal[:, None, :] / ((_NORMAL_SIGMA * z_a) ** 2)[:, None, None]
    return SurfaceCells(start, end - start, information)


def local_motion(
    cells: SurfaceCells, xyz_cam: Float[np.ndarray, "M 3"], reach_m: Float[np.ndarray, " M"], neighbours: int = 96
) -> tuple[Float[np.ndarray, "M 3"], Bool[np.ndarray, " M"]]:
    """Where the surface around each point goes.

    Args:
        xyz_cam: points in the first camera's coordinates.
        reach_m: distance over which a point's surroundings count.

    Returns:
        positions in the second camera's coordinates, and whether there was enough to go by.
    """
    count = len(xyz_cam)
    k = min(neighbours, len(cells.xyz))
    if k < 6 or count == 0:
        return xyz_cam.copy(), np.zeros(count, bool)
    distance2 = ((xyz_cam[:, None] - cells.xyz[None]) ** 2).sum(-1)
    pick = np.argpartition(distance2, k - 1, axis=1)[:, :k]
    near2 = np.take_along_axis(distance2, pick, 1) / (reach_m[:, None] ** 2)
    base = 1 / (1 + near2) ** 2
    arm = cells.xyz[pick] - xyz_cam[:, None]
    shift, info = cells.shift[pick], cells.information[pick]
    basis = _twist_basis(arm)
    weighted = np.einsum("mkij,mkjl->mkil", info, basis)
    normal_all = np.einsum("mkji,mkjl->mkil", basis, weighted)
    right_all = np.einsum("mkji,mkj->mki", weighted, shift)
    prior = np.diag([1 / _SHIFT_SIGMA_M**2] * 3 + [1 / _TURN_SIGMA**2] * 3)
    weight = base
    for _ in range(_ROUNDS):
        normal = np.einsum("mk,mkij->mij", weight, normal_all) + prior
        right = np.einsum("mk,mki->mi", weight, right_all)
        twist = np.linalg.solve(normal, right[..., None])[..., 0]
        residual = np.einsum("mkij,mj->mki", basis, twist) - shift
        squared = np.einsum("mki,mkij,mkj->mk", residual, info, residual)
        weight = base / (1 + squared / 6.0) ** 2
    support = weight.sum(1) / np.maximum(base.sum(1), 1e-12)
    ok = (support > 0.15) & (base.sum(1) > 3.0) & np.isfinite(twist).all(1)
    return xyz_cam + twist[:, :3], ok


def surface_normals(
    depth_m: Float[np.ndarray, "H W"], xy_px: Float[np.ndarray, "N 2"], K: Float[np.ndarray, "3 3"], step: int = 2
) -> Float[np.ndarray, "N 3"]:
    """Unit normals in camera coordinates from depth differences over ±`step` px, one-sided where the other side jumps; NaN in holes."""
    height, width = depth_m.shape
    p = np.rint(xy_px).astype(int)
    x, y = p[:, 0].clip(0, width - 1), p[:, 1].clip(0, height - 1)
    z = depth_m[y, x].astype(np.float64)

    def slope(dx: int, dy: int) -> np.ndarray:
        ahead = depth_m[(y + dy * step).clip(0, height - 1), (x + dx * step).clip(0, width - 1)] - z
        behind = z - depth_m[(y - dy * step).clip(0, height - 1), (x - dx * step).clip(0, width - 1)]
        gate = jump_gate(z)
        a = np.where(np.abs(ahead) < gate, ahead, np.nan)
        b = np.where(np.abs(behind) < gate, behind, np.nan)
        both = (a + b) / 2
        value = np.where(np.isfinite(both), both, np.where(np.isfinite(a), a, b))
        return np.nan_to_num(value, nan=0.0) / step

    zx, zy = slope(1, 0), slope(0, 1)
    xn, yn = (x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1]
    tangent_x = np.stack([z / K[0, 0] + xn * zx, yn * zx, zx], -1)
    tangent_y = np.stack([xn * zy, z / K[1, 1] + yn * zy, zy], -1)
    normal = np.cross(tangent_x, tangent_y)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    return normal / np.where(length > 0, length, np.nan)


def _twist_basis(arm: np.ndarray) -> np.ndarray:
    """[...,3,6]: displacement of a place at `arm` from the point under (shift, turn): shift + turn × arm."""
    basis = np.zeros((*arm.shape[:-1], 3, 6))
    basis[..., 0, 0] = basis[..., 1, 1] = basis[..., 2, 2] = 1
    basis[..., 0, 4], basis[..., 0, 5] = arm[..., 2], -arm[..., 1]
    basis[..., 1, 3], basis[..., 1, 5] = -arm[..., 2], arm[..., 0]
    basis[..., 2, 3], basis[..., 2, 4] = arm[..., 1], -arm[..., 0]
    return basis


def _structure(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Structure tensor [H,W,2,2] over 7×7 px and gradient length [H,W], grey levels per pixel."""
    smooth = cv2.GaussianBlur(gray, (3, 3), 0)
    gx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8)
    gy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8)
    products = cv2.blur(np.stack([gx * gx, gx * gy, gy * gy], -1), (7, 7))
    tensor = products[..., [0, 1, 1, 2]].reshape(*gray.shape, 2, 2)
    return tensor, products[..., 0] + products[..., 2]


def _saturate(tensor: np.ndarray) -> np.ndarray:
    """Information in each direction as a share of the best possible: λ / (λ + soft²) on the tensor's eigenvalues."""
    soft = _SOFT_GRADIENT**2 * np.eye(2)
    return tensor @ np.linalg.inv(tensor + soft)


def _strongest_pixel(strength: np.ndarray, cell_px: int, wanted: np.ndarray) -> np.ndarray:
    h, w = wanted.shape
    block = strength[: h * cell_px, : w * cell_px].reshape(h, cell_px, w, cell_px).transpose(0, 2, 1, 3)
    block = block.reshape(h, w, cell_px * cell_px)[wanted]
    best = block.argmax(-1)
    rows, columns = np.nonzero(wanted)
    return np.stack([columns * cell_px + best % cell_px, rows * cell_px + best // cell_px], -1).astype(np.float64)
