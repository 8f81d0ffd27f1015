"""The RoboTwin adapter against a stand-in with the calls of its task classes and the files of its `task_config`."""

import sys
from types import ModuleType

import numpy as np
import pytest

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.sim.control_robotwin import ROBOTWIN_SPEC, RoboTwinEnv, setup_arguments

pytest.importorskip("yaml")


class open_laptop:
    """A task class of RoboTwin: done once the left gripper's target is open."""

    def __init__(self):
        self.log, self.eval_success = [], False

    def setup_demo(self, now_ep_num=0, seed=0, is_test=False, **args):
        assert is_test
        self.args, self.joints, self.eval_success = args, np.full(14, seed / 1e6), False
        self.log.append(("setup", seed))

    def set_instruction(self, instruction=None):
        self.instruction = instruction

    def get_obs(self):
        size = (self.args["head_camera_h"], self.args["head_camera_w"], 3)
        cameras = {
            name: {"rgb": np.full(size, i, np.uint8)}
            for i, name in enumerate(("head_camera", "left_camera", "right_camera"))
        }
        return {"observation": cameras, "joint_action": {"vector": self.joints}}

    def take_action(self, action, action_type="qpos"):
        self.joints = np.array(action)
        if action[6] > 0.9:
            self.eval_success = True

    def check_success(self):
        return False

    def close_env(self, clear_cache=False):
        self.log.append(("close",))


@pytest.fixture
def robotwin(monkeypatch, tmp_path):
    """A checkout of RoboTwin, as far as the adapter looks."""
    configs, body = tmp_path / "task_config", tmp_path / "aloha"
    configs.mkdir()
    body.mkdir()
    (body / "config.yml").write_text("arm_joints_name: [[a, b], [c]]\n")
    (configs / "demo_clean.yml").write_text("embodiment: [aloha]\ncamera: {head_camera_type: D435}\nrender_freq: 5\n")
    (configs / "two.yml").write_text("embodiment: [aloha, aloha, 0.6]\ncamera: {head_camera_type: D435}\n")
    (configs / "odd.yml").write_text("embodiment: [aloha, aloha]\ncamera: {head_camera_type: D435}\n")
    (configs / "_embodiment_config.yml").write_text(f"aloha: {{file_path: {body}}}\n")
    (configs / "_camera_config.yml").write_text("D435: {h: 24, w: 32}\n")
    (configs / "_eval_step_limit.yml").write_text("open_laptop: 7\n")
    envs, task = ModuleType("envs"), ModuleType("envs.open_laptop")
    envs.CONFIGS_PATH, task.open_laptop = f"{configs}/", open_laptop
    monkeypatch.setitem(sys.modules, "envs", envs)
    monkeypatch.setitem(sys.modules, "envs.open_laptop", task)
    return configs


def test_episode(robotwin):
    env = RoboTwinEnv("open_laptop")
    env.reset(100_003)
    seen = env.observe()
    assert list(seen.images) == ["head_camera", "left_camera", "right_camera"]
    assert seen.images["right_camera"].shape == (24, 32, 3)
    assert seen.images["right_camera"].max() == 2
    assert np.allclose(seen.state, 0.100003)
    assert seen.instruction == "open laptop" == env._env.instruction
    assert env.max_steps == 7
    target = np.full(14, 5.0)
    target[6] = 0.5
    assert not env.step(target).success
    assert np.allclose(env._env.joints[:6], np.pi)  # clipped
    target[6] = 1.0
    assert env.step(target).success
    assert env.step(np.zeros(14)).success  # latched
    env.reset(100_004)
    assert env._env.log == [("setup", 100_003), ("close",), ("setup", 100_004)]
    assert [env.step(np.zeros(14)).finished for _ in range(7)] == [False] * 6 + [True]
    with pytest.raises(InvalidInputError, match="over after 7"):
        env.step(np.zeros(14))
    env.close()
    assert env._env.log[-1] == ("close",)


def test_setup_is_what_its_evaluation_gives(robotwin):
    found = setup_arguments(robotwin, "demo_clean")
    assert found["dual_arm_embodied"] is True
    assert found["left_robot_file"] == found["right_robot_file"]
    assert found["left_embodiment_config"] == {"arm_joints_name": [["a", "b"], ["c"]]}
    assert (found["head_camera_h"], found["head_camera_w"]) == (24, 32)
    assert found["render_freq"] == 0
    assert found["eval_mode"] is True
    two = setup_arguments(robotwin, "two")
    assert two["dual_arm_embodied"] is False
    assert two["embodiment_dis"] == 0.6
    with pytest.raises(ConfigError, match="1 or 3"):
        setup_arguments(robotwin, "odd")
    with pytest.raises(ConfigError, match="nowhere"):
        setup_arguments(robotwin, "nowhere")


def test_staying_is_the_last_target_or_the_joints(robotwin):
    env = RoboTwinEnv("open_laptop", instruction="lift the lid")
    env.reset(500_000)
    assert np.allclose(env.stay(None), 0.5)
    assert env.stay(np.ones(14, np.float32)).tolist() == [1.0] * 14
    assert env.observe().instruction == "lift the lid"
    with pytest.raises(InvalidInputError, match="cannot be saved"):
        env.snapshot()


def test_faults_are_named(robotwin):
    with pytest.raises(ConfigError, match="cameras"):
        RoboTwinEnv("open_laptop", cameras=("corner",))
    env = RoboTwinEnv("open_laptop", max_steps=3)
    with pytest.raises(InvalidInputError, match="reset"):
        env.observe()
    env.reset(1)
    with pytest.raises(InvalidInputError, match="not finite"):
        env.step(np.full(14, np.nan))
    assert ROBOTWIN_SPEC.dim == len(ROBOTWIN_SPEC.state_names) == 14
