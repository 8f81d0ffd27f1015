"""The TraceGen decoder as its description has it, with nothing done to make it fast: what ours is compared with.

Written from the dossier (`reference/tracegen.md` §2.2): condition and traces are joined into one sequence before each
attention and split after it, every token of it is updated in every layer and normalised at the end. Module names are those of
a released checkpoint, so that a state dict of ours comes in through the map of `models.tracegen.compat`.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from traceworld.models.tracegen.compat import reference_names
from traceworld.models.tracegen.config import TraceGenConfig

_ROOT = "diffusion_decoder.cogvideox."


class PlainDecoder(nn.Module):
    """Noisy increments [B,3,H,side,side], noise level [B] and condition tokens [B,L,C] → velocity [B,3,H,side,side].

    Args:
        config: a TraceGen with 2 × 2 patches over 2 steps and one clock.
        condition_width: channels of the condition tokens.
        fused: attention by torch's kernel, as the released classes call it; else softmax(q kᵀ / √d) v written out.
    """

    positions: Tensor

    def __init__(self, config: TraceGenConfig, condition_width: int, fused: bool = True):
        super().__init__()
        options = config.decoder
        if (options.patch_space, options.patch_time) != (2, 2) or config.clock or options.image_positions:
            raise ValueError("the description has 2 × 2 patches over 2 steps, one clock, no position of image tokens")
        width, self.fused = options.width, fused
        self.times, self.across = config.horizon // 2, config.grid // 2
        self.patch_embed = nn.ModuleDict({"proj": nn.Linear(24, width), "text_proj": nn.Linear(condition_width, width)})
        self.time_embedding = nn.ModuleDict(
            {
                "linear_1": nn.Linear(width, options.time_width),
                "linear_2": nn.Linear(options.time_width, options.time_width),
            }
        )
        self.transformer_blocks = nn.ModuleList(
            PlainBlock(width, options.heads, options.time_width, fused) for _ in range(options.layers)
        )
        self.norm_final = nn.LayerNorm(width, eps=1e-5)
        self.norm_out = nn.ModuleDict(
            {"linear": nn.Linear(options.time_width, 2 * width), "norm": nn.LayerNorm(width, eps=1e-5)}
        )
        self.proj_out = nn.Linear(width, 24)
        self.register_buffer("positions", _positions(self.times, self.across, width), persistent=False)

    def forward(self, noisy: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        batch, _, horizon, side, _ = noisy.shape
        # two steps folded into channels: channel = 2 · coordinate + step
        folded = noisy.reshape(batch, 3, self.times, 2, side, side).permute(0, 2, 1, 3, 4, 5)
        folded = folded.reshape(batch, self.times, 6, self.across, 2, self.across, 2)
        patches = folded.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, -1, 24)
        trace = self.patch_embed["proj"](patches) + self.positions
        words = self.patch_embed["text_proj"](condition)
        time = self._time(level)
        for block in self.transformer_blocks:
            words, trace = block(words, trace, time)
        both = self.norm_final(torch.cat([words, trace], dim=1))
        trace = both[:, words.shape[1] :]
        shift, scale = self.norm_out["linear"](F.silu(time)).chunk(2, dim=1)
        trace = self.norm_out["norm"](trace) * (1 + scale[:, None]) + shift[:, None]
        out = self.proj_out(trace).reshape(batch, self.times, self.across, self.across, 3, 2, 2, 2)
        # [B, time, row, column, coordinate, step, row in patch, column in patch]
        return out.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(batch, 3, horizon, side, side)

    def _time(self, level: Tensor) -> Tensor:
        embed = self.time_embedding
        width = cast(nn.Linear, embed["linear_1"]).in_features
        frequency = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=level.device) / (width // 2))
        angle = level[:, None].float() * frequency[None]
        return embed["linear_2"](F.silu(embed["linear_1"](torch.cat([angle.cos(), angle.sin()], dim=1))))


class PlainBlock(nn.Module):
    """Modulated norm, full attention over the joined sequence, modulated norm, shared feed-forward; both streams gated."""

    def __init__(self, width: int, heads: int, time_width: int, fused: bool):
        super().__init__()
        self.heads, self.fused = heads, fused
        head = width // heads
        self.norm1 = nn.ModuleDict({"linear": nn.Linear(time_width, 6 * width), "norm": nn.LayerNorm(width, eps=1e-5)})
        self.norm2 = nn.ModuleDict({"linear": nn.Linear(time_width, 6 * width), "norm": nn.LayerNorm(width, eps=1e-5)})
        self.attn1 = nn.ModuleDict(
            {
                **{f"to_{name}": nn.Linear(width, width) for name in "qkv"},
                "to_out": nn.ModuleList([nn.Linear(width, width)]),
                **{f"norm_{name}": nn.LayerNorm(head, eps=1e-6) for name in "qk"},
            }
        )
        net = [nn.ModuleDict({"proj": nn.Linear(width, 4 * width)}), nn.Identity(), nn.Linear(4 * width, width)]
        self.ff = nn.ModuleDict({"net": nn.ModuleList(net)})

    def forward(self, words: Tensor, trace: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        length = words.shape[1]
        normed, normed_words, gate, gate_words = self._modulated(self.norm1, words, trace, time)
        found = self._attend(torch.cat([normed_words, normed], dim=1))
        words, trace = words + gate_words * found[:, :length], trace + gate * found[:, length:]
        normed, normed_words, gate, gate_words = self._modulated(self.norm2, words, trace, time)
        net = cast(nn.ModuleList, self.ff["net"])
        joined = torch.cat([normed_words, normed], dim=1)
        out = net[2](F.gelu(cast(nn.ModuleDict, net[0])["proj"](joined), approximate="tanh"))
        return words + gate_words * out[:, :length], trace + gate * out[:, length:]

    def _modulated(self, parts: nn.ModuleDict, words: Tensor, trace: Tensor, time: Tensor) -> tuple[Tensor, ...]:
        six = parts["linear"](F.silu(time)).chunk(6, dim=1)
        shift, scale, gate, shift_words, scale_words, gate_words = (x[:, None] for x in six)
        return (
            parts["norm"](trace) * (1 + scale) + shift,
            parts["norm"](words) * (1 + scale_words) + shift_words,
            gate,
            gate_words,
        )

    def _attend(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = (
            self.attn1[f"to_{name}"](x).view(batch, length, self.heads, -1).transpose(1, 2) for name in "qkv"
        )
        query, key = self.attn1["norm_q"](query), self.attn1["norm_k"](key)
        if self.fused:
            found = F.scaled_dot_product_attention(query, key, value)
        else:
            found = ((query @ key.transpose(2, 3)) / math.sqrt(query.shape[-1])).softmax(dim=-1) @ value
        out = cast(nn.ModuleList, self.attn1["to_out"])[0]
        return out(found.transpose(1, 2).reshape(batch, length, width))


def _positions(times: int, across: int, width: int) -> Tensor:
    """[tokens,width]: a quarter of the channels for time, 3/8 each for column and row divided by 1.875."""

    def sinusoid(value: float, channels: int) -> list[float]:
        angles = [value * 10_000 ** (-i / (channels // 2)) for i in range(channels // 2)]
        return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]

    rows = [
        sinusoid(time, width // 4) + sinusoid(column / 1.875, 3 * width // 8) + sinusoid(row / 1.875, 3 * width // 8)
        for time in range(times)
        for row in range(across)
        for column in range(across)
    ]
    return torch.tensor(rows)


def plain_decoder(decoder: nn.Module, config: TraceGenConfig, fused: bool = True) -> PlainDecoder:
    """A plain decoder with the weights of ours.

    Args:
        decoder: a `TraceDecoder` built from `config`.
    """
    width = cast(nn.Linear, decoder.get_submodule("condition_proj")).in_features
    plain, ours = PlainDecoder(config, width, fused), decoder.state_dict()
    mapped = {name: reference_names(_ROOT + name)[0].removeprefix("decoder.") for name in plain.state_dict()}
    if set(mapped.values()) != set(ours):
        raise ValueError(f"no counterpart: {sorted(set(mapped.values()) ^ set(ours))}")
    plain.load_state_dict({name: ours[other] for name, other in mapped.items()})
    return plain.eval()
