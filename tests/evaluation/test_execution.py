"""Chunks, latency and what is measured of the motion, on a policy whose actions say where they come from."""

import numpy as np
import pytest
from toy_world import Counting, PointEnv, Seeing

from traceworld.errors import ConfigError
from traceworld.evaluation.execution import ChunkPlayer, smoothness

WAIT = [0.0, -7.0]


def _play(policy, ticks, **options):
    """[ticks,2] what is sent: (tick of the question, number in the chunk), or WAIT."""
    env, player = PointEnv(max_steps=1000), ChunkPlayer(**options)
    env.reset(0)
    policy.reset(0)
    for _ in range(ticks):
        if player.wants():
            player.answer(policy.act(env.observe()))
        env.step(player.send(lambda last: np.array(WAIT, np.float32)))
    return np.array(env.sent).tolist(), player.played, env


def test_without_latency_a_chunk_follows_the_other():
    sent, played, env = _play(Counting(4), 10)
    assert sent == [[0, 0], [0, 1], [0, 2], [0, 3], [4, 0], [4, 1], [4, 2], [4, 3], [8, 0], [8, 1]]
    assert played.seams == [4, 8]
    assert played.waits == 0
    assert env.observed == 3  # rendered only when the policy is asked


def test_only_a_part_of_each_chunk_may_be_played():
    sent, played, _ = _play(Counting(4), 5, execute=2)
    assert sent == [[0, 0], [0, 1], [2, 0], [2, 1], [4, 0]]
    assert played.seams == [2, 4]


def test_with_latency_a_chunk_is_entered_behind_what_was_played_meanwhile():
    sent, played, _ = _play(Counting(6), 14, latency_steps=2)
    assert sent[:2] == [WAIT, WAIT]  # nothing to play yet, and so nothing is lost of the first chunk
    assert sent[2:8] == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [0, 5]]
    assert sent[8:12] == [[6, 2], [6, 3], [6, 4], [6, 5]]  # asked at 6, as late as can be; two were played since
    assert sent[12:] == [[10, 2], [10, 3]]
    assert played.waits == 2
    assert played.seams == [8, 12]


def test_asking_earlier_throws_the_rest_of_a_chunk_away():
    sent, _, _ = _play(Counting(8), 8, latency_steps=2, execute=3)
    assert sent[2:] == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [5, 2]]


def test_a_chunk_shorter_than_the_latency_makes_the_robot_stop_and_go():
    sent, played, _ = _play(Counting(2), 11, latency_steps=3)
    assert sent == [WAIT] * 3 + [[0, 0], [0, 1]] + [WAIT] * 3 + [[5, 0], [5, 1]] + [WAIT]
    assert played.waits == 7
    early, _, _ = _play(Counting(2), 11, latency_steps=3, execute=1)  # asked in the middle: half is over when it comes
    assert early == [WAIT, WAIT, WAIT, [0, 0], [0, 1], WAIT, WAIT, [4, 1], WAIT, WAIT, [7, 1]]


def test_asking_again_in_the_very_tick_of_an_answer():
    sent, played, _ = _play(Counting(4), 10, latency_steps=2)  # half of every chunk is late when it comes
    assert sent[2:] == [[0, 0], [0, 1], [0, 2], [0, 3], [4, 2], [4, 3], [6, 2], [6, 3]]
    assert played.waits == 2


def test_what_is_committed_is_what_will_be_sent():
    player, policy, env = ChunkPlayer(latency_steps=2), Counting(6), PointEnv()
    env.reset(0)
    policy.reset(0)
    assert len(player.committed()) == 0  # before the first chunk
    told = {}
    for tick in range(12):
        if player.wants():
            told[tick] = player.committed().tolist()
            player.answer(policy.act(env.observe()))
        env.step(player.send(env.stay))
    for tick, actions in told.items():
        assert np.array(env.sent[tick : tick + len(actions)]).tolist() == actions
    assert {tick: len(actions) for tick, actions in told.items()} == {0: 0, 6: 2, 10: 2}


def test_blending_passes_from_chunk_to_chunk_without_a_jump():
    class Steps(Counting):
        def act(self, observation):
            chunk = super().act(observation)
            chunk.actions[:] = float(observation.step > 0)  # 0 at first, then 1
            chunk.actions[:] += 1e-4 * np.arange(len(chunk.actions))[:, None]
            return chunk

    hard, played, _ = _play(Steps(12), 16, execute=4, latency_steps=2)
    soft, _, _ = _play(Steps(12), 16, execute=4, latency_steps=2, blend=True)
    path = np.array([action[0] for action in soft])
    assert played.seams == [8, 12]
    assert np.abs(np.diff([action[0] for action in hard[2:]])).max() > 0.99
    assert 0.1 < np.abs(np.diff(path[2:])).max() < 0.5
    assert (np.diff(path[2:]) >= -1e-3).all()


def test_a_policy_that_is_done_is_not_asked_again():
    policy = Seeing(3, done_after=2)
    sent, played, _ = _play(policy, 12)
    assert len(policy.asked) == 2
    assert sent[6:] == [WAIT] * 6
    assert played.waits == 6


def test_impossible_settings():
    with pytest.raises(ConfigError):
        ChunkPlayer(execute=0)
    with pytest.raises(ConfigError):
        ChunkPlayer(latency_steps=-1)


def test_smoothness_of_known_paths():
    ramp = [np.array([0.1 * t, 9.0 * (t % 2)]) for t in range(10)]  # the gripper flutters, the motion does not
    found = smoothness(ramp, [5], moving=[0], control_hz=1)
    assert found["jitter"] == pytest.approx(0, abs=1e-12)
    assert found["seam_jump"] == pytest.approx(0.1)
    assert found["inner_jump"] == pytest.approx(0.1)
    step = [np.array([float(t >= 4), 2.0 * (t >= 4)]) for t in range(8)]
    found = smoothness(step, [4], moving=[0, 1], control_hz=1)
    assert found["seam_jump"] == pytest.approx(5**0.5)
    assert found["inner_jump"] == 0
    assert found["jitter"] == pytest.approx((2 * 5 / 6) ** 0.5)  # twice the jump, in two of six second differences
    assert smoothness(step, [4], [0, 1], control_hz=10)["jitter"] == pytest.approx(100 * (2 * 5 / 6) ** 0.5)
    assert smoothness([np.zeros(2)], [], [0], 1) == {"jitter": None, "seam_jump": None, "inner_jump": None}
    assert smoothness([], [], [0], 1)["jitter"] is None
