"""The trace expert (mu0-paper §3.2, B.1–B.3): layers that alternately attend jointly to prefix and suffix, and across to
the prefix, each modulated by flow time through adaLN-Zero.

The suffix is run as two streams. History tokens never see control tokens (B.2), so their keys and values can be computed
first and handed to the control stream: the same numbers as one long sequence under a mask, with less work, and with
`history_time="clean"` once per observation instead of once per denoising step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from traceworld.models.blocks.attention import attend, merge_heads, split_heads
from traceworld.models.blocks.layers import AdaLNZero, RMSNorm, SwiGLU, modulate
from traceworld.models.blocks.rotary import rotary_angles, rotate
from traceworld.models.mu0.prefix import Prefix

KeyValue = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class PrefixContext:
    """The prefix as each expert layer needs it.

    Attributes:
        layers: (key, value) per layer, [B,kv_heads,L,head_dim]: as they are for joint layers, projected for cross layers.
        mask: [B,L].
        end: [B] rotary position of the suffix.
    """

    layers: tuple[KeyValue, ...]
    mask: Bool[Tensor, "B L"]
    end: Int[Tensor, " B"]


class ExpertLayer(nn.Module):
    """One block. `cross`: keys and values are projections of the prefix's; otherwise of its own tokens as well."""

    def __init__(self, width: int, mlp_hidden: int, heads: int, kv_heads: int, head_dim: int, cross: bool):
        super().__init__()
        self.cross, self.head_dim = cross, head_dim
        source = kv_heads * head_dim if cross else width
        self.norm_attention = RMSNorm(width)
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(source, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(source, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)
        self.norm_mlp = RMSNorm(width)
        self.mlp = SwiGLU(width, mlp_hidden)
        self.modulation = AdaLNZero(width)

    def project_prefix(self, key: Tensor, value: Tensor) -> KeyValue:
        """A cross layer's view of the prefix; a joint layer takes it as it is."""
        if not self.cross:
            return key, value
        dtype = self.k_proj.weight.dtype
        return (
            split_heads(self.k_proj(merge_heads(key).to(dtype)), self.head_dim),
            split_heads(self.v_proj(merge_heads(value).to(dtype)), self.head_dim),
        )

    def own_keys(self, normed: Tensor, cos: Tensor, sin: Tensor) -> KeyValue:
        """Keys (rotated) and values of the suffix tokens themselves; joint layers only."""
        key = rotate(split_heads(self.k_proj(normed), self.head_dim), cos, sin)
        return key, split_heads(self.v_proj(normed), self.head_dim)

    def forward(
        self,
        x: Float[Tensor, "BR M E"],
        modulation: tuple[Tensor, ...],
        prefix: KeyValue,
        prefix_mask: Bool[Tensor, "B L"],
        own_mask: Bool[Tensor, " BR #M Mk"],
        angles: KeyValue,
        earlier: KeyValue | None,
    ) -> tuple[Float[Tensor, "BR M E"], KeyValue | None]:
        """
        Args:
            x: tokens of R versions of each of B observations, versions of one observation side by side.
            modulation: six tensors [BR,1,E].
            prefix: keys and values [B,kv_heads,L,head_dim] of this layer.
            own_mask: which suffix keys (`earlier` ones, then x's own) each token sees.
            angles: cosine and sine [BR,1,head_dim/2] of the suffix position.
            earlier: keys and values [BR or B,kv_heads,Mh,head_dim] of the history stream.

        Returns:
            (x, own): own are x's keys and values in this layer; None in a cross layer.
        """
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation
        normed = modulate(self.norm_attention(x), shift_a, scale_a)
        query = split_heads(self.q_proj(normed), self.head_dim)
        versions = len(x) // len(prefix_mask)
        own = None
        if self.cross:
            # No rotation: the keys are mixtures over dimensions of rotated keys, so an angle would mean nothing. All
            # versions of an observation ask in one go, so the prefix is neither copied nor read twice.
            together = query.unflatten(0, (-1, versions)).transpose(1, 2).flatten(2, 3)
            found = attend(together, *prefix, prefix_mask[:, None])
            found = found.unflatten(2, (versions, -1)).transpose(1, 2).flatten(0, 1)
        else:
            own = self.own_keys(normed, *angles)
            parts = [prefix, own] if earlier is None else [prefix, earlier, own]
            key, value = (_join([part[i] for part in parts], len(x), query.dtype) for i in (0, 1))
            seen = prefix_mask.repeat_interleave(versions, 0)[:, None].expand(-1, own_mask.shape[1], -1)
            found = attend(rotate(query, *angles), key, value, torch.cat([seen, own_mask], dim=2))
        x = x + gate_a * self.o_proj(merge_heads(found))
        return x + gate_m * self.mlp(modulate(self.norm_mlp(x), shift_m, scale_m)), own


def _join(parts: list[Tensor], rows: int, dtype: torch.dtype) -> Float[Tensor, "BR kv_heads Mk D"]:
    """Keys (or values) of several sources one after the other; a source of B rows serves all versions of each one."""
    smallest = min(map(len, parts))
    views = [p.to(dtype).unflatten(0, (smallest, -1)).expand(-1, rows // smallest, -1, -1, -1) for p in parts]
    return torch.cat(views, dim=3).flatten(0, 1)


class TraceExpert(nn.Module):
    """All layers. Even ones attend jointly, odd ones across to the prefix (self-attention every two layers, B.1).

    Args:
        width, mlp_hidden: of the tokens.
        num_layers, num_heads, num_kv_heads, head_dim, rope_base: of the prefix it listens to.
    """

    def __init__(
        self,
        width: int,
        mlp_hidden: int,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        rope_base: float,
    ):
        super().__init__()
        self.head_dim, self.rope_base = head_dim, rope_base
        self.gradient_checkpointing = False
        self.layers = nn.ModuleList(
            ExpertLayer(width, mlp_hidden, num_heads, num_kv_heads, head_dim, cross=i % 2 == 1)
            for i in range(num_layers)
        )
        self.norm = RMSNorm(width)
        self._last_joint = (num_layers - 1) // 2 * 2

    def project_prefix(self, prefix: Prefix) -> PrefixContext:
        """Once per observation: what every layer needs of the prefix."""
        pairs = zip(self._blocks, prefix.keys, prefix.values, strict=True)
        layers = tuple(layer.project_prefix(key, value) for layer, key, value in pairs)
        return PrefixContext(layers, prefix.mask, prefix.end)

    def run_history(
        self,
        tokens: Float[Tensor, "BR M E"],
        condition: Float[Tensor, "BR E"],
        context: PrefixContext,
        mask: Bool[Tensor, "BR M M"],
    ) -> dict[int, KeyValue]:
        """Keys and values of the history tokens in each joint layer. `mask`: which history tokens each one sees."""
        x, keys = tokens, {}
        angles = self._angles(context, len(tokens))
        for index, layer in enumerate(self._blocks[: self._last_joint]):
            x, own = self._run(layer, x, condition, context.layers[index], context.mask, mask, angles, None)
            if own is not None:
                keys[index] = own
        last = self._blocks[self._last_joint]
        shift, scale, *_ = last.modulation(condition[:, None])
        keys[self._last_joint] = last.own_keys(modulate(last.norm_attention(x), shift, scale), *angles)
        return keys

    def forward(
        self,
        tokens: Float[Tensor, "BR M E"],
        condition: Float[Tensor, "BR E"],
        context: PrefixContext,
        history: dict[int, KeyValue],
        mask: Bool[Tensor, "BR 1 Mk"],
    ) -> Float[Tensor, "BR M E"]:
        """Final features of the control tokens. `mask`: which history and control tokens are seen (all see the same)."""
        x = tokens
        angles = self._angles(context, len(tokens))
        for index, layer in enumerate(self._blocks):
            earlier = history.get(index)
            x, _ = self._run(layer, x, condition, context.layers[index], context.mask, mask, angles, earlier)
        return self.norm(x)

    @property
    def _blocks(self) -> list[ExpertLayer]:
        return cast(list[ExpertLayer], list(self.layers))

    def _run(
        self,
        layer: ExpertLayer,
        x: Tensor,
        condition: Tensor,
        prefix: KeyValue,
        prefix_mask: Tensor,
        mask: Tensor,
        angles: KeyValue,
        earlier: KeyValue | None,
    ) -> tuple[Tensor, KeyValue | None]:
        def block(x: Tensor, condition: Tensor, prefix: KeyValue, earlier: KeyValue | None):
            return layer(x, layer.modulation(condition[:, None]), prefix, prefix_mask, mask, angles, earlier)

        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, condition, prefix, earlier, use_reentrant=False)
        return block(x, condition, prefix, earlier)

    def _angles(self, context: PrefixContext, rows: int) -> KeyValue:
        position = context.end.repeat_interleave(rows // len(context.end))[:, None]
        cos, sin = rotary_angles(position, self.head_dim, self.rope_base)
        return cos, sin
