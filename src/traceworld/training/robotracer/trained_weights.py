"""Checkpoints of a Trainer that hold what is trained, as safetensors, and nothing else of the model.

What is not trained comes from where the run started; so a stage that trains two projectors writes megabytes, whatever its base.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from traceworld.errors import CheckpointError

WEIGHTS = "model.safetensors"


def write_trained(model: nn.Module, folder: Path) -> None:
    """Write the parameters that learn."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    trained = {name: p.detach().cpu().contiguous().clone() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trained, folder / WEIGHTS)


def read_trained(model: nn.Module, folder: Path) -> None:
    """Read them back into a model in which the same parameters learn.

    Raises:
        CheckpointError: missing or damaged, or other parameters learn here.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot be read: {error}", where=str(folder / WEIGHTS), mend="take an older one"
        ) from error
    wanted = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if wanted != set(stored):
        different = sorted(wanted ^ set(stored))
        raise CheckpointError(
            f"{len(different)} parameters differ, the first is {different[0]}",
            where=str(folder),
            mend="go on with the options that the run was started with",
        )
    model.load_state_dict(stored, strict=False)


class TrainedWeights:
    """Mixin for a transformers Trainer, before it in the list of bases."""

    model: Any
    args: Any

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            write_trained(self.model, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        read_trained(model if model is not None else self.model, Path(resume_from_checkpoint))


def newest_checkpoint(folder: Path) -> Path | None:
    """The Trainer's newest whole checkpoint of a run folder; None if there is none."""
    found = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
