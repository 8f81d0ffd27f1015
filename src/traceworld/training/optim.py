"""Optimisers, parameter groups, learning-rate schedule and the moving average of the weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import nn

from traceworld.errors import ConfigError
from traceworld.training.config import TrainConfig
from traceworld.training.sharding import cut_like

_MUON_MIN_SIDE = 64
"""Matrices narrower than this (heads, projections of a few numbers) are left to AdamW."""


class Optimizers:
    """One or more torch optimisers of disjoint parameters, stepped as one."""

    def __init__(self, *parts: torch.optim.Optimizer):
        self.parts = parts
        self._part_of = {p: part for part in parts for group in part.param_groups for p in group["params"]}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def of(self, parameter: nn.Parameter) -> torch.optim.Optimizer:
        """The optimiser that a parameter belongs to. Raises KeyError if it is not trained."""
        return self._part_of[parameter]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)


def build_optimizers(model: nn.Module, config: TrainConfig, is_backbone: Callable[[str], bool]) -> Optimizers:
    """AdamW for everything (App. B.1), or Muon for the weights of wide linear layers and AdamW for the rest.

    Muon's updates are scaled to the root mean square of AdamW's, so `lr` means the same for both.

    Raises:
        ConfigError: Muon is asked for and this torch has none (it came with 2.9).
    """
    wide = wide_matrices(model) if config.optimizer == "muon" else set()
    groups = parameter_groups(model, config, is_backbone)
    rest = [{**group, "params": [p for p in group["params"] if p not in wide]} for group in groups]
    adamw = torch.optim.AdamW(
        [group for group in rest if group["params"]], lr=config.lr, betas=config.betas, eps=1e-8, fused=True
    )
    if config.optimizer == "adamw":
        return Optimizers(adamw)
    if not hasattr(torch.optim, "Muon"):
        raise ConfigError(
            f"torch {torch.__version__} has no Muon",
            where="TrainConfig.optimizer",
            mend="install torch 2.9 or newer, or take adamw",
        )
    matrices = [{**group, "params": [p for p in group["params"] if p in wide]} for group in groups]
    muon = torch.optim.Muon(
        [group for group in matrices if group["params"]], lr=config.lr, adjust_lr_fn="match_rms_adamw"
    )
    return Optimizers(muon, adamw)


def wide_matrices(model: nn.Module) -> set[nn.Parameter]:
    """Weights of linear layers that are wide enough for Muon. Raises ConfigError: there is none."""
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    found = {cast(nn.Parameter, m.weight) for m in linear if min(m.weight.shape) >= _MUON_MIN_SIDE}
    if not found:
        raise ConfigError(
            "the model has no linear layer that is wide enough for Muon",
            where="TrainConfig.optimizer",
            mend="take adamw",
        )
    return found


def parameter_groups(model: nn.Module, config: TrainConfig, is_backbone: Callable[[str], bool]) -> list[dict]:
    """AdamW groups: the pretrained backbone at `vlm_lr_multiplier` × lr; no decay on biases, norms and other vectors.

    Frozen parameters are in no group. Each group carries `lr_scale`, which `learning_rate` is multiplied with.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((is_backbone(name), parameter.ndim >= 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr,
            "lr_scale": config.vlm_lr_multiplier if backbone else 1.0,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (backbone, decays), parameters in sorted(groups.items())
    ]


def learning_rate(step: int, config: TrainConfig) -> float:
    """Rate of the optimiser step `step` (counted from 0): linear warm-up, then constant or cosine to zero at `steps`."""
    if step < config.warmup:
        return config.lr * (step + 1) / (config.warmup + 1)
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


class Ema:
    """Exponential moving average of the trained parameters.

    The decay of update n is min(decay, (1+n)/(10+n)), so that a short run does not end near its first weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.average = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    def fill(self, averages: Mapping[str, torch.Tensor]) -> None:
        """Go on from stored averages (whole tensors)."""
        for name, average in self.average.items():
            average.copy_(cut_like(averages[name], average))

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after the optimiser step `step` (counted from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = dict(model.named_parameters())
        names = list(self.average)
        torch._foreach_lerp_([self.average[n] for n in names], [now[n].detach() for n in names], 1 - decay)

    @contextlib.contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model holds the averaged weights."""
        trained = {n: p for n, p in model.named_parameters() if n in self.average}
        own = {n: p.detach().clone() for n, p in trained.items()}
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(self.average[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in trained.items():
                    parameter.copy_(own[name])
