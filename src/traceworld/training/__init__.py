"""One trainer for every model: loop, data order, checkpoints, log."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traceworld.training.config import TrainConfig
    from traceworld.training.loop import TrainResult, train

_HOME = {
    "TrainConfig": "traceworld.training.config",
    "TrainResult": "traceworld.training.loop",
    "train": "traceworld.training.loop",
}
__all__ = ["TrainConfig", "TrainResult", "train"]


def __getattr__(name: str):
    # Lazy: the command line reads TrainConfig without importing torch.
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'traceworld.training' has no attribute '{name}'")
