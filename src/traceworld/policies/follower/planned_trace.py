"""Spatial traces that cannot err: planned as TraceSpatial plans them, on the exact boxes of a simulated table.

With them, execution is measured apart from vision. They need the simulation, so they are for tests and upper bounds.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64

from traceworld.errors import ExtractionError
from traceworld.policies.follower.gripper import METAWORLD_GRIPPER
from traceworld.sim.control import MetaworldEnv
from traceworld.traces.robot import RobotObservation
from traceworld.tracespatial.obstacles import CollisionWorld
from traceworld.tracespatial.planner import PlannerConfig, rrt_star, shortcut
from traceworld.tracespatial.scene import OrientedBox

HAND_TOP_M = 0.25
"""Height of hand and wrist above what they hold."""
THING_M = 0.025
"""Half of the height of what is held, below the place where it is held."""
_LIFTS_M = np.arange(0.0, 0.32, 0.02)


class PlannedTraces:
    """The way of the task's thing to its goal around the posts of an environment.

    Args:
        env: with posts. straight: go straight instead, whatever stands there.
    """

    def __init__(self, env: MetaworldEnv, straight: bool = False):
        self._env, self._straight = env, straight
        self.name = "straight" if straight else "planned"

    def trace(self, observation: RobotObservation) -> Float64[np.ndarray, "P 3"]:
        """See `SpatialTraceSource`.

        Raises:
            ExtractionError: there is no way.
        """
        start, goal = self._env.expert_view()[4:7], self._env.world.goal()
        posts = self._env.world.posts
        if self._straight or posts is None:
            return np.stack([start, goal])
        boxes = tuple(
            OrientedBox(middle, size, np.eye(3)) for middle, size in zip(posts.middle_xyz, posts.size_m, strict=True)
        )
        return around(start, goal, boxes, np.random.default_rng(0))


def around(
    start_xyz: Float[np.ndarray, " 3"],
    goal_xyz: Float[np.ndarray, " 3"],
    obstacles: tuple[OrientedBox, ...],
    rng: np.random.Generator,
    config: PlannerConfig | None = None,
) -> Float64[np.ndarray, "P 3"]:
    """Straight up from the start, by RRT* with the whole hand as the moving box, and straight down to the goal.

    Raises:
        ExtractionError: there is no way.
    """
    config = config or PlannerConfig()
    palm = np.maximum(np.abs(METAWORLD_GRIPPER.palm_low), np.abs(METAWORLD_GRIPPER.palm_high))
    size = np.array([2 * palm[0], 2 * palm[1], THING_M + HAND_TOP_M])
    shift = np.array([0.0, 0.0, (HAND_TOP_M - THING_M) / 2])  # from the place that is held to the middle of the box
    world = CollisionWorld(OrientedBox(start_xyz + shift, size, np.eye(3)), obstacles, config.clearance_m)
    ends = [_lifted(place, world, shift) for place in (start_xyz, goal_xyz)]
    middle = rrt_star(world, ends[0] + shift, ends[1] + shift, rng, config)
    if middle is None:
        raise ExtractionError("no way round the obstacles was found", where="around", mend="more iterations")
    path = shortcut(middle, world, rng, config.shortcuts) - shift
    return np.concatenate([start_xyz[None], path, goal_xyz[None]])


def _lifted(place: Float[np.ndarray, " 3"], world: CollisionWorld, shift: np.ndarray) -> Float64[np.ndarray, " 3"]:
    """The lowest place above at which the hand is free: fingers find room between things where a palm does not."""
    above = place + _LIFTS_M[:, None] * np.array([0.0, 0.0, 1.0])
    free = world.free(above + shift)
    if not free.any():
        raise ExtractionError(f"no free place above {np.round(place, 3).tolist()}", where="around")
    return above[free.argmax()]
