"""Spatial traces: words become places, places become a way that is gone along exactly, in a world with things to run into."""

import dataclasses

import numpy as np
import pytest

from traceworld.errors import ConfigError, ExtractionError, InvalidInputError
from traceworld.evaluation.execution import ChunkPlayer
from traceworld.evaluation.rollout_play import play_together
from traceworld.geometry.cameras import project
from traceworld.policies.follower.effectors import CartesianEffector
from traceworld.policies.follower.planned_trace import HAND_TOP_M, PlannedTraces, around
from traceworld.policies.follower.spatial import SpatialConfig, SpatialTracePolicy, SpokenTraces, dense
from traceworld.sim.control import METAWORLD_SPEC, MetaworldEnv
from traceworld.sim.sketch import SketchedEnv
from traceworld.traces.robot import RobotObservation
from traceworld.traces.types import Camera, TracePrediction
from traceworld.tracespatial.answer_values import format_trace, to_thousandths
from traceworld.tracespatial.scene import OrientedBox

CAMERA = Camera(np.array([[200.0, 0, 80], [0, 200, 60], [0, 0, 1]]), np.eye(4), 160, 120)


class Says:
    """A predictor of which only the words matter."""

    name = "says"

    def __init__(self, text):
        self.text, self.asked = text, []

    def predict(self, observation, num_samples=1, seed=0):
        self.asked.append(observation)
        return TracePrediction(np.zeros((1, 1, 1, 3), np.float32), np.ones((1, 1, 1), bool), text=self.text)


class Fixed:
    """Always the same trace, at one depth."""

    name = "fixed"

    def __init__(self, z_m):
        self.z_m, self.asked = z_m, []

    def trace(self, observation):
        self.asked.append(observation.step)
        return np.array([[0.0, 0.0, self.z_m], [0.1, 0.0, self.z_m]])


def seen(depth=0.5, **changes) -> RobotObservation:
    fields = {
        "images": {"front": np.zeros((120, 160, 3), np.uint8)},
        "state": np.array([0.0, 0.0, 0.2, 1.0], np.float32),
        "instruction": "lift the cup",
        "depth_m": {"front": np.full((120, 160), depth, np.float32)},
        "cameras": {"front": CAMERA},
        "step": 0,
    }
    return RobotObservation(**{**fields, **changes})


def test_dense_keeps_corners_and_steps():
    path = np.array([[0.0, 0, 0], [0.05, 0, 0], [0.05, 0.031, 0]])
    places = dense(path, 0.02)
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).max() <= 0.02 + 1e-12
    assert all((np.abs(places - corner).sum(1) < 1e-12).any() for corner in path)
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).sum() == pytest.approx(0.081)


def test_words_become_places():
    xyz = np.array([[0.02, -0.03, 0.5], [0.05, 0.0, 0.45], [0.1, 0.02, 0.6]])
    uvd = np.column_stack([project(xyz, CAMERA.K, CAMERA.cam_from_world)[:, :2], xyz[:, 2]])
    predictor = Says(format_trace(np.round(to_thousandths(uvd, 160, 120), 3)))
    found = SpokenTraces(predictor).trace(seen())
    assert np.abs(found - xyz).max() < 2e-3
    assert predictor.asked[0].instruction == "lift the cup"
    assert predictor.asked[0].depth_m is not None
    assert np.array_equal(predictor.asked[0].K, CAMERA.K)


@pytest.mark.parametrize("words", [None, "I would rather not.", "[(500, 500)]", "[(500, 500, 0.5)]"])
def test_words_without_a_metric_trace_are_an_error_that_quotes_them(words):
    with pytest.raises(ExtractionError, match="says"):
        SpokenTraces(Says(words)).trace(seen())


@pytest.mark.parametrize(("change", "match"), [({"cameras": {}}, "calibrated"), ({"depth_m": {}}, "no depth")])
def test_what_is_needed_is_said(change, match):
    policy = SpatialTracePolicy(Fixed(0.5), CartesianEffector(METAWORLD_SPEC))
    with pytest.raises(InvalidInputError, match=match):
        policy.act(seen(**change))


def test_a_trace_that_begins_nowhere_is_refused():
    with pytest.raises(InvalidInputError, match="depth shows nothing"):
        SpatialTracePolicy(Fixed(3.0), CartesianEffector(METAWORLD_SPEC)).act(seen())
    with pytest.raises(ConfigError, match="SpatialConfig"):
        SpatialConfig(speed=2.0)


def test_around_keeps_the_whole_hand_clear():
    start, goal = np.array([0.0, 0.6, 0.02]), np.array([0.0, 0.85, 0.02])
    post = OrientedBox(np.array([0.0, 0.725, 0.07]), np.array([0.04, 0.04, 0.14]), np.eye(3))
    path = around(start, goal, (post,), np.random.default_rng(0))
    assert np.array_equal(path[[0, -1]], [start, goal])
    near = np.abs(dense(path, 0.002)[:, :2] - post.center_xyz[:2]).max(1) < 0.03
    assert dense(path, 0.002)[near, 2].min(initial=1.0) > 0.14  # it goes over, or not at all across it
    wall = OrientedBox(np.array([0.0, 0.6, 0.3]), np.array([2.0, 0.3, 2 * HAND_TOP_M + 0.6]), np.eye(3))
    with pytest.raises(ExtractionError):
        around(start, goal, (wall,), np.random.default_rng(0))


@pytest.mark.parametrize("task", ["pick-place", "push"])
def test_the_planned_trace_is_carried_out_clear_of_what_the_straight_one_hits(task):
    env = MetaworldEnv(task, posts=3)
    sketch = SketchedEnv(env, stride=6)
    seed = next(s for s in range(100, 200) if env.reset(s) is None and env.world.posts.between)
    outcome = {}
    for straight in (True, False):
        policy = SpatialTracePolicy(PlannedTraces(env, straight), CartesianEffector(METAWORLD_SPEC))
        played = play_together([sketch], policy, [seed], lambda _: ChunkPlayer())[0]
        outcome[policy.name] = (played["success"], played["touched"])
    assert outcome["spatial:planned"] == (True, False)
    assert outcome["spatial:straight"][1] is True


def test_the_trace_is_asked_for_once_and_an_earlier_step_begins_anew():
    source = Fixed(0.5)
    policy = SpatialTracePolicy(source, CartesianEffector(METAWORLD_SPEC))
    for step in (0, 8, 16):
        assert policy.act(dataclasses.replace(seen(), step=step)).actions.shape == (8, 4)
    assert source.asked == [0]
    assert policy.act(dataclasses.replace(seen(), step=5000)).done
    policy.reset()
    policy.act(dataclasses.replace(seen(), step=24))
    policy.act(dataclasses.replace(seen(), step=0))  # time went back
    assert source.asked == [0, 24, 0]
