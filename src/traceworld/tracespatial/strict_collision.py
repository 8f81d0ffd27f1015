"""An independent check of a finished trace: every centimetre, does the object run into anything?

It shares no code with the planner and uses none of its axes. The object is carried as its user would carry it, by p − p₀ for
every point p of the trace, and three kinds of geometry are asked:
- lattice points of the moving box against each other box, and of each other box against the moving one (all centimetre spaced,
  with all edges; two boxes that overlap by more than the tolerance in a way that no lattice point sees have to cross edge over
  edge within a centimetre);
- the surface points of other objects against the moving box;
- what the depth map shows, apart from the object itself, against the moving box: walls and things nobody drew a box around.

The moving box is shrunk by `TOLERANCE_M`: touching is allowed. What it overlaps where it stands (a table annotated a little too
high, a neighbour that leans on it) may be left, but not entered more deeply than at the start.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from traceworld.tracespatial.scene import OrientedBox, Scene

SPACING_M = 0.01
TOLERANCE_M = 0.004
LATTICE_M = 0.01
MAX_LATTICE = 12
"""Points along one side at most: a table is sampled where the moving box can come, not all over."""

DEPTH_STRIDE = 2
DEPTH_NOISE_M = 0.004
"""Depth counts at this distance behind the surface, so that a grazing view of the table under a sliding object is no collision."""


@dataclass(frozen=True)
class CollisionReport:
    """What a check found.

    Attributes:
        collided: whether anything was entered.
        with_id: the first thing entered: an object's id, or `depth` for what only the depth map shows. "" if none.
        at_m: metres along the trace where it was first entered; NaN if never.
        checked: number of positions looked at.
    """

    collided: bool
    with_id: str
    at_m: float
    checked: int


def check_trace(scene: Scene, object_id: str, points_world: Float[np.ndarray, "T 3"]) -> CollisionReport:
    """Carry an object along a trace and look for the first thing that it enters.

    Args:
        scene: boxes, surface points and depth are all used.
        object_id: what moves.
        points_world: [T,3] the trace; the object moves by the difference to its first point.

    Raises:
        InvalidInputError: no such object.
    """
    thing = scene.object(object_id)
    offsets, along = _offsets(points_world)
    half = np.maximum(thing.box.size_m / 2 - TOLERANCE_M, 1e-4)
    low, high = _reach(thing.box, offsets)
    found: list[tuple[float, str]] = []
    for other in scene.objects:
        if other.object_id == object_id:
            continue
        hits = _box_hits(thing.box, half, offsets, other.box, low, high)
        hits = np.maximum(hits, _point_hits(thing.box, half, offsets, other.cloud_world, low, high))
        found += _first(hits, along, other.object_id)
    seen = _seen_points(scene, object_id)
    found += _first(_point_hits(thing.box, half - DEPTH_NOISE_M, offsets, seen, low, high), along, "depth")
    if not found:
        return CollisionReport(False, "", float("nan"), len(offsets))
    at_m, with_id = min(found)
    return CollisionReport(True, with_id, at_m, len(offsets))


def _offsets(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Displacements every `SPACING_M` along the polyline, and how far along each is."""
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    knots = np.concatenate([[0.0], np.cumsum(lengths)])
    along = np.unique(np.concatenate([np.arange(0.0, knots[-1], SPACING_M), knots]))
    return np.stack([np.interp(along, knots, points[:, axis]) for axis in range(3)], 1) - points[0], along


def _reach(box: OrientedBox, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of everything the box passes."""
    reach = np.abs(box.rotation) @ box.size_m / 2
    return box.center_xyz + offsets.min(0) - reach, box.center_xyz + offsets.max(0) + reach


def _first(hits: np.ndarray, along: np.ndarray, name: str) -> list[tuple[float, str]]:
    """Where the number of points inside first exceeds what it was at the start."""
    worse = np.flatnonzero(hits > hits[0])
    return [(float(along[worse[0]]), name)] if len(worse) else []


def _lattice(half: np.ndarray) -> np.ndarray:
    """[N,3] points of a box about the origin, at most `LATTICE_M` apart where `MAX_LATTICE` allows, faces and edges included."""
    sides = []
    for reach in half:
        count = int(np.clip(np.ceil(2 * reach / LATTICE_M) + 1, 2, MAX_LATTICE))
        sides.append(np.linspace(-reach, reach, count))
    grid = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 3)
    surface = (np.abs(np.abs(grid) - half) < 1e-9).any(1)
    return grid[surface]


def _box_hits(
    box: OrientedBox, half: np.ndarray, offsets: np.ndarray, other: OrientedBox, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """[P] how many lattice points of either box lie in the other, at every position."""
    reach = np.abs(other.rotation) @ other.size_m / 2
    if (other.center_xyz + reach < low).any() or (other.center_xyz - reach > high).any():
        return np.zeros(len(offsets), int)
    own = box.center_xyz + _lattice(half) @ box.rotation.T
    base = (own - other.center_xyz) @ other.rotation
    count = _inside(base, -offsets @ other.rotation, other.size_m / 2)
    theirs = other.center_xyz + _local_lattice(other, low, high) @ other.rotation.T
    return count + _point_hits(box, half, offsets, theirs, low, high)


def _local_lattice(other: OrientedBox, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The part of a box's surface lattice that the moving box can reach (coarse on a large one, whose faces the moving box's own
    lattice tests)."""
    points = _lattice(other.size_m / 2)
    world = other.center_xyz + points @ other.rotation.T
    return points[((world > low) & (world < high)).all(1)]


def _point_hits(
    box: OrientedBox, half: np.ndarray, offsets: np.ndarray, xyz: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """[P] how many world points lie in the moving box, at every position."""
    near = xyz[((xyz > low) & (xyz < high)).all(1)]
    return _inside((near - box.center_xyz) @ box.rotation, offsets @ box.rotation, half)


def _inside(points: np.ndarray, shifts: np.ndarray, half: np.ndarray) -> np.ndarray:
    """[P] how many of the points [N,3], moved back by each of P shifts, lie in a box about the origin."""
    count = np.zeros(len(shifts), int)
    if len(points) == 0:
        return count
    for chunk in range(0, len(shifts), 64):
        inside = np.ones((len(shifts[chunk : chunk + 64]), len(points)), bool)
        for axis in range(3):
            inside &= np.abs(points[None, :, axis] - shifts[chunk : chunk + 64, axis, None]) < half[axis]
        count[chunk : chunk + 64] = inside.sum(1)
    return count


def _seen_points(scene: Scene, object_id: str) -> np.ndarray:
    """World points of the depth map, without the object itself and the pixels around it (edges mix two depths)."""
    mask = scene.object(object_id).mask
    wide = mask.copy()
    wide[1:] |= mask[:-1]
    wide[:-1] |= mask[1:]
    wide[:, 1:] |= wide[:, :-1].copy()
    wide[:, :-1] |= wide[:, 1:].copy()
    v, u = np.nonzero((scene.depth_m > 0) & ~wide)
    keep = (v % DEPTH_STRIDE == 0) & (u % DEPTH_STRIDE == 0)
    v, u = v[keep], u[keep]
    z = scene.depth_m[v, u].astype(np.float64)
    K = scene.camera.K
    y_ray = (v - K[1, 2]) / K[1, 1]
    x_ray = (u - K[0, 2] - K[0, 1] * y_ray) / K[0, 0]
    cam = np.stack([x_ray * z, y_ray * z, z], 1)
    pose = scene.camera.cam_from_world
    return (cam - pose[:3, 3]) @ pose[:3, :3]
