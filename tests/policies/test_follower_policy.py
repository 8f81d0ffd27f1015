"""The follower moves a simulated point robot along traces whose formula is known."""

import numpy as np
import pytest
from follower_scenes import EFFECTOR, SPEC, AnalyticTraces, PointRobot

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.geometry.cameras import uvz_to_world
from traceworld.policies.chunking import InpaintingPolicy
from traceworld.policies.follower.effectors import CartesianEffector
from traceworld.policies.follower.keypoints import Role
from traceworld.policies.follower.policy import FollowerConfig, TraceFollower
from traceworld.policies.policy import Policy
from traceworld.traces.robot import RobotObservation


def circle(robot: PointRobot, radius: float = 0.12, seconds: float = 2.0):
    """Everything seen turns round a circle (without turning itself) through the start, at constant speed."""
    start = robot.tool.copy()

    def place(t):
        phase = 2 * np.pi * np.asarray(t) / seconds
        return start + radius * np.stack([1 - np.cos(phase), 0 * phase, np.sin(phase)], -1)

    def future(now, times):
        t = robot.step_number / SPEC.control_hz
        return now + (place(t + times) - robot.tool)[:, None]  # back to the path, wherever the robot is

    return place, future


def drive(follower: TraceFollower, robot: PointRobot, steps: int) -> None:
    while robot.step_number < steps:
        for action in follower.act(robot.observe()).actions:
            robot.step(action)


@pytest.mark.parametrize(("lag", "response"), [(1.0, 0), (0.25, 3)])
def test_a_point_robot_stays_within_a_centimetre_of_the_path(lag, response):
    robot = PointRobot(lag=lag)
    place, future = circle(robot)
    effector = CartesianEffector(SPEC, response=response)
    follower = TraceFollower(AnalyticTraces(robot.camera, future), effector)
    drive(follower, robot, 160)
    ideal = place(np.linspace(0, 2, 2000))
    off = [np.linalg.norm(ideal - point, axis=1).min() for point in robot.path]
    assert max(off) < 0.01
    travelled = np.linalg.norm(np.diff(robot.path, axis=0), axis=1).sum()
    assert travelled == pytest.approx(2 * np.pi * 0.12, rel=0.1)  # and goes all the way round


def test_it_is_a_policy_and_gives_the_same_actions_for_the_same_seed():
    def actions(seed):
        robot = PointRobot()
        follower = TraceFollower(AnalyticTraces(robot.camera, circle(robot)[1]), EFFECTOR)
        assert isinstance(follower, Policy)
        assert follower.name == "follow:formula"
        follower.reset(seed)
        return follower.act(robot.observe()).actions

    assert np.array_equal(actions(3), actions(3))


def grasp_and_lift(robot: PointRobot):
    """The true future of a robot that goes down to the block, closes, and lifts it; formulated from the robot's state."""
    grip = np.array([0, 0, -0.03])

    def future(now, times):
        later = np.empty((len(times), len(now), 3))
        tool, opening, held, block = robot.tool.copy(), robot.opening, robot.held, robot.block.copy()
        is_block = np.linalg.norm(now - block, axis=1) < 0.03
        half = np.sign((now - tool)[:, 1]) * ((now - tool)[:, 2] < 0.05) * ~is_block  # which finger, 0 palm
        first_tool, first_block, first_opening, last = tool.copy(), block.copy(), opening, 0.0
        for k, t in enumerate(times):
            dt, last = t - last, t
            to_block = block - grip - tool
            if held:
                tool, block = tool + np.array([0, 0, 0.15 * dt]), block + np.array([0, 0, 0.15 * dt])
            elif np.linalg.norm(to_block) > 0.004:
                tool = tool + to_block * min(1.0, 0.3 * dt / np.linalg.norm(to_block))
            else:
                opening = max(opening - 2.0 * dt, 0.5)
                held = opening <= 0.55
            move = np.where(is_block[:, None], block - first_block, tool - first_tool)
            move[:, 1] += half * (opening - first_opening) * 0.05
            later[k] = now + move
        return later

    return future


def test_it_grasps_where_the_fingers_close_and_lifts_the_block():
    robot = PointRobot(tool=(0.0, 0.0, 0.3), block=(0.08, 0.0, 0.15))
    follower = TraceFollower(AnalyticTraces(robot.camera, grasp_and_lift(robot)), EFFECTOR)
    drive(follower, robot, 240)
    assert robot.held
    assert robot.block[2] > 0.2


@pytest.mark.parametrize("replan_every", [8, 400])
def test_without_a_gripper_in_its_traces_it_finds_its_own_way_to_the_part(replan_every):
    """The predictor moves the block alone: the approach is made up from geometry."""
    robot = PointRobot(tool=(0.0, 0.0, 0.3), block=(0.1, 0.02, 0.12))

    def future(now, times):
        block = np.linalg.norm(now - robot.block, axis=1) < 0.03
        rise = np.minimum(times * 0.25, max(0.27 - robot.block[2], 0.0))
        return now + block[:, None] * rise[:, None, None] * np.array([0, 0, 1.0])

    follower = TraceFollower(
        AnalyticTraces(robot.camera, future), EFFECTOR, FollowerConfig(replan_every=replan_every, chunk=8)
    )
    drive(follower, robot, 320)
    assert robot.held
    assert robot.block[2] > 0.2


def test_it_stops_where_the_validity_ends_and_says_when_it_is_done():
    robot = PointRobot()

    def future(now, times):
        return now + times[:, None, None] * np.array([0.2, 0, 0])

    predictor = AnalyticTraces(robot.camera, future, valid_steps=8)  # 0.2 s, 4 cm
    follower = TraceFollower(predictor, EFFECTOR, FollowerConfig(replan_every=1000, chunk=4))
    first = follower.act(robot.observe())
    assert not first.done
    assert follower._plan.poses[-1, 0, 3] == pytest.approx(0.04, abs=1e-4)
    predictor.valid_steps = 0
    follower.reset()
    done = []
    for _ in range(12):
        chunk = follower.act(robot.observe())
        done.append(chunk.done)
        for action in chunk.actions:
            robot.step(action)
    assert done[-1]
    assert np.linalg.norm(robot.tool - [0, 0, 0.3]) < 1e-6


def test_the_past_of_the_gripper_is_told_and_nothing_of_the_scene():
    robot = PointRobot(block=(0.1, 0.0, 0.1))
    predictor = AnalyticTraces(robot.camera, circle(robot)[1])
    follower = TraceFollower(predictor, EFFECTOR)
    drive(follower, robot, 40)
    asked = predictor.asked[-1]
    scene = asked.part_id == Role.SCENE
    assert scene.any()
    assert np.isnan(asked.history_uvz[scene]).all()
    told = asked.history_uvz[~scene]
    assert np.isfinite(told).all()
    # Step k of the history lies (8 − k) · 25 ms = 2 (8 − k) control steps back, where the whole gripper was.
    now, c = follower._planned_at, robot.camera
    anchor = np.concatenate([asked.keypoints_uv, asked.keypoints_z_m[:, None]], axis=1)[~scene]
    here = uvz_to_world(anchor, c.K, c.cam_from_world, c.width, c.height)
    there = uvz_to_world(told.astype(float), c.K, c.cam_from_world, c.width, c.height)
    for k in range(8):
        back = robot.path[now - 2 * (8 - k)] - robot.path[now]
        assert np.abs(there[:, k] - here - back).max() < 2e-3  # between two calls it moved on a curve
    assert np.abs(there[:, 0] - here).max() > 0.03
    assert predictor.asked[0].history_uvz is None  # there was none yet


def test_a_gripper_that_stood_or_crept_has_no_past():
    """A predictor that is shown a standing gripper foresees that it stands, and so it would for ever."""
    robot = PointRobot()
    speed = 0.1

    def future(now, times):
        return now + times[:, None, None] * np.array([speed, 0, 0])

    predictor = AnalyticTraces(robot.camera, future)
    follower = TraceFollower(predictor, EFFECTOR)
    drive(follower, robot, 64)
    assert all(asked.history_uvz is None for asked in predictor.asked)  # 2 cm in the 0.2 s that are told of
    speed = 0.5
    drive(follower, robot, 128)
    assert predictor.asked[-1].history_uvz is not None


def test_it_goes_on_from_actions_that_are_settled():
    robot = PointRobot(lag=1.0)

    def future(now, times):
        return now + times[:, None, None] * np.array([0.2, 0, 0])  # 2.5 mm, a quarter of a unit, each step

    follower = TraceFollower(AnalyticTraces(robot.camera, future), CartesianEffector(SPEC, response=0))
    settled = np.array([[0.0, 0, 0, -1]] * 6, np.float32)  # 6 steps of standing still: 15 mm behind
    chunk = follower.act_after(robot.observe(), settled).actions
    assert len(chunk) == 6 + follower.config.chunk
    assert np.array_equal(chunk[:6], settled)
    assert chunk[6, 0] == pytest.approx(0.25 + 0.15 * 1.5, rel=1e-3)
    assert isinstance(follower, InpaintingPolicy)


def test_a_plan_lasts_until_it_is_due():
    robot = PointRobot()
    predictor = AnalyticTraces(robot.camera, circle(robot)[1])
    follower = TraceFollower(predictor, EFFECTOR, FollowerConfig(replan_every=16, chunk=4))
    drive(follower, robot, 64)
    assert len(predictor.asked) == 4


def test_the_prediction_is_handed_out_on_request():
    robot = PointRobot()
    predictor = AnalyticTraces(robot.camera, circle(robot)[1])
    assert TraceFollower(predictor, EFFECTOR).act(robot.observe()).prediction is None
    asked = TraceFollower(predictor, EFFECTOR, FollowerConfig(hand_out=True)).act(robot.observe())
    assert asked.prediction is not None
    assert asked.prediction.uvz.shape[2] == 32
    told = TraceFollower(predictor, EFFECTOR)
    told.predictions = True  # as the server does, request by request
    assert told.act(robot.observe()).prediction is not None


def test_a_fork_has_an_episode_of_its_own():
    robot = PointRobot()
    predictor = AnalyticTraces(robot.camera, circle(robot)[1])
    follower = TraceFollower(predictor, EFFECTOR, FollowerConfig(replan_every=16, chunk=4))
    other = follower.fork()
    assert other.predictor is predictor
    assert other.config == follower.config
    first = follower.act(robot.observe()).actions
    asked = len(predictor.asked)
    np.testing.assert_array_equal(other.act(robot.observe()).actions, first)
    assert len(predictor.asked) == asked + 1  # it made a plan of its own


def test_where_nothing_is_seen_it_stays():
    robot = PointRobot()
    predictor = AnalyticTraces(robot.camera, circle(robot)[1])
    seen = robot.observe()
    depth = np.full_like(seen.depth_m["scene"], np.nan)
    depth[0, 0] = 30.0  # far behind everything
    blank = RobotObservation(seen.images, seen.state, seen.instruction, {"scene": depth}, seen.cameras, seen.step)
    chunk = TraceFollower(predictor, EFFECTOR).act(blank)
    assert np.abs(chunk.actions[:, :3]).max() < 1e-6
    assert not predictor.asked


def test_depth_and_calibration_are_needed():
    robot = PointRobot()
    seen = robot.observe()
    blind = RobotObservation(seen.images, seen.state, seen.instruction, {}, {}, seen.step)
    follower = TraceFollower(AnalyticTraces(robot.camera, circle(robot)[1]), EFFECTOR)
    with pytest.raises(InvalidInputError, match="no depth or no calibration"):
        follower.act(blind)


@pytest.mark.parametrize("wrong", [{"chunk": 0}, {"speed": 1.5}, {"samples": 0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match="impossible"):
        FollowerConfig(**wrong)
