"""Which points of a chunk to follow: a quota per entity, spread over its mask where there is texture (mu0-paper A.1), or a
regular grid (TraceForge)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from traceworld.geometry.sampling import farthest_point_sampling
from traceworld.perception.entities import EntityMaps

BACKGROUND_SHARE = 0.3  # of the budget, while something moves
MIN_PER_ENTITY = 10
TEXTURE_QUANTILE = 0.5
# cornerMinEigenVal (7×7, 8-bit) is about 6e-5·g² where the weaker gradient is g grey levels per pixel.
STRONG_CORNER = 3e-4  # g ≈ 2: a patch that can be followed
_WEAK_CORNER = 3e-5  # g ≈ 0.7: better than nothing; below this the picture is plain


@dataclass(frozen=True, eq=False)
class Representative:
    """One representative frame of a chunk at full size, as keypoints are chosen on it.

    Attributes:
        frame: number within the chunk.
        gray: [H,W].
        usable: [H,W] depth measured, away from depth edges and the border.
        residual_px: [H,W] motion against the scene around this frame.
        displaced: [H,W] where the surface is elsewhere in frames nearby; None without depth.
        changed: [H,W] where the picture is not what it is in frames nearby; None unless the camera rests.
    """

    frame: int
    gray: UInt8[np.ndarray, "H W"]
    usable: Bool[np.ndarray, "H W"]
    residual_px: Float[np.ndarray, "H W"]
    displaced: Bool[np.ndarray, "H W"] | None = None
    changed: Bool[np.ndarray, "H W"] | None = None


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Chosen points: frame within the chunk, pixel, entity (−1 background)."""

    frame: Int[np.ndarray, " M"]
    xy_px: Float[np.ndarray, "M 2"]
    part_id: Int[np.ndarray, " M"]

    def __len__(self) -> int:
        return len(self.frame)


def quotas(coverage: dict[int, int], budget: int, minimum: int = MIN_PER_ENTITY) -> dict[int, int]:
    """Points per entity: proportional to visible coverage, at least `minimum`, in total exactly `budget` (if any entity).

    With more entities than `budget // minimum` the smallest get none.
    """
    if not coverage or budget <= 0:
        return {}
    entities = sorted(coverage, key=lambda e: (-coverage[e], e))[: max(1, budget // max(1, minimum))]
    base = {e: min(minimum, budget // len(entities)) for e in entities}
    rest = budget - sum(base.values())
    total = sum(coverage[e] for e in entities)
    exact = {e: rest * coverage[e] / total for e in entities}
    result = {e: base[e] + int(exact[e]) for e in entities}
    left = budget - sum(result.values())
    for e in sorted(entities, key=lambda e: (int(exact[e]) - exact[e], e))[:left]:
        result[e] += 1
    return result


def choose_keypoints(
    maps: EntityMaps,
    representatives: list[Representative],
    budget: int,
    held_part: Int[np.ndarray, " K"],
    held_xy_px: dict[int, Float[np.ndarray, "K 2"]],
    moving_px: float,
    frames_per_entity: int = 2,
) -> Keypoints:
    """Points for what the held ones leave of the budget.

    Args:
        maps: entities on the same representative frames.
        budget: points alive at a time, those already held included.
        held_part, held_xy_px: entity of each held point, and where they are (as far as known before tracking: at the chunk's
            start), per representative frame; NaN unseen.
        moving_px: residual motion that tells an entity's own pixels from the background its cells include.
    """
    corners = [np.asarray(cv2.cornerMinEigenVal(rep.gray, 7, ksize=3)) for rep in representatives]
    coverage = _trackable_coverage(maps, representatives, corners)
    moving = {e: c for e, c in coverage.items() if e in maps.moving}
    chosen = moving or coverage
    for_background = round(budget * (BACKGROUND_SHARE if moving else 0.5 if coverage else 1.0))
    wanted = quotas(chosen, budget - for_background)
    room = max(0, budget - len(held_part))
    picks: list[tuple[int, np.ndarray, int]] = []
    for entity in sorted(wanted, key=lambda e: (-wanted[e], e)):
        need = min(room, wanted[entity] - int((held_part == entity).sum()))
        for r, share in _frames_of(maps, representatives, entity, need, frames_per_entity):
            mask = _entity_mask(maps.labels[r] == entity, representatives[r], moving_px if moving else 0.0)
            xy = spread_points(mask, corners[r], share, held_xy_px[r][held_part == entity])
            picks.append((r, xy, entity))
            room -= len(xy)
    need = min(room, max(for_background - int((held_part == -1).sum()), 0))
    if need > 0:
        r = len(representatives) // 2
        other = ~np.isin(maps.labels[r], list(chosen))
        outside = cv2.resize(
            other.astype(np.uint8), representatives[r].gray.shape[::-1], interpolation=cv2.INTER_NEAREST
        )
        mask = (outside > 0) & representatives[r].usable & (representatives[r].residual_px < moving_px / 2)
        gone = representatives[r].displaced
        if gone is not None:
            mask &= ~gone
        picks.append((r, spread_points(mask, corners[r], need, held_xy_px[r][held_part == -1], plain=need), -1))
    return _collect(picks, representatives)


def grid_points(side: int, width: int, height: int) -> Float[np.ndarray, "M 2"]:
    """TraceForge's grid: `side` × `side` pixels (x, y), row by row, the centres of the corner pixels included."""
    x, y = np.meshgrid(np.linspace(0, width - 1, side), np.linspace(0, height - 1, side))
    return np.stack([x.ravel(), y.ravel()], -1)


def grid_keypoints(
    maps: EntityMaps, side: int, width: int, height: int, held_xy_px: Float[np.ndarray, "K 2"]
) -> Keypoints:
    """The grid on the chunk's first frame; where a held point lies in a node's cell, the node has its point already.

    Every point has the entity that it lies on (on the first representative frame) as its part.
    """
    xy = grid_points(side, width, height)
    cell = np.array([max(width - 1, 1), max(height - 1, 1)]) / (side - 1)
    held = held_xy_px[np.isfinite(held_xy_px).all(1)]
    nodes = np.rint(held / cell).astype(np.int64)
    nodes = nodes[((nodes >= 0) & (nodes < side)).all(1)]
    free = np.ones(side * side, bool)
    free[nodes[:, 1] * side + nodes[:, 0]] = False
    labels = maps.labels[0]
    share = np.array(labels.shape[::-1]) / [width, height]
    column, row = np.floor((xy + 0.5) * share).astype(np.int64).T
    return Keypoints(np.zeros(int(free.sum()), np.int64), xy[free], labels[row, column][free].astype(np.int32))


def _trackable_coverage(maps, representatives, corners) -> dict[int, int]:
    """Cells per entity that can carry a keypoint (at least one per visible entity): plain surface gets no quota."""
    coverage = dict.fromkeys(maps.coverage(), 1)
    for labels, rep, corner in zip(maps.labels, representatives, corners, strict=True):
        good = ((corner > STRONG_CORNER) & rep.usable).astype(np.float32)
        cells = cv2.resize(good, labels.shape[::-1], interpolation=cv2.INTER_AREA) > 0.05
        ids, counts = np.unique(labels[cells & (labels >= 0)], return_counts=True)
        for entity, count in zip(ids, counts, strict=True):
            coverage[int(entity)] += int(count)
    return coverage


def _collect(picks, representatives) -> Keypoints:
    frames = [np.full(len(xy), representatives[r].frame, np.int64) for r, xy, _ in picks]
    parts = [np.full(len(xy), entity, np.int32) for _, xy, entity in picks]
    points = [xy for _, xy, _ in picks]
    if not picks:
        return Keypoints(np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros(0, np.int32))
    return Keypoints(np.concatenate(frames), np.concatenate(points), np.concatenate(parts))


def _frames_of(maps, representatives, entity: int, need: int, limit: int) -> list[tuple[int, int]]:
    """Which representative frames to take the entity's points from (where it covers most), and how many from each."""
    if need <= 0:
        return []
    cells = (maps.labels == entity).sum((1, 2))
    best = [int(r) for r in np.argsort(-cells, kind="stable")[:limit] if cells[r] > 0]
    count = max(1, min(len(best), need // MIN_PER_ENTITY))
    return [(r, need // count + (i < need % count)) for i, r in enumerate(best[:count])]


def _entity_mask(cells: np.ndarray, rep: Representative, moving_px: float) -> np.ndarray:
    """Pixels of an entity that can carry a keypoint; of a moving one only those that move themselves, if enough do."""
    full = cv2.resize(cells.astype(np.uint8), rep.gray.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    mask = full & rep.usable
    for own in _signs_of_life(rep, moving_px):
        if np.count_nonzero(mask & own) >= 0.35 * np.count_nonzero(mask):
            mask &= own
    return mask


def _signs_of_life(rep: Representative, moving_px: float):
    if rep.displaced is not None and moving_px > 0:
        yield rep.displaced
    yield rep.residual_px > moving_px
    if rep.changed is not None and moving_px > 0:  # dense flow spills over the outline of what moves; pictures do not
        yield rep.changed


def spread_points(
    mask: Bool[np.ndarray, "H W"],
    corner: Float[np.ndarray, "H W"],
    count: int,
    taken_px: Float[np.ndarray, "K 2"],
    plain: int = MIN_PER_ENTITY,
) -> Float[np.ndarray, "M 2"]:
    """At most `count` pixels of the mask, far from each other and from `taken_px`, preferring texture.

    Candidates are the local maxima of the corner response; farthest-point sampling runs over the better half of them (or as
    many as leave a choice). If texture is short, up to `plain` points may lie on weaker ones. Nothing is chosen where the
    image is uniform.
    """
    if count <= 0 or not mask.any():
        return np.zeros((0, 2))
    peak = (corner >= cv2.dilate(corner, np.ones((5, 5), np.uint8))) & mask & (corner > _WEAK_CORNER)
    ys, xs = np.nonzero(peak)
    strength = corner[ys, xs]
    strong = int((strength > STRONG_CORNER).sum())
    # Plain spots only as far as the minimum of an entity needs them; of many good ones the better half leaves choice enough.
    enough = max(min(strong, 4 * count), int(TEXTURE_QUANTILE * strong), min(count, plain))
    order = np.argsort(-strength, kind="stable")[:enough]
    candidates = np.stack([xs[order], ys[order]], -1).astype(np.float64)
    seeds = taken_px[np.isfinite(taken_px).all(1)]
    return candidates[farthest_point_sampling(candidates, count, seeds=seeds if len(seeds) else None)]
