"""A point on a line that has to be brought to a goal: an environment and policies without physics, for tests."""

from __future__ import annotations

import numpy as np

from traceworld.errors import CheckpointError
from traceworld.sim.control import StepOutcome
from traceworld.traces.robot import ActionChunk, ActionSpec, RobotObservation

SPEC = ActionSpec(("dx", "gripper"), (-1.0, -1.0), (1.0, 1.0), control_hz=20.0, state_names=("x",))
STEP = 0.1


class PointEnv:
    """Goal +1 or −1 by the seed; an action moves by a tenth. The picture shows the side of the goal."""

    def __init__(self, task: str = "point", max_steps: int = 30, **options):
        self.task, self.instruction, self.spec, self.max_steps = task, "go", SPEC, max_steps
        self.options, self.sent, self.observed, self.closed = options, [], 0, False

    def reset(self, seed: int) -> None:
        self.goal = 1.0 if np.random.default_rng(seed).random() < 0.5 else -1.0
        self.x, self.sent, self.success = 0.0, [], False

    def observe(self) -> RobotObservation:
        self.observed += 1
        image = np.full((16, 16, 3), 255 if self.goal > 0 else 0, np.uint8)
        return RobotObservation({"front": image}, np.array([self.x], np.float32), self.instruction, step=len(self.sent))

    def step(self, action) -> StepOutcome:
        if "broken" in self.task and len(self.sent) == 2:
            raise RuntimeError("the joint came off")
        self.sent.append(np.array(action))
        self.x += STEP * float(np.clip(action[0], -1, 1))
        self.success |= abs(self.x - self.goal) < STEP / 2
        return StepOutcome(self.success, self.success or len(self.sent) >= self.max_steps)

    def stay(self, last):
        return np.array([0.0, 0.0 if last is None else last[1]], np.float32)

    def snapshot(self):
        return self.x

    def restore(self, snapshot) -> None:
        self.x = snapshot

    def close(self) -> None:
        self.closed = True


class Seeing:
    """Goes to the side that the picture shows."""

    name = "seeing"

    def __init__(self, length: int = 4, done_after: int | None = None):
        self.length, self.done_after, self.asked = length, done_after, []

    def reset(self, seed: int = 0) -> None:
        self.asked, self.seed = [], seed

    def act(self, observation: RobotObservation) -> ActionChunk:
        self.asked.append(observation.step)
        side = 1.0 if observation.images["front"][0, 0, 0] else -1.0
        done = self.done_after is not None and len(self.asked) >= self.done_after
        return ActionChunk(np.tile(np.array([[side, 0.5]], np.float32), (self.length, 1)), done=done)


class Counting(Seeing):
    """The k-th action of the chunk asked for at tick t is (t, k)."""

    name = "counting"

    def act(self, observation: RobotObservation) -> ActionChunk:
        self.asked.append(observation.step)
        return ActionChunk(np.array([[observation.step, k] for k in range(self.length)], np.float32))


class Failing(Seeing):
    name = "failing"

    def act(self, observation: RobotObservation) -> ActionChunk:
        raise CheckpointError("is torn", where="policy")
