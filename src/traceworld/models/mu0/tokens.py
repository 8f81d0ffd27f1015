"""From keypoints to suffix tokens (mu0-paper §3.2, B.2): history and noisy controls, grounded in place and picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from traceworld.models.blocks.embeddings import fourier_features
from traceworld.models.mu0.config import Mu0Config
from traceworld.models.mu0.local_features import sample_maps

_HISTORY, _FUTURE = 0, -1


@dataclass(frozen=True)
class Query:
    """What is known of the keypoints before any denoising. Tokens are keypoint-major: token n·G + g.

    Attributes:
        present: [B,N] False for padding.
        history: [B,N·G_hist,E] finished history tokens.
        history_seen: [B,N·G_hist] tokens that may be attended to: present, not dropped, some step valid.
        control_base: [B,N,G_cp,E] what is added to the lifted controls: group, segment, place.
        local: [B,N,E] the local feature's share of the first layer of eq. 5; None without local features.
    """

    present: Bool[Tensor, "B N"]
    history: Float[Tensor, "B Mh E"]
    history_seen: Bool[Tensor, "B Mh"]
    control_base: Float[Tensor, "B N Gc E"]
    local: Float[Tensor, "B N E"] | None


class KeypointTokens(nn.Module):
    """Lifts, group, segment and place embeddings, and the fusion MLP of eq. 5.

    Args:
        config: the model.
        local_channels: channels of the local feature; 0 switches eq. 5 off (Table 6, "w/o DINOv2 features").
    """

    def __init__(self, config: Mu0Config, local_channels: int):
        super().__init__()
        expert = config.expert
        width = expert.width
        self.config = config
        self.history_groups = config.history // expert.history_group if config.use_history else 0
        self.control_groups = config.num_controls // expert.control_group
        if config.use_history:
            history_inputs = (3 + expert.history_validity) * expert.history_group
            self.history_lift = nn.Linear(history_inputs, width)
        self.control_lift = nn.Linear(3 * expert.control_group, width)
        self.group_embedding = nn.Embedding(self.history_groups + self.control_groups, width)
        self.segment_embedding = nn.Embedding(1 + config.use_history, width)
        nn.init.normal_(self.group_embedding.weight, std=0.02)
        nn.init.normal_(self.segment_embedding.weight, std=0.02)
        place_inputs = 4 * expert.uv_freqs + (2 * expert.uv_freqs + 2 if expert.anchor_z else 0)
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.place_mlp = nn.Sequential(nn.Linear(place_inputs, width), nn.SiLU(), last)
        self.local_channels = local_channels
        if local_channels:
            self.fuse_in = nn.Linear(width + local_channels, width)
            self.fuse_out = nn.Linear(width, width)

    def observe(
        self,
        batch: Mapping[str, Any],
        maps: tuple[Tensor, ...],
        s_delta: Float[Tensor, "2 3"],
        depth_log_range: Float[Tensor, " 2"],
    ) -> Query:
        """Everything about the keypoints that no denoising step changes."""
        anchor, present = batch["anchor_uvz"], batch["present"]
        # A padded or far-off keypoint must not bring NaN or infinity into sums that others share.
        uv = torch.where(present[..., None], anchor[..., :2], 0).clamp(-8, 8)
        place = self.place_mlp(self._place(uv, anchor[..., 2], batch["anchor_z_known"] & present, depth_log_range))
        groups = self.group_embedding.weight
        local = None
        if self.local_channels:
            features = sample_maps(maps, uv).to(self.fuse_in.weight.dtype)
            local = F.linear(features, self.fuse_in.weight[:, self.config.expert.width :], self.fuse_in.bias)
        if self.config.use_history:
            history, seen = self._history(batch, s_delta)
            base = groups[: self.history_groups] + self.segment_embedding.weight[_HISTORY]
            history = self._fuse(history + base + place[:, :, None], local)
        else:
            history, seen = place[:, :, None][:, :, :0], present[..., None][..., :0]
        base = groups[self.history_groups :] + self.segment_embedding.weight[_FUTURE]
        return Query(
            present=present,
            history=history.flatten(1, 2),
            history_seen=(seen & present[..., None]).flatten(1, 2),
            control_base=base + place[:, :, None],
            local=local,
        )

    def controls(self, noisy: Float[Tensor, "B R N D 3"], query: Query) -> Float[Tensor, "B R M E"]:
        """Noisy control points → control tokens, R versions of each keypoint."""
        lifted = self.control_lift(noisy.unflatten(3, (self.control_groups, -1)).flatten(-2))
        local = None if query.local is None else query.local[:, None]
        return self._fuse(lifted + query.control_base[:, None], local).flatten(2, 3)

    def _fuse(self, tokens: Float[Tensor, "*B N G E"], local: Float[Tensor, "*#B N E"] | None) -> Tensor:
        """eq. 5. W_1 · concat(e, f) is computed as W_1e · e + W_1f · f, so that f's share is computed once."""
        if local is None:
            return tokens
        own = F.linear(tokens, self.fuse_in.weight[:, : self.config.expert.width])
        return self.fuse_out(F.silu(own + local[..., None, :]))

    def _place(self, uv: Tensor, z_m: Tensor, z_known: Tensor, depth_log_range: Tensor) -> Tensor:
        expert = self.config.expert
        parts = [fourier_features(uv, expert.uv_freqs)]
        if expert.anchor_z:
            known = z_known & (z_m > 0)
            low, high = depth_log_range
            unit = (torch.where(known, z_m, 1.0).log() - low) / (high - low) * 2 - 1
            unit = unit.clamp(-4, 4)[..., None]
            features = torch.cat([fourier_features(unit / 2, expert.uv_freqs), unit, torch.ones_like(unit)], dim=-1)
            parts.append(features * known[..., None])
        return torch.cat(parts, dim=-1)

    def _history(self, batch: Mapping[str, Any], s_delta: Tensor) -> tuple[Tensor, Tensor]:
        expert = self.config.expert
        valid = batch["history_valid"]
        steps = torch.where(valid[..., None], batch["history"], 0)
        if expert.history_scale == "s_delta":
            steps = steps / s_delta[batch["clock"]][:, None, None]
        if expert.history_validity:
            steps = torch.cat([steps, valid[..., None].to(steps.dtype)], dim=-1)
        grouped = steps.unflatten(2, (self.history_groups, -1)).flatten(-2)
        return self.history_lift(grouped), valid.unflatten(2, (self.history_groups, -1)).any(-1)
