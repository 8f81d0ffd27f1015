from collections import Counter

import pytest

from traceworld.errors import ConfigError
from traceworld.sim.embodiments import EMBODIMENTS, check_embodiment, embodiment_for, embodiment_of


def test_names():
    assert EMBODIMENTS == ("sawyer", "bare-gripper", "hand-like", "other-arm")
    assert check_embodiment("hand-like") == "hand-like"
    with pytest.raises(ConfigError, match="did you mean 'other-arm'"):
        check_embodiment("another-arm")


def test_every_run_has_each_name_once():
    names = ["a", "b", "c"]
    played = [embodiment_for(names, episode, [5, 77]) for episode in range(30)]
    assert all(sorted(played[i : i + 3]) == names for i in range(0, 30, 3))
    assert len({tuple(played[i : i + 3]) for i in range(0, 30, 3)}) > 2  # and not always in the same order


def test_a_name_given_twice_plays_twice_as_often():
    played = Counter(embodiment_for(["a", "a", "b"], episode, [0]) for episode in range(30))
    assert played == {"a": 20, "b": 10}


def test_depends_on_seed_and_episode_alone():
    names = list(EMBODIMENTS)
    first = [embodiment_for(names, episode, [1, 2]) for episode in range(40)]
    assert first == [embodiment_for(names, episode, [1, 2]) for episode in reversed(range(40))][::-1]
    assert first != [embodiment_for(names, episode, [1, 3]) for episode in range(40)]


def test_data_that_says_nothing_shows_the_sawyer():
    assert embodiment_of({"task": "reach-v3"}) == "sawyer"
    assert embodiment_of({"embodiment": "bare-gripper"}) == "bare-gripper"
