"""How large a TraceGen is, without weights: built on the meta device, where tensors have shapes and no memory."""

from __future__ import annotations

import torch
from torch import nn

from traceworld.models.tracegen.condition import FROZEN_ENCODERS
from traceworld.models.tracegen.config import TraceGenConfig
from traceworld.models.tracegen.model import TraceGenModel
from traceworld.models.tracegen.sizes import tracegen_config


def count_parameters(size: str | TraceGenConfig) -> dict[str, int]:
    """Parameters of a size (or config): `total`, `trainable`, and per part (the parts add up to `total`).

    Raises:
        ConfigError: no such size.
    """
    config = tracegen_config(size) if isinstance(size, str) else size
    with torch.device("meta"):
        model = TraceGenModel(config)
    encoders = {name: getattr(model.condition, name) for name in FROZEN_ENCODERS if hasattr(model.condition, name)}
    parts = {"decoder": _count(model.decoder), "null_condition": model.null_condition.numel()}
    parts |= {name: _count(module) for name, module in encoders.items()}
    parts["condition"] = _count(model.condition) - sum(parts[name] for name in encoders)
    return {
        "total": _count(model),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        **parts,
    }


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
