"""Followers by address: `follow:PREDICTOR`, with settings behind it, e.g. `follow:mu0-nano,replan_every=16,chunk=32`."""

from __future__ import annotations

import dataclasses
from typing import Any

from traceworld.errors import ConfigError
from traceworld.models.predictor import TracePredictor, load_predictor
from traceworld.policies.follower.effectors import CartesianEffector, Effector
from traceworld.policies.follower.policy import FollowerConfig, TraceFollower
from traceworld.policies.follower.spatial import SpatialTracePolicy, SpokenTraces
from traceworld.sim.control import METAWORLD_SPEC

_OPTIONS = {field.name: field for field in dataclasses.fields(FollowerConfig) if field.name != "keypoints"}


def load_follower(address: str, device: str = "cpu", effector: Effector | None = None) -> TraceFollower:
    """A follower of the predictor that `address` names, on Meta-World's robot unless another one is given.

    Args:
        address: what `load_predictor` takes, then settings of `FollowerConfig` as `,name=value`. Where it says nothing, the
            clock is one that the predictor was trained on, and predictors that draw give eight futures of which the middle one is
            followed.
        device: where the predictor computes.

    Raises:
        ConfigError: no such predictor or setting, or a value that cannot be read.
        MissingWeightsError, CheckpointError: as `load_predictor`.
    """
    name, *settings = address.split(",")
    predictor = load_predictor(name, device)
    given = dict(_setting(text, address) for text in settings)
    config = FollowerConfig(**{**suited_to(predictor), **given})
    follower = TraceFollower(predictor, effector or CartesianEffector(METAWORLD_SPEC), config)
    follower.name = f"follow:{address}"
    return follower


def load_spatial(name: str, device: str = "cpu", effector: Effector | None = None) -> SpatialTracePolicy:
    """A policy that carries out the spatial traces of a predictor that answers in words, e.g. `spatial:robotracer-nano`.

    Raises:
        ConfigError, MissingWeightsError, CheckpointError: as `load_predictor`.
    """
    return SpatialTracePolicy(SpokenTraces(load_predictor(name, device)), effector or CartesianEffector(METAWORLD_SPEC))


def suited_to(predictor: TracePredictor) -> dict[str, Any]:
    """Settings that follow from what a predictor was trained on: its clock and step, and how many futures to ask for."""
    model = getattr(predictor, "model", None)
    steps = getattr(getattr(model, "normalisation", None), "steps", None)
    settings: dict[str, Any] = {"samples": 1 if model is None else 8}
    if steps:
        clock = "time" if "time" in steps else next(iter(steps))
        settings |= {"clock": clock, "step": float(steps[clock])}
    return settings


def _setting(text: str, address: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or name not in _OPTIONS:
        raise ConfigError(
            f"'{text}' is no setting of a follower",
            where=f"follow:{address}",
            mend=f"one of {', '.join(_OPTIONS)}, as name=value",
        )
    kind: Any = type(_OPTIONS[name].default)
    try:
        return name, value == "true" if kind is bool else kind(value)
    except ValueError as error:
        raise ConfigError(f"'{value}' is no {kind.__name__}", where=f"follow:{address}: {name}") from error
