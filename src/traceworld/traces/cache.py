"""The memory map that training reads: every clip's arrays end to end in flat `.npy` files, built once from the shards.

Folder `cache/<fingerprint>/`; the fingerprint follows from names, sizes and times of the shards, so a changed dataset gets
a new cache. Reading a window touches only the pages it needs.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from traceworld.errors import DatasetError
from traceworld.traces.atomic import read_json, write_json
from traceworld.traces.manifest import CACHE
from traceworld.traces.schema import Shard, media_from_dict
from traceworld.traces.types import Cameras, Clip, Event, Traces

logger = logging.getLogger(__name__)

CACHE_VERSION = 1
_ABOUT = "clips.json"

# name: (dtype, rows per clip in terms of T and N, trailing shape)
_ARRAYS: dict[str, tuple[type, str, tuple[int, ...]]] = {
    "xyz_world": (np.float32, "TN", (3,)),
    "visible": (np.bool_, "TN", ()),
    "valid": (np.bool_, "TN", ()),
    "time_s": (np.float64, "T", ()),
    "K": (np.float64, "T", (3, 3)),
    "cam_from_world": (np.float64, "T", (4, 4)),
    "part_id": (np.int32, "N", ()),
    "moving": (np.bool_, "N", ()),
    "query_frame": (np.int32, "N", ()),
}


@runtime_checkable
class ShardedClips(Protocol):
    """What a cache is made from; `store.Dataset` is one."""

    @property
    def path(self) -> Path: ...

    @property
    def shards(self) -> list[Path]: ...

    def __iter__(self) -> Iterator[Clip]: ...


class TraceCache:
    """Clips of a dataset as views of memory-mapped arrays; indexing gives a `Clip`.

    Attributes:
        folder: `cache/<fingerprint>`.
        arrays: name → the flat array: `xyz_world` [ΣT·N,3], `visible`, `valid` [ΣT·N], `time_s`, `K`, `cam_from_world`
            [ΣT,…], `part_id`, `moving`, `query_frame` [ΣN].
        offsets: {"TN","T","N"} → [C+1] first row of each clip in arrays of that kind.
    """

    def __init__(self, folder: Path, root: Path):
        self.folder, self.root = folder, root
        about = read_json(folder / _ABOUT)
        self._clips: list[dict[str, Any]] = about["clips"]
        self.arrays = {
            name: _mapped(folder / f"{name}.npy", dtype, trailing) for name, (dtype, _, trailing) in _ARRAYS.items()
        }
        T = np.array([clip["num_frames"] for clip in self._clips], np.int64)
        N = np.array([clip["num_keypoints"] for clip in self._clips], np.int64)
        self.offsets = {kind: _starts(rows) for kind, rows in (("TN", T * N), ("T", T), ("N", N))}
        self._made: dict[int, Clip] = {}

    @classmethod
    def of(cls, dataset: ShardedClips, *, build: bool, folder: Path | None) -> TraceCache:
        """The cache of a dataset; see `Dataset.cache`."""
        kept_in = folder or dataset.path / CACHE
        home = kept_in / fingerprint(dataset)
        if not (home / _ABOUT).is_file():
            if not build:
                raise DatasetError("is not built or out of date", where=str(kept_in), mend="call cache(build=True)")
            _build(dataset, home)
            if folder is None:
                _remove_older(home)
        return cls(home, dataset.path)

    def __reduce__(self) -> tuple:  # to another process go the names of the files, not their contents
        return TraceCache, (self.folder, self.root)

    def __len__(self) -> int:
        return len(self._clips)

    @property
    def clip_ids(self) -> list[str]:
        return [clip["clip_id"] for clip in self._clips]

    def __getitem__(self, index: int) -> Clip:
        index = range(len(self))[index]
        if index not in self._made:
            self._made[index] = self._make(index)
        return self._made[index]

    def __iter__(self) -> Iterator[Clip]:
        return (self[index] for index in range(len(self)))

    def _make(self, index: int) -> Clip:
        about = self._clips[index]
        T, N = about["num_frames"], about["num_keypoints"]
        shapes = {"TN": (T, N), "T": (T,), "N": (N,)}

        def view(name: str) -> np.ndarray:
            _, kind, trailing = _ARRAYS[name]
            start, end = self.offsets[kind][index : index + 2]
            return self.arrays[name][start:end].reshape(shapes[kind] + trailing)

        # The invariants were checked when the cache was filled from real clips; checking again would read every page.
        traces = _unchecked(Traces, {name: view(name) for name in Traces.__dataclass_fields__})
        cameras = _unchecked(
            Cameras,
            {
                "K": view("K"),
                "cam_from_world": view("cam_from_world"),
                "width": about["width"],
                "height": about["height"],
            },
        )
        return _unchecked(
            Clip,
            {
                "clip_id": about["clip_id"],
                "time_s": view("time_s"),
                "cameras": cameras,
                "traces": traces,
                "media": media_from_dict(about["media"]),
                "events": tuple(Event(**event) for event in about["events"]),
                "task": about["task"],
                "metric": about["metric"],
                "provenance": about["provenance"],
                "root": self.root,
            },
        )


def _unchecked(cls: type, fields: dict[str, Any]) -> Any:
    made: Any = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _starts(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)


def _mapped(path: Path, dtype: type, trailing: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if path.is_file() and "mmap" in str(error):  # an empty array cannot be mapped
            return np.zeros((0, *trailing), dtype)
        raise DatasetError(f"is damaged: {error}", where=str(path), mend="delete the cache folder") from error
    except OSError as error:
        raise DatasetError(f"cannot be read: {error}", where=str(path), mend="delete the cache folder") from error
    return array.view(np.ndarray)


def fingerprint(dataset: ShardedClips) -> str:
    """16 characters that change when a shard is added, removed or rewritten."""
    digest = hashlib.blake2b(f"cache {CACHE_VERSION}".encode(), digest_size=8)
    for shard in dataset.shards:
        state = shard.stat()
        digest.update(f"\n{shard.name} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()


def _build(dataset: ShardedClips, home: Path) -> None:
    """Fill a folder beside `home`, then rename it. Processes that build at the same time end up with one of them."""
    rows: dict[str, int] = dict.fromkeys(("TN", "T", "N"), 0)
    for shard in dataset.shards:
        sizes = Shard(shard).columns(["num_frames", "num_keypoints"])
        for T, N in zip(sizes["num_frames"], sizes["num_keypoints"], strict=True):
            rows["TN"], rows["T"], rows["N"] = rows["TN"] + T * N, rows["T"] + T, rows["N"] + N
    building = home.with_name(f".{home.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    logger.info("building the cache of %s: %d positions", dataset.path, rows["TN"])
    try:
        building.mkdir(parents=True)
        arrays = {
            name: np.lib.format.open_memmap(building / f"{name}.npy", "w+", dtype, (rows[kind], *trailing))
            if rows[kind]
            else np.zeros((0, *trailing), dtype)
            for name, (dtype, kind, trailing) in _ARRAYS.items()
        }
        clips = _fill(dataset, arrays)
        for name, array in arrays.items():
            if isinstance(array, np.memmap):
                array.flush()
            else:
                np.save(building / f"{name}.npy", array)
        write_json(building / _ABOUT, {"version": CACHE_VERSION, "clips": clips})
        with contextlib.suppress(FileExistsError, OSError):
            os.rename(building, home)
        if not (home / _ABOUT).is_file():
            raise DatasetError("cannot be written", where=str(home), mend="give another folder: cache(folder=...)")
    except OSError as error:
        raise DatasetError(
            f"cannot be written: {error}", where=str(home), mend="free space, or give another folder: cache(folder=...)"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _remove_older(home: Path) -> None:
    """Remove caches of what the dataset was before; processes that have them mapped keep them."""
    for old in home.parent.iterdir():
        if old != home and old.is_dir() and not old.name.startswith("."):
            shutil.rmtree(old, ignore_errors=True)


def _fill(dataset: ShardedClips, arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    ends = dict.fromkeys(("TN", "T", "N"), 0)
    clips = []
    for clip in dataset:
        T, N = clip.num_frames, clip.traces.num_keypoints
        sizes = {"TN": T * N, "T": T, "N": N}
        parts = vars(clip.traces) | {
            "time_s": clip.time_s,
            "K": clip.cameras.K,
            "cam_from_world": clip.cameras.cam_from_world,
        }
        for name, (_, kind, trailing) in _ARRAYS.items():
            arrays[name][ends[kind] : ends[kind] + sizes[kind]] = parts[name].reshape((sizes[kind], *trailing))
        for kind, size in sizes.items():
            ends[kind] += size
        clips.append(_about(clip))
    return clips


def _about(clip: Clip) -> dict[str, Any]:
    return {
        "clip_id": clip.clip_id,
        "num_frames": clip.num_frames,
        "num_keypoints": clip.traces.num_keypoints,
        "width": clip.cameras.width,
        "height": clip.cameras.height,
        "task": clip.task,
        "metric": clip.metric,
        "media": vars(clip.media),
        "events": [vars(event) for event in clip.events],
        "provenance": dict(clip.provenance),
    }
