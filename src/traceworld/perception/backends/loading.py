"""Bringing a model into memory from what lies on this machine; whatever is missing is an error with the exact command."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from traceworld.errors import CheckpointError, ConfigError, MissingExtraError, MissingWeightsError
from traceworld.extras import require
from traceworld.perception.weights import Weights


def pick_device(name: str) -> torch.device:
    """`auto`: CUDA if there is one, else the CPU.

    Raises:
        ConfigError: CUDA is asked for and absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device here", where=f"device '{name}'", mend="use device=cpu or auto")
    return torch.device(name)


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where a model's authors run it so: on CUDA only."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def as_weights(weights: Weights | str) -> Weights:
    """A plain path or hub id counts as a whole repository."""
    return weights if isinstance(weights, Weights) else Weights(weights)


def path_of(weights: Weights | str) -> Path:
    """Folder or file of the weights on this machine.

    Raises:
        MissingWeightsError: they are not here.
    """
    wanted = as_weights(weights)
    found = wanted.find()
    if found is None:
        raise MissingWeightsError("the weights are not on this machine", where=wanted.source, mend=wanted.command())
    return found


def from_folder(loader: Callable[..., Any], weights: Weights | str, **options: Any) -> Any:
    """`loader(path, **options)`, a `from_pretrained` of any library.

    Raises:
        MissingWeightsError: not here. CheckpointError: here, but it cannot be loaded.
    """
    path = path_of(weights)
    try:
        return loader(str(path), **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot be loaded: {error}", where=str(path), mend="fetch it again, or name weights of this backend's kind"
        ) from error


def pretrained(class_name: str, weights: Weights | str, device: torch.device, **options: Any) -> Any:
    """A model of transformers' `class_name`, in evaluation mode on the device; never downloads. Raises as `from_folder`."""
    loader = getattr(require("transformers"), class_name).from_pretrained
    return from_folder(loader, weights, local_files_only=True, **options).to(device).eval()


def load_state(weights: Weights | str) -> dict[str, torch.Tensor]:
    """Tensors by name from `.safetensors` or a torch checkpoint, which is read without running any code in it.

    A training checkpoint's `state_dict` or `model` part is taken.

    Raises:
        MissingWeightsError: not here. CheckpointError: unreadable, or it holds more than tensors.
    """
    path = path_of(weights)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=str(path), mend="fetch it again") from error
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":  # torch's word for anything but tensors
            raise
        raise CheckpointError(
            "holds Python objects, which this library does not unpickle",
            where=str(path),
            mend="save its state dict as .safetensors once, in an environment you trust, and name that file",
        ) from error
    for part in ("state_dict", "model"):
        found = found.get(part, found) if isinstance(found, dict) else found
    if not (isinstance(found, dict) and all(isinstance(value, torch.Tensor) for value in found.values())):
        raise CheckpointError("holds no tensors by name", where=str(path), mend="fetch it again")
    return found


def fill(module: torch.nn.Module, state: dict[str, torch.Tensor], where: str) -> None:
    """Put tensors into a module.

    Raises:
        CheckpointError: names or shapes differ; the first of each is told.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"does not fit the model: {error}", where=where, mend="name this model's weights"
        ) from error


def package(module: str, command: str, within: Path | None = None) -> ModuleType:
    """Import a module of a package installed from git, or of a clone (`within`) that is no package.

    Raises:
        MissingExtraError: not installed; `mend` is the command.
        ConfigError: the clone's module names are taken by another clone's in this process.
    """
    try:
        if within is None:
            return importlib.import_module(module)
        with _on_path(within):
            found = importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"needed here: {error}", where=module, mend=command) from error
    origin = getattr(found, "__file__", None) or ""
    if not Path(origin).resolve().is_relative_to(within.resolve()):
        raise ConfigError(
            f"'{module}' in this process comes from {origin}",
            where=str(within),
            mend="use one backend of this sort per process: their clones use the same module names",
        )
    return found


@contextlib.contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
