"""Experiment trackers behind one small interface. None is used unless asked for; each is imported when it is.

Where a service keeps curves by run, the run's identity follows from its folder, so a continued run continues its curves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from traceworld.errors import MissingExtraError
from traceworld.extras import require
from traceworld.training.config import TrainConfig


@runtime_checkable
class Tracker(Protocol):
    """Where curves go."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each named curve."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


class WandbTracker:
    """Weights & Biases: `wandb.init`, `Run.log`, `Run.finish`. Keys, entity and offline mode come from its own settings."""

    def __init__(self, out: Path, config: TrainConfig, start: int):
        self._run = _package("wandb").init(
            project=config.project,
            name=out.name,
            id=_identity(out),
            resume="allow",
            dir=str(out),
            config=config.to_json(),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class TrackioTracker:
    """Trackio: `trackio.init`, `trackio.log`, `trackio.finish`; local unless its own settings name a Space."""

    def __init__(self, out: Path, config: TrainConfig, start: int):
        self._module = _package("trackio")
        self._module.init(
            project=config.project,
            name=f"{out.name}-{_identity(out)}",
            config=config.to_json(),
            resume="allow",
            embed=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        self._module.finish()


class TensorBoardTracker:
    """TensorBoard event files in `<out>/tensorboard`; points past the step that a run goes on from are purged."""

    def __init__(self, out: Path, config: TrainConfig, start: int):
        _package("tensorboard")  # torch's own message does not say what to install
        writer = require("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(log_dir=str(out / "tensorboard"), purge_step=start + 1 if start else None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, global_step=step)

    def close(self) -> None:
        self._writer.close()


_TRACKERS: dict[str, Callable[[Path, TrainConfig, int], Tracker]] = {
    "wandb": WandbTracker,
    "tensorboard": TensorBoardTracker,
    "trackio": TrackioTracker,
}


def open_tracker(name: str, out: Path, config: TrainConfig, start: int) -> Tracker:
    """The tracker of that name for the run in `out`, which has done `start` steps.

    Raises:
        MissingExtraError: its package is not installed.
    """
    return _TRACKERS[name](out, config, start)


def _package(name: str) -> Any:
    try:
        return require(name)
    except MissingExtraError as error:
        raise MissingExtraError(
            f"the package '{name}' is not installed",
            where="TrainConfig.trackers",
            mend="pip install 'traceworld[logging]', or leave the tracker out: log.jsonl has everything",
        ) from error


def _identity(out: Path) -> str:
    return hashlib.blake2b(str(out.resolve()).encode(), digest_size=6).hexdigest()
