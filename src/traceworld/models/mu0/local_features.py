"""Per-keypoint local features (mu0-paper eq. 5): a feature map sampled bilinearly where the keypoint is now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from traceworld.models.mu0.config import LocalFeatureConfig
from traceworld.models.mu0.conventions import Conventions
from traceworld.models.pretrained import load_pretrained

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def sample_maps(
    maps: tuple[Float[Tensor, "B _C _Hf _Wf"], ...], uv: Float[Tensor, "B N 2"]
) -> Float[Tensor, "B N total"]:
    """Each map at each keypoint, bilinear, zero outside the picture (uv ±1 = outer edges), channels joined."""
    grid = uv[:, None].float()
    sampled = [F.grid_sample(m.float(), grid, align_corners=False)[:, :, 0].mT.to(m.dtype) for m in maps]
    return torch.cat(sampled, dim=-1)


class DinoFeatures(nn.Module):
    """The patch features of a frozen DINOv2 (transformers' `Dinov2Model`)."""

    def __init__(self, config: LocalFeatureConfig, conventions: Conventions | None = None):
        super().__init__()
        from traceworld.extras import require

        transformers = require("transformers")
        self.config, self.conventions = config, conventions or Conventions()
        self.map_channels = (config.width,)
        dino_config = transformers.Dinov2Config(
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=config.patch,
        )
        self.dino = transformers.Dinov2Model(dino_config).eval().requires_grad_(False)

    def load_pretrained(self) -> None:
        """Fill in the published weights. MissingWeightsError if they are not on this machine."""
        load_pretrained(self.dino, "Dinov2Model", self.config.hub_id, self.config.revision)

    def train(self, mode: bool = True) -> DinoFeatures:
        super().train(mode)
        self.dino.eval()  # frozen: no stochastic depth either
        return self

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "B _C _Hf _Wf"], ...]:
        size = self.config.image_size
        pixels = self.conventions.dino_rgb(batch["image"], size)
        mean, std = (pixels.new_tensor(x)[:, None, None] for x in (_IMAGENET_MEAN, _IMAGENET_STD))
        pixels = ((pixels - mean) / std).to(self.dino.dtype)
        patches = self.dino(pixel_values=pixels).last_hidden_state[:, 1:]
        side = size // self.config.patch
        return (patches.mT.unflatten(-1, (side, side)),)
