import numpy as np
import pytest

pytest.importorskip("metaworld")

from traceworld.errors import ConfigError
from traceworld.policies.policy import Policy
from traceworld.sim.control import METAWORLD_SPEC, MetaworldEnv
from traceworld.sim.control_policies import RandomPolicy, ScriptedExpert, clipped_expert_action
from traceworld.traces.robot import RobotObservation

UNSEEN = RobotObservation({"corner": np.zeros((4, 4, 3), np.uint8)}, np.zeros(4, np.float32), "")


@pytest.fixture(scope="module")
def env():
    return MetaworldEnv("push")


def test_a_chunk_of_the_expert_is_what_it_does_step_by_step(env):
    expert = ScriptedExpert(env, horizon=12)
    assert isinstance(expert, Policy)
    env.reset(21)
    expert.reset(0)
    before = env.world.qpos()
    chunk = expert.act(UNSEEN).actions
    assert np.array_equal(env.world.qpos(), before)  # it only thought of it
    script = env.expert()
    for action in chunk:
        assert np.array_equal(action, clipped_expert_action(env, script))
        env.step(action)
    assert chunk.shape == (12, 4)


def test_the_experts_last_chunk_ends_with_the_episode(env):
    expert, outcome, lengths = ScriptedExpert(env, horizon=50), None, []
    env.reset(21)
    while outcome is None or not outcome.finished:
        actions = expert.act(UNSEEN).actions
        lengths.append(len(actions))
        for action in actions:
            outcome = env.step(action)
    assert outcome.success
    assert lengths[-1] < 50
    assert set(lengths[:-1]) <= {50}


def test_random_actions_are_seeded_and_within_the_bounds():
    policy = RandomPolicy(METAWORLD_SPEC, horizon=200)
    policy.reset(5)
    first = policy.act(UNSEEN).actions
    assert not np.array_equal(policy.act(UNSEEN).actions, first)
    policy.reset(5)
    assert np.array_equal(policy.act(UNSEEN).actions, first)
    policy.reset(6)
    assert not np.array_equal(policy.act(UNSEEN).actions, first)
    assert first.min() >= -1
    assert first.max() <= 1
    assert np.abs(first.mean(0)).max() < 0.15


def test_a_horizon_of_nothing_is_refused(env):
    with pytest.raises(ConfigError):
        ScriptedExpert(env, horizon=0)
