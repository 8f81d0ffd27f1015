"""Which rows of an episode are one point, and where that point is in the world.

Every row foretells its point's whole way for 128 frames, so the rows of two frames that are one point agree in all that
both foretell, to the rounding of float16. A point that leaves the picture for a while is found again where its last row
said it would be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from traceworld.geometry.cameras import invert_rigid, project, transform, unproject_cam
from traceworld.traces.traceextract.episode import Episode
from traceworld.traces.types import Cameras, Traces

GATE_PX = 3.0
"""Two rows this far apart (mean over what both foretell, pixels, depth included) are two points."""
_LOOKAHEAD = (0, 1, 2, 4, 8, 16, 32, 64)
_NEIGHBOURS = 6
_FAR_PX = 2048.0
HISTORY_REACH = 31
"""Frames that a row looks back; a point whose first row looks back less far is known from its beginning."""


@dataclass
class _Track:
    """A point that may be seen again: what its last row foretold."""

    number: int
    cluster: int
    rank: int
    frame: int
    path: np.ndarray  # [future, 3] world, NaN where not foretold


def row_paths(
    xyz_px: np.ndarray, valid: np.ndarray, cameras: Cameras, frame: int
) -> tuple[Float[np.ndarray, "n K 3"], Float[np.ndarray, "n K"]]:
    """Rows' positions (x, y px, z m of the frame's camera) in the world, NaN where not valid; and their weight.

    The weight is one over the squared rounding step of float16 at that place, in metres: far and off-screen values say less.
    """
    usable = valid & np.isfinite(xyz_px).all(-1)
    usable &= np.where(usable, xyz_px[..., 2], 0) > 0
    known = np.where(usable[..., None], xyz_px, np.float16(1)).astype(np.float16)
    value = known.astype(np.float64)
    K, pose = cameras.K[frame], cameras.cam_from_world[frame]
    world = transform(invert_rigid(pose), unproject_cam(value[..., :2], value[..., 2], K))
    step = np.spacing(np.abs(known)).astype(np.float64)
    rounding = value[..., 2] / K[0, 0] * np.hypot(step[..., 0], step[..., 1]) + step[..., 2]
    return np.where(usable[..., None], world, np.nan), np.where(usable, rounding**-2.0, 0.0)


def track_rows(episode: Episode) -> Int[np.ndarray, " rows"]:
    """The number of its point for every row; points are numbered in the order in which they first have a row."""
    samples, cameras = episode.samples, episode.cameras
    ids = np.full(len(samples["cluster_ids"]), -1, np.int64)
    living: list[_Track] = []
    count = 0
    for frame, rows in episode.slots():
        paths, _ = row_paths(samples["raw_traj"][rows], samples["raw_valid_steps"][rows], cameras, frame)
        clusters = np.asarray(samples["cluster_ids"][rows])
        living = [track for track in living if frame - track.frame < track.path.shape[0]]
        found = _match(living, paths, clusters, cameras, frame)
        renewed = []
        for row in range(len(paths)):
            track = found.get(row)
            number = track.number if track is not None else count
            count += track is None
            ids[rows.start + row] = number
            renewed.append(_Track(number, int(clusters[row]), row, frame, paths[row]))
        taken = {track.number for track in found.values()}
        living = renewed + [track for track in living if track.number not in taken]
    return ids


def _match(
    living: list[_Track], paths: np.ndarray, clusters: np.ndarray, cameras: Cameras, frame: int
) -> dict[int, _Track]:
    """Row → the track it goes on with. Nearest pairs first; of equally near ones the row that keeps the order."""
    if not living or not len(paths):
        return {}
    ahead = [k for k in _LOOKAHEAD if k < paths.shape[1]]
    foretold = np.full((len(living), len(ahead), 3), np.nan)
    for index, track in enumerate(living):
        places = np.array(ahead) + frame - track.frame
        inside = places < len(track.path)
        foretold[index, inside] = track.path[places[inside]]
    then, now = (_in_pixels(xyz, cameras, frame) for xyz in (foretold, paths[:, ahead]))
    candidates = np.flatnonzero(np.isfinite(then[:, 0]).all(-1))
    starts = np.flatnonzero(np.isfinite(now[:, 0]).all(-1))
    if not len(candidates) or not len(starts):
        return {}
    gate = GATE_PX * max(1.0, float(np.spacing(np.float16(max(cameras.width, cameras.height)))))
    near = (
        cKDTree(then[candidates, 0])
        .query(now[starts, 0], k=min(_NEIGHBOURS, len(candidates)), distance_upper_bound=3 * gate)[1]
        .reshape(len(starts), -1)
    )
    place, column = np.nonzero(near < len(candidates))
    row, track = starts[place], candidates[near[place, column]]
    apart = np.linalg.norm(then[track] - now[row], axis=-1)
    apart[:, 1:][(np.abs(now[row, 1:, :2]) > _FAR_PX).any(-1)] = np.nan  # too coarse in float16 to tell anything
    cost = np.nanmean(apart, axis=-1)
    cluster = np.array([t.cluster for t in living])[track]
    rank = np.array([t.rank for t in living])[track]
    order = np.lexsort((np.abs(rank - row), np.round(cost, 1)))
    found: dict[int, _Track] = {}
    taken: set[int] = set()
    for pair in order[(cost <= gate)[order] & (cluster == clusters[row])[order]].tolist():
        if int(row[pair]) not in found and int(track[pair]) not in taken:
            found[int(row[pair])] = living[track[pair]]
            taken.add(int(track[pair]))
    return found


def _in_pixels(xyz_world: np.ndarray, cameras: Cameras, frame: int) -> np.ndarray:
    """(x px, y px, depth in pixels at the centre of what is seen): distances of all three are alike."""
    K = cameras.K[frame]
    seen = project(xyz_world, K, cameras.cam_from_world[frame])
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = K[0, 0] * np.log(seen[..., 2:])  # a small relative change of depth, seen sideways
    return np.concatenate([seen[..., :2], depth], -1)


def world_traces(episode: Episode, ids: Int[np.ndarray, " rows"]) -> Traces:
    """The points' ways in the world: the mean of what all their rows say, weighted by how finely each says it.

    A point is visible where its row of that frame says so, and valid in every frame that a row speaks of. Entities are
    numbered anew where cluster ids of two tracking chunks collide.
    """
    samples, T, N = episode.samples, episode.num_frames, int(ids.max(initial=-1)) + 1
    total, weight = np.zeros((T, N, 3)), np.zeros((T, N))
    visible = np.zeros((T, N), bool)
    first, moving, cluster = np.full(N, -1), np.zeros(N, bool), np.zeros(N, np.int64)
    for frame, rows in episode.slots():
        points = ids[rows]
        for name, sign in (("raw_traj", 1), ("raw_traj_history", -1)):
            mask = samples["raw_valid_steps" if sign > 0 else "raw_valid_steps_history"][rows]
            paths, weights = row_paths(samples[name][rows], mask, episode.cameras, frame)
            steps = np.arange(1 if sign < 0 else 0, paths.shape[1])  # the frame itself is in both
            steps = steps[(frame + sign * steps >= 0) & (frame + sign * steps < T)]
            frames = frame + sign * steps
            w = weights[:, steps].T
            place = np.ix_(frames, points)
            weight[place] += w
            total[place] += (
                np.where(w[..., None] > 0, np.nan_to_num(paths[:, steps].transpose(1, 0, 2)), 0) * w[..., None]
            )
        visible[frame, points] = np.asarray(samples["visibs"][rows]) > 0.5
        new = points[first[points] < 0]
        first[new] = frame
        moving[points] |= np.asarray(samples["is_moving"][rows])
        cluster[points] = samples["cluster_ids"][rows]
    valid = weight > 0
    xyz = np.where(valid[..., None], total / np.where(valid, weight, 1)[..., None], np.nan).astype(np.float32)
    begun = np.where(valid.any(0), valid.argmax(0), 0)
    return Traces(
        xyz,
        visible & valid,
        valid,
        _entities(cluster, begun, first).astype(np.int32),
        moving,
        np.maximum(first, 0).astype(np.int32),
    )


def _entities(cluster: np.ndarray, begun: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Part ids from cluster ids, which start from 0 again in every tracking chunk.

    All points of a chunk begin in its first frame. Where a point has no row for so long that its history does not reach
    back to its beginning, it counts to the last chunk that is known to have begun by then.
    """
    exact = first - begun < HISTORY_REACH
    starts = np.unique(begun[exact]) if exact.any() else np.zeros(1, np.int64)
    chunk = np.maximum(np.searchsorted(starts, begun, side="right") - 1, 0)
    pairs, part = np.unique(np.stack([chunk, cluster]), axis=1, return_inverse=True)
    one_chunk_each = len(np.unique(pairs[1])) == pairs.shape[1]
    return cluster if one_chunk_each else part.reshape(-1)
