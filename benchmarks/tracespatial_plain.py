"""The 3D scoring of TraceSpatial-Bench step by step, as one writes it down from Open3D's documentation: loops over points, blocks and voxels.

The subject of comparison in `tracespatial_scoring.py`. The same steps and constants as compat mode, one answer at a time: object cloud
(statistical outliers, voxel averaging, DBSCAN), truncated signed distance volume, zero crossings, voxel set, a look-up per point and
waypoint, recursive Fréchet distance. Space is searched by scipy's tree as Open3D searches it by its own.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter, deque
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from traceworld.tracespatial.answers_compat import text_tuples

VOXEL, TRUNCATION, BLOCK = 0.02, 0.08, 16
NUM_POINTS = 100


def score(text: str, question: Any, mask: np.ndarray, depth_mm: np.ndarray) -> dict[str, Any]:
    """One answer's figures."""
    K, true = question.K, question.trajectory_cam
    height, width = depth_mm.shape
    points = []
    for u, v, d in text_tuples(text):
        points.append([(u * width - K[0, 2]) * d / K[0, 0], (v * height - K[1, 2]) * d / K[1, 1], d])
    path = np.array(points)
    cloud = object_cloud(mask, depth_mm, K)
    start = min(min(np.linalg.norm(p - path[0]) for p in cloud), np.linalg.norm(path[0] - true[0]))
    end = min(box_distance(p, question.box) for p in path[-3:])
    occupied, origin = occupancy(np.where(mask == 255, 0, depth_mm) / 1000.0, K)
    ratios = []
    for waypoint in path:
        cells = ((cloud + (waypoint - path[0]) - origin) / VOXEL).astype(int)
        ratios.append(sum(tuple(cell) in occupied for cell in cells) / len(cells))
    a, b = resample(path), resample(true)
    frechet, hausdorff, rmse, mae = path_errors(a, b)
    a, b = flat(a, K) / [width, height], flat(b, K) / [width, height]
    return {
        "start_ok": start < 0.2, "end_ok": end < 0.2, "collided": any(ratio > 0.2 for ratio in ratios),
        "start_distance_m": start, "end_distance_m": end, "collision_ratios": ratios,
        "frechet": frechet, "hausdorff": hausdorff, "rmse": rmse, "mae": mae, "frechet_2d": path_errors(a, b)[0],
    }  # fmt: skip


def object_cloud(mask: np.ndarray, depth_mm: np.ndarray, K: np.ndarray) -> np.ndarray:
    points = []
    for v, u in zip(*np.nonzero((mask > 0) & (depth_mm > 0) & (depth_mm < 15000)), strict=True):
        z = depth_mm[v, u] / 1000.0
        points.append([(u - K[0, 2]) * z / K[0, 0], (v - K[1, 2]) * z / K[1, 1], z])
    cloud = np.array(points)
    voxel = max(0.01, (np.linalg.norm(cloud.std(axis=0)) * 3.0 + 1e-6) / 40)
    tree = cKDTree(cloud)
    mean = np.array([tree.query(p, k=10)[0].mean() for p in cloud])
    cloud = cloud[(mean > 0) & (mean < mean.mean() + 1.2 * mean.std(ddof=1))]
    cells: dict[tuple[int, ...], list[np.ndarray]] = {}
    origin = cloud.min(axis=0) - voxel / 2
    for point in cloud:
        cells.setdefault(tuple(np.floor((point - origin) / voxel).astype(int)), []).append(point)
    return largest_cluster(np.array([np.mean(inside, axis=0) for inside in cells.values()]))


def largest_cluster(cloud: np.ndarray) -> np.ndarray:
    tree = cKDTree(cloud)
    near = [tree.query_ball_point(p, np.nextafter(0.02, 0)) for p in cloud]
    label, number = [-1] * len(cloud), 0
    for first in range(len(cloud)):
        if label[first] >= 0 or len(near[first]) < 10:
            continue
        label[first], waiting = number, deque(near[first])
        while waiting:
            point = waiting.popleft()
            if label[point] < 0:
                label[point] = number
                if len(near[point]) >= 10:
                    waiting.extend(near[point])
        number += 1
    sizes = Counter(each for each in label if each >= 0)
    if not sizes:
        return cloud
    largest = cloud[np.array(label) == sizes.most_common(1)[0][0]]
    return largest if len(largest) >= 5 else cloud


def occupancy(depth: np.ndarray, K: np.ndarray) -> tuple[set[tuple[int, ...]], np.ndarray]:
    """Integrate block by block, look for changes of sign voxel by voxel, voxelise."""
    depth = np.where(depth < 5.0, depth, 0)
    height, width = depth.shape
    opened: set[tuple[int, ...]] = set()
    for v in range(0, height, 4):
        for u in range(0, width, 4):
            z = depth[v, u]
            if z > 0:
                p = np.array([(u - K[0, 2]) * z / K[0, 0], (v - K[1, 2]) * z / K[1, 1], z])
                low = np.floor((p - TRUNCATION) / (VOXEL * BLOCK)).astype(int)
                high = np.floor((p + TRUNCATION) / (VOXEL * BLOCK)).astype(int)
                for step in np.ndindex(*(high - low + 1)):
                    opened.add(tuple(low + step))
    volume: dict[tuple[int, ...], float] = {}
    grid = np.stack(np.meshgrid(*[np.arange(BLOCK)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    for block in opened:
        cells = np.array(block) * BLOCK + grid
        x, y, z = (cells * VOXEL + VOXEL / 2).T
        z = np.where(z > 0, z, np.nan)
        u, v = x * K[0, 0] / z + K[0, 2] + 0.5, y * K[1, 1] / z + K[1, 2] + 0.5
        inside = (u >= 1e-4) & (u < width - 1e-4) & (v >= 1e-4) & (v < height - 1e-4)
        u, v = np.where(inside, u, 0).astype(int), np.where(inside, v, 0).astype(int)
        d = depth[v, u]
        stretch = np.sqrt(((u - K[0, 2]) / K[0, 0]) ** 2 + ((v - K[1, 2]) / K[1, 1]) ** 2 + 1)
        share = np.minimum((d - z) * stretch / TRUNCATION, 1)
        for cell, value in zip(
            cells[inside & (d > 0) & (share > -1)], share[inside & (d > 0) & (share > -1)], strict=True
        ):
            volume[tuple(cell)] = value
    crossings = []
    for (x, y, z), here in volume.items():
        if not -0.98 <= here < 0.98:
            continue
        for axis, beside in enumerate(((x + 1, y, z), (x, y + 1, z), (x, y, z + 1))):
            there = volume.get(beside)
            if there is not None and -0.98 <= there < 0.98 and here * there < 0:
                point = [x * VOXEL + VOXEL / 2, y * VOXEL + VOXEL / 2, z * VOXEL + VOXEL / 2]
                point[axis] += VOXEL * abs(here) / (abs(here) + abs(there))
                crossings.append(point)
    found = np.array(crossings)
    origin = found.min(axis=0) - VOXEL / 2
    return {tuple(cell) for cell in np.floor((found - origin) / VOXEL).astype(int)}, origin


def box_distance(point: np.ndarray, box: Any) -> float:
    local = np.linalg.inv(box.rotation) @ (point - box.center_xyz)
    return float(np.linalg.norm(local - np.clip(local, -box.size_m / 2, box.size_m / 2)))


def flat(path: np.ndarray, K: np.ndarray) -> np.ndarray:
    return path[:, :2] / path[:, 2:] * [K[0, 0], K[1, 1]] + K[:2, 2]


def resample(path: np.ndarray) -> np.ndarray:
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    wanted = np.linspace(0, along[-1], NUM_POINTS)
    return np.stack([np.interp(wanted, along, path[:, axis]) for axis in range(path.shape[1])], axis=1)


def path_errors(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float, float]:
    distance = np.linalg.norm(a[:, None] - b[None], axis=-1)

    @functools.cache
    def leash(i: int, j: int) -> float:
        if i == j == 0:
            return distance[0, 0]
        if i == 0:
            return max(leash(0, j - 1), distance[i, j])
        if j == 0:
            return max(leash(i - 1, 0), distance[i, j])
        return max(min(leash(i - 1, j), leash(i - 1, j - 1), leash(i, j - 1)), distance[i, j])

    sys.setrecursionlimit(max(sys.getrecursionlimit(), 10_000))
    hausdorff = max(distance.min(axis=1).max(), distance.min(axis=0).max())
    apart = a - b
    rmse = np.sqrt(np.mean(np.sum(apart * apart, axis=1)))
    return float(leash(len(a) - 1, len(b) - 1)), float(hausdorff), float(rmse), float(np.mean(np.abs(apart)))
