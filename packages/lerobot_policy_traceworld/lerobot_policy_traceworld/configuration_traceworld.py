"""Options of the policy, as `--policy.NAME=` of LeRobot's commands and as its config.json."""

from dataclasses import dataclass, field

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig
from lerobot.optim.schedulers import CosineAnnealingWithWarmupSchedulerConfig


@PreTrainedConfig.register_subclass("traceworld")
@dataclass
class TraceworldConfig(PreTrainedConfig):
    """The action expert on a frozen μ0.

    Attributes:
        mu0: name (`mu0-nano`) or checkpoint folder of the frozen μ0.
        size: of the policy, see `traceworld.policies.action_expert.sizes`.
        trace: how motion features come in: `expert`, `self`, `none`; "" as the size says.
        chunk_size: actions per chunk. n_action_steps: how many of them are played.
        scene_camera: feature key of the picture that traces are read from; "": the first one.
        gripper_camera: feature key of the camera on the gripper; "": the one whose key ends in `wrist`, if any.
        checkpoint: folder of a traceworld policy to start from; its architecture and scales are taken over.
        store_mu0: put μ0 itself into the `traceworld/` folder of every checkpoint, instead of its name.
        record: architecture and scales as JSON; filled in when a checkpoint is written.
    """

    mu0: str = "mu0-nano"
    size: str = "nano"
    trace: str = ""
    chunk_size: int = 16
    n_action_steps: int = 8
    scene_camera: str = ""
    gripper_camera: str = ""
    checkpoint: str = ""
    store_mu0: bool = False
    record: str = ""
    # The model normalises by itself, so that its checkpoints mean the same with and without LeRobot.
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY)
    )
    optimizer_lr: float = 1e-3
    optimizer_weight_decay: float = 0.01
    optimizer_warmup_steps: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise ValueError(f"n_action_steps ({self.n_action_steps}) must be 1 to chunk_size ({self.chunk_size})")

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        return None

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig(lr=self.optimizer_lr, weight_decay=self.optimizer_weight_decay, grad_clip_norm=1.0)

    def get_scheduler_preset(self) -> CosineAnnealingWithWarmupSchedulerConfig:
        return CosineAnnealingWithWarmupSchedulerConfig(num_warmup_steps=self.optimizer_warmup_steps)

    def validate_features(self) -> None:
        if not self.image_features:
            raise ValueError("the policy looks at pictures: the dataset has no observation.image* feature")
        if self.action_feature is None or self.robot_state_feature is None:
            raise ValueError("the policy needs the features 'action' and 'observation.state'")
        for key in (self.scene, self.gripper):
            if key and key not in self.image_features:
                raise ValueError(f"no picture is called '{key}', there are {sorted(self.image_features)}")

    @property
    def scene(self) -> str:
        """Feature key of the scene camera."""
        return self.scene_camera or next(key for key in self.image_features if key != self.gripper)

    @property
    def gripper(self) -> str:
        """Feature key of the gripper camera, "" for none."""
        found = [key for key, feature in self.image_features.items() if key.rsplit(".", 1)[-1] == "wrist"]
        named = self.gripper_camera or (found[0] if found and len(self.image_features) > 1 else "")
        return "" if named == self.scene_camera else named
