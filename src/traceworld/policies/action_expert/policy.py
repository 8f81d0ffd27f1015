"""A trained policy model in a robot's loop: observations in, chunks of actions out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from traceworld.errors import InvalidInputError
from traceworld.models.mu0.predictor import Mu0Predictor
from traceworld.policies.action_expert.config import PolicyConfig
from traceworld.policies.action_expert.model import PolicyModel
from traceworld.traces.batching import NO_INSTRUCTION
from traceworld.traces.robot import ActionChunk, ActionSpec, RobotObservation
from traceworld.traces.types import Observation, TracePrediction


class ActionExpertPolicy:
    """A policy on a frozen μ0, whatever its head.

    Args:
        model: trained.
        name: how tables call it.
        predictions: hand out the traces that μ0 foresees for the query points with every chunk. They cost a whole
            prediction, which the policy itself does not need.

    The noise of a chunk is a function of the episode's seed and the observation's step, so the same episode gives the
    same actions whatever else is computed beside it.
    """

    def __init__(self, model: PolicyModel, name: str = "action-expert", predictions: bool = False):
        self.model = model.eval()
        self.name = name
        self.predictions = predictions
        self._seed = 0

    @property
    def config(self) -> PolicyConfig:
        return self.model.config

    @property
    def spec(self) -> ActionSpec:
        """What its states and actions mean."""
        return self.model.scales.spec

    @property
    def cameras(self) -> tuple[str, ...]:
        """Of the cameras of its demonstrations those that it is to be shown, the scene camera first."""
        return self.config.looks_at(self.model.scales.cameras)

    @property
    def wants_depth(self) -> bool:
        """Whether observations have to have metric depth of the scene camera."""
        return self.config.depth

    def reset(self, seed: int = 0) -> None:
        """A new episode: its noise follows from `seed`."""
        self._seed = seed

    def act(self, observation: RobotObservation) -> ActionChunk:
        """The next K actions.

        Raises:
            InvalidInputError: the state has another length than in training.
        """
        return self.act_batch([observation], [self._seed])[0]

    def act_after(self, observation: RobotObservation, committed: Float32[np.ndarray, "J A"]) -> ActionChunk:
        """The next K actions, of which the first J will be played whatever is answered (real-time chunking).

        Heads that denoise go on from them smoothly; one that gives a chunk at once (`act`) cannot heed them. The first J
        actions of the answer are `committed` itself.
        """
        settled = np.asarray(committed, np.float32)[: self.config.chunk]
        return self._chunks([observation], [self._seed], settled[None])[0]

    def act_batch(self, observations: Sequence[RobotObservation], seeds: Sequence[int]) -> list[ActionChunk]:
        """Chunks for several robots at once, one seed per episode; each as `act` would give it, to rounding."""
        return self._chunks(observations, seeds, None)

    def _chunks(
        self, observations: Sequence[RobotObservation], seeds: Sequence[int], committed: np.ndarray | None
    ) -> list[ActionChunk]:
        started = time.perf_counter()
        if not observations or len(observations) != len(seeds):
            raise InvalidInputError(f"{len(observations)} observations, {len(seeds)} seeds", where="act_batch")
        device, config = self.model.device, self.config
        glances = [self.glance(observation) for observation in observations]
        state = np.stack([self._state(observation) for observation in observations])
        shape = (config.chunk, config.action_dim)
        noise = np.stack([_noise(seed, seen.step, shape) for seed, seen in zip(seeds, observations, strict=True)])
        prepared = time.perf_counter()
        features = self.model.features(glances)
        read = time.perf_counter()
        settled = None if committed is None else torch.from_numpy(committed).to(device)
        found = self.model.sample(
            features, torch.from_numpy(state).to(device), torch.from_numpy(noise).to(device), settled
        )
        actions = found.cpu().numpy().astype(np.float32)
        if committed is not None:
            actions[:, : committed.shape[1]] = committed
        ended = time.perf_counter()
        timing = {
            "prepare": prepared - started,
            "features": read - prepared,
            "actions": ended - read,
            "total": ended - started,
        }
        pairs = zip(observations, seeds, glances, actions, strict=True)
        return [ActionChunk(chunk, self._foreseen(seen, seed, at), timing) for seen, seed, at, chunk in pairs]

    def glance(self, observation: RobotObservation) -> dict[str, Any]:
        """What μ0 is shown of an observation."""
        name = observation.scene_camera
        wrist = self.config.gripper.camera if self.config.gripper.source != "none" else None
        shown = observation.images.get(wrist) if wrist is not None and wrist != name else None
        depth_m = observation.depth_m.get(name)
        return self.model.frozen.glance(observation.images[name], observation.instruction, shown, depth_m)

    def _state(self, observation: RobotObservation) -> Float32[np.ndarray, " P"]:
        if len(observation.state) != self.config.state_dim:
            raise InvalidInputError(
                f"has {len(observation.state)} numbers, '{self.name}' was trained on {self.config.state_dim}",
                where="RobotObservation.state",
                mend=f"give {', '.join(self.spec.state_names) or 'the state of its demonstrations'}",
            )
        return observation.state.astype(np.float32)

    def _foreseen(self, observation: RobotObservation, seed: int, glance: Mapping[str, Any]) -> TracePrediction | None:
        if not self.predictions:
            return None
        frozen = self.model.frozen
        scene = observation.scene_camera
        asked = Observation(
            image=observation.images[scene],
            instruction=observation.instruction.strip() or NO_INSTRUCTION,
            depth_m=observation.depth_m.get(scene) if self.config.depth else None,
            keypoints_uv=glance["query_uv"],
            clock=frozen.clock,
            step=frozen.mu0.normalisation.steps[frozen.clock],
        )
        return Mu0Predictor(frozen.mu0).predict(asked, seed=seed % 2**63)


def _noise(seed: int, step: int, shape: tuple[int, int]) -> Float32[np.ndarray, "K A"]:
    return np.random.default_rng([seed, step]).standard_normal(shape, np.float32)
