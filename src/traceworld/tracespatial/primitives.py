"""Who moves where past whom: roles, the five primitives, goals on rings, what is passed on the way (RoboTracer supplement B).

Decided here, where the paper is silent:
- What carries another object does not move, nor does what shows fewer pixels than `rejection.MIN_VISIBLE_PX`.
- Things whose box holds the moving object's centre (a shelf annotated as one box) are no obstacles to it.
- The goal's region is the free space of the wanted side (`free_space`), the top of the reference for stacking, and the end of
  the asked-for distance for a move by direction, where rings only shift the goal along the direction, so that the words stay true.
- A goal needs `PLACED_SHARE` of the footprint on its platform, `STACKED_SHARE` when stacking.
- Hollow, pointed and round things (`NOT_STACKABLE`) carry nothing.
- Steps = anchor objects (moving, reference, via, passed) + relations (one each to reference or direction, via, passed).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from traceworld.tracespatial.boxes import contains, distance, moved, separating_axes, stack, support_radius
from traceworld.tracespatial.directions import HORIZONTAL, UP, dominant_direction, view_directions
from traceworld.tracespatial.free_space import (
    find_platform,
    footprint_area,
    free_space,
    in_sector,
    over_box,
    supported_share,
    top_z,
)
from traceworld.tracespatial.obstacles import CollisionWorld
from traceworld.tracespatial.rejection import MIN_VISIBLE_PX, Reason, densified, is_immovable
from traceworld.tracespatial.scene import OrientedBox, Scene, SceneObject

RINGS_M = (0.0, 0.03, 0.06, 0.10, 0.15, 0.20)
RING_ANGLES = 8
GOAL_MARGIN_M = 0.015
PLACED_SHARE, STACKED_SHARE = 0.95, 0.70
PASSED_M = 0.15
VIA_NEAR_M = 0.05
MOVE_M = (0.10, 0.45)
MOVE_DIRECTIONS = (*HORIZONTAL, "up")
NOT_STACKABLE = frozenset(
    [
        "mug",
        "cup",
        "bowl",
        "basket",
        "bottle",
        "vase",
        "ball",
        "apple",
        "orange",
        "lamp",
        "plant",
        "partition",
        "pot",
        "pan",
    ]
)


@dataclass(frozen=True)
class Roles:
    """Which objects (ids) may play which part."""

    moving: tuple[str, ...]
    via: tuple[str, ...]
    reference: tuple[str, ...]


@dataclass(frozen=True)
class Passed:
    """An object passed closely: on which of its sides the path runs (`left` … `above`), and how near, metres."""

    object_id: str
    side: str
    distance_m: float


@dataclass(frozen=True)
class TracePlan:
    """What a trace is about: all that its sentence can say.

    Attributes:
        scene_id, object_id, primitive: what moves where, how.
        reference_id: primitives 1, 3, 4, 5.
        direction: relation to the reference (1, 4) or way of motion (2); None for stacking.
        distance_m: displacement from the first point to the last: along the direction for 2, straight-line for the others.
        platform_id: what it ends on; None where it ends in the air.
        via_id, via_side: primitives 4, 5: what is bypassed, and on which side of it the path runs.
        passed: objects passed within `PASSED_M`, in order, that the sentence tells of (1–3).
        nearby: all objects passed so closely.
    """

    scene_id: str
    object_id: str
    primitive: int
    reference_id: str | None = None
    direction: str | None = None
    distance_m: float = 0.0
    platform_id: str | None = None
    via_id: str | None = None
    via_side: str | None = None
    passed: tuple[Passed, ...] = ()
    nearby: tuple[Passed, ...] = ()

    @property
    def steps(self) -> int:
        """Anchor objects plus relations."""
        return 2 + (self.reference_id is not None) + 2 * (self.via_id is not None) + 2 * len(self.passed)


@dataclass(frozen=True, eq=False)
class Goal:
    """Where a box is to end: `center_xyz`, on `platform_id` (None: in the air)."""

    center_xyz: Float[np.ndarray, " 3"]
    platform_id: str | None


@dataclass(frozen=True)
class NoGoal:
    """Why there is none."""

    reason: Reason
    detail: str


def roles(scene: Scene) -> Roles:
    """Moving and via objects are captioned, references are captioned and rest on a platform (§5.3)."""
    carrying = {thing.support_id for thing in scene.objects}
    named = [thing for thing in scene.objects if thing.caption and thing.mask.sum() >= MIN_VISIBLE_PX]
    moving = [thing for thing in named if not is_immovable(thing) and thing.object_id not in carrying]
    return Roles(
        tuple(thing.object_id for thing in moving),
        tuple(thing.object_id for thing in named if not carries_several(scene, thing)),
        tuple(thing.object_id for thing in named if find_platform(scene, thing) is not None),
    )


def carries_several(scene: Scene, thing: SceneObject) -> bool:
    """Furniture, by what it does: it is neither walked around nor placed beside."""
    return sum(other.support_id == thing.object_id for other in scene.objects) > 1


def obstacles_for(scene: Scene, thing: SceneObject) -> tuple[OrientedBox, ...]:
    """The boxes of all instances (§5.3) but the object itself and what encloses its centre."""
    here = thing.box.center_xyz[None]
    return tuple(
        other.box for other in scene.objects if other.object_id != thing.object_id and not contains(other.box, here)[0]
    )


def ring_candidates(center_xy: Float[np.ndarray, " 2"]) -> Float[np.ndarray, "N 2"]:
    """The centroid, then points on rings around it, inner rings first."""
    angle = np.arange(RING_ANGLES) * 2 * np.pi / RING_ANGLES
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    rings = [center_xy[None] + radius * (circle if radius else circle[:1]) for radius in RINGS_M]
    return np.concatenate(rings)


def find_goal(
    scene: Scene,
    thing: SceneObject,
    world: CollisionWorld,
    primitive: int,
    rng: np.random.Generator,
    *,
    reference: SceneObject | None = None,
    direction: str | None = None,
) -> Goal | NoGoal:
    """The first collision-free candidate of a primitive's region.

    Args:
        world: the moving object among its obstacles.
        reference: primitives 1, 3, 4, 5.
        direction: primitives 1, 2, 4.
    """
    if primitive == 2:
        return _goal_of_move(scene, thing, world, str(direction), rng)
    if reference is None:
        return NoGoal("no_partner", "there is nothing to place it by")
    if primitive in (3, 5):
        return _goal_on_top(scene, thing, world, reference)
    region = free_space(scene, reference, direction, rng, moving_id=thing.object_id)  # type: ignore[arg-type]
    if isinstance(region, str):
        return NoGoal("no_free_space", region)
    platform = scene.object(region.platform_id)
    xy = ring_candidates(region.point_xyz[:2])
    xy = xy[in_sector(reference.box, view_directions(scene.camera)[str(direction)], xy)]
    return _first_free(thing, world, _lifted(thing, platform, xy), platform, PLACED_SHARE)


def _lifted(thing: SceneObject, platform: SceneObject, xy: np.ndarray) -> np.ndarray:
    """Centres above ground points: platform + h/2 + margin."""
    z = top_z(platform.box) + support_radius(thing.box, UP) + GOAL_MARGIN_M
    return np.concatenate([xy, np.full((len(xy), 1), z)], 1)


def _first_free(
    thing: SceneObject, world: CollisionWorld, centers: np.ndarray, platform: SceneObject, share: float
) -> Goal | NoGoal:
    for center in centers[world.free(centers)] if len(centers) else centers:
        if supported_share(moved(thing.box, center), platform.box) >= share:
            return Goal(center, platform.object_id)
    return NoGoal("no_goal", f"none of {len(centers)} candidates is free and supported")


def _goal_on_top(scene: Scene, thing: SceneObject, world: CollisionWorld, reference: SceneObject) -> Goal | NoGoal:
    if reference.label.lower().split()[-1] in NOT_STACKABLE:
        return NoGoal("no_partner", f"nothing is stacked on a {reference.label}")
    if footprint_area(reference.box) < footprint_area(thing.box):
        return NoGoal("no_partner", "the reference is smaller than what is to be stacked")
    xy = ring_candidates(reference.box.center_xyz[:2])
    xy = xy[over_box(reference.box, xy)]
    return _first_free(thing, world, _lifted(thing, reference, xy), reference, STACKED_SHARE)


def _goal_of_move(
    scene: Scene, thing: SceneObject, world: CollisionWorld, direction: str, rng: np.random.Generator
) -> Goal | NoGoal:
    start = thing.box.center_xyz
    distance_m = rng.uniform(*MOVE_M)
    shifts = np.array([0.0] + [sign * ring for ring in RINGS_M[1:] for sign in (1, -1)])
    lengths = distance_m + shifts
    lengths = lengths[lengths >= MOVE_M[0]]
    if direction == "up":
        centers = start + lengths[:, None] * UP
        free = centers[world.free(centers)]
        return Goal(free[0], None) if len(free) else NoGoal("no_goal", "there is no room above")
    platform = find_platform(scene, thing)
    if platform is None:
        return NoGoal("no_goal", "it stands on no platform")
    unit = view_directions(scene.camera)[direction]
    xy = start[:2] + lengths[:, None] * unit[:2]
    return _first_free(thing, world, _lifted(thing, platform, xy), platform, PLACED_SHARE)


def vias_near(
    scene: Scene, thing: SceneObject, goal_xyz: Float[np.ndarray, " 3"], candidates: Sequence[str]
) -> list[str]:
    """Which objects the moving box would come within `VIA_NEAR_M` of on its direct way, nearest first."""
    things = [scene.object(one) for one in candidates]
    if not things:
        return []
    line = densified(np.stack([thing.box.center_xyz, goal_xyz]), 0.02)
    near = separating_axes(thing.box, stack([one.box for one in things])).gaps(line).min(0)
    order = np.argsort(near, kind="stable")
    return [things[i].object_id for i in order if near[i] < VIA_NEAR_M]


def passed_objects(scene: Scene, path_xyz: Float[np.ndarray, "T 3"], candidates: Sequence[str]) -> tuple[Passed, ...]:
    """After-discovery: which objects a path passes within `PASSED_M` of their surface, on which side, in order of passing.

    The side is the dominant component, in view directions, of the way from the object's centre to the nearest point of the
    path, the part along the motion left out. (It is said where the path runs, which is opposite to where the object lies.)
    """
    path = densified(path_xyz)
    velocity = np.gradient(path, axis=0)
    found: list[tuple[int, Passed]] = []
    for one in candidates:
        box = scene.object(one).box
        apart = distance(box, path)
        nearest = int(np.argmin(apart))
        if apart[nearest] >= PASSED_M:
            continue
        along = velocity[nearest] / max(float(np.linalg.norm(velocity[nearest])), 1e-12)
        away = path[nearest] - box.center_xyz
        across = away - (away @ along) * along
        if np.linalg.norm(across) < 1e-6:
            continue
        found.append((nearest, Passed(one, dominant_direction(scene.camera, across), float(apart[nearest]))))
    return tuple(passed for _, passed in sorted(found, key=lambda item: item[0]))
