"""Straight moves among boxes, against dense sampling with the overlap that test_boxes holds against linear programs."""

import numpy as np
from box_scenes import any_box

from traceworld.tracespatial.boxes import separating_axes, stack
from traceworld.tracespatial.obstacles import CollisionWorld
from traceworld.tracespatial.scene import OrientedBox


def world(rng, count=6):
    obstacles = [any_box(rng, 0.8) for _ in range(count)]
    return any_box(rng), obstacles


def deepest(moving, obstacles, start, end, number=300):
    """Largest overlap (positive) or smallest gap (negative) on the way, by sampling positions."""
    at = start + np.linspace(0, 1, number)[:, None] * (end - start)
    return -separating_axes(moving, stack(obstacles)).gaps(at).min()


def test_moves_agree_with_sampling():
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(6):
        moving, obstacles = world(rng)
        start, end = rng.uniform(-1.5, 1.5, (2, 10, 3))
        free = CollisionWorld(moving, obstacles).moves_free(start, end)
        for i in range(10):
            worst = deepest(moving, obstacles, start[i], end[i])
            if abs(worst) > 0.01:  # the samples decide unless it is a graze
                assert free[i] == (worst < 0)
                verdicts.append(worst < 0)
    assert 0.1 < np.mean(verdicts) < 0.9


def test_a_thin_wall_is_not_jumped():
    moving = OrientedBox(np.zeros(3), np.full(3, 0.02), np.eye(3))
    wall = OrientedBox(np.array([0.5, 0, 0]), np.array([1e-4, 2, 2]), np.eye(3))
    free = CollisionWorld(moving, [wall]).moves_free(
        np.array([[0.0, 0, 0], [0, 0, 0]]), np.array([[1.0, 0.3, 0], [0.4, 0, 0]])
    )
    np.testing.assert_array_equal(free, [False, True])


def test_touching_is_free_and_clearance_is_kept():
    moving = OrientedBox(np.zeros(3), np.ones(3), np.eye(3))
    other = OrientedBox(np.zeros(3), np.ones(3), np.eye(3))
    at = np.array([[1.0, 0, 0], [0.999, 0, 0], [1.05, 0, 0]])
    np.testing.assert_array_equal(CollisionWorld(moving, [other]).free(at), [True, False, True])
    np.testing.assert_array_equal(CollisionWorld(moving, [other], 0.02).free(at), [False, False, True])


def test_where_a_move_is_blocked():
    moving = OrientedBox(np.zeros(3), np.full(3, 0.2), np.eye(3))
    walls = [OrientedBox(np.array([x, 0, 0]), np.array([0.2, 1, 1]), np.eye(3)) for x in (1.0, 3.0)]
    enter, leave, which = CollisionWorld(moving, walls).blocked(np.zeros(3), np.array([4.0, 0, 0]))
    order = np.argsort(which)
    np.testing.assert_allclose(enter[order], [0.8 / 4, 2.8 / 4], atol=1e-9)
    np.testing.assert_allclose(leave[order], [1.2 / 4, 3.2 / 4], atol=1e-9)
    np.testing.assert_array_equal(CollisionWorld(moving, walls).hits(np.array([2.95, 0, 0])), [1])


def test_a_push_just_separates_the_bounding_boxes():
    moving = OrientedBox(np.zeros(3), np.full(3, 0.2), np.eye(3))
    other = OrientedBox(np.array([0.15, 0.0, 0.0]), np.full(3, 0.2), np.eye(3))
    one = CollisionWorld(moving, [other])
    pushes = one.pushes(np.zeros(3), 0)
    assert one.free(pushes).all()
    np.testing.assert_allclose(np.sort(np.abs(pushes).sum(1))[0], 0.05, atol=1e-5)


def test_an_empty_world_is_free():
    moving = OrientedBox(np.zeros(3), np.ones(3), np.eye(3))
    assert CollisionWorld(moving, []).moves_free(np.zeros((3, 3)), np.ones((3, 3))).all()
