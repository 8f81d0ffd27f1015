"""Whose episode is whose, by what a policy offers."""

import numpy as np
import pytest
from serving_toys import Counting, Echo, Forking, Inpainting, Together, right_actions

from traceworld.serving.refusals import BusyError
from traceworld.serving.sessions import Sessions, Turn
from traceworld.traces.robot import RobotObservation


def seen(number=0, instruction="go"):
    image = np.full((4, 4, 3), number, np.uint8)
    return RobotObservation({"scene": image}, np.full(4, number, np.float32), instruction)


def right(observation, seed=0):
    return right_actions(observation.images.values(), observation.state, observation.instruction) + seed


def test_a_policy_without_memory_is_shared():
    sessions = Sessions(Echo())
    one, two = sessions.open(), sessions.open()
    assert not sessions.full
    outcomes = sessions.act([Turn(one, seen(1)), Turn(two, seen(2))])
    assert [np.array_equal(chunk.actions, right(seen(i + 1))) for i, (chunk, _) in enumerate(outcomes)] == [True, True]


def test_a_policy_that_forks_is_forked_and_reset_with_the_asked_seed():
    sessions = Sessions(Forking())
    one, two = sessions.open(), sessions.open()
    turns = [Turn(one, seen()), Turn(one, seen()), Turn(two, seen(), reset_seed=5), Turn(one, seen(), reset_seed=9)]
    asked = [chunk.actions[0, :2].tolist() for chunk, _ in sessions.act(turns)]
    assert asked == [[1, 0], [2, 0], [1, 5], [1, 9]]
    assert (one.requests, two.requests) == (1, 1)


def test_a_policy_that_only_remembers_is_lent_once_at_a_time():
    sessions = Sessions(Counting())
    sessions.open()
    assert sessions.full
    with pytest.raises(BusyError, match="one connection at a time"):
        sessions.open()
    sessions.close()
    assert sessions.act([Turn(sessions.open(), seen())])[0][0].actions[0, 0] == 1


def test_batches_are_one_call_with_each_ones_seed():
    policy = Together()
    sessions = Sessions(policy)
    episodes = [sessions.open() for _ in range(3)]
    turns = [Turn(episode, seen(i), reset_seed=10 * i) for i, episode in enumerate(episodes)]
    for _ in range(2):  # the second time the seeds are remembered
        outcomes = sessions.act(turns)
        for i, (chunk, _) in enumerate(outcomes):
            assert np.array_equal(chunk.actions, right(seen(i), 10 * i))
        turns = [Turn(episode, seen(i)) for i, episode in enumerate(episodes)]
    assert policy.sizes == [3, 3]
    assert [episode.requests for episode in episodes] == [2, 2, 2]


def test_traces_are_asked_of_the_policy_for_those_who_want_them():
    policy = Together()
    sessions = Sessions(policy)
    turns = [Turn(sessions.open(), seen(i), with_traces=i == 1) for i in range(3)]
    outcomes = sessions.act(turns)
    assert [chunk.prediction is None for chunk, _ in outcomes] == [True, False, True]
    assert (policy.sizes, policy.told) == ([2, 1], [False, True])


def test_one_bad_turn_of_a_batch_spoils_no_other():
    policy = Together()
    sessions = Sessions(policy)
    turns = [Turn(sessions.open(), seen(0)), Turn(sessions.open(), seen(1, "fail")), Turn(sessions.open(), seen(2))]
    first, bad, last = sessions.act(turns)
    assert isinstance(bad, ZeroDivisionError)
    assert np.array_equal(first[0].actions, right(seen(0)))
    assert np.array_equal(last[0].actions, right(seen(2)))
    assert [turn.episode.requests for turn in turns] == [1, 0, 1]


def test_what_is_committed_is_gone_on_from_with_the_askers_own_seed():
    policy = Inpainting()
    sessions = Sessions(policy)
    one, two, three = (sessions.open() for _ in range(3))
    committed = np.full((2, 4), 0.5, np.float32)
    turns = [
        Turn(one, seen(1), reset_seed=3, committed=committed),
        Turn(two, seen(2), reset_seed=4),
        Turn(three, seen(3), reset_seed=5, committed=committed[:0]),  # nothing will be played: an ordinary question
    ]
    outcomes = [chunk.actions for chunk, _ in sessions.act(turns)]
    assert np.array_equal(outcomes[0][:2], committed)
    assert np.array_equal(outcomes[0][2:], right(seen(1))[2:])
    assert [np.array_equal(outcomes[i], right(seen(i + 1), 3 + i)) for i in (1, 2)] == [True, True]
    assert policy.sizes == [2]
    sessions.act([Turn(one, seen(1), committed=committed)])
    assert [seed for seed, _ in policy.committed] == [3, 3]
    assert (one.requests, two.requests) == (2, 1)


def test_a_policy_that_cannot_go_on_from_actions_is_asked_as_ever():
    sessions = Sessions(Echo())
    turn = Turn(sessions.open(), seen(1), committed=np.ones((2, 4), np.float32))
    assert np.array_equal(sessions.act([turn])[0][0].actions, right(seen(1)))
