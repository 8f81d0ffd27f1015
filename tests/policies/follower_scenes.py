"""A point robot with a gripper of points, seen by a camera that knows depth where the points are, and exact futures of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from traceworld.geometry.cameras import project, px_to_uv, uvz_to_world, world_to_uvz
from traceworld.policies.follower.effectors import CartesianEffector
from traceworld.policies.follower.gripper import METAWORLD_GRIPPER
from traceworld.traces.robot import ActionSpec, RobotObservation
from traceworld.traces.types import Camera, Observation, TracePrediction

SPEC = ActionSpec(("dx", "dy", "dz", "gripper"), (-1.0,) * 4, (1.0,) * 4, 80.0, ("x", "y", "z", "opening"))
EFFECTOR = CartesianEffector(SPEC)


def camera_above(size: tuple[int, int] = (640, 480)) -> Camera:
    """Looks along world +y from y = −1, upright; the middle of its picture is (0, ·, 0.2)."""
    pose = np.eye(4)
    pose[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    pose[:3, 3] = -pose[:3, :3] @ [0.0, -1.0, 0.2]
    K = np.array([[500.0, 0, size[0] / 2], [0, 500.0, size[1] / 2], [0, 0, 1]])
    return Camera(K, pose, *size)


def gripper_points(tool: np.ndarray, opening: float) -> np.ndarray:
    """Points on the palm (12), the plus finger (6) and the minus finger (6)."""
    rng = np.random.default_rng(7)
    palm = rng.uniform((-0.05, -0.06, 0.06), (0.05, 0.06, 0.12), (12, 3))
    finger = rng.uniform((-0.015, -0.004, -0.04), (0.015, 0.004, 0.04), (6, 3))
    side = np.array([0, METAWORLD_GRIPPER.stroke_m / 2 * opening, 0])
    return np.concatenate([palm, finger + side, finger - side]) + tool


class PointRobot:
    """Follows displacements with a lag, opens and closes at a constant rate, and holds a block that it has closed around."""

    def __init__(self, tool=(0.0, 0.0, 0.3), block=None, lag: float = 0.25):
        self.tool, self.commanded = np.array(tool, float), np.array(tool, float)
        self.opening, self.step_number, self.lag = 1.0, 0, lag
        self.block = None if block is None else np.array(block, float)
        self.held = False
        self.camera = camera_above()
        self.path = [self.tool.copy()]

    def step(self, action: np.ndarray) -> None:
        self.commanded += 0.01 * action[:3]
        before = self.tool.copy()
        self.tool += self.lag * (self.commanded - self.tool)
        self.opening = float(np.clip(self.opening - 0.08 * np.sign(action[3]), 0.5 if self.held else 0.0, 1.0))
        if self.block is not None:
            near = np.linalg.norm(self.block - self.tool - METAWORLD_GRIPPER.grasp_point) < 0.025
            self.held = action[3] > 0 and (self.held or (near and self.opening < 0.6))
            self.block += (self.tool - before) if self.held else 0.0
        self.path.append(self.tool.copy())
        self.step_number += 1

    def points(self) -> np.ndarray:
        scene = np.zeros((0, 3))
        if self.block is not None:
            corner = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * 0.012
            scene = self.block + corner
        return np.concatenate([gripper_points(self.tool, self.opening), scene])

    def observe(self) -> RobotObservation:
        width, height = self.camera.width, self.camera.height
        spot = project(self.points(), self.camera.K, self.camera.cam_from_world)
        pixel = np.rint(spot[:, :2]).astype(int)
        depth = np.full((height, width), np.nan, np.float32)
        order = np.argsort(-spot[:, 2])  # the nearest point of a pixel is the one that is seen
        depth[pixel[order, 1], pixel[order, 0]] = spot[order, 2]
        return RobotObservation(
            images={"scene": np.zeros((height, width, 3), np.uint8)},
            state=np.array([*self.tool, self.opening], np.float32),
            instruction="follow the path",
            depth_m={"scene": depth},
            cameras={"scene": self.camera},
            step=self.step_number,
        )


Future = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Points [N,3] now and seconds [H] from now → [H,N,3]."""


class AnalyticTraces:
    """Predicts what a formula says. `valid_steps`: how many steps of the horizon count."""

    name = "formula"

    def __init__(self, camera: Camera, future: Future, horizon: int = 32, valid_steps: int | None = None):
        self.camera, self.future, self.horizon = camera, future, horizon
        self.valid_steps = horizon if valid_steps is None else valid_steps
        self.asked: list[Observation] = []

    def predict(self, observation: Observation, num_samples: int = 1, seed: int = 0) -> TracePrediction:
        self.asked.append(observation)
        c = self.camera
        uvz = np.concatenate([observation.keypoints_uv, observation.keypoints_z_m[:, None]], axis=1)
        now = uvz_to_world(uvz, c.K, c.cam_from_world, c.width, c.height)
        later = self.future(now, np.arange(1, self.horizon + 1) * observation.step)
        traced = world_to_uvz(later, c.K, c.cam_from_world, c.width, c.height).transpose(1, 0, 2)
        valid = np.broadcast_to(np.arange(self.horizon) < self.valid_steps, traced.shape[:2])
        return TracePrediction(
            uvz=np.repeat(traced[None], num_samples, 0).astype(np.float32),
            valid=np.repeat(valid[None], num_samples, 0),
            clock=observation.clock,
            step=observation.step,
        )


def uv_of(xyz_world: np.ndarray, camera: Camera) -> np.ndarray:
    spot = project(xyz_world, camera.K, camera.cam_from_world)
    return px_to_uv(spot[:, :2], camera.width, camera.height)
