"""What a frozen μ0 makes of demonstrations, computed once and kept on disk: then a step of a policy's training costs the policy only.

A folder per (demonstrations, μ0, way of looking), called by a hash of them, with one float16 row per observation in memory-mapped
arrays: last-layer features, motion features, gripper features. Instructions are kept once each. Episodes are marked as they are
finished, so a run that was killed goes on. Of act-nano an observation takes about 160 kB; `every` keeps every second one, or fewer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap

from traceworld.errors import DatasetError
from traceworld.models.backbones import fingerprint
from traceworld.policies.action_expert.model import PolicyModel, feature_names
from traceworld.policies.action_expert.trace_features import Glance, prefix_tokens
from traceworld.traces.demonstrations import Demonstration, Demonstrations

log = logging.getLogger(__name__)

_FORMAT = 2
_AT_ONCE = 32
_LARGEST = float(np.finfo(np.float16).max)
_PER_INSTRUCTION = ("words", "words_seen")


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """Features of every observation that is kept.

    Attributes:
        folder: where they are.
        rows: field → [M, …] memory-mapped. texts: field → [I, …], a row per instruction.
        first: [E+1] the first row of each episode. text_of: [E] its instruction.
    """

    folder: Path
    rows: Mapping[str, np.ndarray]
    texts: Mapping[str, np.ndarray]
    first: np.ndarray
    text_of: np.ndarray

    def of(self, episode: int, place: int) -> dict[str, np.ndarray]:
        """The features of the `place`-th kept observation of an episode."""
        row = self.first[episode] + place
        found = {name: np.array(values[row]) for name, values in self.rows.items()}
        return found | {name: values[self.text_of[episode]] for name, values in self.texts.items()}


def kept_frames(length: int, every: int) -> range:
    """The frames of an episode whose observations are kept."""
    return range(0, length, every)


def feature_store(
    demonstrations: Demonstrations, model: PolicyModel, folder: str | Path, every: int = 1
) -> FeatureStore:
    """The features of all demonstrations, computed where they are not there yet.

    Args:
        model: whose μ0 looks, with the policy's config. folder: of all such stores.
        every: keep the observation of every so many frames.

    Raises:
        DatasetError: there are no demonstrations, or the folder cannot be written.
    """
    if not len(demonstrations):
        raise DatasetError("hold no episode", where=demonstrations.name)
    lengths, key, richer = _identity(demonstrations, model, every)
    # A twin without traces or without the finer map finds all that it reads among the features of the policy with them.
    place = next((Path(folder) / more for more in richer if _whole(Path(folder) / more)), Path(folder) / key)
    counts = [len(kept_frames(length, every)) for length in lengths]
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    texts = sorted(set(demonstrations.instructions()))
    text_of = np.array([texts.index(text) for text in demonstrations.instructions()])
    if not place.is_dir():
        _create(place, demonstrations[0], model, int(first[-1]), len(lengths), texts)
    _fill(place, demonstrations, model, first, every)
    names = [name for name in feature_names(model.config) if name not in _PER_INSTRUCTION]
    rows = {name: np.load(place / f"{name}.npy", mmap_mode="r") for name in names}
    words = {name: np.load(place / f"{name}.npy") for name in _PER_INSTRUCTION}
    return FeatureStore(place, rows, words, first, text_of)


def glances(demonstration: Demonstration, model: PolicyModel, frames: range) -> Iterator[Glance]:
    """What μ0 is shown of some frames, as the policy would show it."""
    scene, gripper = demonstration.cameras[0], model.config.gripper
    wrist = gripper.camera if gripper.source != "none" and gripper.camera in demonstration.cameras[1:] else None
    for frame in frames:
        shown = None if wrist is None else demonstration.read_frame(wrist, frame)
        depth_m = demonstration.depth_m(scene, frame) if model.config.depth else None
        yield model.frozen.glance(demonstration.read_frame(scene, frame), demonstration.instruction, shown, depth_m)


def _whole(place: Path) -> bool:
    """Whether there is a store, and every episode is in it."""
    done = place / "done.npy"
    return done.is_file() and bool(np.load(done, mmap_mode="r").all())


def _identity(demonstrations: Demonstrations, model: PolicyModel, every: int) -> tuple[list[int], str, list[str]]:
    """Lengths of the episodes; a hash of all that decides the features; and those of the same with more that is looked at."""
    digest, lengths = hashlib.blake2b(digest_size=12), []
    config = model.config
    look = {
        "format": _FORMAT,
        "every": every,
        "query": config.to_dict()["query"],
        "gripper": config.to_dict()["gripper"],
        "scene": config.to_dict()["scene"],
        "compat": config.compat,
        "mu0": fingerprint(model.frozen.mu0.state_dict().values()),
        "mu0_config": model.frozen.mu0.config.to_dict(),
        "scales": model.frozen.mu0.normalisation.to_dict(),
    }
    if config.depth:
        look["depth"] = True  # and nothing is said without: features that were computed before stay good
    for index in range(len(demonstrations)):
        episode = demonstrations[index]
        lengths.append(len(episode))
        about = [episode.episode_id, episode.instruction, list(episode.cameras), len(episode)]
        digest.update(json.dumps(about).encode())
        digest.update(episode.state.tobytes() + episode.action.tobytes())
        if index == 0:  # the same motions, filmed or resized anew, are other pictures
            digest.update(np.ascontiguousarray(episode.read_frame(episode.cameras[0], 0)).tobytes())
            if config.depth:
                digest.update(np.ascontiguousarray(episode.depth_m(episode.cameras[0], 0)).tobytes())

    def key(trace: bool, scene: str) -> str:
        whole = digest.copy()
        whole.update(json.dumps({**look, "scene": {"source": scene}, "trace": trace}, sort_keys=True).encode())
        return whole.hexdigest()

    traces = (True,) if config.trace == "expert" else (False, True)
    scenes = (config.scene.source,) if config.scene.source != "none" else ("none", "prefix")
    own, *richer = [key(trace, scene) for trace in traces for scene in scenes]
    return lengths, own, richer


def _create(
    place: Path, example: Demonstration, model: PolicyModel, rows: int, episodes: int, texts: list[str]
) -> None:
    """Empty arrays of the right shapes, under the store's name only when they are all there."""
    words, seen = model.frozen.words(texts)
    found = model.features([next(glances(example, model, range(1)))])
    tokens = prefix_tokens(model.frozen.mu0.config, model.config.depth) + words.shape[1]
    temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        for name in feature_names(model.config):
            if name in _PER_INSTRUCTION:
                continue
            value = found[name]
            shape = (tokens, *value.shape[2:]) if name in ("z", "z_seen") else tuple(value.shape[1:])
            dtype: Any = np.bool_ if value.dtype == torch.bool else np.float16
            open_memmap(temporary / f"{name}.npy", mode="w+", dtype=dtype, shape=(rows, *shape)).flush()
        np.save(temporary / "words.npy", words.cpu().numpy().astype(np.float16))
        np.save(temporary / "words_seen.npy", seen.cpu().numpy())
        open_memmap(temporary / "done.npy", mode="w+", dtype=np.bool_, shape=(episodes,)).flush()
        os.replace(temporary, place)
    except OSError as error:
        if not place.is_dir():  # another process may have been quicker
            raise DatasetError(f"cannot be written: {error}", where=str(place), mend="check free space") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(place: Path, demonstrations: Demonstrations, model: PolicyModel, first: np.ndarray, every: int) -> None:
    done = open_memmap(place / "done.npy", mode="r+")
    missing = np.flatnonzero(~done)
    if not len(missing):
        return
    names = [name for name in feature_names(model.config) if name not in _PER_INSTRUCTION]
    arrays = {name: open_memmap(place / f"{name}.npy", mode="r+") for name in names}
    log.info("features of %d episodes into %s", len(missing), place)
    for index in missing.tolist():
        episode = demonstrations[index]
        frames = kept_frames(len(episode), every)
        for start in range(0, len(frames), _AT_ONCE):
            part = frames[start : start + _AT_ONCE]
            found = model.features(list(glances(episode, model, part)))
            rows = slice(first[index] + start, first[index] + start + len(part))
            for name, array in arrays.items():
                value = found[name].cpu().numpy()
                if (
                    value.dtype != np.bool_
                ):  # a large model's hidden states have single numbers that float16 cannot hold
                    value = value.clip(-_LARGEST, _LARGEST)
                if name in ("z", "z_seen"):  # as many words as the longest instruction has
                    array[rows, : value.shape[1]] = value
                else:
                    array[rows] = value
        for array in arrays.values():
            array.flush()
        done[index] = True
        done.flush()
