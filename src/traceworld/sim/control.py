"""Simulated robots that a policy acts in: one interface, and Meta-World behind it.

The protocol is the one in which SmolVLA's Meta-World results are published (LeRobot's environment): the policy sees
pictures and the 4 numbers of proprioception (end effector x, y, z in metres and the gripper's opening, 0 to 1); it never
sees the goal or an object as numbers; its action is 4 numbers in [−1, 1] (end effector velocity, 1 = 1 cm per step, and
the gripper's effort) at 80 Hz; a task is done when Meta-World says so in any step, and the episode ends there, or after
400 steps.

What differs from the published protocol, and why:
- Placements are drawn from the seed of the episode, so that they are the same for every policy and can be kept apart from
  training (`training_seed`, `test_seed`). Published: drawn anew in every run, unseeded.
- Pictures are rendered at the size that is asked for, antialiased and without shadows, not at 480×480 with shadows; and
  cameras stand upright (`corner4` is where LeRobot moves its `corner2` to, here without its lean of a few degrees).
- Of the markers only the task's own goal is shown, where the task says it is. Published pictures show markers that the
  task does not use as well.
- 400 steps are LeRobot's `episode_length`; its environment itself only stops at Meta-World's 500 (`max_steps=500`).
- Instructions are this library's (`sim/tasks.py`), those that its trace models are trained with. For a policy that learned
  from LeRobot's dataset give that dataset's words (`instruction=`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Float64

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.sim.cameras import FIXED_CAMERAS, MOUNTED_CAMERAS, film_cameras
from traceworld.sim.control_state import WorldState, put_back, take
from traceworld.sim.rendering import SceneRenderer
from traceworld.sim.tasks import check_task, instruction_of
from traceworld.sim.worlds import STEP_S, World
from traceworld.traces.robot import ActionSpec, RobotObservation
from traceworld.traces.types import Camera

WRIST = "wrist"
"""What a policy calls the camera on the gripper; Meta-World's `gripperPOV`."""

PUBLISHED_CAMERA = "corner4"
"""The published scene camera. LeRobot calls it `corner2` and moves that to the place that Meta-World's `corner4` has."""

CONTROL_CAMERAS = (*FIXED_CAMERAS, WRIST, *MOUNTED_CAMERAS)

METAWORLD_SPEC = ActionSpec(
    names=("dx", "dy", "dz", "gripper"),
    low=(-1.0,) * 4,
    high=(1.0,) * 4,
    control_hz=1 / STEP_S,
    state_names=("x", "y", "z", "opening"),
)

PUBLISHED_STEPS, LONGEST = 400, 500

FIRST_TEST_SEED = 1 << 40
"""Seeds of test episodes begin here; every seed below may have been trained on (a corpus draws 31-bit seeds)."""


def training_seed(run: int, episode: int) -> int:
    """The seed of an episode that may be learned from: below `FIRST_TEST_SEED`."""
    return _numbered(run, episode)


def test_seed(run: int, episode: int) -> int:
    """The seed of an episode that policies are judged by: no training seed is ever equal to it."""
    return FIRST_TEST_SEED + _numbered(run, episode)


test_seed.__test__ = False  # type: ignore[attr-defined]  # pytest would take the name for a test


def _numbered(run: int, episode: int) -> int:
    if not (0 <= run < 1 << 20 and 0 <= episode < 1 << 20):
        raise ConfigError(f"run {run}, episode {episode}", where="seed", mend="give numbers from 0 to 1048575")
    return (run << 20) + episode


@dataclass(frozen=True)
class StepOutcome:
    """What a step led to.

    Attributes:
        success: the task has been done, in this step or an earlier one.
        finished: the episode is over: done, or out of steps.
    """

    success: bool
    finished: bool


@runtime_checkable
class ControlEnv(Protocol):
    """A robot in a world, driven step by step.

    Attributes:
        task: its name. instruction: the task in words. spec: what actions and states mean.
        max_steps: an episode is over after so many.
    """

    task: str
    instruction: str
    spec: ActionSpec
    max_steps: int

    def reset(self, seed: int) -> None:
        """Begin an episode; the seed decides everything that is random in it."""
        ...

    def observe(self) -> RobotObservation:
        """What the robot sees now. Renders, so call it only when somebody looks."""
        ...

    def step(self, action: Float[np.ndarray, " A"]) -> StepOutcome:
        """Send one action (clipped to the spec's bounds)."""
        ...

    def stay(self, last: Float32[np.ndarray, " A"] | None) -> Float32[np.ndarray, " A"]:
        """An action that keeps the robot where it is; `last` is the action before, if there was one."""
        ...

    def snapshot(self) -> Any:
        """The whole state, for `restore`."""
        ...

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot; what follows is the same to the last bit."""
        ...

    def close(self) -> None:
        """Free the renderer."""
        ...


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A moment of a `MetaworldEnv`."""

    world: WorldState
    scene: Any
    expert_view: Float64[np.ndarray, " 39"]
    steps: int
    success: bool
    touched: bool | None = None


class MetaworldEnv:
    """One Meta-World task to act in. Close it, or use it in a `with` statement.

    Args:
        task: e.g. `drawer-open-v3` (the version may be left out).
        cameras: what to see through, the scene camera first: `CONTROL_CAMERAS` by name.
        image_size: (width, height) of every picture, pixels.
        with_depth: give metric depth of every camera as well.
        max_steps: an episode is over after so many (at most Meta-World's 500).
        instruction: the task in other words than this library's.
        robot: `sawyer`, or `gantry` (`sim.gantry`): another body and other dynamics, the same gripper, actions and state.
        posts: distractors on the table, one of them in the way (`sim.posts`).

    Attributes:
        touched: whether anything has touched a post in this episode; None without posts.

    Raises:
        ConfigError: no such task or camera, an impossible size or number of steps, too many posts.
        MissingExtraError: the extra `sim` is not installed.
    """

    def __init__(
        self,
        task: str,
        cameras: Sequence[str] = (PUBLISHED_CAMERA,),
        image_size: tuple[int, int] = (192, 144),
        with_depth: bool = False,
        *,
        max_steps: int = PUBLISHED_STEPS,
        instruction: str | None = None,
        robot: str = "sawyer",
        posts: int = 0,
    ):
        self.task = check_task(task)
        _check(cameras, image_size, max_steps)
        self.cameras, self.image_size, self.with_depth = tuple(cameras), image_size, with_depth
        self.max_steps, self.spec = max_steps, METAWORLD_SPEC
        self.instruction = instruction_of(self.task) if instruction is None else instruction
        self._world = World(self.task, robot, posts)
        self._stage = self._world.stage()
        self._renderer: SceneRenderer | None = None
        self._scene: Any = None
        self._expert_view = np.zeros(39)
        self.touched: bool | None = None
        self._steps, self._success = 0, False
        self._furnished = False
        self._still: dict[str, Camera] = {}

    @property
    def world(self) -> World:
        """The world that is acted in: its model, its goals, its joint positions."""
        return self._world

    def reset(self, seed: int) -> None:
        """Begin the episode of `seed` (0 or more; see `training_seed` and `test_seed`)."""
        if seed < 0:
            raise InvalidInputError(f"{seed} is negative", where="seed", mend="give 0 or more")
        self._expert_view = self._world.reset(seed)
        self._scene = self._world.scene()
        self._steps, self._success, self._furnished = 0, False, False
        self.touched = None if self._world.posts is None else False

    def observe(self) -> RobotObservation:
        """Pictures, and depth if it was asked for, of every camera; renders now."""
        self._must_have_begun()
        if self._renderer is None:
            self._renderer = SceneRenderer(self._stage.model, *self.image_size)
        if not self._furnished:
            self._stage.load(self._scene)
            self._still, self._furnished = {}, True
        self._stage.put(self._world.qpos())
        cameras = {name: self._camera(name) for name in self.cameras}
        data = self._stage.data
        depth = {}
        if self.with_depth:
            depth = {name: self._renderer.surfaces(data, camera).depth_m for name, camera in cameras.items()}
        return RobotObservation(
            images={name: self._renderer.color(data, camera) for name, camera in cameras.items()},
            state=self._expert_view[:4].astype(np.float32),
            instruction=self.instruction,
            depth_m=depth,
            cameras=cameras,
            step=self._steps,
        )

    def step(self, action: Float[np.ndarray, " 4"]) -> StepOutcome:
        """Send one action.

        Raises:
            InvalidInputError: it is not finite, or the episode is out of steps. (After success one may go on.)
        """
        self._must_have_begun()
        if not np.isfinite(action).all():
            raise InvalidInputError("is not finite", where=f"{self.task}: action of step {self._steps}")
        if self._steps >= self.max_steps:
            raise InvalidInputError(f"is over after {self.max_steps} steps", where=self.task, mend="reset it")
        self._expert_view, success = self._world.step(np.clip(action, -1, 1).astype(np.float32))
        self._steps += 1
        self._success = self._success or success
        if self.touched is False:
            self.touched = self._world.touches_post()
        return StepOutcome(self._success, self._success or self._steps >= self.max_steps)

    def stay(self, last: Float32[np.ndarray, " A"] | None) -> Float32[np.ndarray, " 4"]:
        """No motion; the gripper holds on as in the last action."""
        grip = 0.0 if last is None else float(last[3])
        return np.array([0.0, 0.0, 0.0, grip], np.float32)

    def snapshot(self) -> Snapshot:
        """The whole state of physics and episode."""
        self._must_have_begun()
        state = take(self._world.simulation())
        return Snapshot(state, self._scene, self._expert_view.copy(), self._steps, self._success, self.touched)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot, taken in this environment or in another one of the same task.

        Raises:
            InvalidInputError: it is of another task.
        """
        put_back(self._world.simulation(), snapshot.world)
        self._furnished = self._furnished and self._scene is snapshot.scene
        self._scene, self._expert_view = snapshot.scene, snapshot.expert_view.copy()
        self._steps, self._success, self.touched = snapshot.steps, snapshot.success, snapshot.touched

    def expert(self) -> Any:
        """Meta-World's script for this task (see `control_expert`)."""
        return self._world.expert()

    def expert_view(self) -> Float64[np.ndarray, " 39"]:
        """What the script goes by, goal and objects as numbers among it. Not for policies that are to be judged."""
        return self._expert_view.copy()

    def close(self) -> None:
        """Free the renderer; the next picture makes a new one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __enter__(self) -> MetaworldEnv:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _camera(self, name: str) -> Camera:
        """Where a camera is now; those that never move are worked out once an episode."""
        if name in self._still:
            return self._still[name]
        mounted = name in (WRIST, *MOUNTED_CAMERAS)
        choice = "gripperPOV" if name == WRIST else name
        camera = film_cameras(self._stage, choice, self._world.qpos()[None], *self.image_size)[0]
        if not mounted:
            self._still[name] = camera
        return camera

    def _must_have_begun(self) -> None:
        if self._scene is None:
            raise InvalidInputError("no episode has begun", where=self.task, mend="call reset(seed) first")


def _check(cameras: Sequence[str], image_size: tuple[int, int], max_steps: int) -> None:
    if not cameras or len(set(cameras)) != len(cameras):
        raise ConfigError(f"{list(cameras)}", where="cameras", mend="name one camera or more, each once")
    for name in cameras:
        if name not in CONTROL_CAMERAS:
            raise ConfigError(f"no camera '{name}'", where="cameras", mend=f"one of {', '.join(CONTROL_CAMERAS)}")
    if min(image_size) < 16 or max(image_size) > 4096:
        raise ConfigError(f"{image_size}", where="image_size", mend="give (width, height) from 16 to 4096 pixels")
    if not 1 <= max_steps <= LONGEST:
        raise ConfigError(f"{max_steps}", where="max_steps", mend=f"give 1 to {LONGEST}")
