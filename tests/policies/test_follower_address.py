"""Followers by address, and on Meta-World's robot with exact traces."""

import numpy as np
import pytest
from follower_scenes import PointRobot

from traceworld.errors import ConfigError, ExtractionError
from traceworld.policies.follower.address import load_follower, suited_to
from traceworld.policies.follower.policy import FollowerConfig
from traceworld.policies.registry import load_policy


def test_a_follower_is_found_by_the_name_of_its_predictor():
    follower = load_follower("nothing-moves")
    assert follower.name == "follow:nothing-moves"
    assert follower.config == FollowerConfig()
    robot = PointRobot()
    chunk = follower.act(robot.observe())
    assert np.abs(chunk.actions[:, :3]).max() < 1e-4  # nothing moves, so it stays


def test_settings_follow_the_name():
    config = load_follower("nothing-moves,chunk=32,step=0.05,hand_out=true,clock=arc,speed=0.5").config
    assert (config.chunk, config.step, config.hand_out, config.clock, config.speed) == (32, 0.05, True, "arc", 0.5)


@pytest.mark.parametrize("address", ["nothing-moves,colour=red", "nothing-moves,chunk", "nothing-moves,chunk=many"])
def test_wrong_settings_are_named(address):
    with pytest.raises(ConfigError, match=r"follow:nothing-moves"):
        load_follower(address)


def test_an_unknown_predictor_is_refused():
    with pytest.raises(ConfigError, match="no predictor"):
        load_follower("nothing-move")


def test_spatial_traces_are_found_by_the_name_of_who_says_them():
    policy = load_policy("spatial:nothing-moves")
    assert policy.name == "spatial:nothing-moves"
    with pytest.raises(ExtractionError, match="nothing-moves"):  # it moves points, and says nothing
        policy.act(PointRobot().observe())
    with pytest.raises(ConfigError, match="no predictor"):
        load_policy("spatial:nothing-move")


class Trained:
    name = "trained"

    class model:
        class normalisation:
            steps = {"arc": 0.01}  # noqa: RUF012

    def predict(self, observation, num_samples=1, seed=0):
        raise NotImplementedError


def test_the_clock_is_one_that_the_predictor_was_trained_on():
    assert suited_to(Trained()) == {"samples": 8, "clock": "arc", "step": 0.01}
    Trained.model.normalisation.steps = {"arc": 0.01, "time": 0.025}
    assert suited_to(Trained())["clock"] == "time"


@pytest.mark.slow
@pytest.mark.parametrize("task", ["reach", "drawer-open", "pick-place"])
def test_with_exact_traces_it_does_what_the_expert_does(task):
    """One episode each of pushing nothing, pulling without a grip, and grasping (all ten: recipes/follower_oracle.py)."""
    pytest.importorskip("metaworld")
    from traceworld.policies.follower.effectors import CartesianEffector
    from traceworld.policies.follower.policy import TraceFollower
    from traceworld.sim.control import METAWORLD_SPEC, MetaworldEnv, test_seed
    from traceworld.sim.oracle import ExactTraces
    from traceworld.sim.sketch import SketchedEnv

    env = SketchedEnv(MetaworldEnv(task))
    env.reset(test_seed(0, 0))
    follower = TraceFollower(ExactTraces(env.env, env.camera), CartesianEffector(METAWORLD_SPEC))
    outcome = None
    while outcome is None or not outcome.finished:
        for action in follower.act(env.observe()).actions:
            outcome = env.step(action)
            if outcome.finished:
                break
    assert outcome.success
