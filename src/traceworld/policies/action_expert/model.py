"""The whole policy model: a frozen μ0, stems with the gated injection of its motion features, and a head that makes actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from traceworld.models.mu0.model import Mu0Model
from traceworld.policies.action_expert.config import FlowHeadConfig, PolicyConfig
from traceworld.policies.action_expert.flow_head import FlowHead
from traceworld.policies.action_expert.normalisation import ActionScales
from traceworld.policies.action_expert.stems import Conditioning, Tokens
from traceworld.policies.action_expert.trace_features import FeatureWidths, FrozenMu0
from traceworld.policies.baselines.config import DiffusionHeadConfig
from traceworld.policies.baselines.diffusion import DiffusionHead
from traceworld.policies.baselines.regression import RegressionHead

FROZEN = "frozen."
"""Where the parameters of μ0 are within the model; they are never trained and not among the policy's own weights."""


class Head(Protocol):
    """What makes actions (in normalised units) of an observation's tokens."""

    def loss(
        self, tokens: Tokens, actions: Tensor, known: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]: ...

    def shares(self, known: Tensor) -> dict[str, tuple[float, float]]: ...

    def sample(self, tokens: Tokens, noise: Tensor, committed: Tensor | None = None) -> Tensor: ...


def build_head(config: PolicyConfig) -> FlowHead | DiffusionHead | RegressionHead:
    """The head that a config asks for, with random weights."""
    head = config.head
    if isinstance(head, FlowHeadConfig):
        return FlowHead(head, config.action_dim)
    if isinstance(head, DiffusionHeadConfig):
        return DiffusionHead(head, config.action_dim, config.chunk)
    return RegressionHead(head, config.action_dim, config.chunk)


class PolicyModel(nn.Module):
    """Observation → chunk of actions, trained on demonstrations while μ0 stays as it is.

    Args:
        config: what to build. mu0: with its normalisation; is frozen here.
        scales: of the demonstrations.
    """

    kind = "policy"
    state_mean: Tensor
    state_std: Tensor
    action_mean: Tensor
    action_std: Tensor

    def __init__(self, config: PolicyConfig, mu0: Mu0Model, scales: ActionScales):
        super().__init__()
        self.config = config
        self.frozen = FrozenMu0(mu0, config)
        self.conditioning, self.head = trained_parts(config, self.frozen.widths)
        for name in ("state_mean", "state_std", "action_mean", "action_std"):
            self.register_buffer(name, torch.zeros(0), persistent=False)
        self.set_scales(scales)

    def set_scales(self, scales: ActionScales) -> None:
        """Tell the model what it is trained on (stored in config.json, not among the weights)."""
        self.scales = scales
        for name in ("state_mean", "state_std", "action_mean", "action_std"):
            value = torch.tensor(getattr(scales, name), device=self.frozen.mu0.device)
            setattr(self, name, value)

    def own_state(self) -> dict[str, Tensor]:
        """The weights that are trained: all but μ0's."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith(FROZEN)}

    @property
    def device(self) -> torch.device:
        return self.frozen.mu0.device

    def check_frozen(self) -> None:
        """Raises CheckpointError if a parameter of μ0 could be trained."""
        self.frozen.check_frozen()

    # What both training and acting go through

    def features(self, glances: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """What μ0 gives for some observations (`FrozenMu0.glance`); no gradient ever enters it."""
        return self.frozen(glances)

    def tokens(self, features: Mapping[str, Tensor], state: Float[Tensor, "B P"]) -> Tokens:
        """Features, of whatever float type they were kept in, and the state in its own unit."""
        full = {name: value.float() if value.is_floating_point() else value for name, value in features.items()}
        return self.conditioning(full, (state - self.state_mean) / self.state_std)

    # Training

    def loss(self, batch: Mapping[str, Any], generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The head's loss over one batch: `state` [B,P], `actions` [B,K,A], `action_known` [B,K], and the features of μ0, or
        `glances` to compute them from."""
        features = batch if "z" in batch else self.features(_rows(batch))
        actions = (batch["actions"] - self.action_mean) / self.action_std
        tokens = self.tokens({name: features[name] for name in feature_names(self.config)}, batch["state"])
        return self.head.loss(tokens, actions, batch["action_known"], generator)

    def shares(self, batch: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        """Term of the loss → its weight, and how many things of this batch it is a mean over."""
        return self.head.shares(batch["action_known"])

    # Acting

    @torch.no_grad()
    def sample(
        self,
        features: Mapping[str, Tensor],
        state: Float[Tensor, "B P"],
        noise: Float[Tensor, "B K A"],
        committed: Float[Tensor, "B J A"] | None = None,
    ) -> Float[Tensor, "B K A"]:
        """Chunks in the demonstrations' own unit, within the bounds of the spec."""
        if committed is not None:
            committed = (committed - self.action_mean) / self.action_std
        found = self.head.sample(self.tokens(features, state), noise, committed)
        low, high = (
            torch.tensor(bound, device=found.device) for bound in (self.scales.spec.low, self.scales.spec.high)
        )
        return (found.float() * self.action_std + self.action_mean).clamp(low, high)


def trained_parts(
    config: PolicyConfig, widths: FeatureWidths
) -> tuple[Conditioning, FlowHead | DiffusionHead | RegressionHead]:
    """Stems and head, with random weights: all that is trained."""
    return Conditioning(config, widths, config.head.width), build_head(config)


def feature_names(config: PolicyConfig) -> tuple[str, ...]:
    """The features that a policy reads, by their names in a batch."""
    trace = ("trace",) if config.trace == "expert" else ()
    gripper = ("gripper", "gripper_seen") if config.gripper.source != "none" else ()
    scene = ("scene",) if config.scene.source != "none" else ()
    return ("z", "z_seen", "words", "words_seen", *trace, *gripper, *scene)


def _rows(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A collated batch of glances as single ones again."""
    wanted = ("image", "instruction", "query_uv", "noise", "wrist", "wrist_seen", "depth_m", "query_z_m")
    fields = [name for name in wanted if name in batch]

    def plain(value: Any) -> Any:
        return value.cpu().numpy() if isinstance(value, Tensor) else value

    columns = {name: plain(batch[name]) for name in fields}
    return [{name: column[row] for name, column in columns.items()} for row in range(len(columns["image"]))]
