"""What our Trainers share: losses that consist of parts, each of which the log names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from traceworld.errors import NonFiniteLossError


class LossParts:
    """Mixin for a transformers Trainer, before it in the list of bases. `compute_loss` notes the parts of each step; a line of the
    log has their means since the line before."""

    state: Any

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._parts: dict[str, list[float]] = {}

    def note(self, loss: Tensor, **parts: Tensor) -> None:
        """Note the parts of a step's loss.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite.
        """
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"loss is {float(loss.detach())}",
                where=f"step {self.state.global_step + 1}",
                mend="lower the learning rate, or look at the data of this step",
            )
        for name, value in parts.items():
            self._parts.setdefault(name, []).append(float(value.detach()))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= {name: sum(values) / len(values) for name, values in self._parts.items()}
            self._parts.clear()
        super().log(logs, start_time)  # type: ignore[misc]
