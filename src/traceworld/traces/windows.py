"""Training windows of one or several datasets, each a pure function of (seed, epoch, clip, frame).

`WindowSet` lists the frames that can be learnt from and turns one into a sample: picture, instruction, keypoints with
history and future (mu0-paper §2.4, App. B.2, App. C). `collate` pads samples to a batch.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from traceworld.errors import ConfigError, DatasetError
from traceworld.traces import statistics as corpus
from traceworld.traces.atomic import write_atomically
from traceworld.traces.batching import (
    NO_INSTRUCTION,
    Sample,
    camera_fields,
    choose_instruction,
    choose_keypoints,
    collate,
    drop_history,
    point_fields,
    resize_depth,
    resize_picture,
)
from traceworld.traces.cache import TraceCache
from traceworld.traces.cutting import CLOCK_INDEX, TraceWindow, WindowConfig, cut_window
from traceworld.traces.media import frames_with_pictures, read_depth, read_frame
from traceworld.traces.observing import observation_at
from traceworld.traces.store import Dataset, open_dataset
from traceworld.traces.types import Clip

__all__ = [
    "NO_INSTRUCTION",
    "Sample",
    "TraceWindow",
    "WindowConfig",
    "WindowSet",
    "choose_keypoints",
    "collate",
    "cut_window",
    "observation_at",
]

Split = Literal["train", "val", "all"]


class WindowSet:
    """The windows of some datasets: frames that have a picture, a point to ask about and a future.

    Args:
        datasets: dataset folders or opened datasets.
        configs: one window config, or several (a clock each, say), drawn per sample by `weights`.
        weights: of the configs; equal if not given.
        seed: of everything that is drawn.
        image_size: (width, height) that pictures and depth are resized to; None keeps them as stored.
        split: `train`, `val` or `all`; a clip's side follows from its id alone.
        val_fraction: share of the clips in `val`.
        only: dataset folder → ids of the clips to use; a dataset that is not named is used whole. Scales are those of all clips.
        s_delta: [3] scale of the future (eq. 3); None: from the corpus.
        depth_log_range: (p1, p99) of log metres; None: from the corpus. Not used here, kept in `normalisation`.
        min_motion: leave out frames in which no usable point gets this far from its anchor (uv units) within the horizon.
        augment: False: no dropout, the instruction of the clip, up to `max_keypoints` keypoints whatever the epoch.
        cache_folder: where the memory maps go, if the dataset folders cannot be written.

    Raises:
        DatasetError: no window can be cut (no pictures, no points), or a dataset is damaged.
        ConfigError: contradicting configs.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset | str | Path] | Dataset | str | Path,
        configs: WindowConfig | Sequence[WindowConfig] = (),
        *,
        weights: Sequence[float | int] | None = None,
        seed: int = 0,
        image_size: tuple[int, int] | None = None,
        split: Split = "all",
        val_fraction: float = 0.05,
        s_delta: Sequence[float | int] | np.ndarray | None = None,
        depth_log_range: tuple[float, float] | None = None,
        min_motion: float = 0.0,
        augment: bool = True,
        cache_folder: str | Path | None = None,
        only: Mapping[Path, Collection[str]] | None = None,
    ):
        if isinstance(datasets, (Dataset, str, Path)):
            datasets = [datasets]
        self.datasets = [d if isinstance(d, Dataset) else open_dataset(d) for d in datasets]
        self.configs = [configs] if isinstance(configs, WindowConfig) else (list(configs) or [WindowConfig()])
        self.weights = _normalised(weights, self.configs)
        self.seed, self.image_size, self.augment, self.min_motion = seed, image_size, augment, min_motion
        self._caches = [dataset.cache(folder=cache_folder) for dataset in self.datasets]
        self._index = self._make_index(split, val_fraction, only or {})
        if len(self._index) == 0:
            raise DatasetError(
                f"no window can be cut (split '{split}')",
                where=", ".join(str(dataset.path) for dataset in self.datasets),
                mend="clips need pictures, visible keypoints and frames after the picture",
            )
        self._given = (s_delta, depth_log_range)

    def __len__(self) -> int:
        return len(self._index)

    def place(self, index: int) -> tuple[Clip, int]:
        """The clip and the frame of window `index`."""
        dataset, clip, frame = self._index[index, :3].tolist()
        return self._caches[dataset][clip], frame

    @cached_property
    def _corpus(self) -> dict[str, Any]:
        return corpus.combined(self.datasets, self._caches, self.configs, self.weights.tolist())

    @property
    def s_delta(self) -> Float32[np.ndarray, " 3"]:
        """Scale of the future per axis (eq. 3): as given, or the corpus' 95th percentile over all configs."""
        given = self._given[0]
        return np.asarray(self._corpus["s_delta"] if given is None else given, np.float32)

    @property
    def normalisation(self) -> dict[str, Any]:
        """What a checkpoint must keep: s_delta [3] and the depth range (JSON-able)."""
        low, high = self._given[1] or (self._corpus["depth"]["log_min"], self._corpus["depth"]["log_max"])
        return {"s_delta": [float(value) for value in self.s_delta], "depth_log_min": low, "depth_log_max": high}

    def sample(self, index: int, *, epoch: int = 0, seed: int | None = None) -> Sample:
        """Window `index` as the fields of one batch row (numpy; keypoints not padded).

        Beside the fields of a batch: `sample_id`, `clip_id`, `frame`, `step` (size of a step), `step_time_s` [H] real
        seconds of each step from the anchor (NaN: none), `metric` (z in metres, not only up to scale).

        Raises:
            MediaError, DepthError: the picture cannot be read.
        """
        traces, (clip, frame, show_depth) = self._draw(index, epoch, seed)
        return self._picture_fields(clip, frame, show_depth) | traces

    def traces(self, index: int, *, epoch: int = 0, seed: int | None = None) -> Sample:
        """`sample` without its picture and depth; no file but the memory map is read."""
        return self._draw(index, epoch, seed)[0]

    def _draw(self, index: int, epoch: int, seed: int | None) -> tuple[Sample, tuple[Clip, int, bool]]:
        """All of a sample but its pictures, and which those are: clip, frame, whether depth is shown."""
        index = range(len(self))[index]
        clip, frame = self.place(index)
        cameras = clip.cameras
        rng = self._generator(clip.clip_id, frame, epoch if self.augment else 0, self.seed if seed is None else seed)
        config = self._draw_config(index, rng)
        window = cut_window(clip, frame, config)
        keypoints = self._keypoints(window, config, rng)
        history_valid = window.history_valid[keypoints]
        instruction = choose_instruction(clip, frame, rng if self.augment else None)
        show_depth = True
        if self.augment:
            history_valid = drop_history(history_valid, config, rng)
            show_depth = bool(rng.random() >= config.depth_drop)
        sample = {"instruction": instruction, **camera_fields(cameras.K[frame], cameras.width, cameras.height)}
        sample |= point_fields(
            window,
            keypoints,
            config,
            self.s_delta,
            history_valid=history_valid,
            z_known=show_depth and clip.metric,
        )
        sample |= {
            "clock": np.int64(CLOCK_INDEX[config.clock]),
            "sample_id": f"{clip.clip_id}@{frame}#{epoch}",
            "clip_id": clip.clip_id,
            "frame": np.int64(frame),
            "step": np.float32(config.step_size),
            "step_time_s": window.step_time_s.astype(np.float32),
            "metric": np.bool_(clip.metric),
        }
        return sample, (clip, frame, show_depth)

    def _generator(self, clip_id: str, frame: int, epoch: int, seed: int) -> np.random.Generator:
        # Of the clip and frame themselves, not of their place in the list: more data does not change old samples.
        return np.random.default_rng([seed, epoch, _hash(clip_id), frame])

    def _draw_config(self, index: int, rng: np.random.Generator) -> WindowConfig:
        if len(self.configs) == 1:
            rng.random()  # one number is drawn per window, however many configs there are
            return self.configs[0]
        fit = self._index[index, 3:] > 0
        weights = np.where(fit, self.weights, 0)
        # What rng.choice(len(weights), p=…) draws, without its checks, which take longer than all the rest of this.
        cumulative = (weights / weights.sum()).cumsum()
        return self.configs[int((cumulative / cumulative[-1]).searchsorted(rng.random(), side="right"))]

    def _keypoints(self, window: TraceWindow, config: WindowConfig, rng: np.random.Generator) -> np.ndarray:
        if self.augment:
            return choose_keypoints(window, config, rng)
        usable = np.flatnonzero(window.usable(config.min_valid_steps))
        return np.sort(rng.permutation(usable)[: config.max_keypoints])

    def _picture_fields(self, clip: Clip, frame: int, show_depth: bool) -> Sample:
        image = read_frame(clip, frame)
        depth_m = read_depth(clip, frame) if show_depth else None
        width, height = self.image_size or image.shape[1::-1]
        blank = np.full((height, width), np.nan, np.float32)
        return {
            "image": resize_picture(image, (width, height)),
            "depth_m": blank if depth_m is None else resize_depth(depth_m, (width, height)),
            "depth_present": np.bool_(depth_m is not None),
        }

    def _make_index(self, split: str, val_fraction: float, only: Mapping[Path, Collection[str]]) -> np.ndarray:
        """[windows, 3 + configs] dataset, clip, frame, and for each config whether the frame can be used with it."""
        if split not in ("train", "val", "all"):
            raise ConfigError(f"'{split}' is unknown", where="WindowSet.split", mend="use train, val or all")
        parts = []
        for number, cache in enumerate(self._caches):
            wanted = only.get(self.datasets[number].path)
            clips = [
                i
                for i, name in enumerate(cache.clip_ids)
                if (split == "all" or side(name, val_fraction) == split) and (wanted is None or name in wanted)
            ]
            per_config = [usable_frames(cache, config, self.min_motion) for config in self.configs]
            table = np.concatenate([per_config[0][:, :2], *(frames[:, 2:] for frames in per_config)], 1)
            keep = np.isin(table[:, 0], clips) & (table[:, 2:][:, self.weights > 0] > 0).any(1)
            parts.append(np.insert(table[keep], 0, number, axis=1))
        return np.concatenate(parts) if parts else np.zeros((0, 3), np.int64)


def usable_frames(cache: TraceCache, config: WindowConfig, min_motion: float = 0.0) -> np.ndarray:
    """Every frame with a picture, and whether a window of this config can be cut there; kept beside the cache.

    Returns:
        [frames, 3] int64: clip, frame, usable (0/1).
    """
    asked = {**config.shape(), "min_valid_steps": config.min_valid_steps, "min_motion": min_motion}
    key = hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=8).hexdigest()
    file = cache.folder / f"windows-{key}.npy"
    if file.is_file():
        return np.load(file, allow_pickle=False)
    rows = [
        (number, frame, _can_be_cut(clip, frame, config, min_motion))
        for number, clip in enumerate(cache)
        for frame in frames_with_pictures(clip)
    ]
    table = np.asarray(rows, np.int64).reshape(-1, 3)

    def save(temporary: Path) -> None:
        with open(temporary, "wb") as out:
            np.save(out, table)

    write_atomically(file, save)
    return table


def _can_be_cut(clip: Clip, frame: int, config: WindowConfig, min_motion: float) -> bool:
    window = cut_window(clip, frame, config)
    usable = window.usable(config.min_valid_steps)
    if not usable.any() or min_motion <= 0:
        return bool(usable.any())
    moved = window.future_uvz[usable, :, :2] - window.anchor_uvz[usable, None, :2]
    return bool(np.nanmax(np.linalg.norm(moved, axis=-1)) >= min_motion)


def side(clip_id: str, val_fraction: float) -> Split:
    """`val` or `train`: a function of the clip's id alone, so a clip never changes sides when data is added."""
    return "val" if _hash(clip_id) / 2**64 < val_fraction else "train"


@functools.lru_cache(1 << 16)
def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _normalised(weights: Sequence[float | int] | None, configs: Sequence[WindowConfig]) -> np.ndarray:
    if len({(c.history, c.horizon, c.num_controls) for c in configs}) > 1:
        raise ConfigError("differ in history, horizon or num_controls: one batch could not hold them", where="configs")
    values = np.ones(len(configs)) if weights is None else np.asarray(weights, float)
    if len(values) != len(configs) or (values < 0).any() or values.sum() <= 0:
        raise ConfigError("needs one weight ≥ 0 per config, not all 0", where="WindowSet.weights")
    return values / values.sum()
