"""A foreseen grasp is carried out where the thing is measured to be, on paths and openings that are known."""

import numpy as np
import pytest
from follower_scenes import EFFECTOR, AnalyticTraces, PointRobot

from traceworld.policies.follower import policy
from traceworld.policies.follower.events import closing_from_opening
from traceworld.policies.follower.grasp import AT_HAND_M, Grasp, grasp_of_part
from traceworld.policies.follower.gripper import METAWORLD_GRIPPER
from traceworld.policies.follower.policy import TraceFollower

T = 24
GRIP = np.array(METAWORLD_GRIPPER.grasp_point)
OPENING = np.interp(np.arange(T), [10, 14], [1.0, 0.4])


def down_and_up(bottom, start=(0.0, 0.0, 0.3)) -> np.ndarray:
    """A tool whose grasp point goes straight to `bottom` in 12 steps, stays for four, and rises a centimetre a step."""
    poses = np.tile(np.eye(4), (T, 1, 1))
    share = np.clip(np.arange(T) / 12, 0, 1)[:, None]
    poses[:, :3, 3] = (1 - share) * np.array(start) + share * (np.array(bottom) - GRIP)
    poses[16:, 2, 3] += 0.01 * np.arange(1, T - 15)
    return poses


def box(middle, half) -> np.ndarray:
    return np.array(middle) + np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * np.array(half)


def grasp(poses, part, opening=OPENING, closed=False) -> Grasp | None:
    return grasp_of_part(poses, opening, closing_from_opening(opening, closed), closed, part, METAWORLD_GRIPPER)


def test_the_path_is_bent_to_the_thing_and_goes_on_as_foreseen():
    part, poses = box((0.1, 0.02, 0.03), (0.02, 0.02, 0.02)), down_and_up((0.06, 0.05, 0.05))
    found = grasp(poses, part)
    point = found.poses[found.step, :3, 3] + GRIP
    assert (np.abs(point - (0.1, 0.02, 0.03)) <= 0.010001).all()  # a centimetre inside on every side
    assert 10 <= found.step <= 15
    assert not found.closing[: found.step].any()
    assert found.closing[found.step :].all()
    assert np.array_equal(found.poses[0], poses[0])  # from where the robot is
    moved = np.diff(found.poses[:, :3, 3], axis=0)[found.step :]
    assert np.allclose(moved, np.diff(poses[:, :3, 3], axis=0)[found.step :])


def test_the_tool_is_over_the_thing_before_it_is_down():
    poses = down_and_up((0.06, 0.05, 0.05))
    found = grasp(poses, box((0.1, 0.02, 0.03), (0.02, 0.02, 0.02)))
    place, goal = found.poses[: found.step + 1, :3, 3], found.poses[found.step, :3, 3]
    aside = np.linalg.norm((place - goal)[:, :2], axis=1)
    assert (np.diff(aside) <= 1e-9).all()  # straight there
    late = int(0.6 * found.step) + 1
    assert aside[late] < 1e-9
    assert place[late, 2] > goal[2] + 0.04
    assert np.abs(np.diff(place[:, 2])).max() < 0.03  # and it does not fall


def test_of_a_long_thing_the_place_that_was_chosen_stays():
    rod = box((0.0, 0.02, 0.05), (0.15, 0.012, 0.012))
    found = grasp(down_and_up((0.06, 0.05, 0.05)), rod)
    point = found.poses[found.step, :3, 3] + GRIP
    assert point[0] == pytest.approx(0.06, abs=1e-9)
    assert point[1] == pytest.approx(0.022, abs=1e-9)


def test_what_is_between_the_fingers_is_closed_on_at_once():
    part, poses = box((0.0, 0.0, 0.2), (0.02, 0.02, 0.02)), down_and_up((0.01, 0.0, 0.19), start=(0.0, 0.005, 0.235))
    found = grasp(poses, part)
    assert found.step == 0
    assert found.closing.all()
    assert np.array_equal(found.poses[0], poses[0])
    rise = found.poses[-1, :3, 3] - found.poses[0, :3, 3]
    assert np.allclose(rise, [0, 0, 0.08])  # what comes after the closing, and not the way to it
    beside = down_and_up((0.01, 0.0, 0.19), start=(0.01 + AT_HAND_M + 0.001, 0.0, 0.23))
    assert grasp(beside, part).step > 0


def test_it_opens_again_where_the_traces_do():
    opening = np.interp(np.arange(T), [6, 9, 18, 21], [1.0, 0.4, 0.4, 1.0])
    found = grasp(down_and_up((0.06, 0.05, 0.05)), box((0.08, 0.04, 0.05), (0.02, 0.02, 0.02)), opening)
    assert found.closing[found.step]
    assert not found.closing[-1]


@pytest.mark.parametrize(
    ("part", "opening", "closed"),
    [
        (box((0.06, 0.05, 0.05), (0.02, 0.02, 0.02)), OPENING, True),  # the fingers are closed already
        (box((0.06, 0.05, 0.05), (0.02, 0.02, 0.02)), np.ones(T), False),  # and here they never close
        (box((0.06, 0.05, 0.05), (0.02, 0.06, 0.02)), OPENING, False),  # wider than the gripper opens
        (box((0.2, 0.05, 0.05), (0.02, 0.02, 0.02)), OPENING, False),  # they close on something else
    ],
)
def test_what_is_no_grasp_of_the_part_is_left_as_it_is(part, opening, closed):
    assert grasp(down_and_up((0.06, 0.05, 0.05)), part, opening, closed) is None


def erring(robot: PointRobot, error):
    """The future of a robot that would go to a place beside the block, close there, and lift the block all the same."""

    def future(now, times):
        later = np.empty((len(times), len(now), 3))
        tool, opening, held, block = robot.tool.copy(), robot.opening, robot.held, robot.block.copy()
        is_block = np.linalg.norm(now - block, axis=1) < 0.03
        half = np.sign((now - tool)[:, 1]) * ((now - tool)[:, 2] < 0.05) * ~is_block
        first_tool, first_block, first_opening, last = tool.copy(), block.copy(), opening, 0.0
        for k, t in enumerate(times):
            dt, last = t - last, t
            aim = block + np.array(error) - GRIP - tool
            if held:
                tool, block = tool + np.array([0, 0, 0.15 * dt]), block + np.array([0, 0, 0.15 * dt])
            elif np.linalg.norm(aim) > 0.004:
                tool = tool + aim * min(1.0, 0.3 * dt / np.linalg.norm(aim))
            else:
                opening = max(opening - 2.0 * dt, 0.5)
                held = opening <= 0.55
            move = np.where(is_block[:, None], block - first_block, tool - first_tool)
            move[:, 1] += half * (opening - first_opening) * 0.05
            later[k] = now + move
        return later

    return future


@pytest.mark.parametrize("grasps", [True, False])
def test_a_predictor_that_is_four_centimetres_off_still_picks_up(grasps, monkeypatch):
    if not grasps:  # what it was without
        monkeypatch.setattr(policy, "grasp_of_part", lambda *_: None)
    robot = PointRobot(tool=(0.0, 0.0, 0.25), block=(0.06, 0.0, 0.15))
    follower = TraceFollower(AnalyticTraces(robot.camera, erring(robot, (0.04, 0.0, 0.0))), EFFECTOR)
    while robot.step_number < 240:
        for action in follower.act(robot.observe()).actions:
            robot.step(action)
    assert robot.held == grasps
    assert (robot.block[2] > 0.2) == grasps
