"""Two steps of the released extraction pipelines, written from their description: cleaning depth edges, and windows by path length.

The pipelines do both anew for every query frame. This is the plain way, so that what it costs can be measured beside ours; the
constants are theirs (mu0's TraceExtract and TraceForge, stage by stage in docs/fidelity.md).
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt, maximum_filter, minimum_filter

RELATIVE_SPREAD, NORMAL_DEG = 0.08, 15.0
TRACKED_FRAMES = 128
"""A segment goes from its query frame so many frames on."""
FUTURE, HISTORY = 128, 32
INTERVAL, TOP = 0.05, 0.02


def normals_of(depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """[H,W,3] unit normals of the surface seen in a depth map."""
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]]
    points = np.stack([(u - K[0, 2]) / K[0, 0] * depth, (v - K[1, 2]) / K[1, 1] * depth, depth], -1)
    normal = np.cross(np.gradient(points, axis=1), np.gradient(points, axis=0))
    return normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)


def edges_of(depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """[H,W] pixels where depth spreads by more than 8 % within 3×3 and normals turn by more than 15° nearby."""
    spread = (maximum_filter(depth, 3) - minimum_filter(depth, 3)) / np.maximum(depth, 1e-6)
    normal = normals_of(depth, K)
    turn = np.zeros(depth.shape)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            other = np.roll(normal, (dy, dx), (0, 1))
            turn = np.maximum(turn, np.degrees(np.arccos(np.clip((normal * other).sum(-1), -1, 1))))
    return (spread > RELATIVE_SPREAD) & (maximum_filter(turn, 3) > NORMAL_DEG)


def clean_depth(depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """[H,W] with the depth of the nearest good pixel in place of edges."""
    bad = edges_of(depth, K) | ~(depth > 0)
    if bad.all() or not bad.any():
        return depth
    row, column = distance_transform_edt(bad, return_distances=False, return_indices=True)
    return depth[row, column]


def clean_for_every_query(depth: np.ndarray, K: np.ndarray, every: int) -> int:
    """Clean the segment of every query frame (0, every, 2·every, …) of [T,H,W]; how many maps were cleaned."""
    cleaned = 0
    for query in range(0, len(depth), every):
        for frame in range(query, min(query + TRACKED_FRAMES, len(depth))):
            clean_depth(depth[frame], K)
            cleaned += 1
    return cleaned


def retarget(tracks: np.ndarray, size: tuple[int, int], length: int) -> tuple[np.ndarray, np.ndarray]:
    """[N,H,3] (u px, v px, z m) by path length: [N,length,3] with −inf after the last valid row, and the mask [length]."""
    N, H, _ = tracks.shape
    unit = np.array([size[0], size[1], 1.0])
    points = tracks / unit
    out, valid = np.full((N, length, 3), -np.inf), np.zeros(length, bool)
    if H < 2:
        out[:, 0], valid[0] = tracks[:, 0], True
        return out, valid
    step = np.linalg.norm(np.diff(points, axis=1), axis=-1)
    fastest = max(1, int(np.ceil(TOP * N)))
    scene = np.sort(step, axis=0)[-fastest:].mean(0)
    path = np.concatenate([[0.0], np.cumsum(scene)])
    rows = min(int(np.floor(path[-1] / INTERVAL)) + 1, length)
    target = INTERVAL * np.arange(rows)
    target[-1] = min(target[-1], path[-1])
    left = np.clip(np.searchsorted(path, target, side="right") - 1, 0, H - 2)
    share = ((target - path[left]) / np.maximum(scene[left], 1e-12))[None, :, None]
    out[:, :rows] = ((1 - share) * points[:, left] + share * points[:, left + 1]) * unit
    valid[:rows] = True
    return out, valid


def project(xyz_world: np.ndarray, K: np.ndarray, cam_from_world: np.ndarray) -> np.ndarray:
    """[…,3] world → (u px, v px, z m)."""
    camera = xyz_world @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    z = camera[..., 2] + 1e-8
    u, v = camera[..., 0] / z * K[0, 0] + K[0, 2], camera[..., 1] / z * K[1, 1] + K[1, 2]
    return np.stack([u, v, camera[..., 2]], -1)


def windows_of_every_frame(
    xyz_world: np.ndarray, group: np.ndarray, K: np.ndarray, cam_from_world: np.ndarray, size: tuple[int, int]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """For each frame of [T,N,3] all tracks in its camera, group by group, retargeted forwards and backwards.

    Returns, per frame: future [N,128,3] and its mask [N,128], history [N,32,3] and its mask [N,32].
    """
    T, N, _ = xyz_world.shape
    frames = []
    for t in range(T):
        future, future_valid = np.full((N, FUTURE, 3), -np.inf), np.zeros((N, FUTURE), bool)
        history, history_valid = np.full((N, HISTORY, 3), -np.inf), np.zeros((N, HISTORY), bool)
        for number in np.unique(group):
            mine = group == number
            tracks = project(xyz_world[:, mine], K[t], cam_from_world[t]).transpose(1, 0, 2)
            future[mine], future_valid[mine] = retarget(tracks[:, t:], size, FUTURE)
            history[mine], history_valid[mine] = retarget(tracks[:, t::-1], size, HISTORY)
        frames.append((future, future_valid, history, history_valid))
    return frames
