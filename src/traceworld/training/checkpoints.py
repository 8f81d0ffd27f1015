"""Checkpoints of a run: written whole or not at all, read back to the last bit, the newest and the best kept.

`<out>/checkpoints/step_00001000/` holds `model/` (and `ema/`) as predictor checkpoints, `optimizer.safetensors` and
`trainer.json`. A folder is written under a temporary name and renamed, so whatever is found under its own name is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from traceworld.errors import CheckpointError
from traceworld.training.optim import Optimizers
from traceworld.training.sharding import cut_like, whole

TRAINER_FORMAT = 1


@dataclass(frozen=True)
class TrainerState:
    """What a run knows beside its tensors: steps done, the run's options, and the best validation so far."""

    step: int
    config: dict[str, Any]
    best_step: int | None = None
    best_loss: float | None = None


def folder_of(out: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps is."""
    return out / "checkpoints" / f"step_{step:08d}"


def steps_on_disk(out: Path) -> list[int]:
    """Steps of all whole checkpoints, ascending."""
    return sorted(int(p.name[5:]) for p in (out / "checkpoints").glob("step_*") if p.name[5:].isdigit())


def write_whole(folder: Path, fill: Callable[[Path], object]) -> None:
    """Make `folder` by filling a temporary one beside it and renaming that; an older folder of the name is replaced."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    fill(temporary)
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old.tmp")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old)
    else:
        temporary.rename(folder)


def sweep(out: Path, keep: set[int]) -> None:
    """Remove checkpoints of other steps, and what killed runs left half written."""
    for step in set(steps_on_disk(out)) - keep:
        shutil.rmtree(folder_of(out, step))
    for leftover in [*out.glob(".*.tmp"), *(out / "checkpoints").glob(".*.tmp")]:
        shutil.rmtree(leftover, ignore_errors=True)


def optimizer_tensors(model: nn.Module, optimizer: Optimizers, keep: bool = True) -> dict[str, Tensor]:
    """Optimizer state on the CPU, named after the parameters it belongs to; put together if the model is cut over ranks
    (then collective, and only ranks that `keep` it hold it)."""
    name_of: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {}
    for part in optimizer.parts:
        for parameter, slots in part.state.items():
            for key, value in slots.items():
                value = whole(value.detach())
                if keep:
                    tensors[f"{key}:{name_of[parameter]}"] = value.cpu().contiguous()
    return tensors


def write_trainer(folder: Path, optimizer: Mapping[str, Tensor], state: TrainerState) -> None:
    """Write optimizer state and trainer state into `folder`."""
    save_file(dict(optimizer), folder / "optimizer.safetensors")
    fields = {"format": TRAINER_FORMAT, **state.__dict__}
    (folder / "trainer.json").write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")


def read_state(folder: Path) -> TrainerState:
    """Trainer state of a checkpoint. Raises CheckpointError if it is missing, damaged or of a newer format."""
    path = folder / "trainer.json"
    try:
        fields = json.loads(path.read_text())
        version = fields.pop("format")
        if version > TRAINER_FORMAT:
            raise CheckpointError(f"has format {version}, newer than {TRAINER_FORMAT}", where=str(path), mend="update")
        return TrainerState(**fields)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=str(path), mend="delete this checkpoint") from error


def read_optimizer(folder: Path, model: nn.Module, optimizer: Optimizers) -> None:
    """Fill the optimizer from a checkpoint. Raises CheckpointError if it is damaged or of another model."""
    path = folder / "optimizer.safetensors"
    parameters = dict(model.named_parameters())
    try:
        for name, value in load_file(path).items():
            slot, _, parameter = name.partition(":")
            owner = parameters[parameter]
            part = optimizer.of(owner)
            on = owner.device if slot != "step" or part.defaults.get("fused") else "cpu"
            part.state[owner][slot] = value.to(on) if value.ndim == 0 else cut_like(value, owner)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=str(path), mend="delete this checkpoint") from error
    except KeyError as error:
        raise CheckpointError(f"belongs to another model: no {error}", where=str(path)) from error
