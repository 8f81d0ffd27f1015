"""The small prefix, trained from scratch: it needs no weights from anywhere and runs on a CPU."""

from __future__ import annotations

import copy
import itertools
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from traceworld.models.blocks.attention import attend, merge_heads, split_heads
from traceworld.models.blocks.embeddings import fourier_features
from traceworld.models.blocks.layers import RMSNorm, SwiGLU
from traceworld.models.blocks.rotary import rotary_angles, rotate
from traceworld.models.blocks.turbo import turbo_picture
from traceworld.models.mu0.config import NanoPrefixConfig
from traceworld.models.mu0.pictures import resize_depth, resize_rgb
from traceworld.models.mu0.prefix import Prefix, depth_rows

_WORD = re.compile(r"[^\W_]+")
_POSITION_FREQS = 5
_HASHES = ("", "#")
"""Two hashes per word: two words share both embeddings only once in buckets² pairs."""


def hash_words(
    instructions: Sequence[str], buckets: int, max_words: int
) -> tuple[Int[Tensor, "B W 2"], Bool[Tensor, "B W"]]:
    """Each word of each instruction as two bucket numbers (crc32, the same on every machine); and which are words.

    Words are runs of letters and digits in lower case; what is past `max_words` is left out.
    """
    words = [_WORD.findall(text.lower())[:max_words] for text in instructions]
    width = max(1, max(map(len, words)))
    ids = torch.zeros(len(words), width, 2, dtype=torch.long)
    known = torch.zeros(len(words), width, dtype=torch.bool)
    for row, line in enumerate(words):
        for column, word in enumerate(line):
            ids[row, column] = torch.tensor([zlib.crc32((salt + word).encode()) % buckets for salt in _HASHES])
            known[row, column] = True
    return ids, known


class _Stem(nn.Module):
    """Four stride-2 convolutions: picture → features at strides 4, 8 and 16."""

    def __init__(self, channels: tuple[int, int, int], width: int):
        super().__init__()
        sizes = (3, *channels, width)
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 5 if i == 0 else 3, stride=2, padding=2 if i == 0 else 1)
            for i, (before, after) in enumerate(itertools.pairwise(sizes))
        )
        self.norms = nn.ModuleList(nn.GroupNorm(1, c) for c in sizes[1:])

    def forward(self, picture: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        x, maps = picture * 2 - 1, []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nn.functional.gelu(norm(conv(x)))
            maps.append(x)
        return maps[1:]


class _Layer(nn.Module):
    """One bidirectional pre-norm transformer layer, split so that its keys and values can be kept."""

    def __init__(self, width: int, heads: int, mlp_hidden: int):
        super().__init__()
        self.head_dim = width // heads
        self.norm_attention = RMSNorm(width)
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)
        self.norm_mlp = RMSNorm(width)
        self.mlp = SwiGLU(width, mlp_hidden)

    def forward(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (
            split_heads(part, self.head_dim) for part in self.qkv_proj(self.norm_attention(x)).chunk(3, dim=-1)
        )
        key = rotate(key, cos, sin)
        x = x + self.out_proj(merge_heads(attend(rotate(query, cos, sin), key, value, mask[:, None])))
        return x + self.mlp(self.norm_mlp(x)), key, value


class _KeyValue(nn.Module):
    """Keys and values for the expert's last layer, of the last hidden state."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.head_dim = width // heads
        self.norm = RMSNorm(width)
        self.kv_proj = nn.Linear(width, 2 * width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        key, value = (split_heads(part, self.head_dim) for part in self.kv_proj(self.norm(x)).chunk(2, dim=-1))
        return rotate(key, cos, sin), value


class NanoPrefix(nn.Module):
    """RGB, optional depth and words → per-layer keys and values, feature maps and a summary.

    Depth goes through a stem of its own, cloned from the RGB stem at the start, and is added to the RGB features, which
    all deeper layers then share; a picture without depth skips the stem. Image tokens carry their place as an additive
    Fourier embedding and all have rotary position 0 (a raster index would scramble the match of a keypoint's place
    with a token's); words have positions 1, 2, …; the suffix comes after the last word.
    """

    def __init__(self, config: NanoPrefixConfig, use_depth: bool = True):
        super().__init__()
        self.config, self.use_depth = config, use_depth
        self.num_layers, self.num_heads, self.num_kv_heads = config.layers, config.heads, config.heads
        self.head_dim = config.width // config.heads
        self.rope_base = config.rope_base
        self.map_channels = (*config.stem_channels[1:], config.width)
        self.summary_width = config.width
        self.rgb_stem = _Stem(config.stem_channels, config.width)
        if use_depth:
            self.depth_stem = copy.deepcopy(self.rgb_stem)
        self.place_proj = nn.Linear(4 * _POSITION_FREQS, config.width)
        self.word_embedding = nn.Embedding(config.word_buckets, config.width)
        nn.init.normal_(self.word_embedding.weight, std=0.7)
        self.layers = nn.ModuleList(
            _Layer(config.width, config.heads, config.mlp_hidden) for _ in range(config.layers - 1)
        )
        self.last = _KeyValue(config.width, config.heads)
        self.norm = RMSNorm(config.width)

    def forward(self, batch: Mapping[str, Any], depth_log_range: Float[Tensor, " 2"]) -> Prefix:
        maps = self._maps(batch, depth_log_range)
        tokens, mask, positions, end = self._tokens(maps[-1], batch.get("words", batch.get("instruction")))
        cos, sin = rotary_angles(positions, self.head_dim, self.rope_base)
        keys, values, x = [], [], tokens
        for layer in self.layers:
            x, key, value = layer(x, mask, cos, sin)
            keys.append(key)
            values.append(value)
        key, value = self.last(x, cos, sin)
        x = self.norm(x)
        height, width = maps[-1].shape[-2:]
        deep = x[:, : height * width].mT.unflatten(-1, (height, width))
        weight = mask[..., None].to(x.dtype)
        summary = (x * weight).sum(1) / weight.sum(1)
        return Prefix((*keys, key), (*values, value), mask, end, (*maps[:-1], deep), summary)

    def _maps(self, batch: Mapping[str, Any], depth_log_range: Tensor) -> list[Tensor]:
        size = self.config.image_height, self.config.image_width
        maps = self.rgb_stem(resize_rgb(batch["image"], *size))
        rows: Any = depth_rows(batch) if self.use_depth else ()
        if len(rows):
            picture = turbo_picture(resize_depth(batch["depth_m"][rows], *size), depth_log_range)
            maps = [
                rgb.index_add(0, rows, depth.to(rgb.dtype))
                for rgb, depth in zip(maps, self.depth_stem(picture), strict=True)
            ]
        return maps

    def read(self, instructions: Sequence[str]) -> tuple[Int[Tensor, "B W 2"], Bool[Tensor, "B W"]]:
        """The words of the instructions; a batch may hold them as `words` instead."""
        return hash_words(instructions, self.config.word_buckets, self.config.max_words)

    def _tokens(
        self, deepest: Tensor, words: Sequence[str] | tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        B, _, height, width = deepest.shape
        device = deepest.device
        v = (torch.arange(height, device=device) + 0.5) / height * 2 - 1
        u = (torch.arange(width, device=device) + 0.5) / width * 2 - 1
        place = torch.stack([u.expand(height, -1), v[:, None].expand(-1, width)], dim=-1).flatten(0, 1)
        image = deepest.flatten(2).mT + self.place_proj(fourier_features(place / 2, _POSITION_FREQS))
        hashed: Any = self.read(cast(Sequence[str], words)) if isinstance(words[0], str) else words
        ids, known = hashed[0].to(device), hashed[1].to(device)
        read = self.word_embedding(ids).mean(dim=2)
        mask = torch.cat([known.new_ones(B, height * width), known], dim=1)
        positions = torch.cat([known.new_zeros(B, height * width).long(), known.cumsum(1)], dim=1)
        return torch.cat([image, read.to(image.dtype)], dim=1), mask, positions, known.sum(1) + 1
