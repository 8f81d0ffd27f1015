"""The universal spatial encoder as an interface, and our own: a small transformer over picture patches and optional geometry.

As in MapAnything every input adds its features to those of the patches, and what is missing adds nothing; a learnable scale
token goes through the transformer with them and comes out last. Unlike it the encoder is trained with the rest, from scratch.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from traceworld.models.blocks.attention import attend, merge_heads, split_heads
from traceworld.models.robotracer.config import (
    MapAnythingConfig,
    NoEncoderConfig,
    OwnEncoderConfig,
    SpatialConfig,
)
from traceworld.models.robotracer.geometry import GeometryInputs, known_depth, mean_depth, ray_map


class SpatialEncoder(Protocol):
    """Anything that turns pictures and what is known of their geometry into tokens.

    Attributes:
        frozen: never trained (paper §3.2), so never stored either.
    """

    frozen: bool

    def __call__(self, geometry: GeometryInputs) -> Float[Tensor, "B L C"]:
        """One token per patch, row by row, then the scale token."""
        ...


def build_spatial_encoder(config: SpatialConfig) -> Any:
    """The encoder of a config, None for `none`.

    Raises:
        MissingExtraError, MissingWeightsError: MapAnything is asked for and not on this machine.
    """
    if isinstance(config, NoEncoderConfig):
        return None
    if isinstance(config, MapAnythingConfig):
        from traceworld.models.robotracer.mapanything import MapAnythingEncoder

        return MapAnythingEncoder.from_hub(config)
    return OwnSpatialEncoder(config)


class OwnSpatialEncoder(nn.Module):
    """Patches + rays + depth + scale of depth + pose, then transformer layers and a norm.

    `contributions` are what each input adds; they are exact zeros where a sample lacks the input, whatever stands in its row.
    """

    frozen = False

    def __init__(self, config: OwnEncoderConfig):
        super().__init__()
        self.config = config
        area, dim = config.patch**2, config.dim
        patches = (config.height // config.patch) * (config.width // config.patch)
        self.image = nn.Linear(3 * area, dim)
        self.rays = nn.Linear(3 * area, dim)
        self.depth = nn.Linear(2 * area, dim)
        self.depth_scale = _mlp(1, dim)
        self.pose = _mlp(8, dim)
        self.positions = nn.Parameter(torch.randn(patches, dim) * 0.02)
        self.scale_token = nn.Parameter(torch.randn(dim) * 0.02)
        self.fusion_norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(_Layer(dim, config.heads, config.mlp) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, geometry: GeometryInputs) -> Float[Tensor, "B L C"]:
        fused = sum(self.contributions(geometry).values()) + self.positions  # one by one: zeros change no bit
        scale = self.scale_token.expand(len(geometry), 1, -1)
        tokens = torch.cat([self.fusion_norm(fused), scale], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens)

    def contributions(self, geometry: GeometryInputs) -> dict[str, Float[Tensor, "B P C"]]:
        """What picture, rays, depth, scale of depth and pose each add to the patches."""
        with torch.autocast(geometry.image.device.type, enabled=False):  # logs of metres want float32
            added = {"image": self.image(self._patches(geometry.image.float() * 2 - 1))}
            if geometry.intrinsics is not None:
                there = geometry.present("intrinsics")
                eye = torch.eye(3, device=there.device)
                K = torch.where(there[:, None, None], geometry.intrinsics.float(), eye)
                rays = ray_map(K, self.config.height, self.config.width)
                added["rays"] = _where(there, self.rays(self._patches(rays)))
            if geometry.depth_m is not None:
                there = geometry.present("depth_m")
                depth_m = geometry.depth_m.float()
                mean = torch.where(there, mean_depth(depth_m), 1.0)
                known = known_depth(depth_m)
                relative = torch.where(known, depth_m, 0.0) / mean[:, None, None]
                picture = torch.stack([relative.log1p(), known.float()], dim=1)
                added["depth"] = _where(there, self.depth(self._patches(picture)))
                added["depth_scale"] = _where(there, self.depth_scale(mean.log()[:, None])[:, None])
            if geometry.poses is not None:
                there = geometry.present("poses")
                eye = torch.eye(4, device=there.device)
                pose = torch.where(there[:, None, None], geometry.poses.float(), eye)
                added["pose"] = _where(there, self.pose(pose_numbers(pose))[:, None])
        shape = added["image"].shape
        return {name: value.expand(shape) for name, value in added.items()}

    def _patches(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P F"]:
        return F.unfold(x, self.config.patch, stride=self.config.patch).mT


def pose_numbers(world_from_cam: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B 8"]:
    """Unit quaternion (x, y, z, w; w ≥ 0), direction of the translation, log(1 + its length in metres)."""
    R, t = world_from_cam[:, :3, :3], world_from_cam[:, :3, 3]
    length = t.norm(dim=-1, keepdim=True)
    return torch.cat([quaternion(R), t / length.clamp(min=1e-6), length.log1p()], dim=-1)


def quaternion(R: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 4"]:
    """(x, y, z, w), w ≥ 0, of rotation matrices: the best conditioned row of the quaternion's outer product with itself."""
    m = R.flatten(1).unbind(1)
    outer = torch.stack(
        [
            torch.stack([1 + m[0] - m[4] - m[8], m[1] + m[3], m[2] + m[6], m[7] - m[5]], -1),
            torch.stack([m[1] + m[3], 1 - m[0] + m[4] - m[8], m[5] + m[7], m[2] - m[6]], -1),
            torch.stack([m[2] + m[6], m[5] + m[7], 1 - m[0] - m[4] + m[8], m[3] - m[1]], -1),
            torch.stack([m[7] - m[5], m[2] - m[6], m[3] - m[1], 1 + m[0] + m[4] + m[8]], -1),
        ],
        dim=1,
    )
    best = outer.diagonal(dim1=1, dim2=2).argmax(-1)
    q = F.normalize(outer[torch.arange(len(R), device=R.device), best], dim=-1)
    return torch.where(q[:, 3:] < 0, -q, q)


class _Layer(nn.Module):
    """Attention over all tokens and an MLP, each after a norm."""

    def __init__(self, dim: int, heads: int, hidden: int):
        super().__init__()
        self.head_dim = dim // heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        query, key, value = (split_heads(part, self.head_dim) for part in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        all_seen = x.new_ones(1, 1, x.shape[1], dtype=torch.bool).expand(len(x), -1, -1)
        x = x + self.out(merge_heads(attend(query, key, value, all_seen)))
        return x + self.mlp(self.norm2(x))


def _mlp(dim_in: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim_in, dim), nn.GELU(), nn.Linear(dim, dim))


def _where(there: Tensor, features: Tensor) -> Tensor:
    return torch.where(there[:, None, None], features, 0.0)
