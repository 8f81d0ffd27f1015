"""Distractors: where they stand follows from the seed, they are part of the physics, and without them nothing changes."""

import numpy as np
import pytest

from traceworld.errors import ConfigError
from traceworld.sim import posts
from traceworld.sim.control import MetaworldEnv
from traceworld.sim.posts import BETWEEN_M, HALF_WIDTH_M, HEIGHT_M, MOST, ROOM_FOR_THE_HAND_M, draw_posts
from traceworld.sim.worlds import World

START, GOAL = np.array([0.0, 0.62, 0.02]), np.array([0.05, 0.86, 0.02])


@pytest.mark.parametrize("seed", range(20))
def test_one_stands_in_the_way_and_the_others_leave_room(seed):
    drawn = draw_posts(START, GOAL, 5, np.random.default_rng(seed))
    assert drawn.between
    way = GOAL[:2] - START[:2]
    share = (drawn.middle_xyz[0, :2] - START[:2]) @ way / (way @ way)
    assert 0.45 < share < 0.55
    for other in drawn.middle_xyz[1:, :2]:
        assert min(np.linalg.norm(other - START[:2]), np.linalg.norm(other - GOAL[:2])) >= ROOM_FOR_THE_HAND_M
    assert np.allclose(drawn.middle_xyz[:, 2], drawn.size_m[:, 2] / 2)  # they stand on the table
    assert (drawn.size_m[:, :2] <= 2 * HALF_WIDTH_M[1]).all()
    assert (drawn.size_m[:, 2] <= HEIGHT_M[1]).all()


def test_a_short_way_has_no_room_between_its_ends():
    near = START + np.array([0.0, BETWEEN_M - 0.01, 0.0])
    drawn = draw_posts(START, near, 3, np.random.default_rng(0))
    assert not drawn.between
    assert np.linalg.norm(drawn.middle_xyz[:, None, :2] - np.stack([START, near])[:, :2], axis=-1).min() >= 0.1


def test_an_episode_has_the_posts_of_its_seed():
    world = World("push", posts=3)
    first = world.reset(7)
    drawn = world.posts
    where = [world.simulation().model.body(f"post{n}").pos.copy() for n in range(3)]
    assert np.allclose(where, drawn.middle_xyz)
    world.reset(8)
    assert not np.allclose(world.posts.middle_xyz, drawn.middle_xyz)
    again = world.reset(7)
    assert np.array_equal(first, again)
    assert np.array_equal(world.posts.middle_xyz, drawn.middle_xyz)
    assert np.array_equal(first, World("push").reset(7))  # the task itself is the same


def test_the_expert_runs_into_what_it_does_not_know():
    env = MetaworldEnv("push", posts=2)
    touched = []
    for seed in range(40, 46):
        env.reset(seed)
        assert env.touched is False
        expert = env.expert()
        for _ in range(120):
            if env.step(np.clip(expert.get_action(env.expert_view()), -1, 1)).finished:
                break
        if env.world.posts.between:
            touched.append(env.touched)
        begun = env.snapshot()
        env.reset(seed)
        env.restore(begun)
        assert env.touched == begun.touched
    assert len(touched) >= 2
    assert all(touched)


def test_without_posts_nothing_can_be_touched():
    env = MetaworldEnv("push")
    env.reset(3)
    env.step(np.zeros(4))
    assert env.touched is None
    assert env.world.posts is None
    assert not env.world.touches_post()


@pytest.mark.parametrize("robot", ["sawyer", "gantry"])
def test_they_are_seen_where_they_stand(robot):
    env = MetaworldEnv("push", posts=1, robot=robot)
    env.reset(41)
    stage = env.world.stage()
    stage.load(env.world.scene())
    assert np.allclose(stage.data.body("post0").xpos, env.world.posts.middle_xyz[0])
    geom = stage.model.geom("post0")
    assert np.allclose(2 * geom.size, env.world.posts.size_m[0])
    assert geom.rbound[0] >= np.linalg.norm(geom.size)  # or contacts would be missed


def test_too_many_are_refused():
    with pytest.raises(ConfigError, match="posts"):
        World("push", posts=MOST + 1)
    assert posts.with_posts(object, 0) is object
