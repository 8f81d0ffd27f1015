"""RoboCasa365 through the one interface of `control`, for those who have it installed.

Needs `robosuite` and `robocasa` (from their repositories, not from PyPI) and several gigabytes of kitchen assets. Settings
are those of the paper (mu0-paper D.3; reference/mu0_official.md §5.4): PandaOmron at 20 Hz, two 256×256 pictures (left third
person and gripper), state 16, action 12, ten settling steps, success as `_check_success` says in any step, and the
benchmark's own step limit of the task (the released evaluation looks six of its eight tasks up under old names and runs
those for 1000 steps).

Action and state are in the order of the RoboCasa datasets. All four base numbers are used, mode and gripper are the
benchmark's own two-valued commands (at least 0.5 means closed, and base mode); the released evaluation drops the fourth base number
and passes mode and gripper on unrounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from traceworld.errors import ConfigError, InvalidInputError, MissingExtraError
from traceworld.extras import require
from traceworld.sim.control import WRIST, StepOutcome
from traceworld.traces.robot import ActionSpec, RobotObservation

MEND = (
    "git clone https://github.com/ARISE-Initiative/robosuite https://github.com/robocasa/robocasa separately, pip install -e "
    "both, then: python -m robocasa.scripts.setup_macros; python -m robocasa.scripts.download_kitchen_assets"
)

SCENE = "robot0_agentview_left"
CAMERAS = {
    SCENE: f"video.{SCENE}",
    "robot0_agentview_right": "video.robot0_agentview_right",
    WRIST: "video.robot0_eye_in_hand",
}
"""Our name of each camera → its key in RoboCasa's observation."""

STATE_KEYS = (
    ("state.base_position", 3),
    ("state.base_rotation", 4),
    ("state.end_effector_position_relative", 3),
    ("state.end_effector_rotation_relative", 4),
    ("state.gripper_qpos", 2),
)
ACTION_KEYS = (
    ("action.base_motion", slice(0, 4)),
    ("action.control_mode", slice(4, 5)),
    ("action.end_effector_position", slice(5, 8)),
    ("action.end_effector_rotation", slice(8, 11)),
    ("action.gripper_close", slice(11, 12)),
)

ROBOCASA_SPEC = ActionSpec(
    names=(
        *("base_x", "base_y", "base_yaw", "torso", "base_mode"),
        *("dx", "dy", "dz", "rot_x", "rot_y", "rot_z", "gripper"),
    ),
    low=(-1.0,) * 12,
    high=(1.0,) * 12,
    control_hz=20.0,
    state_names=tuple(f"{key.removeprefix('state.')}_{i}" for key, size in STATE_KEYS for i in range(size)),
)

SETTLE_STEPS = 10


class RoboCasaEnv:
    """One RoboCasa365 task to act in.

    Args:
        task: e.g. `CloseFridge`.
        cameras: of `CAMERAS`, the scene camera first.
        image_size: (width, height), pixels.
        max_steps: None for the benchmark's own limit of this task.
        split: which kitchens and objects: `all`, `pretrain` or `target`.

    Raises:
        ConfigError: no such camera.
        MissingExtraError: RoboCasa is not installed; says how to install it.
        InvalidInputError: RoboCasa cannot make the environment (no such task, or its assets are missing).
    """

    def __init__(
        self,
        task: str,
        cameras: Sequence[str] = (SCENE, WRIST),
        image_size: tuple[int, int] = (256, 256),
        *,
        max_steps: int | None = None,
        split: str = "pretrain",
    ):
        if unknown := sorted(set(cameras) - set(CAMERAS)) or not cameras:
            raise ConfigError(f"no camera {unknown}", where="cameras", mend=f"one or more of {', '.join(CAMERAS)}")
        self.task, self.spec, self.cameras = task, ROBOCASA_SPEC, tuple(cameras)
        wrapper, registry = _robocasa("wrappers.gym_wrapper"), _robocasa("utils.dataset_registry_utils")
        width, height = image_size
        try:
            self.max_steps: int = int(registry.get_task_horizon(task)) if max_steps is None else max_steps
            self._env = wrapper.RoboCasaGymEnv(env_name=task, camera_widths=width, camera_heights=height, split=split)
        except (ValueError, KeyError, FileNotFoundError, AssertionError) as error:
            raise InvalidInputError(
                f"RoboCasa cannot make it: {type(error).__name__}: {error}",
                where=f"robocasa:{task}",
                mend=f"check the name; for missing assets: {MEND.split('; ')[-1]}",
            ) from error
        self.instruction = task
        self._seen: dict[str, Any] | None = None
        self._steps, self._success = 0, False

    def reset(self, seed: int) -> None:
        """Draw kitchen, objects and places from the seed, and let things settle."""
        self._seen, _ = self._env.reset(seed=seed)
        self.instruction = str(self._seen.get("annotation.human.task_description") or self.task)
        self._steps, self._success = 0, False
        for _ in range(SETTLE_STEPS):
            self._send(self.stay(None))

    def observe(self) -> RobotObservation:
        """What RoboCasa rendered with the last step (it renders every step)."""
        seen = self._must_have_begun()
        return RobotObservation(
            images={name: np.ascontiguousarray(seen[CAMERAS[name]], np.uint8) for name in self.cameras},
            state=np.concatenate([np.ravel(seen[key]) for key, _ in STATE_KEYS]).astype(np.float32),
            instruction=self.instruction,
            step=self._steps,
        )

    def step(self, action: Float[np.ndarray, " 12"]) -> StepOutcome:
        """Send one action in the datasets' order."""
        self._must_have_begun()
        if not np.isfinite(action).all():
            raise InvalidInputError("is not finite", where=f"{self.task}: action of step {self._steps}")
        if self._steps >= self.max_steps:
            raise InvalidInputError(f"is over after {self.max_steps} steps", where=self.task, mend="reset it")
        success = self._send(np.clip(action, self.spec.low, self.spec.high).astype(np.float32))
        self._steps += 1
        self._success = self._success or success
        return StepOutcome(self._success, self._success or self._steps >= self.max_steps)

    def stay(self, last: Float32[np.ndarray, " A"] | None) -> Float32[np.ndarray, " 12"]:
        """No motion; gripper and base mode as in the last action."""
        action = np.zeros(12, np.float32)
        if last is not None:
            action[[4, 11]] = last[[4, 11]]
        return action

    def snapshot(self) -> Any:
        raise InvalidInputError("cannot be saved", where=f"robocasa:{self.task}", mend="reset it with the same seed")

    def restore(self, snapshot: Any) -> None:
        self.snapshot()

    def close(self) -> None:
        self._env.close()

    def _send(self, action: np.ndarray) -> bool:
        self._seen, _, _, _, info = self._env.step({key: action[part] for key, part in ACTION_KEYS})
        return bool(info["success"])

    def _must_have_begun(self) -> dict[str, Any]:
        if self._seen is None:
            raise InvalidInputError("no episode has begun", where=self.task, mend="call reset(seed) first")
        return self._seen


def _robocasa(module: str) -> ModuleType:
    try:
        return require(f"robocasa.{module}")
    except MissingExtraError as error:
        raise MissingExtraError(f"RoboCasa is needed here: {error.message}", where="robocasa", mend=MEND) from error
