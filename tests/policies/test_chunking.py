"""Real-time chunking: its equations, and what a robot is sent when thinking takes time."""

import threading

import numpy as np
import pytest

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.policies.chunking import (
    DelayedInference,
    InpaintingPolicy,
    RealTimePolicy,
    ThreadInference,
    entered,
    merge,
    soft_mask,
)
from traceworld.policies.policy import Policy
from traceworld.traces.robot import ActionChunk, ActionSpec, RobotObservation

HZ = 50.0
SPEC = ActionSpec(("dx", "gripper"), (-1.0, -1.0), (1.0, 1.0), HZ, ("x", "opening"))


def seen(step: int, opening: float = 1.0) -> RobotObservation:
    return RobotObservation({"c": np.zeros((4, 4, 3), np.uint8)}, np.array([0.0, opening], np.float32), "go", step=step)


class Ramp:
    """Action k of a chunk asked for at step s is (s + k) / 1000: the same at a step whenever it was asked for."""

    name = "ramp"

    def __init__(self, length: int = 20, offset: float = 0.0):
        self.length, self.offset, self.asked = length, offset, []

    def reset(self, seed: int = 0) -> None:
        self.asked = []

    def act(self, observation: RobotObservation) -> ActionChunk:
        self.asked.append(observation.step)
        value = (observation.step + np.arange(self.length)) / 1000 + self.offset * len(self.asked)
        return ActionChunk(np.stack([value, 0 * value], 1).astype(np.float32))


def stay(last: np.ndarray | None) -> np.ndarray:
    return np.zeros(2, np.float32)


def play(policy: RealTimePolicy, steps: int) -> np.ndarray:
    return np.concatenate([policy.act(seen(step)).actions for step in range(steps)])


def test_the_mask_is_equation_5():
    H, d, s = 16, 4, 6
    weight = soft_mask(H, d, s)
    for i in range(H):
        if i < d:
            expected = 1.0
        elif i < H - s:
            c = (H - s - i) / (H - s - d + 1)
            expected = c * (np.e**c - 1) / (np.e - 1)
        else:
            expected = 0.0
        assert weight[i] == pytest.approx(expected)
    assert (np.diff(weight) <= 0).all()


@pytest.mark.parametrize(("delay", "execute"), [(0, 0), (20, 3), (3, 20), (16, 16)])
def test_the_mask_stays_between_0_and_1_at_its_ends(delay, execute):
    weight = soft_mask(16, delay, execute)
    assert len(weight) == 16
    assert ((weight >= 0) & (weight <= 1)).all()
    assert (weight[max(16 - execute, 0) :] == 0).all()
    with pytest.raises(ConfigError):
        soft_mask(16, -1, 0)


def test_what_is_committed_is_kept_and_what_is_new_is_free():
    old, new = np.full((10, 2), 1.0, np.float32), np.zeros((16, 2), np.float32)
    merged = merge(old, new, delay=4, execute=6)
    assert (merged[:4] == 1).all()
    assert (merged[10:] == 0).all()
    assert (np.diff(merged[3:11, 0]) < 0).all()
    assert (new == 0).all()
    assert np.array_equal(merge(old[:0], new, 4, 6), new)


@pytest.mark.parametrize("latency_s", [0.0, 0.1, 0.3])
def test_at_every_latency_the_first_chunk_is_played_from_its_beginning_and_later_ones_behind_what_was_sent(latency_s):
    inner = Ramp(length=40)
    policy = RealTimePolicy(inner, SPEC, stay, inference=DelayedInference(latency_s), execute=8)
    assert isinstance(policy, Policy)
    sent = play(policy, 120)
    delay = round(latency_s * HZ)
    assert policy.stayed == delay
    assert (sent[:delay, 0] == 0).all()
    assert np.allclose(sent[delay : 2 * delay or 120, 0], np.arange(delay or 120) / 1000, atol=1e-6)
    assert np.abs(np.diff(sent[delay:, 0])).max() < 0.01  # what stood still is caught up with, without a jump
    assert np.allclose(sent[80:, 0], np.arange(80, 120) / 1000, atol=1e-6)  # what was meant for each step
    assert max(policy.delays) == delay
    assert policy.late == 0
    assert np.diff(inner.asked).min() == max(8, delay)


@pytest.mark.parametrize("latency_s", [0.0, 0.1, 0.3])
def test_a_policy_that_changes_its_mind_does_not_make_the_robot_jump(latency_s):
    policy = RealTimePolicy(Ramp(length=40, offset=0.2), SPEC, stay, inference=DelayedInference(latency_s), execute=10)
    sent = play(policy, 100)[round(latency_s * HZ) :]
    assert np.abs(np.diff(sent[:, 0])).max() < 0.1  # each new chunk is 0.2 above the last
    assert sent[-1, 0] > 0.5  # and yet is followed in the end


def test_no_action_rests_on_an_observation_that_is_too_old():
    inner = Ramp(length=100, offset=1.0)
    policy = RealTimePolicy(inner, SPEC, stay, inference=DelayedInference(0.4), max_stale_s=0.5, execute=1)
    sent = play(policy, 200)[:, 0]
    # Asked at 20 k, there 20 steps later, good until 25 steps after it was asked for: 5 of 20 steps.
    steps = np.arange(200)
    acting = (steps >= 20) & (steps % 20 < 5)
    assert (sent[~acting] == 0).all()
    assert sent[acting].astype(int).tolist() == [
        chunk for chunk in range(1, 10) for _ in range(5)
    ]  # nothing of older ones
    assert policy.stayed == 200 - acting.sum()


def test_a_policy_slower_than_its_chunks_are_long_stops_and_goes():
    policy = RealTimePolicy(Ramp(length=4, offset=1.0), SPEC, stay, inference=DelayedInference(0.2), execute=1)
    sent = play(policy, 60)[:, 0]
    # Asked at 0, there at 10 and played. Asked again at 10: when it comes, all its actions' places are taken. Asked at 20 …
    assert np.flatnonzero(sent).tolist() == [*range(10, 14), *range(30, 34), *range(50, 54)]
    assert np.allclose(sent[30:34], 3.02 + np.arange(4) / 1000, atol=1e-6)
    assert policy.late == 2
    assert policy.stayed == 48


class Inpainter(Ramp):
    """Notes what is settled and obeys it."""

    def act_after(self, observation, committed):
        self.committed = committed.copy()
        actions = self.act(observation).actions.copy()
        actions[: len(committed)] = committed
        return ActionChunk(actions)


def test_a_policy_that_inpaints_is_given_what_will_be_sent_meanwhile():
    inner = Inpainter(length=40, offset=0.2)
    assert isinstance(inner, InpaintingPolicy)
    assert not isinstance(Ramp(), InpaintingPolicy)
    policy = RealTimePolicy(inner, SPEC, stay, inference=DelayedInference(0.1), execute=10)
    sent = play(policy, 56)
    assert inner.asked[-1] == 50
    assert np.allclose(inner.committed, sent[50:55])
    assert np.abs(np.diff(sent[5:, 0])).max() < 0.1


def test_a_chunk_is_entered_as_far_as_the_old_one_goes():
    old, new = np.ones((6, 2), np.float32), np.zeros((10, 2), np.float32)
    assert np.array_equal(entered(old, new, 2), merge(old, new, 2, 4))
    assert (entered(old, new, 2)[:2] == 1).all()
    assert (entered(old, new, 2)[6:] == 0).all()
    assert np.array_equal(entered(old[:0], new, 0), new)


def test_a_real_thread_thinks_beside_the_robot_and_its_errors_come_out():
    gate = threading.Event()

    class Slow(Ramp):
        def act(self, observation):
            gate.wait(10)
            if observation.step > 0:
                raise RuntimeError("no idea")
            return super().act(observation)

    with ThreadInference() as inference:
        policy = RealTimePolicy(Slow(offset=0.2), SPEC, stay, inference=inference, execute=2)
        assert [float(policy.act(seen(step)).actions[0, 0]) for step in range(3)] == [0, 0, 0]
        gate.set()
        inference._future.result(10)
        assert policy.act(seen(3)).actions[0, 0] == pytest.approx(0.2)  # the first action: the robot stood until now
        inference._future.exception(10)
        with pytest.raises(RuntimeError, match="no idea"):
            policy.act(seen(4))
        assert policy.act(seen(5)).actions.shape == (1, 2)  # it can be asked again
        policy.reset()
        assert policy.stayed == 0
        assert policy.act(seen(0)).actions.shape == (1, 2)


def test_steps_must_increase_within_an_episode():
    policy = RealTimePolicy(Ramp(), SPEC, stay)
    policy.act(seen(3))
    with pytest.raises(InvalidInputError, match="step 3 after step 3"):
        policy.act(seen(3))
    policy.reset()
    policy.act(seen(0))


@pytest.mark.parametrize("wrong", [{"execute": 0}, {"max_stale_s": 0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        RealTimePolicy(Ramp(), SPEC, stay, **wrong)
    with pytest.raises(ConfigError):
        DelayedInference(-1.0)
