"""Platforms, and free places on them beside or on top of an object (RoboRefer supplement B.2, reused in RoboTracer §5.2).

Every constant of the paper has a name here. Decided here, where the paper is silent: the sector begins at the object's edge; its
free area is the share of uniform samples that are free times the sector's area; the figures 10 000 and 6000, of which it is not
said when they hold, are those of the surface on top of an object; points within `OBSTACLE_MARGIN_M` of an obstacle are not free.
Things larger than `OBSTACLE_VOLUME` times the target do not take part in the sum, as in the paper, but a point in or behind
them is not seen, and only seen points are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from traceworld.geometry.cameras import project
from traceworld.tracespatial.boxes import bounds, corners
from traceworld.tracespatial.directions import view_directions
from traceworld.tracespatial.scene import OrientedBox, Scene, SceneObject

PLATFORM_GAP_M = 0.05
PLATFORM_OVERLAP = 0.70
OBSTACLE_VOLUME = 4.236
SECTOR_RAD = np.pi / 2
MIN_RADIUS_M = 0.20
TOP_SHRINK = 0.80
MIN_FREE_M2 = 0.036
SAMPLES, MIN_SEEN = 9000, 2000
SAMPLES_TOP, MIN_SEEN_TOP = 10_000, 6000
SEEN_M = 0.025
OBSTACLE_MARGIN_M = 0.01
FOOTPRINT_GRID = 7

Side = Literal["left", "right", "front", "behind", "above"]


@dataclass(frozen=True, eq=False)
class FreeSpace:
    """Free places on one side of an object, all seen in the picture.

    Attributes:
        platform_id: what they are on (the object itself for `above`).
        seen_xyz: [N,3] seen free points, world metres.
        point_xyz: the seen point nearest to their mean: the answer.
        free_m2: area of the free part of the region.
    """

    platform_id: str
    seen_xyz: Float[np.ndarray, "N 3"]
    point_xyz: Float[np.ndarray, " 3"]
    free_m2: float


def top_z(box: OrientedBox) -> float:
    """Height of the highest point, metres."""
    return float(bounds(box)[1][2])


def bottom_z(box: OrientedBox) -> float:
    """Height of the lowest point, metres."""
    return float(bounds(box)[0][2])


def over_box(box: OrientedBox, xy: Float[np.ndarray, "N 2"], margin_m: float = 0.0) -> Bool[np.ndarray, " N"]:
    """Which ground points lie over or under a box, its outline moved out by `margin_m`.

    Exact for boxes that stand upright (one axis vertical); the outline of a tilted one is that of its eight corners.
    """
    vertical = int(np.argmax(np.abs(box.rotation[2])))
    if abs(box.rotation[2, vertical]) > 1 - 1e-6:
        flat = [axis for axis in range(3) if axis != vertical]
        local = (xy - box.center_xyz[:2]) @ box.rotation[:2, flat]
        return (np.abs(local) <= box.size_m[flat] / 2 + margin_m).all(1)
    return _inside_hull(corners(box)[:, :2], xy, margin_m)


def _inside_hull(points: np.ndarray, xy: np.ndarray, margin_m: float) -> np.ndarray:
    """A point is in the convex outline when no line through two corners has all corners on one side and it on the other."""
    i, j = np.triu_indices(len(points), 1)
    along = points[j] - points[i]
    long = np.linalg.norm(along, axis=1) > 1e-9
    i, along = i[long], along[long]
    normal = np.stack([along[:, 1], -along[:, 0]], 1) / np.linalg.norm(along, axis=1, keepdims=True)
    normal = np.concatenate([normal, -normal])
    offset = (normal * np.concatenate([points[i], points[i]])).sum(1)
    edges = (points @ normal.T <= offset + 1e-9).all(0)
    return (xy @ normal[edges].T <= offset[edges] + margin_m).all(1)


def footprint_grid(box: OrientedBox) -> Float[np.ndarray, "N 2"]:
    """Points spread evenly over the ground under a box, its edges among them."""
    side = np.linspace(-0.5, 0.5, FOOTPRINT_GRID)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    vertical = int(np.argmax(np.abs(box.rotation[2])))
    flat = [axis for axis in range(3) if axis != vertical]
    return box.center_xyz[:2] + (grid * box.size_m[flat]) @ box.rotation[:2, flat].T


def footprint_area(box: OrientedBox) -> float:
    """Area of the two sides nearest to horizontal, m²."""
    vertical = int(np.argmax(np.abs(box.rotation[2])))
    return float(np.prod(np.delete(box.size_m, vertical)))


def footprint_diagonal(box: OrientedBox) -> float:
    """Diagonal of the two sides nearest to horizontal, metres."""
    vertical = int(np.argmax(np.abs(box.rotation[2])))
    return float(np.linalg.norm(np.delete(box.size_m, vertical)))


def supported_share(box: OrientedBox, platform: OrientedBox) -> float:
    """Which part of the ground under `box` lies over `platform`."""
    return float(over_box(platform, footprint_grid(box), 1e-6).mean())


def find_platform(scene: Scene, thing: SceneObject) -> SceneObject | None:
    """What an object stands on: a top within `PLATFORM_GAP_M` of its bottom under `PLATFORM_OVERLAP` of its footprint;
    the nearest in height of several."""
    bottom, best, best_gap = bottom_z(thing.box), None, PLATFORM_GAP_M
    for other in scene.objects:
        gap = abs(top_z(other.box) - bottom)
        if other.object_id == thing.object_id or gap > best_gap:
            continue
        if supported_share(thing.box, other.box) >= PLATFORM_OVERLAP:
            best, best_gap = other, gap
    return best


def sector_radius(box: OrientedBox) -> float:
    """max(footprint diagonal, 0.20 m)."""
    return max(footprint_diagonal(box), MIN_RADIUS_M)


def in_sector(
    box: OrientedBox, direction: Float[np.ndarray, " 3"], xy: Float[np.ndarray, "N 2"]
) -> Bool[np.ndarray, " N"]:
    """Which ground points lie in the 90° sector on one side of an object, beyond its edge and within the radius of it."""
    edge = float(((corners(box) - box.center_xyz) @ direction).max())
    offset = xy - box.center_xyz[:2]
    ahead, away = offset @ direction[:2], np.linalg.norm(offset, axis=1)
    within = (away <= edge + sector_radius(box)) & (ahead > edge)
    return within & (ahead >= away * np.cos(SECTOR_RAD / 2) - 1e-12)


def free_space(
    scene: Scene, reference: SceneObject, side: Side, rng: np.random.Generator, *, moving_id: str | None = None
) -> FreeSpace | str:
    """Free places on one side of an object that stands on a platform, or (`above`) on the object itself.

    Args:
        scene, reference: where and beside what.
        side: as seen in the picture.
        rng: draws the samples.
        moving_id: an object that will not be where it is (it is no obstacle).

    Returns:
        The places, or the reason why there are none.
    """
    if side == "above":
        return _on_top(scene, reference, rng, moving_id)
    platform = find_platform(scene, reference)
    if platform is None:
        return "the reference stands on no platform"
    direction = view_directions(scene.camera)[side]
    edge = float(((corners(reference.box) - reference.box.center_xyz) @ direction).max())
    reach = edge + sector_radius(reference.box)
    angle = np.arctan2(direction[1], direction[0]) + rng.uniform(-SECTOR_RAD / 2, SECTOR_RAD / 2, SAMPLES)
    away = reach * np.sqrt(rng.random(SAMPLES))
    xy = reference.box.center_xyz[:2] + away[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    free = in_sector(reference.box, direction, xy) & over_box(platform.box, xy)
    free &= ~_taken(scene, xy, top_z(platform.box), reference, {platform.object_id, moving_id})
    area = float(free.mean()) * SECTOR_RAD / 2 * reach**2
    if area < MIN_FREE_M2:
        return f"only {area:.3f} m² are free there"
    xyz = np.concatenate([xy[free], np.full((int(free.sum()), 1), top_z(platform.box))], 1)
    return _answer(scene, platform.object_id, xyz, area, MIN_SEEN)


def _on_top(scene: Scene, thing: SceneObject, rng: np.random.Generator, moving_id: str | None) -> FreeSpace | str:
    box = thing.box
    vertical = int(np.argmax(np.abs(box.rotation[2])))
    flat = [axis for axis in range(3) if axis != vertical]
    local = rng.uniform(-0.5, 0.5, (SAMPLES_TOP, 2)) * TOP_SHRINK * box.size_m[flat]
    xy = box.center_xyz[:2] + local @ box.rotation[:2, flat].T
    free = ~_taken(scene, xy, top_z(box), thing, {thing.object_id, moving_id})
    area = float(free.mean()) * TOP_SHRINK**2 * footprint_area(box)
    xyz = np.concatenate([xy[free], np.full((int(free.sum()), 1), top_z(box))], 1)
    return _answer(scene, thing.object_id, xyz, area, MIN_SEEN_TOP)


def _taken(scene: Scene, xy: np.ndarray, height: float, target: SceneObject, ignored: set[str | None]) -> np.ndarray:
    """Which ground points lie under an obstacle: something on this height, at most `OBSTACLE_VOLUME` times the target."""
    taken = np.zeros(len(xy), bool)
    for other in scene.objects:
        if other.object_id in ignored or other.box.volume_m3 > OBSTACLE_VOLUME * target.box.volume_m3:
            continue
        if abs(bottom_z(other.box) - height) <= PLATFORM_GAP_M:
            taken |= over_box(other.box, xy, OBSTACLE_MARGIN_M)
    return taken


def is_seen(scene: Scene, xyz: Float[np.ndarray, "N 3"], tolerance_m: float = SEEN_M) -> Bool[np.ndarray, " N"]:
    """Which world points lie in the picture and within a tolerance of the depth map there."""
    uvz = project(xyz, scene.camera.K, scene.camera.cam_from_world)
    u, v, z = np.nan_to_num(uvz, nan=-1e6).T
    u, v = np.rint(np.clip(u, -1e6, 1e6)).astype(int), np.rint(np.clip(v, -1e6, 1e6)).astype(int)
    inside = (u >= 0) & (u < scene.camera.width) & (v >= 0) & (v < scene.camera.height) & (z > 0)
    depth = scene.depth_m[np.where(inside, v, 0), np.where(inside, u, 0)]
    return inside & (depth > 0) & (np.abs(depth - z) <= tolerance_m)


def _answer(scene: Scene, platform_id: str, xyz: np.ndarray, area: float, least: int) -> FreeSpace | str:
    seen = xyz[is_seen(scene, xyz)]
    if len(seen) < least:
        return f"only {len(seen)} free points are seen"
    nearest = int(np.argmin(np.linalg.norm(seen - seen.mean(0), axis=1)))
    return FreeSpace(platform_id, seen, seen[nearest], area)
