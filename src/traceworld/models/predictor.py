"""The one interface of everything that predicts traces, and how predictors are found by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, runtime_checkable

from traceworld.errors import CheckpointError, ConfigError, MissingWeightsError
from traceworld.traces.types import Observation, TracePrediction

ENTRY_POINT_GROUP = "traceworld.predictors"
WEIGHTS = Path(__file__).parent / "weights"

_SHIPPED = ("mu0-nano",)


@runtime_checkable
class TracePredictor(Protocol):
    """Anything that says where keypoints will go.

    Attributes:
        name: how tables call it.
    """

    name: str

    def predict(self, observation: Observation, num_samples: int = 1, seed: int = 0) -> TracePrediction:
        """S futures of the observation's keypoints. The same observation and seed give the same bytes."""
        ...


def predictor_names() -> list[str]:
    """All names that `load_predictor` knows on this machine (checkpoint folders aside)."""
    from traceworld.models.baselines import BASELINES

    return sorted({*_SHIPPED, *BASELINES, *(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))})


def load_predictor(name_or_path: str | Path, device: str = "cpu") -> TracePredictor:
    """A predictor by name (`mu0-nano`, `nothing-moves`, `constant-velocity`, a plug-in's) or from a checkpoint folder.

    Third parties register a class or function under the entry-point group `traceworld.predictors`; it is called without
    arguments.

    Raises:
        ConfigError: no such name or folder; lists the nearest names.
        MissingWeightsError: a shipped model whose weights are not in this installation.
        CheckpointError: the folder is not a readable checkpoint.
    """
    from traceworld.models.baselines import BASELINES

    name = str(name_or_path)
    if name in _SHIPPED:
        folder = WEIGHTS / name
        if not (folder / "config.json").exists():
            raise MissingWeightsError(
                f"the weights of '{name}' are not in this installation",
                where=str(folder),
                mend="reinstall traceworld, or train them with the recipe in recipes/",
            )
        return _from_checkpoint(folder, name, device)
    if name in BASELINES:
        return BASELINES[name]()
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == name:
            make: Callable[[], TracePredictor] = entry.load()
            return make()
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return _from_checkpoint(path, path.resolve().name, device)
    if path.is_file():
        raise CheckpointError("is a file", where=str(path), mend="give the checkpoint's folder")
    near = difflib.get_close_matches(name, predictor_names(), n=3, cutoff=0.4)
    raise ConfigError(
        f"no predictor or checkpoint folder is called '{name}'",
        where="model",
        mend=f"did you mean {' or '.join(near)}?" if near else f"known names: {', '.join(predictor_names())}",
    )


def _from_checkpoint(folder: Path, name: str, device: str) -> TracePredictor:
    from traceworld.models.checkpoint import load_checkpoint, predictor_class

    checkpoint = load_checkpoint(folder, device=device)
    return predictor_class(checkpoint.model.kind)(checkpoint.model, name=name)
