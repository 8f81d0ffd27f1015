"""What the one loop needs to know of a model: how to make it, store it and read it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from traceworld.errors import ConfigError
from traceworld.models.normalisation import Normalisation
from traceworld.training.config import TrainConfig


@runtime_checkable
class TrainableModel(Protocol):
    """An nn.Module with a loss. `loss` returns named scalars, `loss` among them, and draws only from `generator`."""

    def loss(self, batch: Mapping[str, Any], generator: torch.Generator) -> dict[str, torch.Tensor]: ...


def _nothing(name: str) -> bool:
    return False


@dataclass(frozen=True)
class ModelKind:
    """One trainable kind of model.

    Attributes:
        build: a fresh model; its initial weights follow from torch's seed.
        save: (folder, model, normalisation, extra) writes a checkpoint folder that predictors load.
        load: (folder, model) fills the model from such a folder and returns its scales; CheckpointError if it does not fit.
        set_normalisation: (model, scales) tells a model the scales of its corpus.
        image_size: the model's own picture size (width, height), pixels.
        is_backbone: parameter name → belongs to the pretrained backbone (learns at `vlm_lr_multiplier`).
    """

    build: Callable[[TrainConfig], nn.Module]
    save: Callable[[Path, nn.Module, Normalisation, Mapping[str, Any]], None]
    load: Callable[[Path, nn.Module], Normalisation]
    set_normalisation: Callable[[nn.Module, Normalisation], None]
    image_size: Callable[[nn.Module], tuple[int, int]]
    is_backbone: Callable[[str], bool] = _nothing


_KINDS: dict[str, Callable[[], ModelKind]] = {}


def register_model(name: str, kind: Callable[[], ModelKind]) -> None:
    """Make a model trainable under `name`; `kind` is called when it is first asked for."""
    _KINDS[name] = kind


def model_kind(name: str) -> ModelKind:
    """The registered kind. Raises ConfigError with the known names."""
    if name not in _KINDS:
        raise ConfigError(
            f"no trainable model is called '{name}'", where="TrainConfig.model", mend=f"known: {sorted(_KINDS)}"
        )
    return _KINDS[name]()
