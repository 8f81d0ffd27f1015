"""The moving object as points: depth behind its mask, outliers removed, thinned, the largest cluster (TraceSpatial-Bench 3D task).

The steps and constants are the published ones (`reference/robotracer.md` §1.6), computed with scipy instead of Open3D. One thing differs by
default: the reach of the clustering grows with the spacing of the thinned points, else it switches itself off for large objects (§1.8 B9).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

MAX_DEPTH_MM = 15_000
_NEIGHBOURS = 10
_OUTLIER_DEVIATIONS = 1.2
_CLUSTER_REACH_M = 0.02
_SPACINGS = 2.5
"""Reach of the clustering in spacings of the thinned cloud: a flat surface then has about twenty neighbours in reach."""
_SMALLEST_CLUSTER = 5


def object_cloud(
    mask: Num[np.ndarray, "H W"],
    depth_mm: Num[np.ndarray, "H W"],
    K: Float[np.ndarray, "3 3"],
    published: bool = False,
) -> Float[np.ndarray, "N 3"]:
    """Points of the object's visible surface in the camera frame, metres; [0,3] where it has no depth.

    Args:
        mask: above 0 on the object. depth_mm: 0 where unknown.
        published: cluster with the published reach of 2 cm, whatever the spacing.
    """
    points = pixels_to_points(mask, depth_mm, K)
    if len(points) == 0:
        return points
    spacing = max(0.01, (3.0 * float(np.linalg.norm(points.std(axis=0))) + 1e-6) / 40)
    thinned = thin(without_outliers(points), spacing)
    return largest_cluster(thinned, _CLUSTER_REACH_M if published else max(_CLUSTER_REACH_M, _SPACINGS * spacing))


def pixels_to_points(
    mask: Num[np.ndarray, "H W"], depth_mm: Num[np.ndarray, "H W"], K: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "N 3"]:
    """Every pixel of the mask with a depth below 15 m, in camera metres, row by row."""
    v, u = np.nonzero((mask > 0) & (depth_mm > 0) & (depth_mm < MAX_DEPTH_MM))
    z = depth_mm[v, u] / 1000.0
    return np.stack([(u - K[0, 2]) * z / K[0, 0], (v - K[1, 2]) * z / K[1, 1], z], axis=1)


def without_outliers(points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "M 3"]:
    """Points whose mean distance to their ten nearest (themselves included) is above 0 and not unusually large."""
    if len(points) == 0:
        return points
    distance, _ = cKDTree(points, balanced_tree=False).query(points, k=min(_NEIGHBOURS, len(points)))
    mean = distance.reshape(len(points), -1).mean(axis=1)
    limit = mean.mean() + _OUTLIER_DEVIATIONS * (mean.std(ddof=1) if len(points) > 1 else 0.0)
    return points[(mean > 0) & (mean < limit)]


def thin(points: Float[np.ndarray, "N 3"], spacing: float) -> Float[np.ndarray, "M 3"]:
    """Means of the points of each cell of a lattice that begins half a spacing below the least coordinates."""
    if len(points) == 0:
        return points
    cells = np.floor((points - (points.min(axis=0) - spacing / 2)) / spacing).astype(np.int64)
    sizes = cells.max(axis=0) + 1
    _, cell = np.unique((cells[:, 0] * sizes[1] + cells[:, 1]) * sizes[2] + cells[:, 2], return_inverse=True)
    count = np.bincount(cell)
    return np.stack([np.bincount(cell, points[:, axis]) / count for axis in range(3)], axis=1)


def largest_cluster(points: Float[np.ndarray, "N 3"], reach_m: float) -> Float[np.ndarray, "M 3"]:
    """The largest density cluster (DBSCAN, ten neighbours strictly within reach, themselves included).

    All points where nothing is dense enough or the largest cluster has fewer than five points.
    """
    if len(points) == 0:
        return points
    pairs = cKDTree(points).query_pairs(float(np.nextafter(reach_m, 0)), output_type="ndarray")
    dense = np.bincount(pairs.ravel(), minlength=len(points)) + 1 >= _NEIGHBOURS
    if not dense.any():
        return points
    inner = pairs[dense[pairs].all(axis=1)]
    graph = coo_matrix((np.ones(len(inner), bool), (inner[:, 0], inner[:, 1])), shape=(len(points), len(points)))
    _, label = connected_components(graph, directed=False)
    label = np.where(dense, label, -1)
    border = pairs[dense[pairs].sum(axis=1) == 1]  # a thin point beside a dense one belongs to its cluster
    core_first = np.where(dense[border[:, :1]], border, border[:, ::-1])
    order = np.argsort(
        -label[core_first[:, 0]], kind="stable"
    )  # of several clusters the first found, as the last write
    label[core_first[order, 1]] = label[core_first[order, 0]]
    sizes = np.bincount(label[label >= 0])
    kept = points[label == sizes.argmax()]
    return kept if len(kept) >= _SMALLEST_CLUSTER else points
