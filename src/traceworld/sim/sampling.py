"""Which points of a simulated film to trace: mostly on what moves, every moving part with its share, spread evenly."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int

from traceworld.geometry.sampling import farthest_point_sampling
from traceworld.sim.film import Film
from traceworld.sim.glue import carry, lift, moves

CANDIDATES_PER_FRAME = 500
MIN_CANDIDATES_PER_PART = 40
MIN_SHARE = 0.06
"""The smallest share of the moving points that a moving part gets, if it has as many candidates."""


def sample_points(
    film: Film,
    frames: Int[np.ndarray, " F"],
    num_points: int,
    rng: np.random.Generator,
    moving_share: float = 0.7,
) -> tuple[Int[np.ndarray, " N"], Float64[np.ndarray, "N 2"]]:
    """Choose pixels to trace, on the surfaces visible in `frames`.

    Args:
        film: what the camera saw.
        frames: frames in which points are chosen.
        num_points: how many; fewer come back only when so few pixels show anything.
        rng: decides the candidates.
        moving_share: share of the points on parts that move (all there are, if fewer; more, if little is static).

    Returns:
        query_frame [N], uv_px [N,2] (pixel centres): arguments of `traces_of`.
    """
    frame, pixel = _candidates(film, frames, rng)
    xyz, body = lift(film, frame, pixel)
    path = carry(xyz, body, frame, film.body_pose)
    moving = moves(path, film.cameras)
    part = film.body_part[body]
    place = path[0]  # spread by where a point is at the start, whenever it was seen
    num_moving = round(moving_share * num_points)
    num_moving = min(max(num_moving, num_points - int((~moving).sum())), int(moving.sum()))
    chosen = _spread_over_parts(np.flatnonzero(moving), part, place, num_moving)
    still = np.flatnonzero(~moving)
    rest = farthest_point_sampling(place[still], num_points - len(chosen))
    keep = np.sort(np.concatenate([chosen, still[rest]]))
    return frame[keep], pixel[keep]


def _candidates(film: Film, frames: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random pixels of each frame, with more on parts that look small."""
    found_frame, found_pixel = [], []
    for frame in frames:
        body = np.append(film.object_body, -2)[film.object_id[frame]]
        part = np.where(body >= 0, film.body_part[body], -2)
        shown = np.flatnonzero(part.ravel() >= -1)
        picks = [rng.choice(shown, min(CANDIDATES_PER_FRAME, len(shown)), replace=False)]
        for one in np.unique(part[part >= 0]):
            own = np.flatnonzero(part.ravel() == one)
            picks.append(rng.choice(own, min(MIN_CANDIDATES_PER_PART, len(own)), replace=False))
        index = np.unique(np.concatenate(picks))
        y, x = np.divmod(index, film.depth_m.shape[2])
        found_pixel.append(np.stack([x, y], 1).astype(np.float64))
        found_frame.append(np.full(len(index), frame))
    return np.concatenate(found_frame), np.concatenate(found_pixel)


def _spread_over_parts(index: np.ndarray, part: np.ndarray, place: np.ndarray, num: int) -> np.ndarray:
    """`num` of the points `index`: shares in proportion to the square root of the candidates, none below the minimum."""
    if num == 0:
        return index[:0]
    parts, size = np.unique(part[index], return_counts=True)
    share = np.maximum(np.sqrt(size) / np.sqrt(size).sum(), MIN_SHARE)
    quota = np.minimum(np.floor(share / share.sum() * num).astype(int), size)
    while quota.sum() < num:  # what rounding and small parts left over goes to the parts with most to spare
        quota[np.argmax(np.where(quota < size, size - quota, -1))] += 1
    chosen = [
        own[farthest_point_sampling(place[own], int(count))]
        for one, count in zip(parts, quota, strict=True)
        for own in [index[part[index] == one]]
    ]
    return np.concatenate(chosen)
