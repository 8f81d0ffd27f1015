"""How the one training loop trains a policy: windows cut from demonstrations, and what the loop must know of the model."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from traceworld.errors import ConfigError, DatasetError
from traceworld.policies.action_expert.checkpoint import fill_policy, load_mu0, save_policy
from traceworld.policies.action_expert.config import PolicyConfig
from traceworld.policies.action_expert.model import PolicyModel
from traceworld.policies.action_expert.normalisation import ActionScales, measure_scales
from traceworld.policies.action_expert.sizes import SceneUse, TraceUse, policy_config
from traceworld.sim.demonstrations import DESCRIPTION, StoredDemonstrations
from traceworld.traces.demonstrations import Demonstrations
from traceworld.traces.lerobot.layout import INFO_FILE
from traceworld.traces.lerobot.reader import LeRobotDemonstrations
from traceworld.traces.windows import side
from traceworld.training.config import TrainConfig
from traceworld.training.data import Sample
from traceworld.training.loop import TrainResult, train
from traceworld.training.policy_features import FeatureStore, feature_store, glances, kept_frames
from traceworld.training.registry import ModelKind
from traceworld.training.sources import TrainingData

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PolicyTraining:
    """What is trained, beside the options of the loop.

    Attributes:
        mu0: name or folder of the frozen μ0.
        size: of the policy (`action_expert.sizes`).
        chunk: actions per chunk. trace: how motion is injected (`PolicyConfig.trace`); None: as the size says.
        scene: whether it reads the prefix's finer map (`SceneConfig`); None: as the size says.
        every: learn from the observation of every so many frames.
        features: folder of the cached features. None: μ0 looks at every picture anew, which allows colour jitter
            (`TrainConfig.colour_jitter`) and needs a GPU.
        val_fraction: part of the episodes kept out for validation.
        depth: show μ0 the scene camera's metric depth, which the demonstrations must have.
    """

    mu0: str = "mu0-nano"
    size: str = "nano"
    chunk: int = 16
    trace: TraceUse | None = None
    scene: SceneUse | None = None
    every: int = 1
    features: str | None = None
    val_fraction: float = 0.05
    depth: bool = False

    def __post_init__(self):
        if self.every < 1 or not 0 <= self.val_fraction < 1:
            raise ConfigError(f"every {self.every}, val_fraction {self.val_fraction}", where="PolicyTraining")


class PolicyWindows:
    """An observation with the chunk of actions that followed: a `WindowSource` over some episodes.

    Args:
        demonstrations: all of them. episodes: which to use.
        chunk: actions per window. every: of which frames.
        store: features of all demonstrations; None: give what μ0 is to be shown (`model` says how).
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        episodes: list[int],
        chunk: int,
        every: int = 1,
        store: FeatureStore | None = None,
        model: PolicyModel | None = None,
    ):
        if store is None and model is None:
            raise ConfigError("needs features, or a model that says what it is shown", where="PolicyWindows")
        self._demonstrations, self._chunk, self._every = demonstrations, chunk, every
        self._store, self._model = store, model
        self._episodes = np.array(episodes, np.int64)
        # The numbers are small and pictures are not read for them; per-window reads of a table would be slow.
        self._numbers = {index: _numbers(demonstrations, index) for index in episodes}
        counts = [len(kept_frames(len(self._numbers[index][1]), every)) for index in episodes]
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def sample(self, index: int, *, seed: int, epoch: int) -> Sample:
        """`state` [P], `actions` [K,A] (zeros past the end), `action_known` [K], and the features or what μ0 is shown."""
        nth = int(np.searchsorted(self._ends, index, side="right"))
        episode = int(self._episodes[nth])
        place = int(index - (self._ends[nth - 1] if nth else 0))
        state, action, name = self._numbers[episode]
        frame = place * self._every
        following = action[frame : frame + self._chunk]
        actions = np.zeros((self._chunk, action.shape[1]), np.float32)
        actions[: len(following)] = following
        sample: dict[str, Any] = {
            "state": state[frame],
            "actions": actions,
            "action_known": np.arange(self._chunk) < len(following),
            "sample_id": f"{self._demonstrations.name}:{name}:{frame}",
        }
        if self._store is not None:
            return {**sample, **self._store.of(episode, place)}
        assert self._model is not None, "checked when it was made"
        shown = next(glances(self._demonstrations[episode], self._model, range(frame, frame + 1)))
        return {**sample, **shown}


def train_policy(config: TrainConfig, what: PolicyTraining, demonstrations: Demonstrations) -> TrainResult:
    """Train a policy, or continue the run found in `config.out`. The result (`<out>/model`) names its μ0; ship it with
    `save_policy`, which can contain it.

    Args:
        config: the loop's options; its `data` only names the demonstrations, and what is said of clip stores is not used.

    Raises:
        DatasetError: no episode is left to train on.
        ConfigError, CheckpointError, NonFiniteLossError: see `train`.
    """
    sides = [side(episode.episode_id, what.val_fraction) for episode in _each(demonstrations)]
    chosen = {name: [i for i, found in enumerate(sides) if found == name] for name in ("train", "val")}
    if not chosen["train"]:
        raise DatasetError("leave no episode to train on", where=demonstrations.name, mend="lower val_fraction")
    policy = config_for(demonstrations, what)
    scales = scales_for(demonstrations, policy, chosen["train"])
    _say_cameras(policy, scales.cameras)
    model = PolicyModel(policy, load_mu0(what.mu0), scales)
    device = _device(config.device)
    store = None
    if what.features is not None:
        store = feature_store(demonstrations, model.to(device), what.features, what.every)
        model.to("cpu")
    looks = model if store is None else None  # with features, μ0 is not needed any more
    sources = {
        name: [PolicyWindows(demonstrations, part, what.chunk, what.every, store, looks)] if part else []
        for name, part in chosen.items()
    }
    data = TrainingData(sources["train"], [1.0], sources["val"], scales)
    return train(config, data, policy_kind(policy, what.mu0, scales))


def open_demonstrations(
    folder: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    per_task: int | None = None,
    cameras: Sequence[str] | Mapping[str, str] | None = None,
) -> Demonstrations:
    """The demonstrations of a folder: recorded here (`sim.demonstrations`), or a LeRobot dataset (v2.0, v2.1, v3.0).

    Args:
        tasks, per_task: of recorded ones: only these tasks, only the first so many of each.
        cameras: of a LeRobot dataset: which, the scene camera first (`LeRobotDemonstrations`).

    Raises:
        DatasetError: the folder is neither, or damaged. ConfigError: an option of the other kind, or no such task or camera.
    """
    place = Path(folder)
    if (place / DESCRIPTION).is_file():
        if cameras:
            raise ConfigError("are recorded with their cameras", where="cameras", mend="leave it off")
        return StoredDemonstrations(place, tasks, per_task)
    if not (place / INFO_FILE).is_file():
        raise DatasetError(
            f"holds no {DESCRIPTION} and no {INFO_FILE}",
            where=str(folder),
            mend="give a folder of `traceworld sim demos`, or a LeRobot dataset",
        )
    if tasks or per_task:
        raise ConfigError("are for recorded demonstrations", where="tasks, per_task", mend="leave them off")
    return LeRobotDemonstrations(place, cameras=cameras or None)


def policy_kind(policy: PolicyConfig, mu0: str, scales: ActionScales) -> ModelKind:
    """What the loop needs to know of a policy on the μ0 of that name or folder. It is one unit of FSDP: a layer of the flow head
    is asked for keys and values outside its own pass."""

    def build(config: TrainConfig) -> PolicyModel:
        model = PolicyModel(policy, load_mu0(mu0), scales)
        model.check_frozen()
        return model

    def save(folder: Path, model: PolicyModel, scales: ActionScales, extra: Mapping[str, Any]) -> None:
        model.set_scales(scales)
        save_policy(folder, model, extra, source=mu0)

    return ModelKind(
        build=build,
        save=save,
        load=fill_policy,
        set_normalisation=lambda model, scales: model.set_scales(scales),
        image_size=lambda model: model.frozen.mu0.config.image_size,
        shares=lambda model, batch: model.shares(batch),
    )


def config_for(demonstrations: Demonstrations, what: PolicyTraining) -> PolicyConfig:
    """The policy's config for these demonstrations.

    Without a camera of the gripper's name there is no stem for it.

    Raises:
        ConfigError: they have no state, no depth though it is asked for, or there is no such size.
    """
    example = demonstrations[0]
    if not example.state.shape[1]:
        raise ConfigError("have no state", where=demonstrations.name, mend="name the feature that holds it")
    if what.depth and example.cameras[0] not in example.depth_cameras:
        raise ConfigError(
            f"have no depth of '{example.cameras[0]}'",
            where=demonstrations.name,
            mend="record them with depth (traceworld sim demos --depth), or leave it off",
        )
    config = policy_config(
        what.size,
        example.state.shape[1],
        demonstrations.spec.dim,
        chunk=what.chunk,
        trace=what.trace,
        scene=what.scene,
    )
    config = dataclasses.replace(config, depth=what.depth)
    if config.gripper.source != "none" and config.gripper.camera not in example.cameras[1:]:
        config = dataclasses.replace(config, gripper=dataclasses.replace(config.gripper, source="none"))
    return config


def scales_for(demonstrations: Demonstrations, config: PolicyConfig, episodes: list[int]) -> ActionScales:
    """Scales over the episodes that are trained on; units if the policy takes numbers as they are."""
    cameras = demonstrations[0].cameras
    if config.normalise == "none":
        return ActionScales.unit(config.state_dim, demonstrations.spec, cameras)
    return measure_scales((_numbers(demonstrations, index)[:2] for index in episodes), demonstrations.spec, cameras)


def _say_cameras(policy: PolicyConfig, cameras: tuple[str, ...]) -> None:
    """A dataset calls its cameras as it likes, so say what each is taken for, and aloud if one goes unseen."""
    read = policy.looks_at(cameras)
    log.info("scene camera '%s', gripper's camera %s", read[0], f"'{read[1]}'" if read[1:] else "none")
    if unread := [camera for camera in cameras if camera not in read]:
        log.warning(
            "reads '%s' as the scene%s; not read: %s. Of a LeRobot dataset, choose with --cameras SCENE %s=THE-GRIPPERS",
            read[0], f" and '{read[1]}' as the gripper's" if read[1:] else "", ", ".join(unread), policy.gripper.camera
        )  # fmt: skip


def _numbers(demonstrations: Demonstrations, index: int) -> tuple[np.ndarray, np.ndarray, str]:
    episode = demonstrations[index]
    return episode.state, episode.action, episode.episode_id


def _each(demonstrations: Demonstrations):
    return (demonstrations[index] for index in range(len(demonstrations)))


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
