"""What stands in the way: occupied voxels of a depth picture, the published way, and solid obstacles, the right way.

`occupied_voxels` is the published one (`reference/robotracer.md` §1.6): a truncated signed distance volume of 2 cm voxels in blocks of 16³,
its zero crossings, voxelised again. It is hollow (one layer of visible surface) and a face exactly on voxel centres is not in it
(§1.8 B3, B4). `SolidDepth` has no lattice: a point is inside of something where the depth picture shows a surface in front of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64, Num

from traceworld.errors import InvalidInputError

VOXEL_M = 0.02
TRUNCATION_M = 0.08
MAX_DEPTH_M = 5.0
COLLISION_SHARE = 0.20
"""A larger share of the object's points inside of obstacles is a collision."""

_BLOCK = 16
_STRIDE = 4
_JOINS = np.float32(0.98)
_BLOCKS_AT_ONCE = 64
_MAX_BLOCKS = 20_000


@dataclass(frozen=True, eq=False)
class VoxelSet:
    """Occupied voxels: `grid` [X,Y,Z] with its lowest corner at `origin` [3] in camera metres."""

    origin: Float[np.ndarray, " 3"]
    grid: Bool[np.ndarray, "X Y Z"]

    def occupied(self, points: Float[np.ndarray, "*any 3"]) -> Bool[np.ndarray, "*any"]:
        """Whether the voxel of each point is occupied; indices are cut toward zero, as published (§1.8 B10)."""
        with np.errstate(invalid="ignore"):
            cell = np.trunc((points - self.origin) / VOXEL_M)
            inside = ((cell >= 0) & (cell < self.grid.shape)).all(axis=-1)
        index = np.where(inside[..., None], cell, 0).astype(np.int64)
        return inside & self.grid[index[..., 0], index[..., 1], index[..., 2]]


def occupied_voxels(depth_m: Float[np.ndarray, "H W"], K: Float[np.ndarray, "3 3"]) -> VoxelSet:
    """Voxels of the visible surfaces of a depth picture (0 where unknown; depth of 5 m and more is left out).

    Raises:
        InvalidInputError: no surface at all, or more space than a depth picture can open.
    """
    depth = np.where((depth_m > 0) & (depth_m < MAX_DEPTH_M), depth_m, 0).astype(np.float32)
    crossings = _crossings(depth, K)
    if len(crossings) == 0:
        raise InvalidInputError("no surface within 5 m", where="occupied_voxels.depth_m", mend="check depth and K")
    origin = crossings.min(axis=0) - VOXEL_M / 2
    cells = np.floor((crossings - origin) / VOXEL_M).astype(np.int64)
    grid = np.zeros(cells.max(axis=0) + 1, bool)
    grid[cells[:, 0], cells[:, 1], cells[:, 2]] = True
    return VoxelSet(origin, grid)


def _crossings(depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Zero crossings of the distance volume along the three axes, [N,3]."""
    blocks = _opened_blocks(depth, K)
    if len(blocks) == 0:
        return np.zeros((0, 3))
    first = blocks.min(axis=0)
    span = (blocks.max(axis=0) - first + 1) * _BLOCK
    cells, values = _near_surface(depth, K, blocks)
    cells = cells - first * _BLOCK
    # Sorted flat indices instead of a dense volume: memory follows the surface, not the space around it.
    flat = (cells[:, 0] * (span[1] + 1) + cells[:, 1]) * (span[2] + 1) + cells[:, 2]
    order = np.argsort(flat)
    flat, values, cells = flat[order], values[order], cells[order]
    centres = (cells + first * _BLOCK) * VOXEL_M + VOXEL_M / 2
    found = []
    for axis, step in enumerate(((span[1] + 1) * (span[2] + 1), span[2] + 1, 1)):
        at = np.searchsorted(flat, flat + step)
        here = np.flatnonzero(flat[np.minimum(at, len(flat) - 1)] == flat + step)
        there = at[here]
        crosses = values[here] * values[there] < 0
        here, there = here[crosses], there[crosses]
        near, far = np.abs(values[here]).astype(np.float64), np.abs(values[there]).astype(np.float64)
        points = centres[here]
        points[:, axis] = (points[:, axis] * far + (points[:, axis] + VOXEL_M) * near) / (near + far)
        found.append(points)
    return np.concatenate(found)


def _opened_blocks(depth: np.ndarray, K: np.ndarray) -> Int64[np.ndarray, "B 3"]:
    """Blocks within the truncation of the points of every fourth pixel."""
    rows, columns = np.mgrid[0 : depth.shape[0] : _STRIDE, 0 : depth.shape[1] : _STRIDE]
    z = depth[rows, columns].astype(np.float64)
    known = z > 0
    u, v, z = columns[known], rows[known], z[known]
    points = np.stack([(u - K[0, 2]) * z / K[0, 0], (v - K[1, 2]) * z / K[1, 1], z], axis=1)
    length = VOXEL_M * _BLOCK
    low = np.floor((points - TRUNCATION_M) / length).astype(np.int64)
    high = np.floor((points + TRUNCATION_M) / length).astype(np.int64)
    both = np.unique(np.concatenate([low, high], axis=1), axis=0)
    reach = both[:, 3:] - both[:, :3]  # at most one block, as the truncation is half a block's length
    corners = [both[:, :3] + reach * np.array(corner) for corner in np.ndindex(2, 2, 2)]
    blocks = np.unique(np.concatenate(corners), axis=0) if len(both) else np.zeros((0, 3), np.int64)
    if len(blocks) > _MAX_BLOCKS:
        raise InvalidInputError(f"{len(blocks)} blocks of space", where="occupied_voxels", mend="check the intrinsics")
    return blocks


def _near_surface(depth: np.ndarray, K: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxel indices [N,3] and values (share of the truncation) of all voxels that join the surface."""
    height, width = depth.shape
    fx, fy, cx, cy = (np.float32(value) for value in (K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
    across = (np.arange(width, dtype=np.float32) - cx) / fx
    down = (np.arange(height, dtype=np.float32) - cy) / fy
    stretch = np.sqrt(across[None] ** 2 + down[:, None] ** 2 + 1)
    offsets = np.stack(np.meshgrid(*[np.arange(_BLOCK)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    cells_found, values_found = [], []
    for at in range(0, len(blocks), _BLOCKS_AT_ONCE):
        cells = (blocks[at : at + _BLOCKS_AT_ONCE, None] * _BLOCK + offsets).reshape(-1, 3)
        x, y, z = (cells.T * VOXEL_M + VOXEL_M / 2).astype(np.float32)
        front = np.flatnonzero(z > 0)
        x, y, z = x[front], y[front], z[front]
        u, v = x * fx / z + cx + np.float32(0.5), y * fy / z + cy + np.float32(0.5)
        seen = np.flatnonzero((u >= 1e-4) & (u < width - 1e-4) & (v >= 1e-4) & (v < height - 1e-4))
        column, row = u[seen].astype(np.int64), v[seen].astype(np.int64)
        d = depth[row, column]
        value = np.minimum((d - z[seen]) * stretch[row, column] / np.float32(TRUNCATION_M), np.float32(1))
        joins = (d > 0) & (value > -1) & (value < _JOINS) & (value >= -_JOINS)
        cells_found.append(cells[front[seen[joins]]])
        values_found.append(value[joins])
    return np.concatenate(cells_found), np.concatenate(values_found)


@dataclass(frozen=True, eq=False)
class SolidDepth:
    """Obstacles of a depth picture without the moving object: solid behind what is seen.

    A point is inside of an obstacle if the surface seen at its pixel lies more than `contact_m` in front of it and no more than
    `thickness_m`: what touches a surface does not collide with it, and what is farther behind may be free space that the
    surface hides. Where nothing is known (no depth, outside of the picture, behind the object itself) nothing stands.

    Attributes:
        depth_m: [H,W] camera metres, 0 where unknown and on the object.
        K: [3,3] pixels.
        contact_m: depth noise and contact that is not a collision.
        thickness_m: how far behind its surface an obstacle is solid.
    """

    depth_m: Float[np.ndarray, "H W"]
    K: Float[np.ndarray, "3 3"]
    contact_m: float | int = 0.01
    thickness_m: float | int = 0.20

    @staticmethod
    def around(
        mask: Num[np.ndarray, "H W"], depth_mm: Num[np.ndarray, "H W"], K: Float[np.ndarray, "3 3"]
    ) -> SolidDepth:
        """The obstacles around the object: every pixel of its mask (above 0) is left out."""
        return SolidDepth(np.where(mask > 0, 0.0, depth_mm / 1000.0), K)

    def occupied(self, points: Float[np.ndarray, "*any 3"]) -> Bool[np.ndarray, "*any"]:
        """Whether each point (camera metres) is inside of an obstacle."""
        height, width = self.depth_m.shape
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        ahead = np.where(z > 0, z, np.inf)
        with np.errstate(invalid="ignore"):
            column = np.floor(self.K[0, 0] * x / ahead + self.K[0, 2] + 0.5)
            row = np.floor(self.K[1, 1] * y / ahead + self.K[1, 2] + 0.5)
            seen = (z > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        surface = self.depth_m[np.where(seen, row, 0).astype(np.int64), np.where(seen, column, 0).astype(np.int64)]
        behind = z - surface
        return seen & (surface > 0) & (behind > self.contact_m) & (behind < self.thickness_m)


def collision_shares(
    obstacles: VoxelSet | SolidDepth, cloud: Float[np.ndarray, "N 3"], path: Float[np.ndarray, "P 3"]
) -> Float[np.ndarray, " P"]:
    """Share of the object's points inside of obstacles at each point of a path, the object moved from the path's first point.

    Raises:
        InvalidInputError: the object has no points or the path none: nothing could collide, which is not the same as free.
    """
    if len(cloud) == 0 or len(path) == 0:
        raise InvalidInputError(f"{len(cloud)} points, path of {len(path)}", where="collision_shares")
    shares = []
    at_once = max(1, 400_000 // len(cloud))
    for at in range(0, len(path), at_once):
        moved = cloud[None] + (path[at : at + at_once] - path[0])[:, None]
        shares.append(obstacles.occupied(moved).mean(axis=1))
    return np.concatenate(shares)
