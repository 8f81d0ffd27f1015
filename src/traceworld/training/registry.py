"""What the one loop needs to know of a model: how to make it, store it and read it back."""

from __future__ import annotations

import json
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
        build: a fresh model (an nn.Module that is a `TrainableModel`); its initial weights follow from torch's seed.
        save: (folder, model, normalisation, extra) writes a checkpoint folder that predictors load.
        load: (folder, model) fills the model from such a folder and returns its scales; CheckpointError if it does not fit.
        set_normalisation: (model, scales) tells a model the scales of its corpus.
        image_size: the model's own picture size (width, height), pixels.
        is_backbone: parameter name → belongs to the pretrained backbone (learns at `vlm_lr_multiplier`).
    """

    build: Callable[[TrainConfig], Any]
    save: Callable[[Path, Any, Normalisation, Mapping[str, Any]], object]
    load: Callable[[Path, Any], Normalisation]
    set_normalisation: Callable[[Any, Normalisation], None]
    image_size: Callable[[Any], tuple[int, int]]
    is_backbone: Callable[[str], bool] = _nothing


def _mu0() -> ModelKind:
    from traceworld.models.checkpoint import load_weights, save_checkpoint
    from traceworld.models.mu0.model import Mu0Model
    from traceworld.models.mu0.sizes import mu0_config

    def build(config: TrainConfig) -> nn.Module:
        model = Mu0Model(mu0_config(config.size))
        if not config.init_from:
            model.load_pretrained()
        backbone = [p for name, p in model.named_parameters() if _is_vlm(name)]
        if config.train_vlm and not backbone:
            raise ConfigError(
                f"μ0 {config.size} has no pretrained backbone",
                where="TrainConfig.train_vlm",
                mend="leave the option off: this size is trained whole",
            )
        for parameter in backbone:
            parameter.requires_grad_(config.train_vlm)
        return model

    def load(folder: Path, model: nn.Module) -> Normalisation:
        load_weights(folder, model)  # complains if the folder is no checkpoint, or of another size
        return Normalisation.from_dict(json.loads((folder / "config.json").read_text())["normalisation"])

    return ModelKind(
        build=build,
        save=save_checkpoint,
        load=load,
        set_normalisation=lambda model, scales: model.set_normalisation(scales),
        image_size=lambda model: model.config.image_size,
        is_backbone=_is_vlm,
    )


def _is_vlm(name: str) -> bool:
    return name.startswith("prefix.vlm.")


_KINDS: dict[str, Callable[[], ModelKind]] = {"mu0": _mu0}


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
