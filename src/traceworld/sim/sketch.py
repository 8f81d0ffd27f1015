"""An environment whose observations cost next to nothing: no picture, exact depth on a coarse grid of pixels.

For policies and predictors that go by geometry alone (`sim.oracle`). The episode, its seeds and its success are those of the
environment inside; only `observe` differs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64

from traceworld.geometry.cameras import project
from traceworld.sim.cameras import film_cameras
from traceworld.sim.control import MetaworldEnv, StepOutcome
from traceworld.sim.rays import cast, settled
from traceworld.traces.robot import RobotObservation
from traceworld.traces.types import Camera

FINE_PX, FINE_REACH_PX = 2, 40
"""Around the gripper every second pixel is cast, this far to each side."""


class SketchedEnv:
    """A `MetaworldEnv` seen by rays: depth is known at every `stride`-th pixel, and densely around the gripper; colour is black.

    Args:
        env: what is acted in; its own cameras are not used.
        camera: a fixed Meta-World camera by name.
        image_size: (width, height) of the image plane, pixels.
        stride: distance of the coarse rays, pixels.
    """

    def __init__(
        self,
        env: MetaworldEnv,
        camera: str = "corner2",
        image_size: tuple[int, int] = (640, 480),
        stride: int = 10,
    ):
        self.env, self.camera_name, self.image_size, self.stride = env, camera, image_size, stride
        self.task, self.instruction, self.spec, self.max_steps = env.task, env.instruction, env.spec, env.max_steps
        stage = env.world.stage()
        stage.put(env.world.qpos())
        self.camera: Camera = film_cameras(stage, camera, env.world.qpos()[None], *image_size)[0]
        self._steps = 0

    def reset(self, seed: int) -> None:
        """Begin the episode of `seed`."""
        self.env.reset(seed)
        self._steps = 0

    def observe(self) -> RobotObservation:
        """Depth where rays were cast, NaN elsewhere; no colour."""
        simulation = self.env.world.simulation()
        width, height = self.image_size
        state = self.env.expert_view()[:4]
        pixels = self._pixels(state[:3])
        z, _ = cast(simulation.model, settled(simulation), self.camera, pixels.astype(np.float64))
        depth = np.full((height, width), np.nan, np.float32)
        depth[pixels[:, 1], pixels[:, 0]] = z
        name = self.camera_name
        return RobotObservation(
            images={name: np.zeros((height, width, 3), np.uint8)},
            state=state.astype(np.float32),
            instruction=self.instruction,
            depth_m={name: depth},
            cameras={name: self.camera},
            step=self._steps,
        )

    def step(self, action: Float[np.ndarray, " 4"]) -> StepOutcome:
        """Send one action."""
        outcome = self.env.step(action)
        self._steps += 1
        return outcome

    def stay(self, last: Float32[np.ndarray, " A"] | None) -> Float32[np.ndarray, " A"]:
        """An action that keeps the robot where it is."""
        return self.env.stay(last)

    @property
    def touched(self) -> bool | None:
        """See `MetaworldEnv`."""
        return self.env.touched

    def snapshot(self) -> Any:
        """The whole state of the environment inside."""
        return self.env.snapshot()

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""
        self.env.restore(snapshot)
        self._steps = snapshot.steps

    def close(self) -> None:
        """Nothing is held open here; closes the environment inside."""
        self.env.close()

    def _pixels(self, gripper: Float64[np.ndarray, " 3"]) -> np.ndarray:
        """[M,2] whole pixels (x, y), each once."""
        width, height = self.image_size
        coarse = np.stack(np.meshgrid(np.arange(0, width, self.stride), np.arange(0, height, self.stride)), -1)
        spot = project(gripper.astype(np.float64), self.camera.K, self.camera.cam_from_world)[:2]
        pixels = coarse.reshape(-1, 2)
        if np.isfinite(spot).all():
            offset = np.arange(-FINE_REACH_PX, FINE_REACH_PX + 1, FINE_PX)
            fine = np.rint(spot).astype(int) + np.stack(np.meshgrid(offset, offset), -1).reshape(-1, 2)
            fine = fine[((fine >= 0) & (fine < (width, height))).all(1)]
            pixels = np.concatenate([pixels, fine])
        return np.unique(pixels, axis=0)
