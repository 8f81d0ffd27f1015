"""The denoiser (dossier §2.2): trace tokens and condition tokens in one sequence, both updated by every layer, each modulated
by flow time. The released code's equations in our words: layer norms with learned affine, queries and keys normalised per
head, one feed-forward for both streams, separate modulation.

The condition changes with the noisy traces, so nothing of it can be kept between steps. What nobody reads is not computed: the
condition's own update in the last layer.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from traceworld.models.blocks.attention import attend, merge_heads, split_heads
from traceworld.models.blocks.layers import modulate
from traceworld.models.normalisation import CLOCKS
from traceworld.models.tracegen.config import TraceGenConfig
from traceworld.models.tracegen.patches import from_patches, to_patches

_SPATIAL_STRETCH = 1.875
"""Grid coordinates are divided by this before the sinusoids (dossier §2.2)."""


def angles(position: Float[Tensor, "*batch"], dim: int) -> Float[Tensor, "*batch half"]:
    """position · 10000^(−i / half), i = 0 … half−1, half = dim / 2."""
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float32, device=position.device) / half
    return position.float()[..., None] * torch.exp(-math.log(10_000) * exponent)


def sinusoid(position: Float[Tensor, "*batch"], dim: int) -> Float[Tensor, "*batch dim"]:
    """[sin, cos] of `angles`."""
    angle = angles(position, dim)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def place_code(column: Float[Tensor, " L"], row: Float[Tensor, " L"], width: int) -> Float[Tensor, "L width"]:
    """Fixed code of a place, in units of trace patches: a quarter of the channels (those of time) zero, then column, row."""
    each = 3 * width // 8
    space = [sinusoid(axis / _SPATIAL_STRETCH, each) for axis in (column, row)]
    return torch.cat([column.new_zeros(len(column), width // 4), *space], dim=-1)


def trace_code(times: int, across: int, width: int) -> Float[Tensor, "L width"]:
    """Fixed 3D code of the trace tokens, in their order (time, row, column)."""
    time, row, column = (
        axis.flatten().float()
        for axis in torch.meshgrid(torch.arange(times), torch.arange(across), torch.arange(across), indexing="ij")
    )
    code = place_code(column, row, width)
    code[:, : width // 4] = sinusoid(time, width // 4)
    return code


class TwoStreamNorm(nn.Module):
    """Layer norm of both streams, with shift and scale of its own for each, and their gates, from flow time."""

    def __init__(self, width: int, time_width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.proj = nn.Linear(time_width, 6 * width)
        # Gates start at zero, so every layer starts as the identity (the released code starts them at random).
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(
        self, condition: Float[Tensor, "R Lc W"], trace: Float[Tensor, "R L W"], time: Float[Tensor, "R 1 T"]
    ) -> tuple[Float[Tensor, "R Lall W"], Float[Tensor, "R 1 W"], Float[Tensor, "R 1 W"]]:
        """(both streams normalised, condition first; gate of the condition; gate of the traces)."""
        shift, scale, gate, shift_c, scale_c, gate_c = self.proj(F.silu(time)).chunk(6, dim=-1)
        normed = [modulate(self.norm(condition), shift_c, scale_c), modulate(self.norm(trace), shift, scale)]
        return torch.cat(normed, dim=1), gate_c, gate


class JointLayer(nn.Module):
    """Full attention over condition and traces, then one feed-forward for both."""

    def __init__(self, width: int, head_dim: int, time_width: int):
        super().__init__()
        self.head_dim = head_dim
        self.norm_attention = TwoStreamNorm(width, time_width)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        self.norm_q = nn.LayerNorm(head_dim, eps=1e-6)
        self.norm_k = nn.LayerNorm(head_dim, eps=1e-6)
        self.norm_mlp = TwoStreamNorm(width, time_width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(
        self,
        condition: Float[Tensor, "R Lc W"],
        trace: Float[Tensor, "R L W"],
        time: Float[Tensor, "R 1 T"],
        mask: Bool[Tensor, "R 1 Lall"] | None,
        last: bool,
    ) -> tuple[Float[Tensor, "R Lc W"], Float[Tensor, "R L W"]]:
        """`last`: nobody reads the condition any more, so it is not updated and comes back as it is."""
        length = condition.shape[1]
        normed, gate_c, gate = self.norm_attention(condition, trace, time)
        key = self.norm_k(split_heads(self.k_proj(normed), self.head_dim))
        value = split_heads(self.v_proj(normed), self.head_dim)
        asking = normed[:, length:] if last else normed
        query = self.norm_q(split_heads(self.q_proj(asking), self.head_dim))
        if mask is None:
            found = F.scaled_dot_product_attention(query, key, value)
        else:
            found = attend(query, key, value, mask)
        found = self.o_proj(merge_heads(found))
        if last:
            trace = trace + gate * found
            normed, _, gate = self.norm_mlp(condition[:, :0], trace, time)
            return condition, trace + gate * self._mlp(normed)
        condition, trace = condition + gate_c * found[:, :length], trace + gate * found[:, length:]
        normed, gate_c, gate = self.norm_mlp(condition, trace, time)
        out = self._mlp(normed)
        return condition + gate_c * out[:, :length], trace + gate * out[:, length:]

    def _mlp(self, x: Tensor) -> Tensor:
        return self.mlp_out(F.gelu(self.mlp_in(x), approximate="tanh"))


class TraceDecoder(nn.Module):
    """Noisy increments on the grid and condition tokens → velocity.

    Args:
        config: the model.
        condition_width: channels of the condition tokens.
        image_grid: (rows, columns) of the image tokens, which come first among the condition tokens.
    """

    code: Tensor
    image_code: Tensor

    def __init__(self, config: TraceGenConfig, condition_width: int, image_grid: tuple[int, int]):
        super().__init__()
        options = config.decoder
        width, features = options.width, 3 * options.patch_time * options.patch_space**2
        self.config = config
        self.gradient_checkpointing = False
        self.patch_proj = nn.Linear(features, width)
        self.condition_proj = nn.Linear(condition_width, width)
        self.time_mlp = nn.Sequential(
            nn.Linear(width, options.time_width), nn.SiLU(), nn.Linear(options.time_width, options.time_width)
        )
        if config.clock:
            self.clock_embedding = nn.Embedding(len(CLOCKS), options.time_width)
            nn.init.zeros_(self.clock_embedding.weight)
        self.layers = nn.ModuleList(
            JointLayer(width, options.head_dim, options.time_width) for _ in range(options.layers)
        )
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.norm_out = nn.LayerNorm(width, eps=1e-5)
        self.modulation_out = nn.Linear(options.time_width, 2 * width)
        self.velocity_proj = nn.Linear(width, features)
        across = config.grid // options.patch_space
        self.register_buffer("code", trace_code(config.horizon // options.patch_time, across, width), persistent=False)
        self.register_buffer("image_code", _image_code(image_grid, across, width), persistent=False)

    def forward(
        self,
        noisy: Float[Tensor, "R H side side 3"],
        time: Float[Tensor, " R"],
        condition: Float[Tensor, "R Lc C"],
        mask: Bool[Tensor, "R Lc"] | None,
        clock: Int[Tensor, " R"],
    ) -> Float[Tensor, "R H side side 3"]:
        """
        Args:
            noisy: increments in network units, partly noise.
            time: 100 · τ (the released code counts noise levels 0 … 99).
            condition: image tokens, then words.
            mask: which condition tokens may be seen; None: all.
            clock: index into `CLOCKS`; not read by a model with one clock.
        """
        options = self.config.decoder
        trace = self.patch_proj(to_patches(noisy, options.patch_space, options.patch_time)) + self.code
        words = self.condition_proj(condition)
        if options.image_positions:
            words = torch.cat([words[:, : len(self.image_code)] + self.image_code, words[:, len(self.image_code) :]], 1)
        embedded = self._embed_time(time, clock)[:, None]
        seen = None
        if mask is not None:
            seen = torch.cat([mask, mask.new_ones(len(mask), trace.shape[1])], dim=1)[:, None]
        for index, layer in enumerate(self.layers):
            last = index == len(self.layers) - 1
            if self.gradient_checkpointing and torch.is_grad_enabled():
                words, trace = checkpoint(layer, words, trace, embedded, seen, last, use_reentrant=False)
            else:
                words, trace = layer(words, trace, embedded, seen, last)
        shift, scale = self.modulation_out(F.silu(embedded)).chunk(2, dim=-1)
        out = self.velocity_proj(modulate(self.norm_out(self.norm(trace)), shift, scale))
        return from_patches(out, self.config.grid, options.patch_space, options.patch_time)

    def _embed_time(self, time: Float[Tensor, " R"], clock: Int[Tensor, " R"]) -> Float[Tensor, "R T"]:
        angle = angles(time, self.config.decoder.width)
        embedded = self.time_mlp(torch.cat([angle.cos(), angle.sin()], dim=-1))
        return embedded + self.clock_embedding(clock) if self.config.clock else embedded


def _image_code(image_grid: tuple[int, int], across: int, width: int) -> Float[Tensor, "L width"]:
    """`place_code` of each image token, at its centre in units of trace patches."""
    axes = [(torch.arange(count) + 0.5) * (across / count) - 0.5 for count in image_grid]
    row, column = (axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij"))
    return place_code(cast(Tensor, column), cast(Tensor, row), width)
