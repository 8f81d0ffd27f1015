"""What a model is: size, parts, scales and training, without running it (`traceworld info`)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from traceworld.errors import ConfigError
from traceworld.models.predictor import WEIGHTS, load_predictor

_COUNTING = {"mu0": "traceworld.models.mu0.counting", "tracegen": "traceworld.models.tracegen.counting"}


def count_parameters(kind: str, size: Any) -> dict[str, int]:
    """Parameters of a size (or config) of a kind of model, `mu0` or `tracegen`: in total, trainable, and per part.

    Raises:
        ConfigError: no such kind or size.
    """
    if kind not in _COUNTING:
        raise ConfigError(f"'{kind}' has no sizes", where="model", mend=f"known: {', '.join(_COUNTING)}")
    return importlib.import_module(_COUNTING[kind]).count_parameters(size)


def describe_predictor(name_or_path: str) -> dict[str, Any]:
    """Parameters per part, normalisation and provenance of a predictor by name or checkpoint folder (JSON-able).

    Raises:
        ConfigError, CheckpointError, MissingWeightsError: as `load_predictor`.
    """
    predictor = load_predictor(name_or_path)
    model = getattr(predictor, "model", None)
    if model is None:
        return {"name": predictor.name, "kind": "baseline", "parameters": {"total": 0, "trainable": 0}}
    if model.kind == "robotracer":  # its checkpoints have no normalisation
        return predictor.describe()  # type: ignore[attr-defined]
    from traceworld.models.checkpoint import load_checkpoint

    shipped = WEIGHTS / name_or_path
    checkpoint = load_checkpoint(shipped if shipped.is_dir() else Path(name_or_path))
    return {
        "name": predictor.name,
        "kind": model.kind,
        "config": model.config.to_dict(),
        "parameters": count_parameters(model.kind, model.config),
        "normalisation": checkpoint.normalisation.to_dict(),
        "training": dict(checkpoint.extra),
    }
