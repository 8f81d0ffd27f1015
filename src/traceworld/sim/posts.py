"""Distractors for Meta-World's tasks: posts that stand on the table, one of them between a thing and where it shall go.

They are part of the physics: they stand fast, and the robot and what it carries can run into them. Where they stand follows from the
seed of the episode. A post keeps away from the thing and from its goal by as much as a hand needs to get hold of it from above.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int

from traceworld.errors import ConfigError
from traceworld.extras import require
from traceworld.sim.embodiments import SAWYER
from traceworld.sim.gantry import gantry_xml

NAME = "post"
MOST = 8
ROOM_FOR_THE_HAND_M = 0.1
"""Between a post's middle and the thing, or its goal, across the table."""
BETWEEN_M = 0.18
"""Shortest way across the table between whose ends a post finds room."""
HALF_WIDTH_M, HEIGHT_M = (0.012, 0.02), (0.09, 0.16)
TABLE_M = ((-0.28, 0.28), (0.5, 0.9))
"""Where posts may stand: x, y."""
_HIDDEN_Z = -2.0
_TRIES = 60


@dataclass(frozen=True, eq=False)
class Posts:
    """Those of an episode: `middle_xyz` [P,3] and `size_m` [P,3] (full side lengths) in the world, upright; `between`: whether
    the first stands in the straight way."""

    middle_xyz: Float64[np.ndarray, "P 3"]
    size_m: Float64[np.ndarray, "P 3"]
    between: bool


def with_posts(environment: type, count: int, robot: str = SAWYER) -> type:
    """A Meta-World environment class with so many posts in its model, below the floor until they are put up.

    Raises:
        ConfigError: too many.
    """
    if not 0 <= count <= MOST:
        raise ConfigError(f"{count}", where="posts", mend=f"0 to {MOST}")
    if count == 0:
        return environment

    def initialise(self: Any) -> tuple[Any, Any]:
        mujoco = require("mujoco")
        path = Path(self.fullpath)
        own = robot == SAWYER
        spec = mujoco.MjSpec.from_file(str(path)) if own else mujoco.MjSpec.from_string(gantry_xml(path))
        for number in range(count):
            body = spec.worldbody.add_body(name=f"{NAME}{number}", pos=[0, 0, _HIDDEN_Z])
            body.add_geom(
                name=f"{NAME}{number}",
                type=mujoco.mjtGeom.mjGEOM_BOX,
                size=[HALF_WIDTH_M[1], HALF_WIDTH_M[1], HEIGHT_M[1] / 2],  # the largest: its bounds are kept
                group=1,
                rgba=[0.85, 0.65, 0.1, 1.0],
            )
        model = spec.compile()
        return model, mujoco.MjData(model)

    return type(f"{environment.__name__}WithPosts", (environment,), {"_initialize_simulation": initialise})


def draw_posts(
    start_xyz: Float[np.ndarray, " 3"], goal_xyz: Float[np.ndarray, " 3"], count: int, rng: np.random.Generator
) -> Posts:
    """Where an episode's posts stand, on the table at z = 0: the first half way, if there is room, the others beside the way."""
    way = goal_xyz[:2] - start_xyz[:2]
    between = bool(np.linalg.norm(way) >= BETWEEN_M)
    middles: list[np.ndarray] = []
    sizes = np.column_stack([rng.uniform(*HALF_WIDTH_M, (count, 2)) * 2, rng.uniform(*HEIGHT_M, count)])
    for number in range(count):
        if number == 0 and between:
            middles.append(start_xyz[:2] + rng.uniform(0.47, 0.53) * way)
            continue
        for _ in range(_TRIES):
            spot = np.array([rng.uniform(*side) for side in TABLE_M])
            others = [start_xyz[:2], goal_xyz[:2]]
            if min(np.linalg.norm(spot - other) for other in others) < ROOM_FOR_THE_HAND_M:
                continue
            if all(np.linalg.norm(spot - other) > 0.08 for other in middles):
                middles.append(spot)
                break
        else:
            middles.append(np.array([0.45, 0.85 - 0.08 * number]))  # a corner that no task uses
    xy = np.array(middles).reshape(-1, 2)
    return Posts(np.column_stack([xy, sizes[:, 2] / 2]), sizes, between)


def put_up(model: Any, posts: Posts) -> None:
    """Place them in a model that has as many."""
    for number, (middle, size) in enumerate(zip(posts.middle_xyz, posts.size_m, strict=True)):
        model.body(f"{NAME}{number}").pos[:] = middle
        model.geom(f"{NAME}{number}").size[:] = size / 2


def post_geoms(model: Any, count: int) -> Int[np.ndarray, " P"]:
    """Numbers of the shapes of so many posts in a model that has them."""
    return np.array([model.geom(f"{NAME}{number}").id for number in range(count)], np.int64)


def touched(data: Any, geoms: Int[np.ndarray, " P"]) -> bool:
    """Whether anything touches one of these shapes now."""
    return bool(np.isin(data.contact.geom[: data.ncon], geoms).any())
