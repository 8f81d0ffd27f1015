"""How large a μ0 is, without weights: the model is built on the meta device, where tensors have shapes and no memory."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from traceworld.models.mu0.config import Mu0Config
from traceworld.models.mu0.expert import ExpertLayer
from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.official.key_map import unread_parameters
from traceworld.models.mu0.prefix_nano import NanoPrefix
from traceworld.models.mu0.sizes import mu0_config


def count_parameters(size: str | Mu0Config) -> dict[str, int]:
    """Parameters of a size (or config): `total`, `trainable`, and per part (the parts add up to `total`).

    The published sizes (342M, 568M, 2.59B; mu0-paper Table 7) count the VLM with its language head (which is not tied to the
    embedding, and which traces do not use), SigLIP, DINOv2, and everything trained. So does this. In compat with the released
    code it also counts, as `released_unread`, the numbers that the release trains and nothing reads; our model has none.

    Raises:
        ConfigError: no such size.
    """
    config = mu0_config(size) if isinstance(size, str) else size
    with torch.device("meta"):
        model = Mu0Model(config)
    parts = _parts(model)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    if config.compat == "official":
        counts["released_unread"] = unread_parameters(config)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "total": sum(counts.values()),
        "trainable": trainable + counts.get("released_unread", 0),
        **counts,
    }


def _parts(model: Mu0Model) -> dict[str, nn.Module]:
    """Disjoint modules that together hold every parameter."""
    modulation = nn.ModuleList(cast(ExpertLayer, layer).modulation for layer in model.expert.layers)
    blocks = nn.ModuleList(
        child for layer in model.expert.layers for name, child in layer.named_children() if name != "modulation"
    )
    others = {"prefix", "features", "expert", "tokens"}
    parts = {
        "expert": nn.ModuleList([blocks, model.expert.norm]),
        "expert_modulation": modulation,
        "tokens": model.tokens,
        "embeddings_and_heads": nn.ModuleList(m for name, m in model.named_children() if name not in others),
    }
    if model.features is not None:
        parts["dino"] = model.features
    if isinstance(model.prefix, NanoPrefix):
        parts["prefix"] = model.prefix
    else:
        vlm = model.prefix.vlm
        parts |= {
            "vlm_vision": nn.ModuleList([vlm.model.vision_model, vlm.model.connector]),
            "vlm_text": vlm.model.text_model,
            "vlm_language_head": vlm.lm_head,
        }
        depth = {"depth_stem": model.prefix.depth_stem, "depth_adapter": model.prefix.depth_adapter}
        parts |= {name: part for name, part in depth.items() if part is not None}
    return parts
