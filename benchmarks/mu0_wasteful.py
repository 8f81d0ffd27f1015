"""μ0's prediction in the order of work of the released code (dossier §1.4–1.6, §4.8, weak points 27 and 28), on our weights: the
same numbers with the work done over and over. What ours saves is measured against this.

For each sample anew: both pictures and DINOv2; depth is encoded where there is none, and masked. In each Euler step: the
prefix's keys and values copied, those of the cross layers projected, history and controls as one sequence under a mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from traceworld.models.blocks.attention import attend, merge_heads, split_heads
from traceworld.models.blocks.layers import modulate
from traceworld.models.blocks.rotary import rotary_angles, rotate
from traceworld.models.mu0.config import SmolVLMPrefixConfig
from traceworld.models.mu0.expert import ExpertLayer
from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.prefix import Prefix
from traceworld.models.mu0.tokens import Query


@torch.no_grad()
def wasteful_sample(model: Mu0Model, batch: Mapping[str, Any], noise: Tensor) -> tuple[Tensor, Tensor]:
    """Control points [B,S,N,D,3] and validity logits [B,S,N,H] from that noise: what `model.sample` gives.

    Args:
        model: of a full size, its history modulated by the controls' flow time, as released.
    """
    config = model.config
    if not isinstance(config.prefix, SmolVLMPrefixConfig) or config.expert.history_time != "shared":
        raise ValueError("the released order of work is that of the full sizes with history_time='shared'")
    samples = [_one_sample(model, batch, noise[:, s]) for s in range(noise.shape[1])]
    controls, logits = (torch.stack(parts, dim=1) for parts in zip(*samples, strict=True))
    return controls, logits


def _one_sample(model: Mu0Model, batch: Mapping[str, Any], controls: Tensor) -> tuple[Tensor, Tensor]:
    prefix = model.encode(_with_masked_depth(batch))
    maps = model.features(batch) if model.features is not None else prefix.maps
    query = model.tokens.observe(batch, maps, model.s_delta, model.depth_log_range)
    steps = model.config.euler_steps
    for step in range(steps):
        tau = torch.full((len(controls),), 1 - step / steps, device=model.device)
        velocity, logits = _denoise(model, controls, tau, batch["clock"], prefix, query)
        controls = controls - velocity.float() / steps
    return controls, logits.float()


def _with_masked_depth(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The same batch with its depth to be encoded whether it is there or not; `depth_present` still masks it."""
    rows = torch.arange(len(batch["image"]), device=batch["image"].device)
    return {**batch, "depth_rows": rows}


def _denoise(
    model: Mu0Model, noisy: Tensor, tau: Tensor, clock: Tensor, prefix: Prefix, query: Query
) -> tuple[Tensor, Tensor]:
    history, controls = query.history, model.tokens.controls(noisy[:, None], query)[:, 0]
    x = torch.cat([history, controls], dim=1)
    condition = (model._clock_condition(clock) + model.time_embedding(tau))[:, None]
    angles = rotary_angles(prefix.end[:, None], model.expert.head_dim, model.expert.rope_base)
    seen = _suffix_mask(model, query, history.shape[1], controls.shape[1])
    to_prefix = prefix.mask[:, None].expand(-1, x.shape[1], -1)
    for index, layer in enumerate(cast(list[ExpertLayer], list(model.expert.layers))):
        x = _layer(layer, x, condition, (prefix.keys[index], prefix.values[index]), to_prefix, seen, angles)
    hidden = model.expert.norm(x)[:, history.shape[1] :].unflatten(1, (query.present.shape[1], -1))
    velocity = model.velocity_proj(hidden).flatten(-2).unflatten(-1, (-1, 3))
    return velocity, model.validity_proj(hidden.mean(dim=-2))


def _layer(
    layer: ExpertLayer,
    x: Tensor,
    condition: Tensor,
    of_prefix: tuple[Tensor, Tensor],
    to_prefix: Tensor,
    seen: Tensor,
    angles: tuple[Tensor, Tensor],
) -> Tensor:
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = layer.modulation(condition)
    normed = modulate(layer.norm_attention(x), shift_a, scale_a)
    query = split_heads(layer.q_proj(normed), layer.head_dim)
    key, value = (part.clone() for part in of_prefix)
    if layer.cross:
        dtype = layer.k_proj.weight.dtype
        key = split_heads(layer.k_proj(merge_heads(key).to(dtype)), layer.head_dim)
        value = split_heads(layer.v_proj(merge_heads(value).to(dtype)), layer.head_dim)
        found = attend(query, key, value, to_prefix)
    else:
        own_key = rotate(split_heads(layer.k_proj(normed), layer.head_dim), *angles)
        own_value = split_heads(layer.v_proj(normed), layer.head_dim)
        key, value = (
            torch.cat([key.to(own_key.dtype), own_key], 2),
            torch.cat([value.to(own_value.dtype), own_value], 2),
        )
        found = attend(rotate(query, *angles), key, value, torch.cat([to_prefix, seen], dim=2))
    x = x + gate_a * layer.o_proj(merge_heads(found))
    return x + gate_m * layer.mlp(modulate(layer.norm_mlp(x), shift_m, scale_m))


def _suffix_mask(model: Mu0Model, query: Query, past: int, future: int) -> Tensor:
    """[B,M,M]: which history and control tokens each of them sees."""
    group = torch.arange(past, device=model.device) % max(model.tokens.history_groups, 1)
    to_history = (group[None, :] <= group[:, None]) & query.history_seen[:, None]
    present = query.present.repeat_interleave(future // query.present.shape[1], dim=1)
    upper = torch.cat([to_history, to_history.new_zeros(len(present), past, future)], dim=2)
    lower = torch.cat([query.history_seen, present], dim=1)[:, None].expand(-1, future, -1)
    return torch.cat([upper, lower], dim=1)
