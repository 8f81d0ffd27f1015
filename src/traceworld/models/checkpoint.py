"""Checkpoint folders: `model.safetensors` (weights) and `config.json` (what they are and what scales they expect).

A converted checkpoint may hold a `tokenizer/` too.

config.json, format 1:
    format           1
    kind             which model class ("mu0", "tracegen")
    config           the model's config, read back strictly
    normalisation    s_delta and step per clock, depth range (`Normalisation`)
    stored_dtype     dtype of the stored floats ("mixed": each tensor its own); in memory they are what the reader asks for
    backbones        per frozen published part: class, hub id, revision, fingerprint, and whether its tensors are stored
                     (`models.backbones`); absent in older checkpoints, which hold everything
    training         provenance: whatever the trainer says (JSON)
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from traceworld.errors import CheckpointError, ConfigError
from traceworld.models.backbones import backbone_record, fill_backbones, fingerprint, left_out, named_backbones
from traceworld.models.normalisation import Normalisation
from traceworld.models.precision import build_frugally

FORMAT = 1
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FOLDER = "tokenizer"
_SHOWN = 5
_KINDS = {
    # kind: (config class, model class, predictor class)
    "mu0": (
        "traceworld.models.mu0.config:Mu0Config",
        "traceworld.models.mu0.model:Mu0Model",
        "traceworld.models.mu0.predictor:Mu0Predictor",
    ),
    "tracegen": (
        "traceworld.models.tracegen.config:TraceGenConfig",
        "traceworld.models.tracegen.model:TraceGenModel",
        "traceworld.models.tracegen.predictor:TraceGenPredictor",
    ),
}


@runtime_checkable
class StorableModel(Protocol):
    """An nn.Module that says what it is: `kind` picks the class again, `config.to_dict()` is JSON-able."""

    kind: str
    config: Any

    def state_dict(self) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the model (in eval mode, its normalisation set), the normalisation, the training provenance."""

    model: Any
    normalisation: Normalisation
    extra: Mapping[str, Any]


def save_checkpoint(
    folder: str | Path,
    model: StorableModel,
    normalisation: Normalisation | Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
    *,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    keep_backbones: bool = False,
) -> Path:
    """Write a checkpoint folder, whole or not at all; an older folder of that name is replaced.

    It holds what was trained. Published parts that stayed frozen are named (`models.backbones`), not stored.

    Args:
        model: what to store.
        normalisation: the scales of the corpus; stored in config.json.
        extra: JSON-able provenance of the training.
        dtype: how floats are stored; float16 halves the file.
        keep_backbones: store the frozen published parts as well, so that loading needs nothing else.

    Raises:
        CheckpointError: the normalisation is unusable, or a weight is not finite in the stored dtype.
    """
    if not isinstance(normalisation, Normalisation):
        normalisation = Normalisation.from_dict(normalisation)
    weights, backbones = model.state_dict(), {}
    for backbone in named_backbones(model):
        frozen = {name for name in weights if name.startswith(f"{backbone.path}.")}
        mark = fingerprint(weights[name] for name in frozen)
        backbones[backbone.path] = backbone_record(backbone, mark, keep_backbones)
        if not keep_backbones:
            weights = {name: tensor for name, tensor in weights.items() if name not in frozen}
    stored = {name: storable(name, tensor, getattr(torch, dtype)) for name, tensor in weights.items()}
    record = {
        "format": FORMAT,
        "kind": model.kind,
        "config": model.config.to_dict(),
        "normalisation": normalisation.to_dict(),
        "stored_dtype": dtype,
        "training": dict(extra or {}),
        "backbones": backbones,
    }
    return write_folder(folder, stored, record)


def write_folder(
    folder: str | Path,
    stored: Mapping[str, Tensor],
    record: Mapping[str, Any],
    beside: Mapping[str, Callable[[Path], object]] | None = None,
) -> Path:
    """Write tensors and record as a checkpoint folder, whole or not at all; an older folder of that name is replaced.

    Args:
        beside: name of something else in the folder → what writes it there.
    """
    folder = Path(folder)
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        save_file(dict(stored), temporary / WEIGHTS_FILE)
        (temporary / CONFIG_FILE).write_text(text)
        for name, write in (beside or {}).items():
            write(temporary / name)
        temporary.chmod(0o755)
        _swap(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load_checkpoint(
    folder: str | Path,
    device: str = "cpu",
    backbones: str | Path | None = None,
    frozen_dtype: Literal["float32", "bfloat16"] = "float32",
) -> Checkpoint:
    """Read a checkpoint folder.

    Args:
        backbones: where the published parts are that it names (`fill_backbones`); None: the hub's local cache.
        frozen_dtype: in which the frozen parts are held in memory; bfloat16, in which most are published, halves them.

    Raises:
        CheckpointError: missing, truncated, newer, of an unknown kind, or its tensors do not fit its config (named).
        MissingWeightsError: a published part that it names is not on this machine.
    """
    folder = Path(folder)
    record = _read_record(folder)
    normalisation = Normalisation.from_dict(record["normalisation"])
    config_class, model_class, _ = (_resolve(name) for name in _kind(record["kind"], folder))
    try:
        config = config_class.from_dict(record["config"])
        model = build_frugally(lambda: model_class(config, normalisation), getattr(torch, frozen_dtype))
    except ConfigError as error:
        raise CheckpointError(str(error), where=str(folder / CONFIG_FILE)) from error
    load_weights(folder, model, backbones)
    if (folder / TOKENIZER_FOLDER).is_dir():
        model.prefix.tokenizer_folder = str(folder / TOKENIZER_FOLDER)
    return Checkpoint(model.eval().to(device), normalisation, record["training"])


def load_weights(folder: str | Path, model: nn.Module, backbones: str | Path | None = None) -> None:
    """Fill `model` with the weights of a checkpoint folder, whatever its config says; and with the parts that it names.

    Raises:
        CheckpointError: truncated, or names or shapes differ from the model's (named).
        MissingWeightsError: a published part that it names is not on this machine.
    """
    path = Path(folder) / WEIGHTS_FILE
    named = _read_record(Path(folder)).get("backbones", {}) if (Path(folder) / CONFIG_FILE).exists() else {}
    elsewhere = tuple(f"{part}." for part in left_out(named))
    wanted = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(elsewhere)}
    try:
        with safe_open(path, framework="pt") as stored:
            _check_fit(path, {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}, wanted)  # noqa: SIM118
            for (
                name,
                tensor,
            ) in wanted.items():  # one by one: a large model and its file do not fit into memory together
                tensor.copy_(stored.get_tensor(name))
    except FileNotFoundError as error:
        raise CheckpointError("there are no weights here", where=str(path)) from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"is truncated or damaged: {error}", where=str(path), mend="fetch it again") from error
    fill_backbones(model, named, backbones)


def _check_fit(path: Path, stored: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Tensor]) -> None:
    """
    Raises:
        CheckpointError: names or shapes in the file are not those that the model wants.
    """
    faults = []
    if missing := sorted(set(wanted) - set(stored)):
        faults.append(f"missing {_list(missing)}")
    if unknown := sorted(set(stored) - set(wanted)):
        faults.append(f"unknown {_list(unknown)}")
    shapes = [
        f"{name} {stored[name]} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in stored and stored[name] != tuple(wanted[name].shape)
    ]
    if shapes:
        faults.append(f"of another shape {_list(shapes)}")
    if faults:
        raise CheckpointError(
            f"tensors do not fit the model: {'; '.join(faults)}",
            where=str(path),
            mend="the weights are of another size or version than the config",
        )


def predictor_class(kind: str) -> Any:
    """The predictor that runs models of this kind: callable(model, name=...)."""
    return _resolve(_kind(kind, Path())[2])


def storable(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor as it is stored: floats in `dtype`. Raises CheckpointError if it is not finite then."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.to(dtype)
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"holds NaN or infinity as {dtype}", where=name, mend="the training has diverged")
    return tensor.contiguous().clone()


def _swap(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`. A folder cannot be replaced in one step; the old one is aside for an instant."""
    if folder.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent))
        os.replace(folder, aside / "was")
        os.replace(new, folder)
        shutil.rmtree(aside)
    else:
        os.replace(new, folder)


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError("is not a checkpoint folder: no config.json", where=str(folder)) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=str(path), mend="fetch it again") from error
    if not isinstance(record, dict) or not isinstance(record.get("format"), int):
        raise CheckpointError("does not describe a traceworld checkpoint: no format number", where=str(path))
    if record["format"] > FORMAT:
        raise CheckpointError(
            f"has format {record['format']}, this version reads up to {FORMAT}",
            where=str(path),
            mend="pip install -U traceworld",
        )
    if missing := {"kind", "config", "normalisation", "training"} - set(record):
        raise CheckpointError(f"missing fields {sorted(missing)}", where=str(path))
    return record


def _kind(kind: str, folder: Path) -> tuple[str, str, str]:
    if kind not in _KINDS:
        raise CheckpointError(f"unknown kind of model {kind!r}, known are {sorted(_KINDS)}", where=str(folder))
    return _KINDS[kind]


def _resolve(reference: str) -> Any:
    module, attribute = reference.split(":")
    return getattr(importlib.import_module(module), attribute)


def _list(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
