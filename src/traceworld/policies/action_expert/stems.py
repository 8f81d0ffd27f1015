"""The stems of B.4: each input of the action expert as tokens of its width, in one order: guided features, words, gripper, state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from traceworld.policies.action_expert.config import PolicyConfig
from traceworld.policies.action_expert.guidance import GatedCrossAttention
from traceworld.policies.action_expert.trace_features import FeatureWidths


@dataclass(frozen=True)
class Tokens:
    """An observation as a head reads it.

    Attributes:
        x: [B,L,W]. seen: [B,L] False for padding and absent cameras; the last one, the state, is always there.
    """

    x: Float[Tensor, "B L W"]
    seen: Bool[Tensor, "B L"]

    def repeated(self, times: int) -> Tokens:
        """Each observation `times` times in a row."""
        return Tokens(self.x.repeat_interleave(times, 0), self.seen.repeat_interleave(times, 0))


class _Stem(nn.Module):
    """LayerNorm and one linear map to the head's width."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, out)

    def forward(self, x: Float[Tensor, "B L C"]) -> Float[Tensor, "B L W"]:
        return self.proj(self.norm(x))


class Conditioning(nn.Module):
    """Features of a frozen μ0 and the robot's state → tokens. Everything before the head that is trained.

    Args:
        config: of the policy. widths: of the features. out: width of the head.
    """

    def __init__(self, config: PolicyConfig, widths: FeatureWidths, out: int):
        super().__init__()
        self.config = config
        self.guidance: GatedCrossAttention | None = None
        if config.trace != "none":
            source = widths.trace if config.trace == "expert" else widths.prefix
            self.guidance = GatedCrossAttention(widths.prefix, source, config.mixer_heads)
        self.guided_stem = _Stem(widths.prefix, out)
        self.words_stem = _Stem(widths.prefix, out)
        if config.gripper.source != "none":
            rows, columns = config.gripper.grid
            self.gripper_proj = nn.Linear(widths.gripper, widths.prefix)
            self.gripper_place = nn.Parameter(torch.randn(rows * columns, widths.prefix) * 0.02)
            self.gripper_stem = _Stem(widths.prefix, out)
        if config.scene.source != "none":
            self.scene_stem = _Stem(widths.scene, out)
        if config.proprioception == "mlp":
            self.state_stem: nn.Module = nn.Sequential(nn.Linear(config.state_dim, out), nn.SiLU(), nn.Linear(out, out))
        else:
            self.state_stem = nn.Linear(config.state_dim, out)

    def forward(self, features: Mapping[str, Tensor], state: Float[Tensor, "B P"]) -> Tokens:
        """
        Args:
            features: what `FrozenMu0` gives. state: normalised.
        """
        z, z_seen = features["z"], features["z_seen"]
        if self.guidance is not None:
            if self.config.trace == "expert":
                z = self.guidance(z, features["trace"])
            else:
                z = self.guidance(z, z, z_seen)
        guided = self.guided_stem(z)
        if self.config.scene.source != "none":
            finer = self.scene_stem(features["scene"])
            words = guided.shape[1] - finer.shape[1]  # they come after the picture's cells
            guided = guided + F.pad(finer, (0, 0, 0, words))
        parts, seen = [guided, self.words_stem(features["words"])], [z_seen, features["words_seen"]]
        if self.config.gripper.source != "none":
            gripper = self.gripper_stem(self.gripper_proj(features["gripper"]) + self.gripper_place)
            parts.append(gripper)
            seen.append(features["gripper_seen"][:, None].expand(-1, gripper.shape[1]))
        parts.append(self.state_stem(state)[:, None])
        seen.append(torch.ones_like(z_seen[:, :1]))
        return Tokens(torch.cat(parts, dim=1), torch.cat(seen, dim=1))
