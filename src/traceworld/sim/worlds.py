"""Meta-World tasks as worlds: place the objects from a seed, let the scripted expert act, keep every state.

Physics and pictures are separate: `World.rollout` runs the physics alone (about 0.2 ms a step) and keeps the joint
state of every step; a `Stage` puts any of these states back, on a copy of the model, to render it or read body poses.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int

from traceworld.errors import ConfigError
from traceworld.extras import require
from traceworld.sim.embodiments import SAWYER
from traceworld.sim.gantry import on_robot
from traceworld.sim.posts import Posts, draw_posts, post_geoms, put_up, touched, with_posts
from traceworld.sim.rendering import load_mujoco
from traceworld.sim.tasks import check_task, instruction_of

PLACEMENT = ("body_pos", "body_quat", "geom_pos", "geom_quat", "geom_size", "geom_rgba", "jnt_pos", "jnt_axis")
PLACEMENT_OF_SITES = ("site_pos", "site_quat", "site_size", "site_rgba")
"""What a reset may change in the model (beside the joint state): where things stand and how large they are."""

STEP_S = 0.0125
"""Seconds of one environment step."""


@dataclass(frozen=True, eq=False)
class Rollout:
    """One episode: every state from the first (before any action) to the last.

    Attributes:
        task, seed, instruction: what was asked, and the seed of the placement and of the noise.
        qpos: [S,nq] joint positions; with the placement they fix where everything is.
        placement: what the reset changed in the model.
        goals: name of each goal marker → [3] world metres.
        success_step: first state in which the task counts as done; None when it never does.
    """

    task: str
    seed: int
    instruction: str
    qpos: Float64[np.ndarray, "S nq"]
    placement: Mapping[str, np.ndarray]
    goals: Mapping[str, np.ndarray]
    success_step: int | None

    @property
    def num_states(self) -> int:
        return len(self.qpos)


class World:
    """One task with its expert; makes any number of episodes.

    Args:
        task: a Meta-World task, e.g. `drawer-open-v3` (the version may be left out).
        robot: `sawyer`, Meta-World's own, or `gantry` (`sim.gantry`).
        posts: distractors that stand on the table (`sim.posts`).

    Attributes:
        posts: those of the present episode.

    Raises:
        ConfigError: no such task or robot, too many posts.
        MissingExtraError: the extra `sim` is not installed.
    """

    def __init__(self, task: str, robot: str = SAWYER, posts: int = 0):
        self.task = check_task(task)
        load_mujoco()
        environment = require("metaworld.env_dict").ALL_V3_ENVIRONMENTS[self.task]
        self._env = with_posts(on_robot(environment, robot), posts, robot)()
        self._env._partially_observable = False  # the expert has to see the goal
        self._env.__dict__.pop("sawyer_observation_space", None)  # cached for the partial observation
        self._env._freeze_rand_vec = False  # any placement, not the 50 frozen ones
        self._env.seeded_rand_vec = True
        self._env._set_task_called = True
        self._seed = 0
        model = self._env.model
        self._pristine = {name: getattr(model, name).copy() for name in PLACEMENT + PLACEMENT_OF_SITES}
        self._post_geoms = post_geoms(model, posts)
        self.posts: Posts | None = None

    def rollout(self, seed: int, *, action_noise: float = 0.0, hold_steps: int = 20, max_steps: int = 300) -> Rollout:
        """Play one episode. The same arguments give the same states, whatever was played before.

        Args:
            seed: of the placement and of the noise.
            action_noise: standard deviation of the noise added to the expert's motion, in its own unit (1 = 1 cm per
                step). The noise is correlated over about ten steps, so that it bends the path instead of shaking it;
                the sum is clipped to full speed, as the expert's own action is.
            hold_steps: how long the expert goes on after success.
            max_steps: give up after so many steps (at most 500).
        """
        if not 1 <= max_steps <= 500:
            raise ConfigError(f"{max_steps} steps", where="max_steps", mend="give 1 to 500")
        obs = self.reset(seed)
        expert, start = self.expert(), self.scene()
        rng = np.random.default_rng([seed, 0xAC7])
        drift, success_step, states = np.zeros(3), None, [start.qpos[0]]
        while len(states) <= max_steps:
            if success_step is not None and len(states) > success_step + hold_steps:
                break
            drift = 0.9 * drift + np.sqrt(1 - 0.9**2) * rng.normal(size=3)
            action = expert_action(expert, obs)
            action[:3] += action_noise * drift
            obs, success = self.step(np.clip(action, -1, 1).astype(np.float32))
            states.append(self.qpos())
            if success_step is None and success:
                success_step = len(states) - 1
        return replace(start, qpos=np.array(states), success_step=success_step)

    def reset(self, seed: int) -> Float64[np.ndarray, " 39"]:
        """Begin an episode, the same whatever was played before; returns what the expert sees, the goal among it."""
        env = self._env
        for name, value in self._pristine.items():  # some resets move things relative to where they stand
            getattr(env.model, name)[:] = value
        require("mujoco").mj_resetData(env.model, env.data)
        env.seed(seed)
        obs, _ = env.reset()
        self._seed = seed
        if count := len(self._post_geoms):
            self.posts = draw_posts(obs[4:7], self.goal(), count, np.random.default_rng([seed, 0x905]))
            put_up(env.model, self.posts)
            require("mujoco").mj_forward(env.model, env.data)
        return obs

    def goal(self) -> Float64[np.ndarray, " 3"]:
        """Where the task's thing shall go, world metres. Not for policies that are to be judged."""
        return np.array(self._env._target_pos, np.float64)

    def touches_post(self) -> bool:
        """Whether anything touches a post now."""
        return touched(self._env.data, self._post_geoms)

    def step(self, action: Float32[np.ndarray, " 4"]) -> tuple[Float64[np.ndarray, " 39"], bool]:
        """One environment step: what the expert sees next, and whether the task counts as done in this very state."""
        obs, _, _, _, info = self._env.step(action)
        return obs, bool(info["success"] > 0.5)

    def expert(self) -> Any:
        """Meta-World's script for this task; it goes by what `reset` and `step` return."""
        return require("metaworld.policies").ENV_POLICY_MAP[self.task]()

    def qpos(self) -> Float64[np.ndarray, " nq"]:
        """The joint positions now (a copy)."""
        return self._env.data.qpos.copy()

    def scene(self) -> Rollout:
        """The present moment as an episode of one state: what a stage is furnished with."""
        env = self._env
        placement = {name: getattr(env.model, name).copy() for name in PLACEMENT + PLACEMENT_OF_SITES}
        goals = {name: np.array(place, np.float64) for name, place in env._target_site_config}
        return Rollout(self.task, self._seed, instruction_of(self.task), self.qpos()[None], placement, goals, None)

    def simulation(self) -> Any:
        """Meta-World's own environment, for those that save and restore its state (`control_state`)."""
        return self._env

    def stage(self) -> Stage:
        """A copy of this world on which states are put to be looked at."""
        return Stage(self._env.model)

    def model_and_file(self) -> tuple[Any, str]:
        """The world's `mujoco.MjModel`, not to be changed, and the file it was made from."""
        return self._env.model, str(self._env.fullpath)


class Stage:
    """States of rollouts, put back on a copy of the model (the physics is never touched).

    Attributes:
        model, data: MuJoCo's, for a renderer.
        object_body: [ngeom + nsite] the body that each geom (then each site) is part of.
        body_part: [nbody] the rigid part that each body belongs to: bodies with no joint between them are one part, and
            everything that cannot move is part −1.
    """

    def __init__(self, model: Any):
        self._mujoco = load_mujoco()
        self.model = copy.copy(model)
        self.data = self._mujoco.MjData(self.model)
        self.object_body: Int[np.ndarray, " objects"] = np.concatenate([model.geom_bodyid, model.site_bodyid])
        root = np.array(model.body_weldid, np.int32)
        self.body_part: Int[np.ndarray, " bodies"] = np.where(root == 0, -1, root)

    def load(self, rollout: Rollout) -> None:
        """Furnish the stage for an episode. Of the sites only the goals are shown, where the task says they are."""
        for name, value in rollout.placement.items():
            getattr(self.model, name)[: len(value)] = value  # a model may have more than the world's, behind it
        self.model.site_rgba[:, 3] = 0.0
        self.put(rollout.qpos[0])
        for name, place in rollout.goals.items():
            site = self.model.site(name)
            body = int(site.bodyid[0])
            if self.body_part[body] != -1 or np.abs(place).max() > 3.0:
                continue  # fixed to something that moves; or parked far away because this task does not use it
            site.pos[:] = self.data.xmat[body].reshape(3, 3).T @ (place - self.data.xpos[body])
            site.rgba[3] = 1.0

    def put(self, qpos: Float64[np.ndarray, " nq"]) -> None:
        """Put one state on the stage."""
        self.data.qpos[:] = qpos
        self._settle()

    def _settle(self) -> None:
        """Bring everything to where the joint state says it is."""
        self._mujoco.mj_kinematics(self.model, self.data)
        self._mujoco.mj_comPos(self.model, self.data)  # lights and cameras that follow a body need it
        self._mujoco.mj_camlight(self.model, self.data)

    def body_names(self) -> list[str]:
        """MuJoCo's name of each body ("" for some)."""
        return [self.model.body(body).name for body in range(self.model.nbody)]

    def body_poses(self) -> Float64[np.ndarray, "bodies 4 4"]:
        """world_from_body of every body in the state on the stage."""
        poses = np.tile(np.eye(4), (self.model.nbody, 1, 1))
        poses[:, :3, :3] = self.data.xmat.reshape(-1, 3, 3)
        poses[:, :3, 3] = self.data.xpos
        return poses


def expert_action(expert: Any, obs: Float64[np.ndarray, " 39"]) -> Float64[np.ndarray, " 4"]:
    """What Meta-World's script does next; not yet clipped to the bounds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "Constant(s) may be too high": the sum is clipped anyway
        return np.array(expert.get_action(obs), np.float64)


def versions() -> dict[str, str]:
    """The packages that decide what an episode looks like."""
    return {name: version(name) for name in ("mujoco", "metaworld", "numpy")}
