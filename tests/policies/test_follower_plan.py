"""Speed limits, waiting, and the passage of one plan into the next."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from traceworld.errors import InvalidInputError
from traceworld.policies.follower.plan import Plan, blend
from traceworld.policies.follower.speed import poses_at, retime

HZ = 80


def line(length_m: float, steps: int, turn_rad: float = 0.0) -> np.ndarray:
    poses = np.tile(np.eye(4), (steps + 1, 1, 1))
    share = np.linspace(0, 1, steps + 1)
    poses[:, 0, 3] = share * length_m
    poses[:, :3, :3] = Rotation.from_rotvec(share[:, None] * turn_rad * np.array([0, 0, 1.0])).as_matrix()
    return poses


def still_plan(x: float, start: int, count: int = 40, **options) -> Plan:
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 0, 3] = x
    return Plan(start, poses, np.zeros(count, bool), **options)


def test_a_slow_trace_keeps_its_time():
    timed, place = retime(line(0.1, 8), 0.025, 1 / HZ, 1.0, 1.0)
    assert len(timed) == 17  # 8 steps of 25 ms at 80 Hz
    assert np.allclose(timed[:, 0, 3], np.linspace(0, 0.1, 17))
    assert np.allclose(place, np.arange(17) / 2)


def test_a_trace_that_is_too_fast_is_stretched_and_its_path_kept():
    path = line(0.8, 8)
    path[:, 1, 3] = np.sin(np.linspace(0, np.pi, 9)) * 0.2
    timed, _ = retime(path, 0.025, 1 / HZ, 0.4, 1.0)
    speed = np.linalg.norm(np.diff(timed[:, :3, 3], axis=0), axis=1) * HZ
    assert speed.max() <= 0.4 + 1e-6
    assert speed[:-1].min() > 0.3
    corners = path[:, :3, 3]
    for point in timed[:, :3, 3]:  # every point lies on the polyline
        along = np.diff(corners, axis=0)
        share = np.clip(((point - corners[:-1]) * along).sum(1) / (along**2).sum(1), 0, 1)
        assert np.linalg.norm(corners[:-1] + share[:, None] * along - point, axis=1).min() < 1e-9
    assert np.allclose(timed[-1], path[-1])


def test_turning_has_its_own_limit():
    timed, _ = retime(line(0.001, 4, turn_rad=1.0), 0.025, 1 / HZ, 1.0, 0.5)
    assert (len(timed) - 1) / HZ == pytest.approx(2.0, abs=1 / HZ)
    turned = Rotation.from_matrix(timed[:, :3, :3]).magnitude()
    assert np.diff(turned).max() * HZ <= 0.5 + 1e-6


def test_without_a_clock_the_robot_goes_at_its_own_speed():
    timed, _ = retime(line(0.5, 5), None, 1 / HZ, 0.25, 1.0)
    assert (len(timed) - 1) / HZ == pytest.approx(2.0, abs=1 / HZ)


def test_it_waits_where_it_is_told_to():
    dwell = np.array([0.0, 0, 0.5, 0, 0])
    timed, place = retime(line(0.1, 4), 0.025, 1 / HZ, 1.0, 1.0, dwell)
    assert (place == 2).sum() == 41
    assert len(timed) == 8 + 40 + 1


@pytest.mark.parametrize("limits", [(0.0, 1.0), (1.0, -1.0)])
def test_impossible_limits_are_refused(limits):
    with pytest.raises(InvalidInputError, match="retime"):
        retime(line(0.1, 2), 0.025, 1 / HZ, *limits)


def test_poses_between_poses_turn_evenly():
    middle = poses_at(line(0.2, 1, turn_rad=1.0), np.array([0.25, 5.0]))
    assert middle[0, 0, 3] == pytest.approx(0.05)
    assert Rotation.from_matrix(middle[:, :3, :3]).magnitude() == pytest.approx([0.25, 1.0])


def test_a_plan_stays_at_its_end():
    plan = Plan(10, line(0.1, 4), np.array([False, False, True, True, True]))
    poses, closing = plan.window(12, 6)
    assert poses[:, 0, 3] == pytest.approx([0.05, 0.075, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert closing.all()
    assert len(closing) == 7
    assert plan.end == 14


def test_a_new_plan_begins_where_the_old_one_is_and_then_is_itself():
    old, new = still_plan(0.03, 0), still_plan(0.0, 8)
    mixed = blend(old, new, over=6)
    x = mixed.poses[:, 0, 3]
    assert x[0] == pytest.approx(0.03)
    assert np.array_equal(x[6:], np.zeros(34))
    assert (np.diff(x[:7]) < 0).all()
    assert new.poses[0, 0, 3] == 0.0  # the new plan itself is left as it was


def test_the_turn_is_blended_too():
    old = Plan(0, np.repeat(line(0.0, 1, turn_rad=0.6)[1:], 20, 0), np.zeros(20, bool))
    mixed = blend(old, still_plan(0.0, 5), over=4)
    angle = Rotation.from_matrix(mixed.poses[:, :3, :3]).magnitude()
    assert angle[0] == pytest.approx(0.6)
    assert angle[4:] == pytest.approx(0)
    assert (np.diff(angle[:5]) < 0).all()


def test_a_plan_that_has_gone_astray_is_not_pulled_along():
    mixed = blend(still_plan(1.0, 0), still_plan(0.0, 8), over=6, limit_m=0.05)
    assert mixed.poses[0, 0, 3] == pytest.approx(0.05)


def test_without_blending_the_new_plan_is_taken_as_it_is():
    new = still_plan(0.0, 8, ended=True)
    assert blend(still_plan(0.1, 0), new, over=0) is new
    assert blend(still_plan(0.1, 0), new, 3).ended
