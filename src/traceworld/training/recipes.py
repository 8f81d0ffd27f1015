"""Named sets of training options: what the μ0 paper says (App. B.1, C.1), and what its released code runs with.

Options given beside a recipe win; the run's log says where they differ from it. Both recipes leave `data` and `out` open.
Table 1.7 of the release's dossier is the source of the second one. What the release does differently inside the model and its
loss (Beta-distributed τ, knots, sums instead of means) is the model's configuration, not the trainer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from traceworld.errors import ConfigError
from traceworld.training.config import TrainConfig

_BOTH: dict[str, Any] = {
    "model": "mu0",
    "size": "large",
    "steps": 200_000,
    "optimizer": "adamw",
    "lr": 1e-4,
    "weight_decay": 1e-10,
    "betas": (0.9, 0.95),
    "clip": 10.0,
    "warmup": 0,
    "schedule": "constant",
    "ema": 0.0,
    "colour_jitter": 0.3,
    "depth_noise_m": 0.01,
    "history_drop_each": 0.3,
    "depth_drop": 0.7,
    "keypoints": (1, 256),
    # Both train on moving points and on the arc-length clock only; 0.05 image widths per step is TraceExtract's default.
    "moving_share": 1.0,
    "time_weight": 0.0,
    "arc_weight": 1.0,
    "arc_step": 0.05,
}

RECIPES: Mapping[str, Mapping[str, Any]] = {
    # An effective batch of 24 from 6 windows on each of two GPUs: two accumulated batches of 12.
    "mu0-paper": {
        **_BOTH,
        "batch": 12,
        "grad_accumulation": 2,
        "train_vlm": False,
        "vlm_lr_multiplier": 0.1,
        "gradient_checkpointing": True,
        "history_drop_all": 0.2,
        "precision": "bf16",
    },
    # Four GPUs with 4 windows each; no accumulation, no autocast, and a checkpointing flag that nothing reads.
    "mu0-release": {
        **_BOTH,
        "batch": 16,
        "grad_accumulation": 1,
        "train_vlm": False,
        "vlm_lr_multiplier": 1.0,
        "gradient_checkpointing": False,
        "history_drop_all": 0.5,
        "precision": "fp32",
        "checkpoint_every": 3000,
        "eval_every": 3000,
    },
}


def from_recipe(name: str, **options: Any) -> TrainConfig:
    """The config of a recipe; `options` (`data` and `out` at least) win over it.

    Raises:
        ConfigError: no such recipe, or an option is unknown or impossible.
    """
    fields = {**_recipe(name), **options, "recipe": name}
    unknown = sorted(set(fields) - set(TrainConfig.__dataclass_fields__))
    if unknown or not {"data", "out"} <= set(fields):
        raise ConfigError(
            f"unknown options: {unknown}" if unknown else "needs at least data and out", where=f"recipe {name}"
        )
    return TrainConfig(**fields)


def differences(config: TrainConfig) -> dict[str, Any]:
    """Where a config departs from the recipe it names: option → {"recipe": …, "used": …}. Empty without a recipe."""
    if config.recipe is None:
        return {}
    used = config.to_json()
    wanted = {name: list(v) if isinstance(v, tuple) else v for name, v in _recipe(config.recipe).items()}
    return {name: {"recipe": value, "used": used[name]} for name, value in wanted.items() if used[name] != value}


def _recipe(name: str) -> Mapping[str, Any]:
    if name not in RECIPES:
        raise ConfigError(f"no recipe is called '{name}'", where="TrainConfig.recipe", mend=f"known: {sorted(RECIPES)}")
    return RECIPES[name]
