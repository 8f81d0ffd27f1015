"""The one interface of everything that predicts traces, and how predictors are found by name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Protocol, runtime_checkable

from traceworld.errors import ConfigError
from traceworld.named import make_plugin, own_folder, plugin_names, shipped_folder
from traceworld.traces.types import Observation, TracePrediction

ENTRY_POINT_GROUP = "traceworld.predictors"
WEIGHTS = Path(__file__).parent / "weights"

_BY_ADDRESS = ("nearest-example", "openai", "robotracer")
SHIPPED = ("mu0-nano", "tracegen-nano", "robotracer-nano")


@runtime_checkable
class TracePredictor(Protocol):
    """Anything that says where keypoints will go.

    Attributes:
        name: how tables call it.

    A predictor may say more of itself; `evaluation.scoring` lists what (`gives_depth`, `requires_depth`, `takes`, …).
    """

    name: str

    def predict(self, observation: Observation, num_samples: int = 1, seed: int = 0) -> TracePrediction:
        """S futures of the observation's keypoints. The same observation and seed give the same bytes."""
        ...


def predictor_names() -> list[str]:
    """All names that `load_predictor` knows on this machine (checkpoint folders aside)."""
    from traceworld.models.baselines import BASELINES

    return sorted({*SHIPPED, *BASELINES, *plugin_names(ENTRY_POINT_GROUP)})


def load_predictor(name_or_path: str | Path, device: str = "cpu") -> TracePredictor:
    """A predictor by name (`mu0-nano`, `tracegen-nano`, `robotracer-nano`, `nothing-moves`, `constant-velocity`, a plug-in's)
    or from a checkpoint folder.

    Also `nearest-example:CORPUS` (clip store), `openai:MODEL@URL` (any vision-language model behind an OpenAI-compatible
    endpoint; `models.remote.vlm`) and `robotracer:URL` (`models.remote.robotracer`).

    Third parties register a class or function under the entry-point group `traceworld.predictors`; it is called without
    arguments, or for `NAME:TEXT` with the text.

    Raises:
        ConfigError: no such name or folder; lists the nearest names. An address that cannot be read, a plug-in that fails.
        MissingWeightsError: a shipped model whose weights are not in this installation.
        CheckpointError: the folder is not a readable checkpoint.
    """
    from traceworld.models.baselines import BASELINES

    name = str(name_or_path)
    if name in SHIPPED:
        folder = shipped_folder(WEIGHTS, name, "the recipe in recipes/")
        return _from_checkpoint(folder, name, device)
    if name in BASELINES:
        return BASELINES[name]()
    kind, colon, rest = name.partition(":")
    if colon and kind in _BY_ADDRESS:
        return _from_address(kind, name, rest)
    needs = "a `name` and `predict(observation, …)`"
    if (found := make_plugin(ENTRY_POINT_GROUP, name, TracePredictor, "predictor", needs)) is not None:
        return found
    if (path := own_folder(name_or_path, "checkpoint")) is not None:
        return _from_checkpoint(path, path.resolve().name, device)
    near = [*difflib.get_close_matches(name, predictor_names(), n=3, cutoff=0.4)]
    near += [f"{known}:…" for known in _BY_ADDRESS if name.startswith(known)]
    raise ConfigError(
        f"no predictor or checkpoint folder is called '{name}'",
        where="model",
        mend=f"did you mean {' or '.join(near)}?" if near else f"known names: {', '.join(predictor_names())}",
    )


def _from_checkpoint(folder: Path, name: str, device: str) -> TracePredictor:
    from traceworld.models.checkpoint import load_checkpoint, predictor_class
    from traceworld.models.robotracer.checkpoint import is_robotracer

    if is_robotracer(folder):
        from traceworld.models.robotracer.predictor import RoboTracerPredictor

        return RoboTracerPredictor.from_checkpoint(folder, name, device)
    checkpoint = load_checkpoint(folder, device=device)
    return predictor_class(checkpoint.model.kind)(checkpoint.model, name=name)


def _from_address(kind: str, name: str, rest: str) -> TracePredictor:
    if kind == "openai":
        from traceworld.models.remote.vlm import VlmPredictor

        return VlmPredictor.from_address(name)
    if kind == "robotracer":
        from traceworld.models.remote.robotracer import RoboTracerPredictor

        return RoboTracerPredictor.from_address(name)
    from traceworld.models.baselines.nearest import NearestExample

    if not rest:
        raise ConfigError("names no corpus", where=name, mend="write nearest-example:FOLDER of a clip store")
    return NearestExample(rest)
