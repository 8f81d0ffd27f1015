"""Parameter groups, learning-rate schedule and the moving average of the weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import nn

from traceworld.training.config import TrainConfig


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
