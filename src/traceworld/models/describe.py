"""What a model is: size, parts, scales and training, without running it (`traceworld info`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from traceworld.models.predictor import WEIGHTS, load_predictor


def describe_predictor(name_or_path: str) -> dict[str, Any]:
    """Parameters per part, normalisation and provenance of a predictor by name or checkpoint folder (JSON-able).

    Raises:
        ConfigError, CheckpointError, MissingWeightsError: as `load_predictor`.
    """
    predictor = load_predictor(name_or_path)
    model = getattr(predictor, "model", None)
    if model is None:
        return {"name": predictor.name, "kind": "baseline", "parameters": {"total": 0, "trainable": 0}}
    from traceworld.models.checkpoint import load_checkpoint
    from traceworld.models.mu0.counting import count_parameters

    shipped = WEIGHTS / name_or_path
    checkpoint = load_checkpoint(shipped if shipped.is_dir() else Path(name_or_path))
    return {
        "name": predictor.name,
        "kind": model.kind,
        "config": model.config.to_dict(),
        "parameters": count_parameters(model.config),
        "normalisation": checkpoint.normalisation.to_dict(),
        "training": dict(checkpoint.extra),
    }
