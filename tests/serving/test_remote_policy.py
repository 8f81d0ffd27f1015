"""A policy behind a socket is scored like one that is here."""

import numpy as np
import pytest
from serving_toys import Counting, Echo, Failing, Gate, Inpainting, Together, policy_server, right_actions

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.evaluation.execution import ChunkPlayer
from traceworld.evaluation.rollout_play import play_together
from traceworld.policies.registry import load_policy
from traceworld.serving.adapters import adapter_for
from traceworld.serving.keys import KEY_VARIABLE
from traceworld.serving.refusals import BusyError, PolicyError, TooSlowError
from traceworld.serving.remote_policy import RemotePolicy, adapter_of
from traceworld.sim.control import StepOutcome
from traceworld.traces.robot import ActionChunk, ActionSpec, RobotObservation
from traceworld.traces.types import Camera

SPEC = ActionSpec(("dx",), (-1.0,), (1.0,), 20.0, ("x",))


def seen(step=0, instruction="go", **more):
    images = {"corner": np.full((6, 8, 3), step, np.uint8), "wrist": np.zeros((4, 4, 3), np.uint8)}
    return RobotObservation(images, np.arange(4, dtype=np.float32), instruction, step=step, **more)


def right(observation, seed=0):
    return right_actions(observation.images.values(), observation.state, observation.instruction) + seed


def test_it_answers_what_the_policy_answers_and_remembers_the_seed():
    with policy_server(Together()) as running:
        policy = RemotePolicy(running.url)
        assert policy.name == f"echo at {running.url}"
        policy.reset(7)
        for step in (0, 8):
            chunk = policy.act(seen(step))
            assert np.array_equal(chunk.actions, right(seen(step), 7))
            assert 0 < chunk.timing["infer"] < 10
        policy.close()


def test_steps_and_committed_actions_are_told_to_servers_that_know_them():
    counting = Counting()
    with policy_server(counting) as running:
        policy = RemotePolicy(running.url)
        policy.act(seen(5))
        told = policy.act_after(seen(9), np.zeros((2, 4), np.float32)).actions  # it cannot, and acts as ever
        assert told.shape == (2, 4)
        policy.close()
    assert counting.steps == [5, 9]
    inpainting, committed = Inpainting(), np.full((3, 4), 0.25, np.float32)
    with policy_server(inpainting) as running:
        policy = RemotePolicy(running.url)
        policy.reset(4)
        assert np.array_equal(policy.act_after(seen(1), committed).actions[:3], committed)
        assert np.array_equal(policy.act_after(seen(2), committed[:0]).actions, right(seen(2), 4))
        policy.close()
    assert [seed for seed, _ in inpainting.committed] == [4]


def test_depth_and_poses_are_sent():
    class Looking(Echo):
        def act(self, observation):
            self.saw = observation
            return super().act(observation)

    looking = Looking()
    camera = Camera(np.array([[7.0, 0, 4], [0, 7, 3], [0, 0, 1]]), np.eye(4), width=8, height=6)
    given = seen(depth_m={"corner": np.full((6, 8), 2.0, np.float32)}, cameras={"corner": camera})
    with policy_server(looking) as running:
        policy = RemotePolicy(running.url)
        policy.act(given)
        policy.close()
    assert np.array_equal(looking.saw.depth_m["scene"], given.depth_m["corner"])
    assert np.allclose(looking.saw.cameras["scene"].K, camera.K)


class World:
    """One number that is moved; the picture shows it."""

    task, instruction, spec, max_steps = "line", "go", SPEC, 12

    def reset(self, seed):
        self.x, self.steps, self.sent = float(seed), 0, []

    def observe(self):
        image = np.full((4, 4, 3), int(abs(self.x) * 20) % 256, np.uint8)
        return RobotObservation({"top": image}, np.array([self.x], np.float32), "go", step=self.steps)

    def step(self, action):
        self.sent.append(float(action[0]))
        self.x, self.steps = self.x + float(action[0]), self.steps + 1
        return StepOutcome(False, self.steps >= self.max_steps)

    def stay(self, last):
        return np.zeros(1, np.float32)

    def snapshot(self):
        raise AssertionError("is not asked for")

    restore = close = snapshot


class OnALine(Echo):
    """Says what it learned from, and acts on a line."""

    spec, cameras = SPEC, ("top",)

    def __init__(self):
        super().__init__(dim=1)

    def act(self, observation):
        actions = right_actions(observation.images.values(), observation.state, observation.instruction, 1)
        return ActionChunk(np.clip(actions, -1, 1))


def test_a_rollout_is_the_same_from_afar():
    local = OnALine()
    with policy_server(local, adapter_for("lerobot", local)) as running:
        afar = load_policy(f"openpi:{running.url}")
        assert afar.cameras == ("top",)
        played = []
        for policy in (local, afar):
            world = World()
            play_together([world], policy, [3], lambda env: ChunkPlayer(execute=3))
            played.append(world.sent)
        afar.close()
    assert len(played[0]) == 12
    assert played[0] == played[1]


def test_errors_say_what_to_do(monkeypatch):
    with policy_server(Failing()) as running:
        policy = RemotePolicy(running.url)
        with pytest.raises(PolicyError, match="the policy's own fault"):
            policy.act(seen())
        with pytest.raises(InvalidInputError, match="prompt: is no instruction"):
            policy.act(seen(instruction=" "))
    with pytest.raises(PolicyError, match=r"cannot be reached(?s:.*)start the server"):
        RemotePolicy(running.url, connect_timeout_s=0.2)
    with policy_server(Echo(), api_key="k") as running:
        with pytest.raises(InvalidInputError, match="401"):
            RemotePolicy(running.url)
        monkeypatch.setenv(KEY_VARIABLE, "k")
        RemotePolicy(running.url).close()
    gate = Gate()
    with policy_server(gate) as running:
        with pytest.raises(TooSlowError, match=r"within 0\.2 s"):
            RemotePolicy(running.url, timeout_s=0.2).act(seen())
        gate.opened.set()
    with policy_server(Counting()) as running:
        first = RemotePolicy(running.url)
        with pytest.raises(BusyError, match="close other connections"):
            RemotePolicy(running.url)
        first.close()


@pytest.mark.parametrize("actions", [None, "x", np.zeros(4), np.zeros((0, 4)), np.full((2, 4), np.nan)])
def test_an_answer_without_actions_is_the_servers_fault(monkeypatch, actions):
    with policy_server(Echo()) as running:
        policy = RemotePolicy(running.url)
        answers = {"actions": actions, "server_timing": {"infer_ms": "soon"}}
        monkeypatch.setattr(policy._client, "infer", lambda request: answers)
        with pytest.raises(PolicyError, match="no chunk of actions"):
            policy.act(seen())
        answers["actions"] = [[0.5] * 4]
        assert policy.act(seen()).actions.tolist() == answers["actions"]
        policy.close()


def test_an_episode_whose_connection_was_lost_is_not_gone_on_with():
    """The server would take what follows for an episode with another seed."""
    policy = Together()
    with policy_server(policy) as running:
        afar = RemotePolicy(running.url)
        afar.reset(7)
        assert np.array_equal(afar.act(seen(0)).actions, right(seen(0), 7))
        afar._client._socket.close_socket()
        with pytest.raises(PolicyError, match=r"connection broke(?s:.*)the same command goes on"):
            afar.act(seen(1))
        assert policy.sizes == [1]
        afar.reset(7)  # a rollout that is resumed begins the episode anew
        assert np.array_equal(afar.act(seen(0)).actions, right(seen(0), 7))
        afar.close()


def test_a_full_queue_is_asked_again(monkeypatch):
    with policy_server(Echo()) as running:
        policy = RemotePolicy(running.url)
        whole, refused = policy._client.infer, [2]

        def infer(request):
            if refused[0]:
                refused[0] -= 1
                raise policy._package.BusyError("1 requests wait")
            return whole(request)

        monkeypatch.setattr(policy._client, "infer", infer)
        assert np.array_equal(policy.act(seen()).actions, right(seen()))
        refused[0] = 99
        with pytest.raises(BusyError):
            policy.act(seen())
        policy.close()


def test_a_server_that_does_not_say_its_layout_needs_one():
    with pytest.raises(ConfigError, match=r"does not say(?s:.*)openpi:ws://h#libero"):
        adapter_of({}, None, "ws://h")
    assert adapter_of({}, "libero", "ws://h").name == "libero"
    assert adapter_of({"adapter": "droid"}, None, "ws://h").action_dim == 8
    with pytest.raises(ConfigError, match="no adapter is called"):
        adapter_of({}, "librero", "ws://h")
    with pytest.raises(ConfigError, match="no 'lerobot' layout"):
        adapter_of({"adapter": "lerobot", "images": ["observation.images.top"]}, None, "ws://h")
    with pytest.raises(ConfigError, match="has no address"):
        load_policy("openpi")
