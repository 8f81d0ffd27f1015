"""A predictor that cannot err: it lets the scripted expert play on and returns where the points really go.

With it, control is measured apart from prediction. It has the interface of every trace predictor, and like them it says
nothing of actions. It needs the simulation, so it is for tests and upper bounds, never for results.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.geometry.cameras import uv_to_px, uvz_to_world, world_to_uvz
from traceworld.sim.control import MetaworldEnv
from traceworld.sim.control_state import put_back, take
from traceworld.sim.glue import carry
from traceworld.sim.rays import cast, settled
from traceworld.sim.worlds import STEP_S, World, expert_action
from traceworld.traces.types import Camera, Observation, TracePrediction


class ExactTraces:
    """The true future of any keypoints if the scripted expert took over now.

    Args:
        env: the environment that is acted in; it is left exactly as it was.
        camera: the camera that observations come from (`RobotObservation.cameras`), which does not move.
        horizon: steps of a trace (H).
        action_noise: standard deviation of noise on the expert's motion, in its own unit (see `World.rollout`), drawn from
            the seed of each prediction: a predictor that errs by a known amount.
    """

    def __init__(self, env: MetaworldEnv, camera: Camera, horizon: int = 32, action_noise: float = 0.0):
        self.name = "oracle"
        self.env, self.camera, self.horizon, self.action_noise = env, camera, horizon, float(action_noise)

    def predict(self, observation: Observation, num_samples: int = 1, seed: int = 0) -> TracePrediction:
        """The future of the observation's keypoints, S times (samples differ only with `action_noise`).

        A keypoint is part of the body that its pixel shows now; where `keypoints_z_m` is not given, it lies on the surface
        that the pixel shows. Steps past the end of the episode are not valid and repeat the last position.

        Raises:
            InvalidInputError: no keypoints, or one whose pixel shows nothing.
            ConfigError: the clock is not `time`, or its step no whole number of environment steps.
        """
        if observation.keypoints_uv is None:
            raise InvalidInputError("no keypoints", where="Observation.keypoints_uv", mend="say which points to follow")
        started = time.perf_counter()
        stride = self._stride(observation)
        world = self.env.world
        xyz, body = self._points(world, observation.keypoints_uv, observation.keypoints_z_m)
        futures = [self._play(world, stride, [seed, sample]) for sample in range(num_samples)]
        where_now = np.zeros(len(body), np.int64)
        traced = [carry(xyz, body, where_now, poses)[1:] for poses, _ in futures]
        camera = self.camera
        uvz = np.array(
            [world_to_uvz(t, camera.K, camera.cam_from_world, camera.width, camera.height) for t in traced]
        ).transpose(0, 2, 1, 3)
        steps = np.array([count for _, count in futures])
        valid = np.arange(self.horizon) < steps[:, None]
        valid = np.repeat(valid[:, None], len(body), 1) & np.isfinite(uvz).all(-1)
        return TracePrediction(
            uvz=_held(uvz).astype(np.float32),
            valid=valid,
            clock="time",
            step=observation.step,
            timing={"total": time.perf_counter() - started},
        )

    def _stride(self, observation: Observation) -> int:
        stride = round(observation.step / STEP_S)
        if observation.clock != "time" or stride < 1 or abs(stride * STEP_S - observation.step) > 1e-6:
            raise ConfigError(
                f"the oracle cannot step by {observation.step:g} on the clock {observation.clock}",
                where="Observation.step",
                mend=f"use the clock `time` and multiples of {STEP_S} s",
            )
        return stride

    def _points(
        self, world: World, uv: Float[np.ndarray, "N 2"], z_m: Float[np.ndarray, " N"] | None
    ) -> tuple[Float64[np.ndarray, "N 3"], Int[np.ndarray, " N"]]:
        """Keypoints in the world, and the body that each belongs to."""
        camera, simulation = self.camera, world.simulation()
        shown_z, body = cast(
            simulation.model, settled(simulation), camera, uv_to_px(uv.astype(np.float64), camera.width, camera.height)
        )
        if (body < 0).any():
            raise InvalidInputError(
                f"keypoint {int((body < 0).argmax())} shows nothing", where="Observation.keypoints_uv"
            )
        z = shown_z if z_m is None else np.where(np.isfinite(z_m), z_m, shown_z)
        uvz = np.concatenate([uv.astype(np.float64), z[:, None]], axis=1)
        return uvz_to_world(uvz, camera.K, camera.cam_from_world, camera.width, camera.height), body

    def _play(self, world: World, stride: int, seed: list[int]) -> tuple[Float64[np.ndarray, "T bodies 4 4"], int]:
        """Poses of all bodies now and after each step of the horizon, and how many steps Meta-World allows."""
        simulation = world.simulation()
        before = take(simulation)
        try:
            poses, steps = [_poses(settled(simulation))], self._steps_left(simulation, stride)
            actions = self._actions(world, seed)
            for _ in range(steps):
                for _ in range(stride):
                    next(actions)
                poses.append(_poses(simulation.data))
        finally:
            put_back(simulation, before)
        return np.array(poses + [poses[-1]] * (self.horizon - steps)), steps

    def _steps_left(self, simulation: Any, stride: int) -> int:
        return min(self.horizon, (simulation.max_path_length - simulation.curr_path_length) // stride)

    def _actions(self, world: World, seed: list[int]) -> Iterator[None]:
        """The expert acts, one step each time it is asked."""
        expert, view = world.expert(), self.env.expert_view()
        rng, drift = np.random.default_rng(seed), np.zeros(3)
        while True:
            action = expert_action(expert, view)
            if self.action_noise > 0:
                drift = 0.9 * drift + np.sqrt(1 - 0.9**2) * rng.normal(size=3)
                action[:3] += self.action_noise * drift
            view, _ = world.step(np.clip(action, -1, 1).astype(np.float32))
            yield


def _poses(data: Any) -> Float64[np.ndarray, "bodies 4 4"]:
    poses = np.tile(np.eye(4), (len(data.xpos), 1, 1))
    poses[:, :3, :3] = data.xmat.reshape(-1, 3, 3)
    poses[:, :3, 3] = data.xpos
    return poses


def _held(uvz: Float[np.ndarray, "S N H 3"]) -> Float[np.ndarray, "S N H 3"]:
    """Positions that cannot be projected (behind the camera) repeat the last one that can."""
    known = np.isfinite(uvz).all(-1)
    last = np.maximum.accumulate(np.where(known, np.arange(uvz.shape[2]), 0), axis=2)
    return np.nan_to_num(np.take_along_axis(uvz, last[..., None], axis=2))
