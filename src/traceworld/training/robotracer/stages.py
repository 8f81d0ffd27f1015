"""The two stages of supervised fine-tuning with the paper's constants (RoboTracer §3.2, D.2, D.3), and the options of a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from traceworld.errors import ConfigError
from traceworld.models.robotracer.model import Stage

SCALE_LOSS_WEIGHT = 0.1
"""Of ‖log ŝ − log s*‖² beside next-token prediction."""


@dataclass(frozen=True)
class StageDefaults:
    """What the paper trains a stage with. `batch` is per GPU, of its 2B model (8B: 3 and 2)."""

    lr: float
    batch: int
    weight_decay: float = 0.0
    warmup: float = 0.03
    epochs: float = 1.0


STAGES: Mapping[Stage, StageDefaults] = {
    "alignment": StageDefaults(lr=1e-4, batch=7),
    "enhancement": StageDefaults(lr=5e-5, batch=6),
}


@dataclass(frozen=True)
class SftConfig:
    """Options of a stage. None: the paper's, see `STAGES`.

    Attributes:
        stage: `alignment` trains the spatial and scale projectors and the scale decoder; `enhancement` all but MapAnything.
        lr, batch, weight_decay, warmup, epochs: `batch` per process and forward pass; `warmup` as a part of all steps.
        max_steps: stop after so many steps; 0: after `epochs`.
        grad_accumulation: forward passes per step.
        schedule: after the warm-up; the paper does not say, its base trains with `cosine`.
        scale_loss_weight: 0: no scale loss.
        drop: chance of intrinsics, depth and pose, each, to be left out of an example; the paper does not say how often.
        guide: weight of guided attention (`guiding`), for a base that starts from nothing; 0: none.
        clip: of the gradient's norm.
        optimizer: AdamW as the paper's code has it; `muon` for a base that starts from nothing (`optimiser`).
        precision: `bf16`: autocast. gradient_checkpointing: recompute the language model's activations.
        seed: of order, draws and new weights. workers: reader processes; the batches do not depend on it.
        save_every: steps between checkpoints to go on from; the end always has one. log_every: steps.
    """

    stage: Stage
    lr: float | None = None
    batch: int | None = None
    weight_decay: float | None = None
    warmup: float | None = None
    epochs: float | None = None
    max_steps: int = 0
    grad_accumulation: int = 1
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    scale_loss_weight: float = SCALE_LOSS_WEIGHT
    drop: float = 0.5
    guide: float = 0.0
    clip: float = 1.0
    optimizer: Literal["adamw", "muon"] = "adamw"
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    seed: int = 0
    workers: int = 0
    save_every: int = 1000
    log_every: int = 10

    def __post_init__(self):
        if self.stage not in STAGES:
            raise ConfigError(f"'{self.stage}' is no stage", where="SftConfig.stage", mend=" or ".join(STAGES))
        for name, value in dataclasses.asdict(STAGES[self.stage]).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in ("lr", "epochs", "clip"):
            check(getattr(self, name) > 0, f"SftConfig.{name}", getattr(self, name), "must be positive")
        for name in ("batch", "grad_accumulation", "save_every", "log_every"):
            check(getattr(self, name) >= 1, f"SftConfig.{name}", getattr(self, name), "must be at least 1")
        for name in ("weight_decay", "scale_loss_weight", "guide", "max_steps", "workers", "seed"):
            check(getattr(self, name) >= 0, f"SftConfig.{name}", getattr(self, name), "must not be negative")
        for name in ("warmup", "drop"):
            check(0 <= getattr(self, name) <= 1, f"SftConfig.{name}", getattr(self, name), "must be in [0, 1]")

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON keeps."""
        return dataclasses.asdict(self)


def check(condition: bool, where: str, value: Any, mend: str) -> None:
    """Raise ConfigError unless the condition holds."""
    if not condition or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(f"is {value}", where=where, mend=mend)
