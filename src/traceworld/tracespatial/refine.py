"""From a planned path to key points: Catmull–Rom, Douglas–Peucker, the end set down, the start put where it is seen (§5.3).

Decided here, where the paper is silent or at odds with itself:
- The move out of contact at the start stays as planned; the curve is laid through the free part.
- When the few key points would cut a corner into an obstacle, the planned (unsmoothed) corners are used instead.
- End: it is the object's lower face, not its centre, that is lowered until it meets the depth map; the paper's wording would push
  the object into the table by half its height. It goes no lower than the platform's box, and no further than `LOWER_LIMIT_M`.
- Start: (u, v) becomes the centroid of the largest visible part (the nearest pixel of it where the centroid falls in a hole) and d
  stays. The shift is carried to all points (`carry`), because a trace is followed, and scored, by the difference to its first
  point: a start that moves alone would bend every move. `carry=False` gives the paper's wording.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from traceworld.geometry.cameras import project, unproject
from traceworld.tracespatial.boxes import support_radius
from traceworld.tracespatial.directions import UP
from traceworld.tracespatial.obstacles import CollisionWorld
from traceworld.tracespatial.scene import OrientedBox, Scene, SceneObject

ALPHA = 0.5
MAX_KEYPOINTS = 8
RDP_EPSILON_M = 0.004
CURVE_SPACING_M = 0.01
LOWER_LIMIT_M = 0.05
LOWER_STEP_M = 0.001


def catmull_rom(
    points_xyz: Float[np.ndarray, "T 3"], spacing_m: float = CURVE_SPACING_M, alpha: float = ALPHA
) -> Float[np.ndarray, "N 3"]:
    """The Catmull–Rom curve through points (α 0.5: centripetal, without loops), about `spacing_m` apart.

    Knots t_{i+1} = t_i + |P_{i+1} − P_i|^α; the ends are continued by reflection. Repeated points count once.
    """
    distinct = np.concatenate([[True], np.linalg.norm(np.diff(points_xyz, axis=0), axis=1) > 1e-9])
    points = points_xyz[distinct]
    if len(points) < 3:
        return points
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    curve = [points[:1]]
    for i in range(len(points) - 1):
        p0, p1, p2, p3 = padded[i : i + 4]
        t1 = np.linalg.norm(p1 - p0) ** alpha
        t2 = t1 + np.linalg.norm(p2 - p1) ** alpha
        t3 = t2 + np.linalg.norm(p3 - p2) ** alpha
        count = max(int(np.ceil(np.linalg.norm(p2 - p1) / spacing_m)), 1)
        t = (t1 + (t2 - t1) * np.arange(1, count + 1) / count)[:, None]
        a1 = (t1 - t) / t1 * p0 + t / t1 * p1
        a2 = (t2 - t) / (t2 - t1) * p1 + (t - t1) / (t2 - t1) * p2
        a3 = (t3 - t) / (t3 - t2) * p2 + (t - t2) / (t3 - t2) * p3
        b1 = (t2 - t) / t2 * a1 + t / t2 * a2
        b2 = (t3 - t) / (t3 - t1) * a2 + (t - t1) / (t3 - t1) * a3
        curve.append((t2 - t) / (t2 - t1) * b1 + (t - t1) / (t2 - t1) * b2)
    return np.concatenate(curve)


def rdp(points_xyz: Float[np.ndarray, "T 3"], epsilon_m: float, most: int | None = None) -> Float[np.ndarray, "N 3"]:
    """Ramer–Douglas–Peucker: a subset of the points, both ends among them, that no dropped point is further than `epsilon_m`
    from; with `most`, the first so many that the same splitting finds (worst deviation first)."""
    kept = {0, len(points_xyz) - 1}
    spans = [_worst(points_xyz, 0, len(points_xyz) - 1)]
    while spans and (most is None or len(kept) < most):
        spans.sort(key=lambda span: span[0])
        deviation, middle, first, last = spans.pop()
        if deviation <= epsilon_m:
            break
        kept.add(middle)
        spans += [_worst(points_xyz, first, middle), _worst(points_xyz, middle, last)]
    return points_xyz[sorted(kept)]


def _worst(points: np.ndarray, first: int, last: int) -> tuple[float, int, int, int]:
    """The point of a span that is furthest from its chord: (distance, index, first, last)."""
    if last - first < 2:
        return -1.0, first, first, last
    start, along = points[first], points[last] - points[first]
    inner = points[first + 1 : last] - start
    share = np.clip(inner @ along / max(float(along @ along), 1e-18), 0, 1)
    away = np.linalg.norm(inner - share[:, None] * along, axis=1)
    worst = int(np.argmax(away))
    return float(away[worst]), first + 1 + worst, first, last


def smooth(
    path_xyz: Float[np.ndarray, "T 3"], escape_points: int, world: CollisionWorld, most: int = MAX_KEYPOINTS
) -> Float[np.ndarray, "N 3"] | None:
    """At most `most` key points of a smoothed path, all moves but the escape free; None when that cannot be had.

    Args:
        path_xyz: as planned.
        escape_points: how many leading moves leave a contact (`planner.PlannedPath`).
        world: the moving box with the clearance that the key points must keep.
    """
    lead, free_part = path_xyz[:escape_points], path_xyz[escape_points:]
    room = most - len(lead)
    tries = [rdp(catmull_rom(free_part), RDP_EPSILON_M, room), rdp(free_part, RDP_EPSILON_M / 4, room)]
    for points in tries:
        if len(points) >= 2 and world.moves_free(points[:-1], points[1:]).all():
            return np.concatenate([lead, points])
    return None


def grounded_end(
    scene: Scene, thing: SceneObject, end_xyz: Float[np.ndarray, " 3"], platform: OrientedBox
) -> Float[np.ndarray, " 3"]:
    """The last centre lowered along gravity until the object's lower face meets the depth map, at most onto the platform.

    Where the picture does not show the place (outside, unknown depth, or the moving object itself stands before it), the
    platform alone decides.
    """
    bottom = end_xyz - support_radius(thing.box, UP) * UP
    limit = bottom[2] - (platform.center_xyz[2] + support_radius(platform, UP))
    if not 0 < limit <= LOWER_LIMIT_M:
        return end_xyz
    steps = np.append(np.arange(0.0, limit, LOWER_STEP_M), limit)
    uvz = project(bottom - steps[:, None] * UP, scene.camera.K, scene.camera.cam_from_world)
    u, v = np.rint(np.nan_to_num(uvz[:, :2], nan=-1.0)).astype(int).T
    inside = (u >= 0) & (v >= 0) & (u < scene.camera.width) & (v < scene.camera.height)
    u, v = np.where(inside, u, 0), np.where(inside, v, 0)
    depth = scene.depth_m[v, u]
    shown = inside & (depth > 0) & ~thing.mask[v, u]
    met = shown & (uvz[:, 2] >= depth)
    lowered = steps[int(np.argmax(met))] if met.any() else limit
    return end_xyz - lowered * UP


def seen_center(mask: Bool[np.ndarray, "H W"]) -> tuple[float, float] | None:
    """(u, v) centroid of a mask's largest connected part, moved to its nearest pixel if it falls outside; None if empty."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count == 0:
        return None
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    v, u = np.nonzero(labels == largest)
    center_u, center_v = float(u.mean()), float(v.mean())
    nearest = int(np.argmin((u - center_u) ** 2 + (v - center_v) ** 2))
    if max(abs(u[nearest] - center_u), abs(v[nearest] - center_v)) > 0.5:
        center_u, center_v = float(u[nearest]), float(v[nearest])
    return center_u, center_v


def start_shift(scene: Scene, thing: SceneObject, start_xyz: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 3"] | None:
    """World vector from the box centre to the point at its depth that is seen at the mask's centre; None if nothing is seen."""
    center = seen_center(thing.mask)
    d = float((scene.camera.cam_from_world[2, :3] @ start_xyz) + scene.camera.cam_from_world[2, 3])
    if center is None or d <= 0:
        return None
    seen = unproject(np.array([center]), np.array([d]), scene.camera.K, scene.camera.cam_from_world)[0]
    return seen - start_xyz


def with_seen_start(
    scene: Scene, thing: SceneObject, path_xyz: Float[np.ndarray, "T 3"], carry: bool = True
) -> Float[np.ndarray, "T 3"] | None:
    """The path of the traced point: see the module. None when nothing of the object is seen."""
    shift = start_shift(scene, thing, path_xyz[0])
    if shift is None:
        return None
    if carry:
        return path_xyz + shift
    return np.concatenate([path_xyz[:1] + shift, path_xyz[1:]])
