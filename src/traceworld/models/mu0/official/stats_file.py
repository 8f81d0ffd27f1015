"""The statistics of the released corpus: `normalizer_stats.json`, `delta_stats.json` (dossier §2.5)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from traceworld.errors import CheckpointError
from traceworld.models.mu0.official.switches import ARC_STEP
from traceworld.models.normalisation import Normalisation

_NUMBERS = ("delta_scale_x", "delta_scale_y", "delta_scale_z", "depth_log_min", "depth_log_max")


def read_json_object(path: str | Path) -> dict[str, Any]:
    """
    Raises:
        CheckpointError: missing, or not a JSON object.
    """
    try:
        values = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=str(path), mend="fetch it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"holds a {type(values).__name__}, not an object", where=str(path))
    return values


def read_stats(path: str | Path, history: int, horizon: int) -> Normalisation:
    """s_Δ and depth range. The one clock is the arc length of 0.05 image widths per step.

    Args:
        history, horizon: of the model they are for.

    Raises:
        CheckpointError: unreadable, a number is missing or impossible, or it is of other targets or lengths (all named).
    """
    values, faults = read_json_object(path), []
    for name in _NUMBERS:
        value = values.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            faults.append(f"{name} is {value!r}, not a number")
    for name, wanted in (("target_kind", "anchor"), ("history_len", history), ("future_len", horizon)):
        if values.get(name) != wanted:
            faults.append(f"{name} is {values.get(name)!r}, not {wanted!r}")
    if faults:
        raise CheckpointError("; ".join(faults), where=str(path), mend="give the stats file of this checkpoint")
    scale = tuple(float(values[f"delta_scale_{axis}"]) for axis in "xyz")
    return Normalisation(
        {"arc": scale}, {"arc": ARC_STEP}, float(values["depth_log_min"]), float(values["depth_log_max"])
    )
