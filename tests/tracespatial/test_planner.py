"""RRT*, escape, shortcuts and the via cost."""

from itertools import pairwise

import numpy as np
import pytest

from traceworld.errors import ConfigError
from traceworld.tracespatial import planner as p
from traceworld.tracespatial.boxes import separating_axes, stack
from traceworld.tracespatial.obstacles import CollisionWorld
from traceworld.tracespatial.scene import OrientedBox


def block(center, size):
    return OrientedBox(np.array(center, float), np.array(size, float), np.eye(3))


MOVER = block([0, 0, 0], [0.08, 0.08, 0.08])
WALL = block([0.3, 0, 0], [0.02, 0.4, 0.4])
START, GOAL = np.zeros(3), np.array([0.6, 0, 0])


def clear_every_millimetre(path, mover, obstacles):
    """The smallest gap on the way, by sampling (never through the planner's own test of moves)."""
    points = np.concatenate([a + np.linspace(0, 1, 400)[:, None] * (b - a) for a, b in pairwise(path)])
    return separating_axes(mover, stack(obstacles)).gaps(points).min()


def around_the_wall():
    """The shortest way of the mover's centre around the wall: over one of its grown edges, both ends on its level."""
    over = 0.2 + 0.04
    return 2 * np.hypot(0.3 - 0.05, over) + 2 * 0.05


@pytest.mark.parametrize("seed", range(3))
def test_a_path_around_a_wall_is_free_and_short(seed):
    world = CollisionWorld(MOVER, [WALL])
    rng = np.random.default_rng(seed)
    path = p.rrt_star(world, START, GOAL, rng)
    np.testing.assert_allclose(path[[0, -1]], [START, GOAL])
    assert clear_every_millimetre(path, MOVER, [WALL]) > -1e-6
    assert p.path_length(path) < 1.8 * around_the_wall()
    short = p.shortcut(path, world, rng, 60)
    assert clear_every_millimetre(short, MOVER, [WALL]) > -1e-6
    assert p.path_length(short) < 1.3 * around_the_wall()
    assert around_the_wall() - 1e-6 <= p.path_length(short) <= p.path_length(path) + 1e-9
    assert len(short) <= len(path)


def test_steps_are_no_longer_than_the_rewiring_radius_and_seeds_decide():
    world = CollisionWorld(MOVER, [WALL])
    paths = [p.rrt_star(world, START, GOAL, np.random.default_rng(seed)) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(paths[0], paths[1])
    assert not np.array_equal(paths[0], paths[2])
    assert np.linalg.norm(np.diff(paths[0], axis=0), axis=1).max() <= 0.25 + 1e-9


def test_costs_in_the_tree_stay_true_after_rewiring():
    tree = p._Tree(CollisionWorld(MOVER, [WALL]), START, GOAL, p.PlannerConfig())
    tree.grow(np.random.default_rng(0))
    for node in range(1, tree.size):
        parent = tree.parent[node]
        assert node in tree.children[parent]
        length = np.linalg.norm(tree.xyz[node] - tree.xyz[parent])
        assert tree.cost[node] == pytest.approx(tree.cost[parent] + length)


def test_a_free_straight_way_is_taken():
    path = p.rrt_star(CollisionWorld(MOVER, []), START, GOAL, np.random.default_rng(0))
    np.testing.assert_array_equal(path, [START, GOAL])


def test_no_way_is_said_and_not_made_up():
    cage = [block(c, s) for c, s in (
        ([0.12, 0, 0], [0.02, 0.4, 0.4]), ([-0.12, 0, 0], [0.02, 0.4, 0.4]), ([0, 0.12, 0], [0.4, 0.02, 0.4]),
        ([0, -0.12, 0], [0.4, 0.02, 0.4]), ([0, 0, 0.12], [0.4, 0.4, 0.02]), ([0, 0, -0.12], [0.4, 0.4, 0.02]),
    )]  # fmt: skip
    world = CollisionWorld(MOVER, cage)
    few = p.PlannerConfig(max_iterations=60)
    assert p.rrt_star(world, START, GOAL, np.random.default_rng(0), few) is None
    assert p.rrt_star(world, START, np.array([0.12, 0, 0]), np.random.default_rng(0), few) is None  # goal in the wall
    assert p.plan(MOVER, GOAL, tuple(cage), np.random.default_rng(0), config=few) is None


def test_what_stands_on_a_table_escapes_upwards_and_lifts():
    table = block([0, 0, -0.54], [2, 2, 1])  # its top touches the mover's lower face
    config = p.PlannerConfig()
    world = CollisionWorld(MOVER, [table], config.clearance_m)
    out = p.escape(world, START, config)
    np.testing.assert_allclose(out, [0, 0, config.clearance_m + config.lift_m], atol=1e-9)
    assert world.free(out[None])[0]
    floating = np.array([0, 0, 0.5])
    assert p.escape(world, floating, config) is floating


def test_beside_a_wall_it_escapes_sideways():
    config = p.PlannerConfig()
    wall = block([0, 0.535, 0], [2, 1, 2])  # 5 mm into the mover's side
    out = p.escape(CollisionWorld(MOVER, [wall], config.clearance_m), START, config)
    np.testing.assert_allclose(out, [0, -(0.005 + config.clearance_m + config.lift_m), 0], atol=1e-9)
    table, lid = block([0, 0, -0.54], [2, 2, 1]), block([0, 0, 0.5], [2, 2, 0.92])
    assert p.escape(CollisionWorld(MOVER, [table, lid], config.clearance_m), START, config) is None


def test_an_escape_leads_through_nothing_and_is_short():
    """On a table's edge under a shelf: over the edge there is more room, but a post stands before it, or it is far."""
    config = p.PlannerConfig()
    table, shelf = block([0.6, 0, -0.54], [2, 2, 1]), block([0, 0, 0.35], [2, 2, 0.02])
    post = block([-0.2, 0, 0], [0.04, 0.04, 0.08])
    up = [0, 0, config.clearance_m + config.lift_m]
    for obstacles in ([table, shelf, post], [table, shelf]):
        out = p.escape(CollisionWorld(MOVER, obstacles, config.clearance_m), START, config)
        np.testing.assert_allclose(out, up, atol=1e-9)


def test_where_no_axis_leads_out_it_is_pushed_out():
    """Two long beams that meet in a corner: each axis stays in one of them, the two smallest pushes together lead out."""
    config = p.PlannerConfig(clearance_m=0.0)
    beams = [block([0.53, 0, 0], [1, 4, 4]), block([0, 0.53, 0], [4, 1, 4])]
    world = CollisionWorld(MOVER, beams)
    out = p.escape(world, START, config)
    np.testing.assert_allclose(out, [-0.01, -0.01, 0], atol=1e-4)
    assert p.escape(world, START, p.PlannerConfig(clearance_m=0.0, escape_limit_m=0.01)) is None


def test_via_cost_by_hand():
    start, goal = np.array([0.0, 0, 0]), np.array([1.0, 0, 0])
    vias = np.array([[0.5, 0.5, 0], [-0.2, 0.0, 0.1], [0.5, 0.0, 0.0]])
    first = 1.0 * 2 * np.sqrt(0.5) + 0.3 * np.pi / 2 + 2.0 * 0 + 0.2 * 0.5
    legs = np.hypot(0.2, 0.1), np.hypot(1.2, 0.1)
    turn = np.arccos((-0.2 * 1.2 - 0.1 * 0.1) / (legs[0] * legs[1]))
    second = sum(legs) + 0.3 * turn + 2.0 * 1 + 0.2 * 0.1
    np.testing.assert_allclose(p.via_cost(start, vias, goal), [first, second, 1.0], atol=1e-12)


def test_via_candidates_touch_but_for_the_margin():
    post = block([0.3, 0.1, 0.05], [0.1, 0.2, 0.3])
    vias = p.via_candidates(MOVER, post, p.AXIS_DIRECTIONS, 0.03)
    found = separating_axes(MOVER, stack([post])).gaps(vias)[:, 0]
    np.testing.assert_allclose(found, 0.03, atol=1e-12)
    np.testing.assert_allclose(vias[0], [0.3, 0.1, 0.05 + 0.15 + 0.04 + 0.03])


def test_a_detour_passes_its_via_point_on_the_cheapest_side():
    post = block([0.3, 0, 0], [0.06, 0.06, 0.6])
    config = p.PlannerConfig()
    planned = p.plan(MOVER, GOAL, (post,), np.random.default_rng(0), passed=post, config=config)
    assert planned.escape_points == 0
    np.testing.assert_array_equal(p.across(p.AXIS_DIRECTIONS, GOAL), [True, False, False, True, True, True])
    assert abs(planned.via_direction[1]) == 1  # left or right; over the post is far
    assert p.distance_to_path(planned.via_xyz, planned.xyz) <= config.via_slack_m
    assert clear_every_millimetre(planned.xyz, MOVER, [post]) >= config.clearance_m - 1e-6
    blocked = block(planned.via_xyz, [0.05, 0.05, 0.05])
    other = p.plan(MOVER, GOAL, (post, blocked), np.random.default_rng(0), passed=post, config=config)
    np.testing.assert_allclose(other.via_direction, -planned.via_direction)


def test_shortcuts_respect_the_via_point():
    detour = np.array([[0.0, 0, 0], [0.3, 0.5, 0], [0.6, 0, 0]])
    world = CollisionWorld(MOVER, [])
    rng = np.random.default_rng(0)
    kept = p.shortcut(detour, world, rng, 80, via_xyz=detour[1], via_slack_m=0.12)
    assert p.distance_to_path(detour[1], kept) <= 0.12
    assert p.path_length(kept) < p.path_length(detour)
    np.testing.assert_allclose(p.shortcut(detour, world, rng, 80), detour[[0, 2]])


def test_distance_to_path():
    path = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0]])
    assert p.distance_to_path(np.array([0.5, 0.2, 0]), path) == pytest.approx(0.2)
    assert p.distance_to_path(np.array([1.3, 1.4, 0]), path) == pytest.approx(0.5)


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError):
        p.PlannerConfig(goal_bias=1.5)
