"""The last-layer features of a prefix: `z` of eq. 11. A trace expert needs keys and values only, so a `Prefix` holds no such thing.

Both kinds are read where they pass by, with a hook that lasts for one pass, so that nothing is computed twice and μ0 stays as
it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from traceworld.models.blocks.attention import attend, merge_heads, split_heads
from traceworld.models.blocks.rotary import rotary_angles, rotate
from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.prefix import Prefix
from traceworld.models.mu0.prefix_nano import NanoPrefix


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Within the block, the first argument of every call of the module, in order."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        yield seen
    finally:
        handle.remove()


def encode_with_last_layer(mu0: Mu0Model, batch: Mapping[str, Any]) -> tuple[Prefix, Float[Tensor, "B L C"]]:
    """The prefix of a batch as μ0 needs it, and the hidden states after its last layer, picture first, words last.

    A nano prefix ends in a norm, which its features have passed. Those of SmolVLM2 are what comes out of the last text layer
    that is kept, before the final norm (as in the released policy).
    """
    encoder = mu0.prefix
    if isinstance(encoder, NanoPrefix):
        with inputs_of(encoder.norm) as seen:
            prefix = mu0.encode(batch)
        return prefix, encoder.norm(seen[-1])
    layer = encoder.vlm.model.text_model.layers[-1]
    with inputs_of(layer.input_layernorm) as seen:
        prefix = mu0.encode(batch)
    return prefix, _finish_layer(encoder, layer, prefix, seen[-1])


def _finish_layer(encoder: Any, layer: Any, prefix: Prefix, x: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
    """What a last text layer adds to `x`, from the keys and values that the prefix has of it."""
    mask, length = prefix.mask, x.shape[1]
    seen = mask[:, None].expand(-1, length, -1)
    if encoder.config.attention == "causal":
        seen = seen & torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
    seen = seen | torch.eye(length, dtype=torch.bool, device=x.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cos, sin = rotary_angles(positions, encoder.head_dim, encoder.rope_base)
    query = rotate(split_heads(layer.self_attn.q_proj(layer.input_layernorm(x)), encoder.head_dim), cos, sin)
    found = attend(query, prefix.keys[-1], prefix.values[-1], seen)
    x = x + layer.self_attn.o_proj(merge_heads(found))
    return x + layer.mlp(layer.post_attention_layernorm(x))
