"""The trace follower: predicted traces become the robot's motion, without learning and without action labels (tracegen page).

At every planning step the predictor is asked where points on the gripper and around it will go. The rigid motion of the gripper's
points is the tool's path; how its fingers move, or else what begins to move along, says when to close and to open, and a thing that
they close on is grasped where it is measured to be (`grasp`); the validity head says where to stop. A path is stretched in time where the robot is too slow, sent through the robot's back end
(`effectors`), and replaced by the next one before it ends, without a jump (`plan.blend`).
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.models.predictor import TracePredictor
from traceworld.policies.follower.approach import way_to_part
from traceworld.policies.follower.effectors import Effector
from traceworld.policies.follower.events import closing_from_contact, closing_from_opening
from traceworld.policies.follower.grasp import grasp_of_part
from traceworld.policies.follower.gripper import ToolState
from traceworld.policies.follower.keypoints import KeypointBudget, Keypoints, Role, choose_keypoints
from traceworld.policies.follower.past import gripper_history
from traceworld.policies.follower.plan import Plan, blend
from traceworld.policies.follower.reading import Part, Reading, central_sample, read_prediction
from traceworld.policies.follower.speed import retime
from traceworld.traces.robot import ActionChunk, RobotObservation
from traceworld.traces.types import Clock, Observation, TracePrediction

_IDLE_M = 0.01
"""A gripper whose trace travels less than this says nothing of how a part is to be reached."""
_SWIFT_M = 0.05
"""A gripper that travelled less than this in the past steps that a predictor is told of stood or crept."""
_AT_HAND_M = 0.05
"""A part with a point so near to the grasp point is between the fingers, or in front of them."""


@dataclass(frozen=True)
class FollowerConfig:
    """How traces are followed.

    Attributes:
        chunk: actions per call.
        replan_every: control steps after which a new prediction is asked for.
        blend_steps: control steps in which the old plan fades out.
        clock, step: of the traces asked for (`Observation`).
        samples: futures to ask for; the one in the middle is followed.
        history: past steps of the gripper's points, from proprioception, to give to the predictor while it moves swiftly.
        keypoints: how many points of which kind.
        speed: share of the robot's top speed to use at most.
        done_s: how long the predictor must have had nothing left to do before the task is held to be done.
        hand_out: whether chunks carry the prediction behind them, until `TraceFollower.predictions` says otherwise.
    """

    chunk: int = 8
    replan_every: int = 8
    blend_steps: int = 6
    clock: Clock = "time"
    step: float = 0.025
    samples: int = 1
    history: int = 8
    keypoints: KeypointBudget = field(default_factory=KeypointBudget)
    speed: float = 0.9
    done_s: float = 0.5
    hand_out: bool = False

    def __post_init__(self):
        if min(self.chunk, self.replan_every, self.samples) < 1 or not 0 < self.speed <= 1 or self.blend_steps < 0:
            raise ConfigError(f"impossible settings {self}", where="FollowerConfig")


class TraceFollower:
    """A policy that does what a trace predictor foresees.

    Args:
        predictor: any.
        effector: the robot.
        config: how to follow.

    It needs the scene camera calibrated (`RobotObservation.cameras`) and its metric depth.
    """

    wants_depth = True

    def __init__(self, predictor: TracePredictor, effector: Effector, config: FollowerConfig | None = None):
        self.predictor, self.effector = predictor, effector
        self.config = config or FollowerConfig()
        self.name = f"follow:{predictor.name}"
        self.predictions = self.config.hand_out
        self.reset()

    def fork(self) -> TraceFollower:
        """Another follower of the same predictor, with an episode of its own."""
        return TraceFollower(self.predictor, self.effector, self.config)

    def reset(self, seed: int = 0) -> None:
        """Forget the last episode."""
        self._seed = seed
        self._plan: Plan | None = None
        self._planned_at = 0
        self._closed = False
        self._closed_since = 0
        self._grasping = False
        self._focus: np.ndarray | None = None
        self._past: deque[tuple[int, ToolState]] = deque(maxlen=512)
        self._prediction: TracePrediction | None = None
        self._ended_at: int | None = None

    def act(self, observation: RobotObservation) -> ActionChunk:
        """The next `chunk` actions along the plan; plans anew when the plan is old or at its end.

        Raises:
            InvalidInputError: the scene camera is not calibrated or has no depth.
        """
        return self.act_after(observation, np.zeros((0, self.effector.spec.dim), np.float32))

    def act_after(self, observation: RobotObservation, committed: Float32[np.ndarray, "J A"]) -> ActionChunk:
        """The next actions, of which the first J are settled; `chunk` more go on from where those lead.

        Raises:
            InvalidInputError: as `act`.
        """
        started = time.perf_counter()
        tool = self.effector.tool(observation.state)
        step = observation.step
        if self._past and self._past[-1][0] >= step:
            self._past.clear()  # time went back: another episode without a reset, or a restored one
            self._plan = None
        self._past.append((step, tool))
        self._note_grip(step)
        timing = {}
        if self._plan is None or step >= self._planned_at + self.config.replan_every or step >= self._plan.end:
            new = self._new_plan(observation, tool)
            self._plan = new if self._plan is None else blend(self._plan, new, self.config.blend_steps)
            self._planned_at = step
            self._ended_at = (step if self._ended_at is None else self._ended_at) if new.ended else None
            timing["plan"] = time.perf_counter() - started
        settled = len(committed)
        count = self.config.chunk
        poses, closing = self._plan.window(step + settled, count + self.effector.response)
        actions = self.effector.actions(self.effector.after(observation.state, committed), poses, closing[:count])
        actions = np.concatenate([committed, actions])
        timing["total"] = time.perf_counter() - started
        prediction = self._prediction if self.predictions else None
        waited_s = 0.0 if self._ended_at is None else (step - self._ended_at) / self.effector.spec.control_hz
        return ActionChunk(
            actions, prediction, timing, done=self._ended_at is not None and waited_s >= self.config.done_s
        )

    def _note_grip(self, step: int) -> None:
        """What the fingers were last told, from the plan that has been played up to now."""
        if self._plan is None or step <= self._plan.start:
            return
        closing = bool(self._plan.window(step - 1, 0)[1][0])
        if closing != self._closed:
            self._closed, self._closed_since = closing, step - 1

    def _new_plan(self, observation: RobotObservation, tool: ToolState) -> Plan:
        camera_name = observation.scene_camera
        if camera_name not in observation.cameras or camera_name not in observation.depth_m:
            raise InvalidInputError(
                f"camera '{camera_name}' has no depth or no calibration",
                where="RobotObservation",
                mend="traces are followed in metres: make the environment with depth and calibrated cameras",
            )
        camera, depth_m = observation.cameras[camera_name], observation.depth_m[camera_name]
        rng = np.random.default_rng([self._seed, observation.step])
        keypoints = choose_keypoints(
            depth_m, camera, self.effector.gripper, tool, self.config.keypoints, rng, self._focus
        )
        if not len(keypoints):
            return self._stay(observation.step, tool)
        asked = Observation(
            image=observation.images[camera_name],
            instruction=observation.instruction,
            depth_m=depth_m,
            K=camera.K,
            keypoints_uv=keypoints.uv,
            keypoints_z_m=keypoints.z_m,
            history_uvz=self._history(keypoints, observation, tool),
            part_id=keypoints.role.astype(np.int64),
            clock=self.config.clock,
            step=self.config.step,
        )
        noise = int(rng.integers(1 << 31))
        self._prediction = self.predictor.predict(asked, num_samples=self.config.samples, seed=noise)
        sample = central_sample(self._prediction, self._weights(keypoints))
        reading = read_prediction(self._prediction, sample, keypoints, camera, self.effector.gripper, tool)
        if reading.part is not None:
            self._focus = keypoints.xyz_world[reading.part.points].mean(0)
        return self._plan_of(reading, keypoints, tool, observation.step)

    def _weights(self, keypoints: Keypoints) -> Float[np.ndarray, " N"]:
        """The gripper's points say most about what is done."""
        return np.where(keypoints.of(Role.SCENE), 0.3, 1.0)

    def _plan_of(self, reading: Reading, keypoints: Keypoints, tool: ToolState, step: int) -> Plan:
        if reading.ended:
            return self._stay(step, tool, ended=True)
        part = reading.part
        if part is not None and self._must_approach(reading):
            return self._reach_for(part, keypoints, tool, step)
        if reading.tool is None:
            return self._stay(step, tool)
        steps = len(reading.xyz_world)
        if reading.opening is not None:
            stroke_steps = None if self._step_s is None else self.effector.grip_s / self._step_s
            closing = closing_from_opening(reading.opening, self._closed, stroke_steps=stroke_steps)
        elif part is not None:
            closing = closing_from_contact(part.events, steps, self._closed)
        else:
            closing = np.full(steps, self._closed)
        poses = reading.tool.world_from_start @ tool.world_from_tool
        if part is not None and reading.opening is not None:
            points = keypoints.xyz_world[part.points]
            grasp = grasp_of_part(poses, reading.opening, closing, self._closed, points, self.effector.gripper)
            if grasp is not None:
                poses, closing = grasp.poses, grasp.closing
            self._grasping = grasp is not None or (self._grasping and self._closed)
        step_s = self._step_s
        # Fingers that are traced in time say themselves how long they take, and may close on the way: but not round a thing.
        waits = reading.opening is None or step_s is None or self._grasping
        return self._timed(step, poses, closing, step_s, self._dwell(step, poses, closing, step_s) if waits else None)

    @property
    def _step_s(self) -> float | None:
        """Seconds per step of a trace, if it is in time."""
        return self.config.step if self.config.clock == "time" else None

    def _stay(self, step: int, tool: ToolState, ended: bool = False) -> Plan:
        return Plan(step, tool.world_from_tool[None], np.array([self._closed]), ended)

    def _must_approach(self, reading: Reading) -> bool:
        """Whether a part moves that the gripper's traces do not explain."""
        if reading.part is None or reading.part.events.contact is not None:
            return False
        if reading.tool is None:
            return True
        return bool(np.linalg.norm(reading.tool.world_from_start[:, :3, 3], axis=1).max() < _IDLE_M)

    def _reach_for(self, part: Part, keypoints: Keypoints, tool: ToolState, step: int) -> Plan:
        """To the part, and along with it; along with it at once if the closed fingers are there already."""
        gripper, points = self.effector.gripper, keypoints.xyz_world[part.points]
        away = np.linalg.norm(tool.to_tool(points) - gripper.grasp_point, axis=1).min()
        if self._closed and away < _AT_HAND_M:
            poses = part.motion.world_from_start @ tool.world_from_tool
            closing, step_s = np.ones(len(poses), bool), self._step_s
        else:
            way = way_to_part(tool, gripper, points, part.motion.world_from_start)
            poses, closing, step_s = way.poses, way.closing, None
        return self._timed(step, poses, closing, step_s, self._dwell(step, poses, closing, step_s))

    def _timed(
        self, step: int, poses: np.ndarray, closing: np.ndarray, step_s: float | None, dwell_s: np.ndarray | None
    ) -> Plan:
        timed, place = retime(
            poses,
            step_s,
            1 / self.effector.spec.control_hz,
            self.config.speed * self.effector.max_speed_mps,
            self.effector.max_turn_radps,
            dwell_s,
        )
        return Plan(step, timed, closing[np.floor(place + 1e-9).astype(int)])

    def _dwell(
        self, step: int, poses: np.ndarray, closing: np.ndarray, step_s: float | None
    ) -> Float[np.ndarray, " T"]:
        """Seconds to stand still at each step of a trace so that the fingers have closed before the tool leaves.

        What the trace itself waits counts, and so does the time for which they have been closing already.
        """
        dwell = np.zeros(len(poses))
        onsets = np.flatnonzero(closing & ~np.concatenate([[self._closed], closing[:-1]]))
        waiting = self._closed and closing[0]
        passed = (step - self._closed_since) / self.effector.spec.control_hz if waiting else 0.0
        if waiting and passed < self.effector.grip_s:
            onsets = np.concatenate([[0], onsets])
        for onset in onsets:
            away = np.linalg.norm(poses[onset:, :3, 3] - poses[onset, :3, 3], axis=1) > _IDLE_M
            still = int(away.argmax()) if away.any() else len(away)
            waited = still * (step_s or 0.0) + (passed if onset == 0 else 0.0)
            dwell[onset] = max(0.0, self.effector.grip_s - waited)
        return dwell

    def _is_swift(self, step: int, tool: ToolState) -> bool:
        since = step - self.config.history * self.config.step * self.effector.spec.control_hz
        past = [state.world_from_tool[:3, 3] for at, state in self._past if at >= since]
        return bool(np.linalg.norm(np.array(past) - tool.world_from_tool[:3, 3], axis=1).max() >= _SWIFT_M)

    def _history(
        self, keypoints: Keypoints, observation: RobotObservation, tool: ToolState
    ) -> Float32[np.ndarray, "N h 3"] | None:
        """Where the gripper's points were, by proprioception: they rode on the tool. Nothing is claimed of the scene's points.

        A gripper that stood or crept has no past: it stood because it was told to, and a predictor that is shown so foresees
        that it will go on standing, which makes it true.
        """
        if self.config.history < 1 or self.config.clock != "time" or not self._is_swift(observation.step, tool):
            return None
        return gripper_history(
            keypoints,
            list(self._past),
            self.effector,
            observation.cameras[observation.scene_camera],
            self.config.step,
            self.config.history,
        )
