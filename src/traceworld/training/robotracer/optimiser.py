"""Muon for the weights of wide linear layers and AdamW for the rest, as one optimiser that transformers' Trainer takes.

A base from scratch needs fewer steps with it (docs/log.md: the loss of μ0's AdamW at step 300 is Muon's at 190).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from traceworld.errors import ConfigError
from traceworld.training.optim import wide_matrices


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimisers of disjoint parameters, stepped as one; their groups stand behind one another.

    Args:
        model: what of it has a gradient is trained. lr, weight_decay: of both; Muon's updates are scaled to the size of AdamW's.

    Raises:
        ConfigError: no wide linear layer, or this torch has no Muon.
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float, betas: tuple[float, float] = (0.9, 0.95)):
        if not hasattr(torch.optim, "Muon"):
            raise ConfigError(f"torch {torch.__version__} has no Muon", where="optimizer", mend="torch 2.9, or adamw")
        trained = [p for p in model.parameters() if p.requires_grad]
        tables = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}  # an output layer may be one, too
        wide = [p for p in trained if p in wide_matrices(model) - tables]
        chosen = set(wide)
        rest = [p for p in trained if p not in chosen]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(wide, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=lr, betas=betas, weight_decay=weight_decay),
        ]
        super().__init__([{"params": trained}], {"lr": lr})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Those of the parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]
