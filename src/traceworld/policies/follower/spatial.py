"""Spatial traces carried out: a model says once, in metres, where a thing is to go (RoboTracer §3), and the robot takes it there.

Such a trace has no time, no gripper and no turn: only the places of the thing, the first one on it. How the robot gets hold of the
thing is geometry (`approach.way_to_part`): its extent, measured by depth around the first place, decides whether it is
grasped or pushed. The way is gone along at the robot's own speed, place by place and nowhere else, so a trace that keeps clear of
what stands around keeps the thing clear of it; and the fingers open at the end.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Float64

from traceworld.errors import ConfigError, ExtractionError, InvalidInputError
from traceworld.geometry.cameras import unproject
from traceworld.models.predictor import TracePredictor
from traceworld.policies.follower.approach import Way, way_to_part
from traceworld.policies.follower.effectors import Effector
from traceworld.policies.follower.gripper import ToolState
from traceworld.policies.follower.plan import Plan
from traceworld.policies.follower.speed import retime
from traceworld.traces.robot import ActionChunk, RobotObservation
from traceworld.traces.types import Camera, Observation
from traceworld.tracespatial.answer_values import to_pixels
from traceworld.tracespatial.answers import FAILURES, parse_trace


@runtime_checkable
class SpatialTraceSource(Protocol):
    """Whoever says where a thing is to go."""

    @property
    def name(self) -> str: ...

    def trace(self, observation: RobotObservation) -> Float64[np.ndarray, "P 3"]:
        """The places of the thing, two or more, world metres; the first is where it is.

        Raises:
            ExtractionError: it says none.
        """
        ...


class SpokenTraces:
    """The 3D traces of a model that answers in words, as RoboTracer does: (u, v) in thousandths of the picture and metres.

    Args:
        predictor: one whose predictions have a text.
    """

    def __init__(self, predictor: TracePredictor):
        self._predictor = predictor
        self.name = predictor.name

    def trace(self, observation: RobotObservation) -> Float64[np.ndarray, "P 3"]:
        """See `SpatialTraceSource`.

        Raises:
            ExtractionError: the words hold no 3D trace; they are in the message.
            InvalidInputError: the scene camera is not calibrated.
        """
        camera, image = _camera_of(observation), observation.images[observation.scene_camera]
        asked = Observation(
            image=image,
            instruction=observation.instruction,
            depth_m=observation.depth_m.get(observation.scene_camera),
            K=camera.K,
            keypoints_uv=np.zeros((1, 2), np.float32),
        )
        words = self._predictor.predict(asked).text
        said = parse_trace(words, dims=3)
        if not said.ok or len(said.points) < 2:
            reason = FAILURES.get(said.failure, "fewer than two points")
            raise ExtractionError(f"{reason}: {words!r:.200}", where=self.name, mend="ask a model of metric traces")
        pixels = to_pixels(said.points, camera.width, camera.height)
        return unproject(pixels[:, :2], pixels[:, 2], camera.K, camera.cam_from_world)


@dataclass(frozen=True)
class SpatialConfig:
    """How spatial traces are carried out.

    Attributes:
        chunk: actions per call.
        speed: share of the robot's top speed.
        reach_m: what depth shows so near to the first place, across the approach, is taken for the thing.
        step_m: the trace is gone along in steps no longer than this.
        let_go: open the fingers at the end.
    """

    chunk: int = 8
    speed: float = 0.7
    reach_m: float = 0.035
    step_m: float = 0.02
    let_go: bool = True

    def __post_init__(self):
        if self.chunk < 1 or not 0 < self.speed <= 1 or min(self.reach_m, self.step_m) <= 0:
            raise ConfigError(f"impossible settings {self}", where="SpatialConfig")


class SpatialTracePolicy:
    """A policy that carries out one spatial trace per episode.

    Args:
        source: who says where. effector: the robot. config: how.

    It needs the scene camera calibrated and its metric depth.
    """

    wants_depth = True

    def __init__(self, source: SpatialTraceSource, effector: Effector, config: SpatialConfig | None = None):
        self.source, self.effector, self.config = source, effector, config or SpatialConfig()
        self.name = f"spatial:{source.name}"
        self.reset()

    def reset(self, seed: int = 0) -> None:
        """Forget the last episode. Nothing here is random."""
        self._plan: Plan | None = None

    def act(self, observation: RobotObservation) -> ActionChunk:
        """The next `chunk` actions of the plan, which is made at the first call.

        Raises:
            ExtractionError: the source says no trace.
            InvalidInputError: the scene camera is not calibrated or has no depth, or the trace begins where there is nothing.
        """
        started = time.perf_counter()
        step = observation.step
        if self._plan is None or step < self._plan.start:
            self._plan = self._new_plan(observation)
        count = self.config.chunk
        poses, closing = self._plan.window(step, count + self.effector.response)
        actions = self.effector.actions(observation.state, poses, closing[:count])
        return ActionChunk(actions, None, {"total": time.perf_counter() - started}, done=step > self._plan.end + count)

    def _new_plan(self, observation: RobotObservation) -> Plan:
        tool = self.effector.tool(observation.state)
        places = dense(self.source.trace(observation), self.config.step_m)
        thing = self._thing(observation, places[0], tool)
        motion = np.tile(np.eye(4), (len(places), 1, 1))
        motion[:, :3, 3] = places - places[0]
        way = way_to_part(tool, self.effector.gripper, thing, motion, let_go=self.config.let_go)
        timed, place = retime(
            way.poses,
            None,
            1 / self.effector.spec.control_hz,
            self.config.speed * self.effector.max_speed_mps,
            self.effector.max_turn_radps,
            self._dwell(way),
        )
        return Plan(observation.step, timed, way.closing[np.floor(place + 1e-9).astype(int)])

    def _dwell(self, way: Way) -> Float64[np.ndarray, " W"]:
        """The fingers get their time to close, and to open at the end."""
        dwell = np.zeros(len(way.poses))
        if way.grip_step is not None:
            dwell[[way.grip_step, -1]] = self.effector.grip_s
        return dwell

    def _thing(
        self, observation: RobotObservation, first: Float[np.ndarray, " 3"], tool: ToolState
    ) -> Float64[np.ndarray, "M 3"]:
        """Points of the thing at the trace's start, moved so that their middle is that start: of a thing, a camera sees a side."""
        camera = _camera_of(observation)
        points = _seen(_depth_of(observation), camera)
        approach = tool.world_from_tool[:3, :3] @ np.array(self.effector.gripper.approach_axis)
        offset = points - first
        along = offset @ approach
        across = np.linalg.norm(offset - along[:, None] * approach, axis=1)
        # What lies deeper than the place itself is what the thing stands on.
        near = (
            (across <= self.config.reach_m) & (along < 0.5 * self.config.reach_m) & (along > -2 * self.config.reach_m)
        )
        if not near.any():
            raise InvalidInputError(
                f"the trace begins at {np.round(first, 3).tolist()}, where depth shows nothing",
                where=self.name,
                mend="check the camera's calibration and the unit of its depth",
            )
        thing = points[near]
        return thing - (thing.min(0) + thing.max(0)) / 2 + first


def dense(places: Float[np.ndarray, "P 3"], step_m: float) -> Float64[np.ndarray, "T 3"]:
    """The same polyline with places at most `step_m` apart; its corners stay."""
    parts = [places[:1].astype(np.float64)]
    for before, after in itertools.pairwise(places.astype(np.float64)):
        count = max(1, int(np.ceil(np.linalg.norm(after - before) / step_m)))
        parts.append(before + np.arange(1, count + 1)[:, None] / count * (after - before))
    return np.concatenate(parts)


def _camera_of(observation: RobotObservation) -> Camera:
    name = observation.scene_camera
    if name not in observation.cameras:
        raise InvalidInputError(
            f"camera '{name}' is not calibrated",
            where="RobotObservation.cameras",
            mend="traces are carried out in metres",
        )
    return observation.cameras[name]


def _depth_of(observation: RobotObservation) -> Float32[np.ndarray, "H W"]:
    name = observation.scene_camera
    if name not in observation.depth_m:
        raise InvalidInputError(
            f"camera '{name}' has no depth", where="RobotObservation.depth_m", mend="make the environment with depth"
        )
    return observation.depth_m[name]


def _seen(depth_m: Float32[np.ndarray, "H W"], camera: Camera) -> Float64[np.ndarray, "M 3"]:
    """World points of all pixels whose depth is known."""
    y, x = np.nonzero(np.isfinite(depth_m) & (depth_m > 0))
    scale = np.array([camera.width / depth_m.shape[1], camera.height / depth_m.shape[0]])
    pixels = (np.stack([x, y], -1) + 0.5) * scale - 0.5
    return unproject(pixels, depth_m[y, x].astype(np.float64), camera.K, camera.cam_from_world)
