"""What the one loop needs to know of a model: how to make it, store it and read it back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from traceworld.errors import ConfigError
from traceworld.models.mu0.config import Mu0Config
from traceworld.models.mu0.prefix import depth_rows
from traceworld.models.normalisation import Normalisation
from traceworld.training.config import TrainConfig

Shares = Mapping[str, tuple[float | int, float | int]]
"""Term of a loss → (its weight in the sum, how many things it is a mean over)."""


@runtime_checkable
class TrainableModel(Protocol):
    """An nn.Module with a loss. `loss` returns named scalars, `loss` among them, and draws only from `generator`."""

    def loss(self, batch: Mapping[str, Any], generator: torch.Generator) -> dict[str, torch.Tensor]: ...


def windows_in(batch: Mapping[str, Any]) -> int:
    """Windows of a batch: every field has a row for each."""
    return len(next(iter(batch.values())))


def _nothing(name: str) -> bool:
    return False


def _mean_over_windows(model: Any, batch: Mapping[str, Any]) -> Shares:
    return {"loss": (1.0, windows_in(batch))}


def _as_it_is(model: Any, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    return batch


def _usual_windows(model: Any) -> Mapping[str, Any]:
    return {}


def _no_units(model: nn.Module) -> list[Sequence[nn.Module]]:
    return []


@dataclass(frozen=True)
class ModelKind:
    """One trainable kind of model.

    Attributes:
        build: a fresh model (an nn.Module that is a `TrainableModel`); its initial weights follow from torch's seed.
        save: (folder, model, normalisation, extra) writes a checkpoint folder that predictors load.
        load: (folder, model) fills the model from such a folder and returns its scales; CheckpointError if it does not fit.
        set_normalisation: (model, scales) tells a model the scales of its corpus: a `Normalisation`, or whatever else is the
            `TrainingData.normalisation` of this kind (a policy has `ActionScales`).
        image_size: the model's own picture size (width, height), pixels.
        windows: model → fields of `WindowConfig` that it fixes (lengths, the spline); the rest is the run's choice.
        is_backbone: parameter name → belongs to the pretrained backbone (learns at `vlm_lr_multiplier`).
        shares: (model, batch) → for each term of the loss its weight in the sum and how many things in this batch it is a
            mean over. Several processes need it to be one; by default the loss is a mean over windows.
        units: modules whose parameters FSDP gathers together (each item at once). Every rank runs each unit in every step,
            always from its first module to its last; the rest is one unit.
        prepare: (model, batch) → the batch with what a compiled loss cannot compute: words as numbers, rows to pick.
    """

    build: Callable[[TrainConfig], Any]
    save: Callable[[Path, Any, Any, Mapping[str, Any]], object]
    load: Callable[[Path, Any], Any]
    set_normalisation: Callable[[Any, Any], None]
    image_size: Callable[[Any], tuple[int, int]]
    windows: Callable[[Any], Mapping[str, Any]] = _usual_windows
    is_backbone: Callable[[str], bool] = _nothing
    shares: Callable[[Any, Mapping[str, Any]], Shares] = _mean_over_windows
    units: Callable[[Any], list[Sequence[nn.Module]]] = _no_units
    prepare: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]] = _as_it_is


def _mu0() -> ModelKind:
    from traceworld.models.checkpoint import save_checkpoint
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

    return ModelKind(
        build=build,
        save=save_checkpoint,
        load=_load,
        set_normalisation=lambda model, scales: model.set_normalisation(scales),
        image_size=lambda model: model.config.image_size,
        windows=lambda model: _mu0_windows(model.config),
        is_backbone=_is_vlm,
        shares=_mu0_shares,
        units=_mu0_units,
        prepare=lambda model, batch: _as_numbers(model.prefix, batch),
    )


def _load(folder: Path, model: nn.Module) -> Normalisation:
    from traceworld.models.checkpoint import load_weights

    load_weights(folder, model)  # complains if the folder is no checkpoint, or of another size
    return Normalisation.from_dict(json.loads((folder / "config.json").read_text())["normalisation"])


def _mu0_windows(config: Mu0Config) -> dict[str, Any]:
    lengths: dict[str, Any] = {"history": config.history, "horizon": config.horizon}
    if config.target == "raw":
        return lengths  # it reads no controls
    return {**lengths, "num_controls": config.num_controls, "knots": config.knots}


def _is_vlm(name: str) -> bool:
    return name.startswith("prefix.vlm.")


def _mu0_shares(model: Any, batch: Mapping[str, Any]) -> Shares:
    """eq. 10: flow counts what the target does, validity all keypoints that are there, rigidity pairs of one part."""
    options, present, part = model.config.loss, batch["present"], batch["part_id"]
    target = model.target.of(batch)
    belongs = target.whole & (part >= 0)
    same = (part[:, :, None] == part[:, None]) & belongs[:, :, None] & belongs[:, None]
    pairs = (int(same.sum()) - int(belongs.sum())) // 2
    return {
        "flow": (1.0, int(target.counts.sum())),
        "done": (options.lambda_done, int(present.sum())),
        "rig": (options.lambda_rig, pairs),
    }


def _mu0_units(model: Any) -> list[Sequence[nn.Module]]:
    """The expert's layers in three parts each, since keys and values, and the modulation, are also used outside a layer's
    own pass; of the prefix what runs for every window (not the depth stem, nor a vision tower that runs again for depth)."""
    units: list[Sequence[nn.Module]] = []
    for layer in model.expert.layers:
        units += [[layer.modulation], [layer.k_proj, layer.v_proj], [layer.q_proj, layer.o_proj, layer.mlp]]
    if hasattr(model.prefix, "vlm"):
        layers = [layer.mlp for layer in model.prefix.vlm.model.text_model.layers[:-1]]
    else:
        layers = [*model.prefix.layers, model.prefix.last]
    return units + [[layer] for layer in layers if any(p.requires_grad for p in layer.parameters())]


def _as_numbers(reader: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Strings as numbers, and the windows with depth counted, before the compiled part begins."""
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    return {**tensors, "words": reader.read(batch["instruction"]), "depth_rows": depth_rows(batch)}


def _tracegen() -> ModelKind:
    from traceworld.models.checkpoint import save_checkpoint
    from traceworld.models.tracegen.model import TraceGenModel
    from traceworld.models.tracegen.sizes import tracegen_config

    def build(config: TrainConfig) -> nn.Module:
        if config.train_vlm:
            raise ConfigError(
                "TraceGen's encoders stay frozen", where="TrainConfig.train_vlm", mend="leave the option off"
            )
        model = TraceGenModel(tracegen_config(config.size))
        if not config.init_from:
            model.load_pretrained()
        return model

    return ModelKind(
        build=build,
        save=save_checkpoint,
        load=_load,
        set_normalisation=lambda model, scales: model.set_normalisation(scales),
        image_size=lambda model: model.config.image_size,
        windows=lambda model: {"horizon": model.config.horizon},
        shares=lambda model, batch: {"loss": (1.0, model.loss_weight(batch))},
        units=lambda model: [[layer] for layer in model.decoder.layers],
        prepare=lambda model, batch: _as_numbers(model.condition, batch),
    )


_KINDS: dict[str, Callable[[], ModelKind]] = {"mu0": _mu0, "tracegen": _tracegen}


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
