"""Attention with an explicit mask, by torch's fused kernel."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def split_heads(x: Float[Tensor, "*batch L C"], head_dim: int) -> Float[Tensor, "*batch heads L D"]:
    return x.unflatten(-1, (-1, head_dim)).transpose(-3, -2)


def merge_heads(x: Float[Tensor, "*batch heads L D"]) -> Float[Tensor, "*batch L C"]:
    return x.transpose(-3, -2).flatten(-2)


_FUSED_FROM = 256
"""Queries from which torch's fused kernel in float32 trains faster on a CPU than bfloat16 written out."""


def attend(
    query: Float[Tensor, "B heads Lq D"],
    key: Float[Tensor, "B kv_heads Lk D"],
    value: Float[Tensor, "B kv_heads Lk D"],
    mask: Bool[Tensor, " B #Lq Lk"],
) -> Float[Tensor, "B heads Lq D"]:
    """Scaled dot-product attention; `mask` True = may be seen. Every query must see at least one key.

    Fewer key than query heads means that neighbouring query heads share one (grouped-query attention).
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    key, value = key.to(query.dtype), value.to(query.dtype)
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and torch.is_grad_enabled():
        return _attend_bf16_cpu(query, key, value, mask)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None])


def _attend_bf16_cpu(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """The same where gradients are needed: the fused kernel's backward takes up to three times as long in bfloat16 on a CPU."""
    if query.shape[-2] >= _FUSED_FROM:
        q, k, v = query.float(), key.float(), value.float()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None]).to(query.dtype)
    bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf)[:, None]
    return ((query * query.shape[-1] ** -0.5) @ key.mT + bias).softmax(dim=-1) @ value
