"""What a policy reads from a frozen μ0 (mu0-paper B.4): last-layer features of the prefix, and z_trace, the trace expert's hidden
states in the first of its four Euler steps from pure noise. One prefix, one step, once per observation."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from traceworld.errors import CheckpointError, ConfigError, InvalidInputError
from traceworld.models.mu0.config import Mu0Config, NanoPrefixConfig
from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.noise import keypoint_noise
from traceworld.models.mu0.official.conventions import OfficialConventions
from traceworld.models.mu0.prefix import Prefix
from traceworld.models.mu0.prefix_nano import NanoPrefix
from traceworld.models.mu0.reading import depth_at
from traceworld.models.normalisation import CLOCKS
from traceworld.policies.action_expert.config import PolicyConfig
from traceworld.policies.action_expert.keypoints import choose_queries
from traceworld.policies.action_expert.last_layer import encode_with_last_layer, inputs_of
from traceworld.traces.types import Clock

Glance = dict[str, Any]
"""What of one observation goes into μ0: `image`, `instruction`, `query_uv`, `noise`, `wrist`, `wrist_seen`, and `depth_m` with
`query_z_m` if the policy has depth (NaN unknown)."""


@dataclass(frozen=True)
class FeatureWidths:
    """Channels of what a μ0 gives: of the prefix's features and words, of z_trace, of the gripper's maps, of the scene's finer map."""

    prefix: int
    trace: int
    gripper: int
    scene: int = 0


def feature_widths(mu0: Mu0Config, config: PolicyConfig) -> FeatureWidths:
    """
    Raises:
        ConfigError: a stem wants something that this μ0 does not have.
    """
    nano = mu0.prefix if isinstance(mu0.prefix, NanoPrefixConfig) else None
    source = config.gripper.source
    if source == "prefix" and nano is None:
        raise ConfigError("only a nano prefix has maps of its own", where="gripper.source", mend="use 'dino'")
    if config.scene.source == "prefix" and nano is None:
        raise ConfigError("only a nano prefix has maps of its own", where="scene.source", mend="use 'none'")
    if source == "dino" and mu0.local.source != "dino":
        raise ConfigError("this μ0 has no DINOv2", where="gripper.source", mend="use 'prefix'")
    if config.depth and not mu0.use_depth:
        raise ConfigError("this μ0 has no eyes for depth", where="depth", mend="leave it off, or take another μ0")
    width = mu0.prefix.width if isinstance(mu0.prefix, NanoPrefixConfig) else mu0.prefix.text_width
    channels = {
        "dino": mu0.local.width,
        "prefix": sum(nano.stem_channels[1:]) + nano.width if nano is not None else 0,
        "none": 0,
    }[source]
    finer = 4 * nano.stem_channels[2] if nano is not None and config.scene.source == "prefix" else 0
    return FeatureWidths(width, mu0.expert.width, channels, finer)


class FrozenMu0(nn.Module):
    """A μ0 that nothing can train any more, and what a policy reads from it.

    Args:
        mu0: is frozen here, for good.
        config: of the policy.
    """

    def __init__(self, mu0: Mu0Model, config: PolicyConfig):
        super().__init__()
        self.config = config
        self.widths = feature_widths(mu0.config, config)
        self.mu0 = mu0.eval().requires_grad_(False)
        steps = mu0.normalisation.steps
        self.clock: Clock = "time" if "time" in steps else cast(Clock, next(iter(steps)))

    def train(self, mode: bool = True) -> FrozenMu0:
        super().train(mode)
        self.mu0.eval()
        return self

    def check_frozen(self) -> None:
        """
        Raises:
            CheckpointError: a parameter of μ0 could be trained.
        """
        loose = sum(p.numel() for p in self.mu0.parameters() if p.requires_grad)
        if loose or self.mu0.training:
            raise CheckpointError(f"{loose} parameters of the frozen μ0 would be trained", where="FrozenMu0")

    def glance(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        instruction: str,
        wrist: UInt8[np.ndarray, "_h _w 3"] | None = None,
        depth_m: Float32[np.ndarray, "_hd _wd"] | None = None,
    ) -> Glance:
        """What goes into μ0, on the CPU: resized pictures, the query points, the noise they start from.

        `depth_m` of the picture is for policies with depth; the others do not look at it.

        Raises:
            InvalidInputError: the policy has depth and none is given.
        """
        conventions, size = self.mu0.conventions, self.mu0.config.image_size
        uv = choose_queries(image, self.config.query)
        query = self.config.query
        cells = np.round(uv / query.noise_cell) * query.noise_cell
        controls = self.mu0.config.num_controls
        if wrist is None:
            shown = np.zeros((size[1], size[0], 3), np.uint8)
        else:
            shown = wrist if self.config.gripper.source == "dino" else conventions.observed_picture(wrist, size)
        return {
            **self._depth_glance(depth_m, uv),
            "image": conventions.observed_picture(image, size),
            "instruction": instruction,
            "query_uv": uv,
            "noise": keypoint_noise(cells, 1, controls, query.noise_seed)[0],
            "wrist": shown,
            "wrist_seen": wrist is not None,
        }

    def _depth_glance(self, depth_m: np.ndarray | None, uv: np.ndarray) -> Glance:
        if not self.config.depth:
            return {}
        if depth_m is None:
            raise InvalidInputError(
                "the scene camera has no depth, which this policy was trained with",
                where="depth_m",
                mend="give metric depth (traceworld rollout does so by itself; in a LeRobot dataset: a depth feature)",
            )
        depth = np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, np.float32(np.nan)).astype(np.float32)
        return {
            "depth_m": self.mu0.conventions.observed_depth(depth, self.mu0.config.image_size),
            "query_z_m": depth_at(depth, uv).astype(np.float32),
        }

    @torch.no_grad()
    def forward(self, glances: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Features of several observations.

        Returns:
            `z` [B,L,C] and `z_seen`; `words` [B,W,C] (embeddings of the instruction) and `words_seen`; `trace` [B,M,E] unless
            the policy's config says otherwise; `gripper` [B,G,Cg] and `gripper_seen` [B] if there is such a camera; `scene` [B,P,Cs]
            of the P ≤ L picture cells, if it is asked for. float32.
        """
        batch = self._batch(glances)
        prefix, z = encode_with_last_layer(self.mu0, batch)
        words, words_seen = self.words(batch["instruction"])
        found = {"z": z.float(), "z_seen": prefix.mask, "words": words, "words_seen": words_seen}
        if self.config.trace == "expert":
            noise = torch.from_numpy(np.stack([glance["noise"] for glance in glances])).to(self.mu0.device)
            found["trace"] = self.trace_features(batch, prefix, noise)
        if self.config.gripper.source != "none":
            found["gripper"] = self._gripper(glances, batch)
            seen = [bool(glance["wrist_seen"]) for glance in glances]
            found["gripper_seen"] = torch.tensor(seen, device=self.mu0.device)
        if self.config.scene.source != "none":
            found["scene"] = finer_cells(prefix.maps).float()
        return found

    @torch.no_grad()
    def trace_features(
        self, batch: Mapping[str, Any], prefix: Prefix, noise: Float[Tensor, "B N D 3"]
    ) -> Float[Tensor, "B M E"]:
        """z_trace of B.4: one evaluation of the trace expert at τ = 1, which is the first step of the Euler solver.

        The controls it would move are not needed, only the hidden states that move them. In compat they are taken before the
        final norm and averaged over neighbours of the grid.
        """
        context = self.mu0.context(batch, prefix)
        tau = torch.ones(len(noise), 1, device=noise.device)
        if self.config.compat == "official":
            with inputs_of(self.mu0.expert.norm) as seen:
                self.mu0.denoise_features(noise[:, None], tau, context)
            hidden = seen[-1]
        else:
            hidden = self.mu0.denoise_features(noise[:, None], tau, context)[:, 0].flatten(1, 2)
        query = self.config.query
        if query.pool > 1:
            grid = hidden.mT.unflatten(-1, query.grid[::-1])
            hidden = F.avg_pool2d(grid, query.pool).flatten(2).mT
        return hidden.float()

    def _batch(self, glances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """As a predictor's batch (`Mu0Predictor`) of keypoints without a past."""
        config, device = self.mu0.config, self.mu0.device
        uv = np.stack([glance["query_uv"] for glance in glances])
        B, N = uv.shape[:2]
        images = np.stack([glance["image"] for glance in glances])
        depth_m = np.full((B, *images.shape[1:3]), np.nan, np.float32)
        z = np.full((B, N), np.nan, np.float32)
        if self.config.depth:
            depth_m, z = (np.stack([glance[name] for glance in glances]) for name in ("depth_m", "query_z_m"))
        fields: dict[str, Any] = {
            "image": images,
            "depth_m": depth_m,
            "depth_present": np.isfinite(depth_m).any((1, 2)),
            "K_uv": np.zeros((B, 4), np.float32),
            "anchor_uvz": np.concatenate([uv, np.nan_to_num(z)[..., None]], -1).astype(np.float32),
            "anchor_z_known": np.isfinite(z),
            "history": np.zeros((B, N, config.history, 3), np.float32),
            "history_valid": np.zeros((B, N, config.history), bool),
            "present": np.ones((B, N), bool),
            "part_id": np.full((B, N), -1),
            "clock": np.full(B, CLOCKS.index(self.clock)),
        }
        batch: dict[str, Any] = {name: torch.from_numpy(value).to(device) for name, value in fields.items()}
        batch["instruction"] = [glance["instruction"] for glance in glances]
        return batch

    @torch.no_grad()
    def words(self, instructions: Sequence[str]) -> tuple[Float[Tensor, "B W C"], Bool[Tensor, "B W"]]:
        """Embeddings of instructions as the prefix has them before its first layer, and which are words."""
        encoder = self.mu0.prefix
        ids, seen = (each.to(self.mu0.device) for each in encoder.read(instructions))
        if isinstance(encoder, NanoPrefix):
            return encoder.word_embedding(ids).mean(dim=2).float(), seen
        return encoder.vlm.model.text_model.embed_tokens(ids).float(), seen

    def _gripper(self, glances: Sequence[Mapping[str, Any]], batch: Mapping[str, Any]) -> Float[Tensor, "B G C"]:
        pictures = torch.from_numpy(np.stack([glance["wrist"] for glance in glances])).to(self.mu0.device)
        if self.config.gripper.source == "prefix":
            without_depth = torch.zeros_like(batch["depth_present"])  # the map is the scene camera's
            maps: Sequence[Tensor] = self.mu0.encode({**batch, "image": pictures, "depth_present": without_depth}).maps
        else:
            maps = self._dino(pictures)
        grid = self.config.gripper.grid
        pooled = [F.adaptive_avg_pool2d(each.float(), grid) for each in maps]
        return torch.cat(pooled, dim=1).flatten(2).mT

    def _dino(self, pictures: UInt8[Tensor, "B H W 3"]) -> tuple[Tensor, ...]:
        features = self.mu0.features
        assert features is not None, "`feature_widths` has checked it"
        if self.config.compat != "official":
            return features({"image": pictures})
        # The released policy resizes the gripper's picture once, and not by way of the size of the scene's.
        side = features.config.image_size
        once = copy.copy(features)
        once.conventions = OfficialConventions((side, side))
        return once({"image": pictures})


def finer_cells(maps: Sequence[Float[Tensor, "B _c _h _w"]]) -> Float[Tensor, "B P C4"]:
    """The next to last map, the four cells that lie in one of the last map as channels of that; cells beyond an odd edge are 0."""
    rows, columns = maps[-1].shape[-2:]
    finer = maps[-2]
    spare = 2 * rows - finer.shape[-2], 2 * columns - finer.shape[-1]
    return F.pixel_unshuffle(F.pad(finer, (0, spare[1], 0, spare[0])), 2).flatten(2).mT


def prefix_tokens(mu0: Mu0Config, depth: bool = False) -> int:
    """Tokens of a picture in the prefix, without words. A VLM's prefix has as many again for its depth."""
    if isinstance(mu0.prefix, NanoPrefixConfig):
        return math.ceil(mu0.prefix.image_height / 16) * math.ceil(mu0.prefix.image_width / 16)
    return (1 + depth) * (mu0.prefix.image_size // mu0.prefix.vision_patch // mu0.prefix.connector_shuffle) ** 2
