"""From clip stores to the windows of a run: training and validation clips, one set of windows per clock, their scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from traceworld.errors import ConfigError
from traceworld.models.normalisation import Normalisation
from traceworld.traces.quality import clips_that_meet
from traceworld.traces.store import Dataset, open_dataset
from traceworld.traces.types import Clock
from traceworld.traces.windows import WindowConfig, WindowSet, side
from traceworld.training.config import TrainConfig
from traceworld.training.data import WindowSource
from traceworld.training.mixture import is_plain, read_mixture, shares_of


@dataclass(frozen=True)
class TrainingData:
    """What a run reads.

    Attributes:
        train, weights: the sources and their shares of the draws.
        val: sources of the fixed validation windows (may be empty).
        normalisation: s_Δ per clock and depth range (of a policy: scales of states and actions), stored inside every checkpoint.
    """

    train: Sequence[WindowSource]
    weights: Sequence[float]
    val: Sequence[WindowSource]
    normalisation: Any


def open_training_data(
    config: TrainConfig,
    image_size: tuple[int, int],
    scales: Normalisation | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> TrainingData:
    """The windows of `config.data`, one source per clock that has a share (and per store, if the stores are weighted).

    s_Δ and the depth range are those of all clips of all stores together, each clip counting alike: a model has one scale, and
    one that followed the weights would change the meaning of the loss from mixture to mixture. Validation windows are spread
    over all stores, unweighted.

    Args:
        config: the run.
        image_size: (width, height) that pictures are given in.
        scales: of the checkpoint that the weights come from: they are kept, since the weights are fitted to them.
        fixed: fields of `WindowConfig` that the model decides (`ModelKind.windows`).

    Raises:
        DatasetError: a store is missing or damaged, or no window can be cut.
        ConfigError: validation clips take all there is.
    """
    # Importing it makes RGB-D folders readable with their depth registered to the colour camera (perception.clip_media).
    import traceworld.perception.sources  # noqa: F401

    stores = read_mixture(config.data)
    datasets = [open_dataset(store.path) for store in stores]
    only = {dataset.path: clips_that_meet(dataset, config.keep) for dataset in datasets} if config.keep else {}
    clip_ids = [name for dataset in datasets for name in only.get(dataset.path, dataset.clip_ids)]
    if not clip_ids and only:
        raise ConfigError("no clip meets all conditions", where="TrainConfig.keep", mend="loosen them")
    sides = {side(name, config.val_fraction) for name in clip_ids}
    if clip_ids and "train" not in sides:
        raise ConfigError("leaves no clip to train on", where="TrainConfig.val_fraction", mend="lower it")
    pooled, train, weights, val = [], [], [], []
    for window, weight in windows_of(config, fixed or {}):

        def windows(
            datasets: Sequence[Dataset],
            split: Literal["train", "val"],
            s_delta: Sequence[float | int] | np.ndarray | None,
            window: WindowConfig = window,
        ) -> WindowSet:
            return WindowSet(
                datasets,
                window,
                seed=config.seed,
                image_size=image_size,
                split=split,
                val_fraction=config.val_fraction,
                min_motion=config.min_motion,
                s_delta=s_delta,
                only=only,
            )

        source = windows(datasets, "train", _kept(scales, window))
        pooled.append(source)
        parts, shares = [source], [1.0]
        if not is_plain(stores):
            parts = [windows([dataset], "train", source.s_delta) for dataset in datasets]
            shares = shares_of(stores, [len(part) for part in parts])
        train += parts
        weights += [weight * share for share in shares]
        if "val" in sides:
            val.append(windows(datasets, "val", source.s_delta))
    return TrainingData(train, weights, val, _normalisation(pooled, scales))


def windows_of(
    config: TrainConfig, fixed: Mapping[str, Any] = MappingProxyType({})
) -> list[tuple[WindowConfig, float]]:
    """The window config of each clock that has a share, with its share."""
    low, high = config.keypoints
    both: tuple[tuple[Clock, float, float], ...] = (
        ("time", config.time_step, config.time_weight),
        ("arc", config.arc_step, config.arc_weight),
    )
    return [
        (
            WindowConfig(
                clock=clock,
                step=step,
                min_keypoints=low,
                max_keypoints=high,
                moving_share=config.moving_share,
                history_drop_all=config.history_drop_all,
                history_drop_each=config.history_drop_each,
                depth_drop=config.depth_drop,
                **fixed,
            ),
            weight,
        )
        for clock, step, weight in both
        if weight > 0
    ]


def _kept(scales: Normalisation | None, window: WindowConfig) -> tuple[float, ...] | None:
    if scales is None or scales.steps.get(window.clock) != window.step_size:
        return None
    return scales.s_delta[window.clock]


def _normalisation(sources: Sequence[WindowSet], scales: Normalisation | None) -> Normalisation:
    """Each clock has its own s_Δ; depth is the same for all."""
    s_delta: dict[str, tuple[float, ...]] = {
        source.configs[0].clock: tuple(float(x) for x in source.s_delta) for source in sources
    }
    steps: dict[str, float] = {source.configs[0].clock: source.configs[0].step_size for source in sources}
    if scales is not None:
        return Normalisation(s_delta, steps, scales.depth_log_min, scales.depth_log_max)
    found = sources[0].normalisation
    known = {key: found[key] for key in ("depth_log_min", "depth_log_max") if found[key] is not None}
    return Normalisation(s_delta, steps, **known)
