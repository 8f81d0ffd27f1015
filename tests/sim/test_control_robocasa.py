"""The RoboCasa adapter against a stand-in with the signatures of `RoboCasaGymEnv` and `get_task_horizon`."""

import sys
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.sim.control import WRIST
from traceworld.sim.control_robocasa import ROBOCASA_SPEC, SCENE, SETTLE_STEPS, RoboCasaEnv
from traceworld.sim.suites import make_env


class StandIn:
    """`robocasa.wrappers.gym_wrapper.RoboCasaGymEnv`: done after the third action that drives the base forward."""

    made: ClassVar[list] = []

    def __init__(
        self,
        env_name=None,
        camera_names=None,
        camera_widths=None,
        camera_heights=None,
        enable_render=True,
        split="test",
        **kwargs,
    ):
        if env_name == "NoSuchTask":
            raise KeyError(env_name)
        self.size, self.split, self.actions, self.driven, self.closed = (
            (camera_heights, camera_widths, 3),
            split,
            [],
            0,
            False,
        )
        StandIn.made.append(self)

    def reset(self, seed=None, options=None):
        self.rng, self.actions, self.driven = np.random.default_rng(seed), [], 0
        self.mark = int(self.rng.integers(256))
        return self._observation(), {"success": False}

    def step(self, action_dict):
        self.actions.append({key: np.array(value) for key, value in action_dict.items()})
        self.driven += action_dict["action.base_motion"][0] > 0
        success = self.driven == 3  # for one step only
        return self._observation(), float(success), False, False, {"success": success}

    def close(self):
        self.closed = True

    def _observation(self):
        sizes = {
            "gripper_qpos": 2,
            "base_position": 3,
            "base_rotation": 4,
            "end_effector_position_relative": 3,
            "end_effector_rotation_relative": 4,
        }
        seen = {f"state.{key}": np.full(size, number, np.float32) for number, (key, size) in enumerate(sizes.items())}
        for number, camera in enumerate(("robot0_agentview_left", "robot0_agentview_right", "robot0_eye_in_hand")):
            seen[f"video.{camera}"] = np.full(self.size, (self.mark + number) % 256, np.uint8)
        return seen | {"annotation.human.task_description": "close the fridge"}


@pytest.fixture(autouse=True)
def robocasa(monkeypatch):
    """The modules that the adapter imports."""
    for name in ("robocasa", "robocasa.wrappers", "robocasa.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    wrapper, registry = ModuleType("gym_wrapper"), ModuleType("dataset_registry_utils")
    wrapper.RoboCasaGymEnv = StandIn
    registry.get_task_horizon = {"CloseFridge": 12}.get
    monkeypatch.setitem(sys.modules, "robocasa.wrappers.gym_wrapper", wrapper)
    monkeypatch.setitem(sys.modules, "robocasa.utils.dataset_registry_utils", registry)
    StandIn.made.clear()


def test_observation_in_the_datasets_order():
    env = make_env("robocasa:CloseFridge")
    env.reset(3)
    seen = env.observe()
    assert list(seen.images) == [SCENE, WRIST]
    assert seen.images[SCENE].shape == (256, 256, 3)
    assert int(seen.images[WRIST][0, 0, 0]) == (int(seen.images[SCENE][0, 0, 0]) + 2) % 256
    assert seen.state.tolist() == [1.0] * 3 + [2.0] * 4 + [3.0] * 3 + [4.0] * 4 + [0.0] * 2
    assert seen.instruction == "close the fridge"
    assert len(ROBOCASA_SPEC.state_names) == len(seen.state) == 16
    assert ROBOCASA_SPEC.dim == 12
    assert ROBOCASA_SPEC.control_hz == 20


def test_actions_go_where_they_belong():
    env = RoboCasaEnv("CloseFridge", image_size=(32, 24))
    env.reset(0)
    env.step(np.linspace(-1, 0.1, 12))
    sent = StandIn.made[0].actions[-1]
    parts = ("base_motion", "control_mode", "end_effector_position", "end_effector_rotation", "gripper_close")
    assert np.allclose(np.concatenate([sent[f"action.{part}"] for part in parts]), np.linspace(-1, 0.1, 12))
    assert [len(sent[f"action.{part}"]) for part in parts] == [4, 1, 3, 3, 1]
    assert StandIn.made[0].size == (24, 32, 3)
    assert StandIn.made[0].split == "pretrain"


def test_things_settle_before_the_first_action():
    env = RoboCasaEnv("CloseFridge")
    env.reset(0)
    assert len(StandIn.made[0].actions) == SETTLE_STEPS == 10
    assert all(not np.any(value) for action in StandIn.made[0].actions for value in action.values())


def test_success_is_latched_and_the_benchmarks_own_limit_holds():
    env = RoboCasaEnv("CloseFridge")
    env.reset(0)
    forward = np.zeros(12)
    forward[0] = 1
    outcomes = [env.step(forward) for _ in range(4)]
    assert [outcome.success for outcome in outcomes] == [False, False, True, True]
    env.reset(0)
    outcomes = [env.step(np.zeros(12)) for _ in range(12)]
    assert [outcome.finished for outcome in outcomes] == [False] * 11 + [True]
    with pytest.raises(InvalidInputError, match="over after 12"):
        env.step(np.zeros(12))


def test_the_seed_decides_the_episode():
    env = RoboCasaEnv("CloseFridge")
    pictures = []
    for seed in (5, 6, 5):
        env.reset(seed)
        pictures.append(env.observe().images[SCENE])
    assert np.array_equal(pictures[0], pictures[2])
    assert not np.array_equal(pictures[0], pictures[1])


def test_staying_keeps_gripper_and_mode():
    env = RoboCasaEnv("CloseFridge")
    assert env.stay(np.arange(12, dtype=np.float32)).tolist() == [0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 11]
    env.close()
    assert StandIn.made[0].closed


def test_faults_are_named():
    with pytest.raises(InvalidInputError, match="NoSuchTask"):
        RoboCasaEnv("NoSuchTask", max_steps=5)
    with pytest.raises(ConfigError, match="cameras"):
        RoboCasaEnv("CloseFridge", cameras=("corner",))
    env = RoboCasaEnv("CloseFridge")
    with pytest.raises(InvalidInputError, match="reset"):
        env.observe()
    env.reset(0)
    with pytest.raises(InvalidInputError, match="not finite"):
        env.step(np.full(12, np.inf))
    with pytest.raises(InvalidInputError, match="cannot be saved"):
        env.snapshot()
