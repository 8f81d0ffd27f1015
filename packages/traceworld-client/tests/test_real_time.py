"""Chunks that pass into each other while the next one is on its way. How late an answer is, is decided here, in control steps."""

import threading

import numpy as np
import pytest

from traceworld_client import RealTimePlayer, ServerError
from traceworld_client.real_time import mixed


class Server:
    """Action k of a chunk asked for where `at` actions have been played is at + k, plus `jump` per question. Answers when it is let."""

    def __init__(self, length=20, jump=0.0, extensions=("step", "committed")):
        self.metadata = {"extensions": [f"traceworld/{name}" for name in extensions]}
        self.length, self.jump, self.asked, self.seeds = length, jump, [], []
        self.let = threading.Semaphore(0)

    def infer(self, observation):
        assert self.let.acquire(timeout=30)
        self.asked.append(observation)
        if observation.get("prompt") == "fail":
            raise ServerError("the policy failed")
        first = observation.get("at", 0) + self.jump * len(self.asked)
        return {"actions": np.arange(first, first + self.length, dtype=np.float32)[:, None], "more": len(self.asked)}

    def reset(self, seed=0):
        self.seeds.append(seed)


def stay(last):
    return np.array([-1.0] if last is None else last)


def play(player, server, steps, delay, observation=None):
    """What is sent in some steps, when each answer comes `delay` steps after its question; the robot obeys at once."""
    sent, due = [], None
    for step in range(steps):
        if step == due:
            arrive(player, server)
            due = None
        seen = {"at": step - player.stayed} if observation is None else observation
        sent.append(float(player.infer(seen)["actions"][0]))
        if due is None and player._coming is not None:
            due = step + delay
    return sent


def arrive(player, server):
    server.let.release()
    player._coming[0].exception(timeout=30)


@pytest.mark.parametrize("delay", [1, 3, 7])
def test_once_begun_it_never_pauses_and_every_step_has_its_own_action(delay):
    server = Server()
    with RealTimePlayer(server, stay, ask_every=8) as player:
        sent = play(player, server, 60, delay)
        assert sent[:delay] == [-1.0] * delay  # nothing to play yet
        assert sent[delay:] == list(
            range(60 - delay)
        )  # the robot stood still, so the first chunk begins at its beginning
        assert player.stayed == delay
        assert set(player.delays) == {delay}
        server.let.release()


def test_chunks_meet_without_a_jump():
    server = Server(jump=5.0)
    with RealTimePlayer(server, stay, ask_every=8) as player:
        sent = play(player, server, 60, 3)[3:]
        server.let.release()
    assert 1.0 <= np.diff(sent).max() < 3.0  # cut hard, it would be 6


def test_what_is_sent_meanwhile_is_said_and_kept():
    server = Server(jump=5.0)
    with RealTimePlayer(server, stay, ask_every=8) as player:
        sent = play(player, server, 40, 4)
        committed = [(seen["traceworld/step"], seen.get("traceworld/committed")) for seen in server.asked]
        server.let.release()
    assert committed[0][1] is None  # there was no chunk yet
    step, actions = committed[-1]
    assert actions[:, 0].tolist() == sent[step : step + 4]


def test_a_server_that_knows_no_extensions_is_sent_none():
    server = Server(extensions=())
    with RealTimePlayer(server, stay, ask_every=2) as player:
        play(player, server, 10, 1, {"state": np.ones(1)})
        server.let.release()
    assert all(list(seen) == ["state"] for seen in server.asked)


def test_short_chunks_make_it_stop_and_go_and_late_ones_are_thrown_away():
    server = Server(length=4)
    with RealTimePlayer(server, stay, ask_every=1) as player:
        sent = play(player, server, 30, 10)
        assert player.stayed > 10
        assert np.diff(sent[10:]).min() >= 0
        server.let.release()
    server = Server(length=20)
    with RealTimePlayer(server, stay, ask_every=1, max_stale=6) as player:
        assert play(player, server, 30, 6) == [-1.0] * 30
        assert player.late == 4
        server.let.release()


def test_nothing_rests_on_an_old_observation():
    server = Server(length=40)
    with RealTimePlayer(server, stay, ask_every=5, max_stale=10) as player:
        play(player, server, 3, 2)
        sent = [float(player.infer({})["actions"][0]) for _ in range(20)]  # no answer comes any more
        assert sent[-1] == sent[7]
        server.let.release()


def test_pictures_may_be_overwritten_while_they_are_sent():
    server, picture = Server(), np.zeros((2, 2, 3), np.uint8)
    with RealTimePlayer(server, stay) as player:
        player.infer({"images": {"top": picture}})
        picture[:] = 9
        arrive(player, server)
    assert (server.asked[0]["images"]["top"] == 0).all()


def test_an_error_comes_out_once_and_it_goes_on():
    server = Server()
    with RealTimePlayer(server, stay) as player:
        player.infer({"prompt": "fail"})
        arrive(player, server)
        with pytest.raises(ServerError):
            player.infer({})
        player.infer({})
        arrive(player, server)
        answer = player.infer({})
        assert answer["more"] == 2
        assert answer["actions"].tolist() == [0.0]  # the robot stood still: nothing has taken its place


def test_a_new_episode_remembers_nothing():
    server = Server()
    with RealTimePlayer(server, stay) as player:
        play(player, server, 12, 2)
        server.let.release()
        player.reset(7)
        assert player.infer({})["actions"].tolist() == [-1.0]
        assert (player.stayed, player.late, len(player.delays), server.seeds) == (1, 0, 0, [7])
        server.let.release()


def test_nothing_old_leaves_the_new_as_it_is():
    new = np.arange(6.0, dtype=np.float32).reshape(3, 2)
    assert np.array_equal(mixed(new[:0], new, 0), new)
    assert np.array_equal(mixed(new[:2] + 5, new, 2)[:2], new[:2] + 5)


@pytest.mark.parametrize("wrong", [{"ask_every": 0}, {"max_stale": 0}])
def test_impossible_settings(wrong):
    with pytest.raises(ValueError, match="1 or more"):
        RealTimePlayer(Server(), stay, **wrong)
