"""The action expert behind LeRobot's policy interface."""

import json
import os
import shutil
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from safetensors.torch import load_file
from torch import Tensor

from lerobot_policy_traceworld.configuration_traceworld import TraceworldConfig
from traceworld.errors import CheckpointError, ConfigError
from traceworld.policies.action_expert.checkpoint import fill_policy, load_mu0, read_policy_record, save_policy
from traceworld.policies.action_expert.config import GripperConfig, PolicyConfig
from traceworld.policies.action_expert.model import PolicyModel
from traceworld.policies.action_expert.normalisation import ActionScales
from traceworld.policies.action_expert.sizes import policy_config
from traceworld.traces.robot import ActionSpec

STATE, ACTION = "observation.state", "action"
FOLDER = "traceworld"
"""Within a LeRobot checkpoint: the same policy as traceworld reads it."""
_STILL = 1e-4  # spreads below it are taken for constants, as traceworld's own trainer does


class TraceworldPolicy(PreTrainedPolicy):
    """Pictures, state and task in; chunks of actions out. μ0 is frozen and no part of the stored weights.

    Args:
        config: see there.
        dataset_stats, dataset_meta: of the dataset to train on; not needed where a checkpoint gives the scales.
    """

    config_class = TraceworldConfig
    name = "traceworld"

    def __init__(self, config: TraceworldConfig, dataset_stats: Any = None, dataset_meta: Any = None, **_: Any):
        super().__init__(config)
        config.validate_features()
        folder = Path(config.checkpoint) if config.checkpoint and not config.record else None
        record = read_policy_record(folder) if folder is not None else json.loads(config.record or "null")
        if record is not None:
            built, scales = PolicyConfig.from_dict(record["config"]), ActionScales.from_dict(record["scales"])
            if built.chunk != config.chunk_size:
                raise ConfigError(
                    f"the checkpoint makes chunks of {built.chunk} actions, not of {config.chunk_size}",
                    where="chunk_size",
                    mend=f"--policy.chunk_size={built.chunk}",
                )
        else:
            sizes = (config.robot_state_feature.shape[0], config.action_feature.shape[0])
            built = policy_config(config.size, *sizes, chunk=config.chunk_size, trace=config.trace or None)
            built = replace(built, gripper=_gripper_of(config, built.gripper))
            scales = scales_of(config, dataset_stats, dataset_meta)
        self.model = PolicyModel(built, load_mu0(config.mu0), scales)
        if folder is not None:
            fill_policy(folder, self.model)
        self.reset()

    # Training

    def get_optim_params(self) -> list[torch.nn.Parameter]:
        """What is trained: μ0 is not among it."""
        self.model.check_frozen()
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """The loss over a batch of frames with their next `chunk_size` actions."""
        actions = batch[ACTION].float()
        padded = batch.get(f"{ACTION}_is_pad")
        known = torch.ones(actions.shape[:2], dtype=torch.bool, device=actions.device) if padded is None else ~padded
        fields = {"state": batch[STATE].float(), "actions": actions, "action_known": known}
        losses = self.model.loss({**self.model.features(self._glances(batch)), **fields})
        shares = self.model.shares(fields)
        total = sum(shares[name][0] * value for name, value in losses.items())
        return total, {name: float(value.detach()) for name, value in losses.items()}

    # Acting

    def reset(self) -> None:
        """A new episode."""
        self._queue: deque[Tensor] = deque()
        self._steps = 0

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Any], **_: Any) -> Tensor:
        """The next actions [B, chunk_size, A], in the dataset's own unit.

        Row n of the first call after `reset` starts from the noise that traceworld's own policy uses for seed n.
        """
        self.eval()
        built = self.model.config
        shape = (built.chunk, built.action_dim)
        rows = range(len(batch[STATE]))
        noise = np.stack([np.random.default_rng([row, self._steps]).standard_normal(shape, np.float32) for row in rows])
        features = self.model.features(self._glances(batch))
        return self.model.sample(features, batch[STATE].float(), torch.from_numpy(noise).to(self.model.device))

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **_: Any) -> Tensor:
        """The next action [B, A]; a new chunk is made when `n_action_steps` of the last one are played."""
        if not self._queue:
            chunk = self.predict_action_chunk(batch)
            self._queue.extend(chunk[:, : self.config.n_action_steps].transpose(0, 1))
        self._steps += 1
        return self._queue.popleft()

    def _glances(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        scene, wrist = _pictures(batch[self.config.scene]), None
        reads_wrist = self.model.config.gripper.source != "none"
        if reads_wrist and self.config.gripper:
            wrist = _pictures(batch[self.config.gripper])
        tasks = batch["task"]
        tasks = [tasks] * len(scene) if isinstance(tasks, str) else list(tasks)
        return [
            self.model.frozen.glance(image, task, None if wrist is None else wrist[row])
            for row, (image, task) in enumerate(zip(scene, tasks, strict=True))
        ]

    # Checkpoints

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        if state_dict is not None:
            raise ConfigError(
                "sharded weights cannot be stored", where="parallelism", mend="train on one device or with DDP"
            )
        source = None if self.config.store_mu0 else self.config.mu0
        own = save_policy(save_directory / FOLDER, self.model, {"trainer": "lerobot"}, source=source)
        record = read_policy_record(own)
        self.config.record = json.dumps({"config": record["config"], "scales": record["scales"]})
        self.config._save_pretrained(save_directory)
        _same_file(own / "model.safetensors", save_directory / "model.safetensors")

    @classmethod
    def _load_as_safetensor(cls, model: "TraceworldPolicy", model_file: str, map_location: str, strict: bool):
        weights, own = load_file(model_file), model.model.own_state()
        wrong = sorted(set(own) ^ set(weights)) + [n for n in own if n in weights and own[n].shape != weights[n].shape]
        if wrong:
            raise CheckpointError(f"tensors do not fit: {', '.join(wrong[:5])}", where=model_file)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(weights[name])
        return model


def _gripper_of(config: TraceworldConfig, usual: GripperConfig) -> GripperConfig:
    """The gripper's stem under the name of this dataset's camera, by which traceworld's own policy asks for it; none without one."""
    return replace(usual, camera=_short(config.gripper)) if config.gripper else replace(usual, source="none")


def _short(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def scales_of(config: TraceworldConfig, dataset_stats: Any, dataset_meta: Any) -> ActionScales:
    """Means, spreads, bounds and names out of a LeRobot dataset.

    Raises:
        ConfigError: there are no statistics and no checkpoint to take them from.
    """
    if dataset_stats is None or ACTION not in dataset_stats:
        raise ConfigError(
            "there are no scales for states and actions",
            where="policy",
            mend="train on a dataset, or give a checkpoint",
        )

    def numbers(key: str, name: str) -> np.ndarray:
        return np.asarray(dataset_stats[key][name], np.float64).reshape(-1)

    def moments(key: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        spread = numbers(key, "std")
        return tuple(numbers(key, "mean").tolist()), tuple(np.where(spread < _STILL, 1.0, spread).tolist())

    features = getattr(dataset_meta, "features", {})
    bounds = [tuple(numbers(ACTION, name).tolist()) for name in ("min", "max")]
    spec = ActionSpec(
        _names(features, ACTION, len(bounds[0])),
        *bounds,
        float(getattr(dataset_meta, "fps", 10.0)),
        _names(features, STATE, len(numbers(STATE, "mean"))),
    )
    cameras = [config.scene, *([config.gripper] if config.gripper else [])]
    return ActionScales(*moments(STATE), *moments(ACTION), spec, tuple(map(_short, cameras)))


def _names(features: Any, key: str, size: int) -> tuple[str, ...]:
    names = (features.get(key) or {}).get("names")
    if isinstance(names, dict):
        names = [name for group in names.values() for name in group]
    stem = key.rsplit(".", 1)[-1]
    return tuple(names) if names and len(names) == size else tuple(f"{stem}_{number}" for number in range(size))


def _pictures(images: Tensor) -> np.ndarray:
    """LeRobot's [B,3,H,W] in [0,1] (or uint8) as RGB uint8 [B,H,W,3]."""
    if images.dtype != torch.uint8:
        images = (images.float() * 255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())


def _same_file(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)  # one file under two names: LeRobot's and ours
    except OSError:
        shutil.copyfile(source, target)
