"""RoboTwin 2.0 through the one interface of `control`, for those who have it installed.

RoboTwin is a repository, not a package: it has to be on the Python path (run in its folder, or set PYTHONPATH to it), with
SAPIEN, CuRobo and its assets installed by its own scripts; it needs a GPU. Here its task classes are driven the way its
evaluation drives them: 14 absolute joint numbers per action, three cameras, its own step limit per task, seeds from 100,000 up.

What differs from its evaluation: seeds that its planner cannot solve are not left out (that takes a second run of every
episode with the expert), and the instruction is the task's name in words unless one is given, because its sentences are drawn
from an expert's run. Both make the figures a little lower than its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from traceworld.errors import ConfigError, InvalidInputError, MissingExtraError
from traceworld.extras import require
from traceworld.sim.control import StepOutcome
from traceworld.traces.robot import ActionSpec, RobotObservation

MEND = (
    "git clone https://github.com/RoboTwin-Platform/RoboTwin, run its script/_install.sh and script/_download_assets.sh, "
    "then run traceworld in its folder with PYTHONPATH=."
)
CAMERAS = ("head_camera", "left_camera", "right_camera")
"""The scene camera, and one on each wrist."""

_ARM = (*(f"joint{i}" for i in range(1, 7)), "gripper")

ROBOTWIN_SPEC = ActionSpec(
    names=tuple(f"{side}_{name}" for side in ("left", "right") for name in _ARM),
    low=((-np.pi,) * 6 + (0.0,)) * 2,
    high=((np.pi,) * 6 + (1.0,)) * 2,
    control_hz=25.0,
    state_names=tuple(f"{side}_{name}" for side in ("left", "right") for name in _ARM),
)


class RoboTwinEnv:
    """One RoboTwin 2.0 task to act in.

    Args:
        task: a module of RoboTwin's `envs`, e.g. `beat_block_hammer`.
        cameras: of `CAMERAS`, the scene camera first.
        config: a file of its `task_config` without the ending, e.g. `demo_clean` or `demo_randomized`.
        max_steps: None for RoboTwin's own limit of this task.
        instruction: the task in words; None for its name.

    Raises:
        ConfigError: no such camera, or no such configuration.
        MissingExtraError: RoboTwin is not on the path; says how to get it.
    """

    def __init__(
        self,
        task: str,
        cameras: Sequence[str] = CAMERAS,
        *,
        config: str = "demo_clean",
        max_steps: int | None = None,
        instruction: str | None = None,
    ):
        if unknown := sorted(set(cameras) - set(CAMERAS)) or not cameras:
            raise ConfigError(f"no camera {unknown}", where="cameras", mend=f"one or more of {', '.join(CAMERAS)}")
        self.task, self.spec, self.cameras = task, ROBOTWIN_SPEC, tuple(cameras)
        self.instruction = task.replace("_", " ") if instruction is None else instruction
        module, envs = _robotwin(f"envs.{task}"), _robotwin("envs")
        folder = Path(envs.CONFIGS_PATH)
        self._setup = setup_arguments(folder, config) | {"task_name": task, "task_config": config}
        limits = _read(folder / "_eval_step_limit.yml")
        self.max_steps: int = int(limits.get(task, 1000)) if max_steps is None else max_steps
        self._env = getattr(module, task)()
        self._begun, self._steps, self._success = False, 0, False

    def reset(self, seed: int) -> None:
        """Set the scene of a seed (below 2³²)."""
        if self._begun:
            self._env.close_env()
        self._env.setup_demo(now_ep_num=0, seed=seed, is_test=True, **self._setup)
        self._env.set_instruction(instruction=self.instruction)
        self._begun, self._steps, self._success = True, 0, False

    def observe(self) -> RobotObservation:
        """Renders all of RoboTwin's cameras."""
        self._must_have_begun()
        seen = self._env.get_obs()
        return RobotObservation(
            images={name: np.ascontiguousarray(seen["observation"][name]["rgb"], np.uint8) for name in self.cameras},
            state=np.asarray(seen["joint_action"]["vector"], np.float32),
            instruction=self.instruction,
            step=self._steps,
        )

    def step(self, action: Float[np.ndarray, " 14"]) -> StepOutcome:
        """Send one target of all joints."""
        self._must_have_begun()
        if not np.isfinite(action).all():
            raise InvalidInputError("is not finite", where=f"{self.task}: action of step {self._steps}")
        if self._steps >= self.max_steps:
            raise InvalidInputError(f"is over after {self.max_steps} steps", where=self.task, mend="reset it")
        self._env.take_action(np.clip(action, self.spec.low, self.spec.high))
        self._steps += 1
        self._success = self._success or bool(self._env.eval_success) or bool(self._env.check_success())
        return StepOutcome(self._success, self._success or self._steps >= self.max_steps)

    def stay(self, last: Float32[np.ndarray, " A"] | None) -> Float32[np.ndarray, " 14"]:
        """The last target again, or the joints as they are."""
        if last is not None:
            return last
        return np.asarray(self._env.get_obs()["joint_action"]["vector"], np.float32)

    def snapshot(self) -> Any:
        raise InvalidInputError("cannot be saved", where=f"robotwin:{self.task}", mend="reset it with the same seed")

    def restore(self, snapshot: Any) -> None:
        self.snapshot()

    def close(self) -> None:
        if self._begun:
            self._env.close_env()
        self._begun = False

    def _must_have_begun(self) -> None:
        if not self._begun:
            raise InvalidInputError("no episode has begun", where=self.task, mend="call reset(seed) first")


def setup_arguments(folder: Path, config: str) -> dict[str, Any]:
    """What RoboTwin's `setup_demo` is given for a configuration: its file, the robots' files and the size of the pictures."""
    arguments = dict(_read(folder / f"{config}.yml"))
    robots, cameras = _read(folder / "_embodiment_config.yml"), _read(folder / "_camera_config.yml")
    bodies = arguments["embodiment"]
    if len(bodies) not in (1, 3):
        raise ConfigError(f"{len(bodies)} entries", where=f"{config}.yml: embodiment", mend="give 1 or 3")
    left, right = bodies[0], bodies[0] if len(bodies) == 1 else bodies[1]
    arguments |= {"left_robot_file": robots[left]["file_path"], "right_robot_file": robots[right]["file_path"]}
    arguments["dual_arm_embodied"] = len(bodies) == 1
    if len(bodies) == 3:
        arguments["embodiment_dis"] = bodies[2]
    for side in ("left", "right"):
        arguments[f"{side}_embodiment_config"] = _read(Path(arguments[f"{side}_robot_file"]) / "config.yml")
    size = cameras[arguments["camera"]["head_camera_type"]]
    return arguments | {"head_camera_h": size["h"], "head_camera_w": size["w"], "render_freq": 0, "eval_mode": True}


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return require("yaml").safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path), mend=MEND) from error


def _robotwin(module: str) -> Any:
    try:
        return require(module)
    except MissingExtraError as error:
        raise MissingExtraError(f"RoboTwin is needed here: {error.message}", where="robotwin", mend=MEND) from error
