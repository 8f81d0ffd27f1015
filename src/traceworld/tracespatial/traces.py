"""Spatial traces of a scene: choose, plan, refine, judge, check. Seeded: proposal k depends on the scene, the seed and k only.

Each proposal ends as a trace or as a `Rejection` with its reason. A trace leaves this module only when the independent checker
(`strict_collision`) finds nothing (`TraceConfig.gate`; without the gate its share can be measured).
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from traceworld.errors import ConfigError
from traceworld.geometry.cameras import project
from traceworld.tracespatial.directions import HORIZONTAL, dominant_direction, view_directions
from traceworld.tracespatial.free_space import footprint_area
from traceworld.tracespatial.obstacles import CollisionWorld
from traceworld.tracespatial.planner import PlannerConfig, distance_to_path, plan
from traceworld.tracespatial.primitives import (
    MOVE_DIRECTIONS,
    NOT_STACKABLE,
    Goal,
    NoGoal,
    Passed,
    Roles,
    TracePlan,
    carries_several,
    find_goal,
    obstacles_for,
    passed_objects,
    roles,
    vias_near,
)
from traceworld.tracespatial.refine import grounded_end, smooth, with_seen_start
from traceworld.tracespatial.rejection import Reason, Rejection, judge
from traceworld.tracespatial.scene import PRIMITIVES, Scene, SceneObject, SpatialTrace
from traceworld.tracespatial.strict_collision import check_trace

VIA_SIDES = ("above", "right", "left", "behind", "front", "below")


@dataclass(frozen=True)
class TraceConfig:
    """How traces are made.

    Attributes:
        planner: see `PlannerConfig`.
        weights: how often each of the five primitives is tried, relative to each other.
        tell_passed: chance that each passed object is told of (primitives 1–3).
        most_passed: at most so many are told of.
        slide: share of the level moves by a direction (2) that stay on their surface: they leave the contact and lift no further.
        goal_tries: partners tried before a proposal is given up for want of a goal or a via object.
        carry_start: see `refine`.
        gate: reject what the strict checker finds.
    """

    planner: PlannerConfig = field(default_factory=PlannerConfig)
    weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)
    tell_passed: float = 0.5
    most_passed: int = 3
    slide: float = 0.5
    goal_tries: int = 6
    carry_start: bool = True
    gate: bool = True

    def __post_init__(self):
        if len(self.weights) != 5 or min(self.weights) < 0 or sum(self.weights) <= 0:
            raise ConfigError(f"{self.weights}", where="TraceConfig.weights", mend="five numbers ≥ 0, not all 0")
        if not (0 <= self.tell_passed <= 1 and 0 <= self.slide <= 1 and self.goal_tries >= 1):
            raise ConfigError(f"impossible {self}", where="TraceConfig")


@dataclass(frozen=True)
class Outcome:
    """One proposal: a trace with its plan, or the reason why there is none."""

    plan: TracePlan | None
    result: SpatialTrace | Rejection


def make_traces(
    scene: Scene,
    seed: int,
    number: int,
    *,
    word: Callable[[Scene, TracePlan], str] | None = None,
    config: TraceConfig = TraceConfig(),
) -> list[SpatialTrace | Rejection]:
    """`number` proposals for one scene; the same arguments give the same list.

    Args:
        scene: what moves in it and past what is drawn from its objects.
        seed, number: proposal k is drawn from the seed, k and the scene's id.
        word: makes the instruction of a plan; without it instructions stay empty.
        config: see `TraceConfig`.
    """
    return [one.result for one in propose_traces(scene, seed, number, word=word, config=config)]


def propose_traces(
    scene: Scene,
    seed: int,
    number: int,
    *,
    word: Callable[[Scene, TracePlan], str] | None = None,
    config: TraceConfig = TraceConfig(),
) -> list[Outcome]:
    """As `make_traces`, with the plan of each trace beside it (what its words can say)."""
    parts = roles(scene)
    weights = np.array(config.weights) / sum(config.weights)
    outcomes = []
    for k in range(number):
        rng = np.random.default_rng([seed, k, zlib.crc32(scene.scene_id.encode())])
        primitive = int(rng.choice(list(PRIMITIVES), p=weights))
        outcomes.append(_propose(scene, parts, primitive, rng, word, config))
    return outcomes


def count_reasons(results: Sequence[SpatialTrace | Rejection]) -> dict[str, int]:
    """How many traces there are (`trace`) and how many rejections of each reason, the most frequent first."""
    counts = Counter(one.reason if isinstance(one, Rejection) else "trace" for one in results)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True, eq=False)
class _Choice:
    thing: SceneObject
    world: CollisionWorld
    goal: Goal
    plan: TracePlan


def _propose(
    scene: Scene,
    parts: Roles,
    primitive: int,
    rng: np.random.Generator,
    word: Callable[[Scene, TracePlan], str] | None,
    config: TraceConfig,
) -> Outcome:
    choice = _choose(scene, parts, primitive, rng, config)
    if isinstance(choice, Rejection):
        return Outcome(None, choice)
    thing, chosen = choice.thing, choice.plan

    def refuse(reason: Reason, detail: str) -> Outcome:
        return Outcome(chosen, Rejection(reason, detail, scene.scene_id, thing.object_id, primitive))

    passed_box = scene.object(chosen.via_id).box if chosen.via_id else None
    names = view_directions(scene.camera)
    planner = config.planner
    if primitive == 2 and rng.random() < config.slide:
        planner = replace(planner, lift_m=0.0)
    planned = plan(
        thing.box,
        choice.goal.center_xyz,
        obstacles_for(scene, thing),
        rng,
        passed=passed_box,
        sides=np.stack([names[side] for side in VIA_SIDES]),
        config=planner,
    )
    if planned is None:
        return refuse("no_path", "the planner found no way")
    touching = CollisionWorld(thing.box, obstacles_for(scene, thing), config.planner.clearance_m / 2)
    path = smooth(planned.xyz, planned.escape_points, touching)
    if path is None:
        return refuse("refined_path_collides", "neither the curve nor its corners keep clear with so few key points")
    if planned.via_xyz is not None and distance_to_path(planned.via_xyz, path) > config.planner.via_slack_m:
        return refuse("no_via", "the smoothed path leaves its via point")
    if choice.goal.platform_id is not None:
        path[-1] = grounded_end(scene, thing, path[-1], scene.object(choice.goal.platform_id).box)
    points = with_seen_start(scene, thing, path, config.carry_start)
    if points is None:
        return refuse("not_visible", "no pixel of it is seen")
    verdict = judge(scene, thing, points)
    if verdict is not None:
        return refuse(*verdict)
    if config.gate:
        report = check_trace(scene, thing.object_id, points)
        if report.collided:
            return refuse("strict_collision", f"enters {report.with_id} after {report.at_m:.2f} m")
    chosen = _told(scene, parts, chosen, path, points[-1] - points[0], planned.via_direction, rng, config)
    return Outcome(chosen, _trace(scene, chosen, points, word))


def _choose(
    scene: Scene, parts: Roles, primitive: int, rng: np.random.Generator, config: TraceConfig
) -> _Choice | Rejection:
    """An object, a goal, and for 4 and 5 something in the way; a few partners are tried."""
    if not parts.moving:
        return Rejection("no_partner", "nothing in the scene can be moved", scene.scene_id, "", primitive)
    failure, last_id = NoGoal("no_partner", "no partner fits"), ""
    for _ in range(config.goal_tries):
        thing = scene.object(str(rng.choice(parts.moving)))
        last_id = thing.object_id
        reference, direction = _partner(scene, parts, primitive, thing, rng)
        if reference is None and primitive != 2:
            continue
        world = CollisionWorld(thing.box, obstacles_for(scene, thing), config.planner.clearance_m)
        goal = find_goal(scene, thing, world, primitive, rng, reference=reference, direction=direction)
        if isinstance(goal, NoGoal):
            failure = goal
            continue
        draft = TracePlan(
            scene.scene_id,
            thing.object_id,
            primitive,
            reference.object_id if reference else None,
            direction,
            platform_id=goal.platform_id,
        )
        if primitive in (4, 5):
            others = [one for one in parts.via if one not in (draft.object_id, draft.reference_id, draft.platform_id)]
            others = [one for one in others if one != thing.support_id]
            near = vias_near(scene, thing, goal.center_xyz, others)
            if not near:
                failure = NoGoal("no_via", "nothing stands near the direct way")
                continue
            draft = replace(draft, via_id=near[int(rng.integers(len(near)))])
        return _Choice(thing, world, goal, draft)
    return Rejection(failure.reason, failure.detail, scene.scene_id, last_id, primitive)


def _partner(
    scene: Scene, parts: Roles, primitive: int, thing: SceneObject, rng: np.random.Generator
) -> tuple[SceneObject | None, str | None]:
    """A reference and a direction, as far as the primitive has them."""
    if primitive == 2:
        return None, str(rng.choice(MOVE_DIRECTIONS))
    others = [scene.object(one) for one in parts.reference if one not in (thing.object_id, thing.support_id)]
    if primitive in (3, 5):
        area = footprint_area(thing.box)
        others = [one for one in others if footprint_area(one.box) >= area]
        others = [one for one in others if one.label.lower().split()[-1] not in NOT_STACKABLE]
    else:
        others = [one for one in others if not carries_several(scene, one)]  # nothing is put beside a table
    direction = str(rng.choice(HORIZONTAL)) if primitive in (1, 4) else None
    return (others[int(rng.integers(len(others)))] if others else None), direction


def _told(
    scene: Scene,
    parts: Roles,
    chosen: TracePlan,
    path: Float[np.ndarray, "T 3"],
    way: Float[np.ndarray, " 3"],
    via_direction: np.ndarray | None,
    rng: np.random.Generator,
    config: TraceConfig,
) -> TracePlan:
    """The plan completed by what only the finished path shows: distance, the via side, objects passed."""
    names = view_directions(scene.camera)
    if chosen.primitive == 2:
        distance_m = float(way @ names["above" if chosen.direction == "up" else str(chosen.direction)])
    else:
        distance_m = float(np.linalg.norm(way))
    known = {chosen.object_id, chosen.reference_id, chosen.via_id, chosen.platform_id}
    known.add(scene.object(chosen.object_id).support_id)
    nearby = passed_objects(scene, path, [one for one in parts.via if one not in known])
    told: tuple[Passed, ...] = ()
    if chosen.primitive <= 3:
        told = tuple(one for one in nearby if rng.random() < config.tell_passed)[: config.most_passed]
    side = dominant_direction(scene.camera, via_direction) if via_direction is not None else None
    return replace(chosen, distance_m=distance_m, via_side=side, passed=told, nearby=nearby)


def _trace(
    scene: Scene,
    chosen: TracePlan,
    points: Float[np.ndarray, "T 3"],
    word: Callable[[Scene, TracePlan], str] | None,
) -> SpatialTrace:
    uvd = project(points, scene.camera.K, scene.camera.cam_from_world)
    return SpatialTrace(
        scene_id=scene.scene_id,
        object_id=chosen.object_id,
        primitive=chosen.primitive,
        reference_id=chosen.reference_id,
        via_id=chosen.via_id,
        passed_ids=tuple(one.object_id for one in chosen.passed),
        direction=chosen.direction,
        instruction=word(scene, chosen) if word else "",
        steps=chosen.steps,
        points_world=points,
        uvd=uvd,
    )
