"""Paths for a box among boxes: RRT*, escape from a start in contact, detours past an object (RoboTracer supplement B.2).

Constants of the paper: step 0.05 m, goal bias 0.25, rewiring within 0.25 m, escape of at most 0.6 m, via cost
J = 1.0 L + 0.3 angle + 2.0 backtrack + 0.2 lateral, smoothing that stays within 0.12 m of the via point.

Decided here, where the paper is silent:
- A straight way that is free is taken at once: it is the optimum that RRT* converges to. Otherwise the tree grows until it
  reaches the goal and then for `extra_iterations` more, and the path is shortened by shortcuts.
- Escape: each of the six axis directions is scored by how far the box could go on after it is free, within 0.6 m, less the way
  until it is; what stands on a table therefore goes up. A direction that leads through anything that is not touched at the start is
  none. It goes `lift_m` beyond the first free position where there is room.
- L is the length of start → via → goal in metres, `angle` the turn at the via point in radians, `backtrack` 1 when either leg
  goes against the direct way, `lateral` the distance of the via point from the direct line in metres.
- Of the six sides only those more across the direct way than along it are candidates: a point before or behind the object has the
  smallest J of all, but to go through it is to bypass nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from traceworld.errors import ConfigError
from traceworld.tracespatial.boxes import support_radius
from traceworld.tracespatial.obstacles import CollisionWorld
from traceworld.tracespatial.scene import OrientedBox

AXIS_DIRECTIONS = np.array([[0.0, 0, 1], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, -1]])
"""Up first: it wins a tie."""


@dataclass(frozen=True)
class PlannerConfig:
    """Lengths in metres.

    Attributes:
        step_m, goal_bias, rewire_m: of RRT*.
        max_iterations: give up after so many samples.
        extra_iterations: samples spent on a better path once there is one.
        max_neighbours: at most so many nodes, the nearest, are tried for rewiring.
        room_m: samples are drawn from the bounding box of start and goal, this much larger on every side.
        clearance_m: distance kept from everything.
        escape_limit_m: how far an escape may go.
        lift_m: how far it goes beyond the first free position.
        shortcuts: tries at shortening a path.
        via_slack_m: how far a smoothed path may pass from its via point.
        via_margin_m: gap between the moving object and the object that it bypasses.
        cost_length, cost_angle, cost_backtrack, cost_lateral: weights of J.
    """

    step_m: float = 0.05
    goal_bias: float = 0.25
    rewire_m: float = 0.25
    max_iterations: int = 800
    extra_iterations: int = 40
    max_neighbours: int = 12
    room_m: float = 0.4
    clearance_m: float = 0.01
    escape_limit_m: float = 0.6
    lift_m: float = 0.05
    shortcuts: int = 40
    via_slack_m: float = 0.12
    via_margin_m: float = 0.03
    cost_length: float = 1.0
    cost_angle: float = 0.3
    cost_backtrack: float = 2.0
    cost_lateral: float = 0.2

    def __post_init__(self):
        if not (self.step_m > 0 and 0 <= self.goal_bias <= 1 and self.max_iterations > 0 and self.clearance_m >= 0):
            raise ConfigError(f"impossible {self}", where="PlannerConfig")


def path_length(path_xyz: Float[np.ndarray, "T 3"]) -> float:
    """Metres along a polyline."""
    return float(np.linalg.norm(np.diff(path_xyz, axis=0), axis=1).sum())


def rrt_star(
    world: CollisionWorld,
    start_xyz: Float[np.ndarray, " 3"],
    goal_xyz: Float[np.ndarray, " 3"],
    rng: np.random.Generator,
    config: PlannerConfig = PlannerConfig(),
) -> Float[np.ndarray, "T 3"] | None:
    """A free path of the box's centre from start to goal, both of which must be free; None when none was found."""
    if not world.free(np.stack([start_xyz, goal_xyz])).all():
        return None
    if world.moves_free(start_xyz[None], goal_xyz[None])[0]:
        return np.stack([start_xyz, goal_xyz])
    return _Tree(world, start_xyz, goal_xyz, config).grow(rng)


class _Tree:
    """Nodes with parents and costs; grows from the start."""

    def __init__(self, world: CollisionWorld, start: np.ndarray, goal: np.ndarray, config: PlannerConfig):
        self.world, self.goal, self.config = world, goal, config
        most = config.max_iterations + 1
        self.xyz, self.cost = np.empty((most, 3)), np.empty(most)
        self.parent = np.full(most, -1)
        self.children: list[list[int]] = [[]]
        self.xyz[0], self.cost[0] = start, 0.0
        self.size = 1
        self.ends: list[int] = []  # nodes from which the goal is in free reach
        self.low = np.minimum(start, goal) - config.room_m
        self.high = np.maximum(start, goal) + config.room_m

    def grow(self, rng: np.random.Generator) -> np.ndarray | None:
        config = self.config
        samples = rng.uniform(self.low, self.high, (config.max_iterations, 3))
        samples[rng.random(config.max_iterations) < config.goal_bias] = self.goal
        left = config.max_iterations
        for sample in samples:
            if left <= 0:
                break
            left -= 1
            before = len(self.ends)
            self._extend(sample)
            if before == 0 and self.ends:
                left = min(left, config.extra_iterations)
        if not self.ends:
            return None
        ends = np.array(self.ends)
        total = self.cost[ends] + np.linalg.norm(self.xyz[ends] - self.goal, axis=1)
        node, path = int(ends[np.argmin(total)]), [self.goal]
        while node >= 0:
            path.append(self.xyz[node])
            node = int(self.parent[node])
        return np.array(path[::-1])

    def _extend(self, sample: np.ndarray) -> None:
        config, known = self.config, self.xyz[: self.size]
        squared = ((known - sample) ** 2).sum(1)
        nearest = int(np.argmin(squared))
        away = float(np.sqrt(squared[nearest]))
        if away < 1e-9:
            return
        new = known[nearest] + (sample - known[nearest]) * min(1.0, config.step_m / away)
        apart = ((known - new) ** 2).sum(1)
        if apart.min() < (0.1 * config.step_m) ** 2:
            return  # nothing new: the way towards the goal is often tried more than once
        near = np.flatnonzero(apart < config.rewire_m**2)
        if len(near) > config.max_neighbours:
            near = near[np.argpartition(apart[near], config.max_neighbours)[: config.max_neighbours]]
        targets = np.concatenate([known[near], self.goal[None]])
        free = self.world.moves_free(np.broadcast_to(new, targets.shape), targets)
        near, lengths = near[free[:-1]], np.sqrt(apart[near])[free[:-1]]
        if len(near) == 0:
            return
        through = self.cost[near] + lengths
        best = int(np.argmin(through))
        index = self._add(new, int(near[best]), float(through[best]))
        if free[-1] and ((new - self.goal) ** 2).sum() < config.rewire_m**2:
            self.ends.append(index)
        better = self.cost[index] + lengths < self.cost[near] - 1e-12
        for node, length in zip(near[better].tolist(), lengths[better].tolist(), strict=True):
            self._rewire(node, index, self.cost[index] + length)

    def _add(self, xyz: np.ndarray, parent: int, cost: float) -> int:
        index = self.size
        self.xyz[index], self.parent[index], self.cost[index] = xyz, parent, cost
        self.children[parent].append(index)
        self.children.append([])
        self.size += 1
        return index

    def _rewire(self, node: int, parent: int, cost: float) -> None:
        self.children[int(self.parent[node])].remove(node)
        self.children[parent].append(node)
        self.parent[node] = parent
        saved, queue = self.cost[node] - cost, [node]
        while queue:
            one = queue.pop()
            self.cost[one] -= saved
            queue.extend(self.children[one])


def shortcut(
    path_xyz: Float[np.ndarray, "T 3"],
    world: CollisionWorld,
    rng: np.random.Generator,
    tries: int,
    via_xyz: Float[np.ndarray, " 3"] | None = None,
    via_slack_m: float = 0.0,
) -> Float[np.ndarray, "T2 3"]:
    """The path with detours cut off: pairs of points on it are joined where the straight move is free.

    A cut that would leave the path further than `via_slack_m` from `via_xyz` is not made.
    """
    path = path_xyz
    for first, second in np.sort(rng.random((tries, 2)), axis=1):
        if len(path) < 3:
            break
        along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
        i, j = np.searchsorted(along, np.array([first, second]) * along[-1], side="right") - 1
        if i >= j:
            continue
        a, b = (
            np.array([np.interp(share * along[-1], along, path[:, axis]) for axis in range(3)])
            for share in (first, second)
        )
        cut = np.concatenate([path[: i + 1], a[None], b[None], path[j + 1 :]])
        if via_xyz is not None and distance_to_path(via_xyz, cut) > via_slack_m:
            continue
        if world.moves_free(a[None], b[None])[0]:
            path = cut
    return _without_idle_points(path, world, via_xyz, via_slack_m)


def _without_idle_points(
    path: np.ndarray, world: CollisionWorld, via_xyz: np.ndarray | None, slack: float
) -> np.ndarray:
    """Drop each inner point whose neighbours can be joined directly."""
    kept = [path[0]]
    for i in range(1, len(path) - 1):
        rest = np.concatenate([np.array(kept), path[i + 1 :]])
        near = via_xyz is None or distance_to_path(via_xyz, rest) <= slack
        if not (near and world.moves_free(kept[-1][None], path[i + 1][None])[0]):
            kept.append(path[i])
    return np.array([*kept, path[-1]])


def distance_to_path(xyz: Float[np.ndarray, " 3"], path_xyz: Float[np.ndarray, "T 3"]) -> float:
    """Metres from a point to the nearest point of a polyline."""
    start, along = path_xyz[:-1], np.diff(path_xyz, axis=0)
    squared = np.maximum((along**2).sum(1), 1e-18)
    share = np.clip(((xyz - start) * along).sum(1) / squared, 0, 1)
    return float(np.linalg.norm(start + share[:, None] * along - xyz, axis=1).min())


def escape(
    world: CollisionWorld,
    start_xyz: Float[np.ndarray, " 3"],
    config: PlannerConfig = PlannerConfig(),
) -> Float[np.ndarray, " 3"] | None:
    """A free position near a start in contact, reached by a straight move; the start itself when it is free already.

    The best axis direction (see the module), or, when none leads out within `escape_limit_m`, the sum of the smallest pushes
    that separate the bounding boxes. None when that does not help either.
    """
    if world.free(start_xyz[None])[0]:
        return start_xyz
    best_score, best = -np.inf, None
    for direction in AXIS_DIRECTIONS:
        found = _way_out(world, start_xyz, direction, config)
        if found is not None and found[0] > best_score + 1e-9:
            best_score, best = found
    return best if best is not None else _push_out(world, start_xyz, config)


def _way_out(
    world: CollisionWorld, start: np.ndarray, direction: np.ndarray, config: PlannerConfig
) -> tuple[float, np.ndarray] | None:
    """(score, where the escape ends) along one direction; None when it leads through more than it is in at the start."""
    limit = config.escape_limit_m
    enter, leave, _ = world.blocked(start, start + limit * direction)
    touched = enter <= 1e-6
    exit_at = float(leave[touched].max(initial=0.0))
    blocked_at = float(enter[~touched].min(initial=1.0))
    if exit_at >= 1.0 - 1e-9 or blocked_at <= exit_at + 1e-9:
        return None
    depth = (blocked_at - exit_at) * limit
    distance = exit_at * limit + min(config.lift_m, depth / 2)
    return depth - exit_at * limit, start + distance * direction


def _push_out(world: CollisionWorld, start: np.ndarray, config: PlannerConfig) -> np.ndarray | None:
    """Push out of one overlapping bounding box after another, always along the shortest way."""
    position = start.copy()
    for _ in range(10):
        hits = world.hits(position)
        if len(hits) == 0:
            return position if np.linalg.norm(position - start) <= config.escape_limit_m else None
        ways = world.pushes(position, int(hits[0]))
        position = position + ways[np.argmin(np.abs(ways).sum(1))]
    return None


def via_candidates(
    moving: OrientedBox, passed: OrientedBox, sides: Float[np.ndarray, "V 3"], margin_m: float
) -> Float[np.ndarray, "V 3"]:
    """Centres of the moving box beside each side of another: c_obs + (r_obs + r_src + margin) n, n a unit vector."""
    reach = [support_radius(passed, n) + support_radius(moving, n) + margin_m for n in sides]
    return passed.center_xyz + np.array(reach)[:, None] * sides


def across(sides: Float[np.ndarray, "V 3"], way: Float[np.ndarray, " 3"]) -> Bool[np.ndarray, " V"]:
    """Which unit vectors are further than 45° from a way and its reverse."""
    return np.abs(sides @ way) < np.sqrt(0.5) * np.linalg.norm(way)


def via_cost(
    start_xyz: Float[np.ndarray, " 3"],
    via_xyz: Float[np.ndarray, "V 3"],
    goal_xyz: Float[np.ndarray, " 3"],
    config: PlannerConfig = PlannerConfig(),
) -> Float[np.ndarray, " V"]:
    """J = 1.0 L + 0.3 angle + 2.0 backtrack + 0.2 lateral of going through each via point (units: see the module)."""
    first, second, direct = via_xyz - start_xyz, goal_xyz - via_xyz, goal_xyz - start_xyz
    lengths = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
    cosine = (first * second).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-12)
    angle = np.arccos(np.clip(cosine, -1, 1))
    backtrack = ((first @ direct < 0) | (second @ direct < 0)).astype(float)
    lateral = np.linalg.norm(np.cross(direct, first), axis=1) / max(float(np.linalg.norm(direct)), 1e-12)
    return (
        config.cost_length * (lengths[0] + lengths[1])
        + config.cost_angle * angle
        + config.cost_backtrack * backtrack
        + config.cost_lateral * lateral
    )


@dataclass(frozen=True, eq=False)
class PlannedPath:
    """A path of the box's centre.

    Attributes:
        xyz: [T,3] metres; the first point is where the object stands, the last is the goal.
        escape_points: how many leading moves (0 or 1) leave a contact and are not meant to be free.
        via_xyz: the via point, if one was asked for.
        via_direction: unit vector from the bypassed object towards the side it is passed on.
    """

    xyz: Float[np.ndarray, "T 3"]
    escape_points: int
    via_xyz: Float[np.ndarray, " 3"] | None = None
    via_direction: Float[np.ndarray, " 3"] | None = None


def plan(
    moving: OrientedBox,
    goal_xyz: Float[np.ndarray, " 3"],
    obstacles: tuple[OrientedBox, ...],
    rng: np.random.Generator,
    *,
    passed: OrientedBox | None = None,
    sides: Float[np.ndarray, "V 3"] = AXIS_DIRECTIONS,
    config: PlannerConfig = PlannerConfig(),
) -> PlannedPath | None:
    """Escape, RRT*, shortcuts; with `passed`, past the cheapest reachable of its `sides`. None when there is no way."""
    world = CollisionWorld(moving, obstacles, config.clearance_m)
    start = moving.center_xyz
    free_start = escape(world, start, config)
    if free_start is None:
        return None
    escapes = int(not np.array_equal(free_start, start))
    lead = start[None] if escapes else np.empty((0, 3))
    if passed is None:
        path = rrt_star(world, free_start, goal_xyz, rng, config)
        if path is None:
            return None
        path = shortcut(path, world, rng, config.shortcuts)
        return PlannedPath(np.concatenate([lead, path]), escapes)
    vias = via_candidates(moving, passed, sides, config.via_margin_m + config.clearance_m)
    usable = world.free(vias) & across(sides, goal_xyz - free_start)
    for index in np.argsort(via_cost(free_start, vias, goal_xyz, config), kind="stable"):
        if not usable[index]:
            continue
        halves = [rrt_star(world, free_start, vias[index], rng, config)]
        if halves[0] is not None:
            halves.append(rrt_star(world, vias[index], goal_xyz, rng, config))
        if len(halves) < 2 or halves[1] is None:
            continue
        path = np.concatenate([halves[0], halves[1][1:]])
        path = shortcut(path, world, rng, config.shortcuts, vias[index], config.via_slack_m)
        return PlannedPath(np.concatenate([lead, path]), escapes, vias[index], sides[index])
    return None
