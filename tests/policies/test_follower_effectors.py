"""Displacements for a Cartesian robot."""

import numpy as np
import pytest
from follower_scenes import SPEC

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.policies.follower.effectors import CartesianEffector
from traceworld.traces.robot import ActionSpec


def path(*places) -> np.ndarray:
    poses = np.tile(np.eye(4), (len(places), 1, 1))
    poses[:, :3, 3] = places
    return poses


EFFECTOR = CartesianEffector(SPEC, response=0)
STATE = np.array([0.1, 0.6, 0.2, 0.7], np.float32)


def test_displacements_are_in_units_of_a_centimetre():
    poses = path([0.1, 0.6, 0.2], [0.105, 0.6, 0.2], [0.105, 0.598, 0.2])
    actions = EFFECTOR.actions(STATE, poses, np.array([False, True]))
    assert np.allclose(actions, [[0.5, 0, 0, -1], [0, -0.2, 0, 1]], atol=1e-5)


def test_the_lag_is_made_up_for_by_and_by():
    still = path(*[[0.104, 0.6, 0.2]] * 30)
    actions = EFFECTOR.actions(STATE, still, np.zeros(29, bool))
    assert actions[0, 0] == pytest.approx(0.15 * 0.4, rel=1e-3)
    assert 0.01 * actions[:, 0].sum() == pytest.approx(0.004, rel=0.02)
    assert (np.diff(actions[:, 0]) < 0).all()


def test_bounds_are_kept():
    actions = EFFECTOR.actions(STATE, path([0.1, 0.6, 0.2], [0.3, 0.2, 0.2]), np.zeros(1, bool))
    assert actions[0] == pytest.approx([1.0, -1.0, 0.0, -1.0], abs=1e-6)
    assert EFFECTOR.max_speed_mps == pytest.approx(0.8)


def test_the_tool_is_read_from_the_state():
    tool = EFFECTOR.tool(STATE)
    assert np.allclose(tool.world_from_tool[:3, 3], STATE[:3])
    assert tool.opening == pytest.approx(0.7)


def test_a_soft_servo_is_led_by_its_response_time():
    """A first-order lag of three steps, told a path three steps ahead, stays on it; told the path itself, it does not."""

    def farthest_off(response):
        robot = CartesianEffector(SPEC, response=response, gain=0.0)
        x = 0.1 * (1 - np.cos(np.arange(200) / 25))
        tool = command = 0.0
        off = []
        for k in range(190):
            poses = path(*[[value, 0, 0] for value in x[k : k + 2 + response]])
            command += 0.01 * robot.actions(np.zeros(4, np.float32), poses, np.zeros(1, bool))[0, 0]
            tool += (command - tool) / 4  # (1 − 1/4) / (1/4) = 3 steps
            off.append(abs(tool - x[k + 1]))
        return max(off)

    assert farthest_off(3) < 0.002 < 0.01 < farthest_off(0)


def test_what_is_settled_is_taken_for_done():
    there = EFFECTOR.after(STATE, np.array([[1, 0, 0, 1], [0.5, 0, -1, 1]], np.float32))
    assert there == pytest.approx([0.115, 0.6, 0.19, 0.7])
    assert np.array_equal(EFFECTOR.after(STATE, np.zeros((0, 4), np.float32)), STATE)


@pytest.mark.parametrize(("poses", "grips", "response"), [(1, 0, 0), (2, 2, 0), (3, 2, 1)])
def test_poses_and_grips_must_go_together(poses, grips, response):
    with pytest.raises(InvalidInputError, match="response of"):
        CartesianEffector(SPEC, response=response).actions(STATE, path(*[STATE[:3]] * poses), np.zeros(grips, bool))


def test_another_kind_of_robot_is_refused():
    with pytest.raises(ConfigError, match="dx, dy, dz"):
        CartesianEffector(ActionSpec(("q1",), (-1.0,), (1.0,), SPEC.control_hz))
