"""traceworld: video to 3D traces, models of how traces move, and robots driven by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from traceworld.models import load_predictor
    from traceworld.policies.registry import load_policy
    from traceworld.traces.robot import ActionChunk, RobotObservation
    from traceworld.traces.store import open_dataset
    from traceworld.traces.types import Camera, Cameras, Clip, Event, Observation, TracePrediction, Traces

_HOME = {
    "ActionChunk": "traceworld.traces.robot",
    "Camera": "traceworld.traces.types",
    "Cameras": "traceworld.traces.types",
    "Clip": "traceworld.traces.types",
    "Event": "traceworld.traces.types",
    "Observation": "traceworld.traces.types",
    "RobotObservation": "traceworld.traces.robot",
    "TracePrediction": "traceworld.traces.types",
    "Traces": "traceworld.traces.types",
    "load_policy": "traceworld.policies.registry",
    "load_predictor": "traceworld.models",
    "open_dataset": "traceworld.traces.store",
}
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str):
    # Lazy, so that `import traceworld` and the command's --help stay quick.
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'traceworld' has no attribute '{name}'")
