"""What a training run is: one frozen, JSON-able dataclass.

The defaults are those of mu0-paper App. B.1 and C, except that a run is shorter (20,000 steps, not 200,000), gradient
checkpointing is off and the forward pass is fp32; windows on the arc-length clock are drawn only where they are asked for.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from traceworld.errors import ConfigError
from traceworld.traces.quality import Condition
from traceworld.training.mixture import read_mixture

FREE_ON_RESUME = frozenset(
    {"steps", "workers", "log_every", "checkpoint_every", "eval_every", "max_minutes", "device", "threads"}
    | {"parallel", "trackers", "project", "recipe"}
)
"""Options that may differ when a run is continued: they change how far and how fast it goes, not what a step does."""


@dataclass(frozen=True)
class TrainConfig:
    """Options of `train`.

    Attributes:
        data: clip stores to train on. Plain folders: every window of all of them has the same chance. `FOLDER:2`: each window
            of this one has twice the chance of a window of a plain one. `FOLDER:60%`: this one has 60 % of the draws,
            whatever its size (then all must have a share). The scale s_Δ and the depth range are those of all clips
            together, whatever the weights: a model has one scale.
        out: folder of this run: log.jsonl, checkpoints/, model/ (the result), result.json. A run found there is continued.
        model, size: which model, at which size.
        steps: optimiser steps in all.
        train_vlm: let a pretrained VLM backbone learn too (at `vlm_lr_multiplier`); App. C.1 keeps it frozen.
        batch: windows per forward pass over all ranks, each of which takes its share; one optimiser step sees
            `batch * grad_accumulation` windows. So a run is the same on any number of processes.
        optimizer: `adamw` (App. B.1) or `muon`: orthogonalised momentum for the wide linear layers, AdamW for the rest.
        lr, vlm_lr_multiplier, weight_decay, betas, clip: AdamW as in App. B.1; the multiplier is for a pretrained backbone.
        warmup: steps of linear warm-up. schedule: what follows, `constant` or `cosine` (to zero at `steps`).
        ema: decay of the moving average of the weights; 0 = off. With it, validation and the result use the average.
        precision: `bf16` runs the forward pass under autocast; the weights stay fp32 (reference weak point 26a).
        gradient_checkpointing: recompute activations in the backward pass, for models that can.
        seed: everything random follows from it.
        workers: reader processes; the batches do not depend on it.
        checkpoint_every, eval_every, log_every: in steps; 0 turns the periodic one off (the end always has one).
        val_fraction: part of the clips kept out for validation. val_windows: windows scored, always the same ones.
        init_from: checkpoint folder to start the weights from.
        max_minutes: stop with a checkpoint after so many minutes of this process.
        time_weight, time_step: share and step (seconds) of windows on plain time.
        arc_weight, arc_step: share and step (image widths of path) of windows on the arc-length clock.
        colour_jitter, depth_noise_m: augmentation of App. B.1.
        history_drop_all, history_drop_each, depth_drop: dropout of App. C.1.
        image_size: (width, height) of the picture given to the model, px; None = the model's own.
        keypoints: least and most keypoints drawn per window, uniformly.
        moving_share: chance of each keypoint to be drawn from the moving points.
        keep: train only on clips whose quality figures meet all of these, as `visible_fraction>=0.5` (`traces.quality.FIGURES`).
        min_motion: leave out windows in which no point gets this far from its anchor (uv units).
        device: `auto`, `cpu`, `cuda`, … threads: torch threads, None = torch's choice.
        parallel: with several ranks (torchrun): `ddp`, a whole model on each; `fsdp`, weights, gradients and optimiser state
            cut over them. Checkpoints are the same either way.
        compile: run loss and gradient through torch.compile. Its noise is not that of a run that is not compiled, and with
            several ranks each draws its own: continue such a run as it was started.
        trackers: beside log.jsonl also log to `wandb`, `tensorboard`, `trackio`. project: its name there.
        recipe: which named recipe (`recipes.py`) the options were taken from; make such a config with `from_recipe`.
    """

    data: tuple[str, ...]
    out: str
    model: str = "mu0"
    size: str = "nano"
    train_vlm: bool = False
    steps: int = 20_000
    batch: int = 24
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-4
    vlm_lr_multiplier: float = 0.1
    weight_decay: float = 1e-10
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 10.0
    warmup: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    ema: float = 0.0
    grad_accumulation: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    seed: int = 0
    workers: int = 1
    checkpoint_every: int = 1000
    eval_every: int = 1000
    log_every: int = 10
    val_fraction: float = 0.05
    val_windows: int = 256
    init_from: str | None = None
    max_minutes: float | None = None
    time_weight: float = 1.0
    time_step: float = 0.025
    arc_weight: float = 0.0
    arc_step: float = 0.01
    colour_jitter: float = 0.3
    depth_noise_m: float = 0.01
    history_drop_all: float = 0.2
    history_drop_each: float = 0.3
    depth_drop: float = 0.7
    image_size: tuple[int, int] | None = None
    keypoints: tuple[int, int] = (1, 256)
    moving_share: float = 0.8
    keep: tuple[str, ...] = ()
    min_motion: float = 0.0
    device: str = "auto"
    threads: int | None = None
    parallel: Literal["ddp", "fsdp"] = "ddp"
    compile: bool = False
    trackers: tuple[str, ...] = ()
    project: str = "traceworld"
    recipe: str | None = None

    def __post_init__(self):
        _need(bool(self.data), "data", "names no clip store", "give at least one folder written by extract or sim")
        read_mixture(self.data)
        for name in ("steps", "batch", "grad_accumulation", "val_windows"):
            _need(getattr(self, name) >= 1, name, f"is {getattr(self, name)}", "must be at least 1")
        for name in ("warmup", "workers", "checkpoint_every", "eval_every", "log_every", "seed"):
            _need(getattr(self, name) >= 0, name, f"is {getattr(self, name)}", "must not be negative")
        for name in ("lr", "clip", "time_step", "arc_step"):
            _need(getattr(self, name) > 0, name, f"is {getattr(self, name)}", "must be positive")
        for name in (
            "vlm_lr_multiplier",
            "weight_decay",
            "depth_noise_m",
            "time_weight",
            "arc_weight",
            "colour_jitter",
        ):
            _need(getattr(self, name) >= 0, name, f"is {getattr(self, name)}", "must not be negative")
        for name in ("history_drop_all", "history_drop_each", "depth_drop", "moving_share"):
            _need(0 <= getattr(self, name) <= 1, name, f"is {getattr(self, name)}", "is a probability")
        _need(self.time_weight + self.arc_weight > 0, "time_weight", "and arc_weight are both 0", "give one a share")
        _need(0 <= self.ema < 1, "ema", f"is {self.ema}", "a decay below 1, 0 = off")
        _need(0 <= self.val_fraction < 1, "val_fraction", f"is {self.val_fraction}", "must be in [0, 1)")
        low, high = self.keypoints
        for condition in self.keep:
            Condition.parse(condition)
        _need(1 <= low <= high, "keypoints", f"is {self.keypoints}", "least and most, 1 or more")
        _need(self.schedule in ("constant", "cosine"), "schedule", f"is '{self.schedule}'", "constant or cosine")
        _need(self.optimizer in ("adamw", "muon"), "optimizer", f"is '{self.optimizer}'", "adamw or muon")
        _need(self.parallel in ("ddp", "fsdp"), "parallel", f"is '{self.parallel}'", "ddp or fsdp")
        unknown = sorted(set(self.trackers) - {"wandb", "tensorboard", "trackio"})
        _need(not unknown, "trackers", f"names {', '.join(unknown)}", "wandb, tensorboard, trackio")
        _need(self.precision in ("fp32", "bf16"), "precision", f"is '{self.precision}'", "fp32 or bf16")

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON keeps."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> TrainConfig:
        """The inverse of `to_json`. Raises ConfigError for a field that this version does not know."""
        known = {field.name for field in dataclasses.fields(TrainConfig)}
        unknown = sorted(set(fields) - known)
        _need(not unknown, ", ".join(unknown), "is no option of this version", "use the version that wrote it")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return TrainConfig(**values)


def refuse_other_run(stored: dict[str, Any], config: TrainConfig) -> None:
    """Raise ConfigError when the run in `config.out` was started with options that change what a step does."""
    now = config.to_json()
    stored = {**TrainConfig(data=config.data, out=config.out).to_json(), **stored}  # options that came later
    for name in sorted(set(now) - FREE_ON_RESUME - {"out"}):
        _need(
            stored.get(name) == now[name],
            name,
            f"was {stored.get(name)!r} when the run in {config.out} was started, now {now[name]!r}",
            "continue it with the same options, or give another out folder",
        )


def _need(condition: bool, option: str, message: str, mend: str) -> None:
    if not condition:
        raise ConfigError(message, where=f"TrainConfig.{option}", mend=mend)
