"""Batches of episodes of another format, in and out: one at a time, resumable, a bad one is reported and the batch goes on."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from traceworld.errors import DatasetError, TraceworldError
from traceworld.traces.atomic import TEMP_SUFFIX, read_json, write_json
from traceworld.traces.store import Dataset
from traceworld.traces.types import Clip
from traceworld.traces.writer import DatasetWriter

MANIFEST = "traceworld_manifest.json"
"""Beside exported episodes: what came of each clip."""


@dataclass(frozen=True)
class ExchangeReport:
    """What a batch did: episodes `ok`, `failed`, found `done` from an earlier run; `failures` are (episode, reason)."""

    ok: int
    failed: int
    done: int
    failures: tuple[tuple[str, str], ...] = ()


def import_episodes(
    out: str | Path,
    source: str,
    episodes: Iterable[tuple[str, Callable[[DatasetWriter], Clip]]],
    *,
    retry_failed: bool = False,
) -> ExchangeReport:
    """Write a clip per episode into a clip store; repeat the call to go on after a kill.

    Args:
        out: dataset folder to write or to go on with.
        source: the program, for the manifest.
        episodes: item id and the function that reads it; called one after another, never for what is done.
        retry_failed: try again what failed in an earlier run.

    Raises:
        DatasetError: the dataset folder cannot be written, or two episodes have one name.
    """
    writer = DatasetWriter(out, source=source)
    done, ok, already, seen = writer.done_items(retry_failed=retry_failed), 0, 0, set()
    failures: list[tuple[str, str]] = []
    for item_id, read in episodes:
        if item_id in seen:
            raise DatasetError("is there twice", where=f"episode {item_id}", mend="import the folders one by one")
        seen.add(item_id)
        if item_id in done:
            already += 1
            continue
        try:
            clip = read(writer)
        except TraceworldError as error:
            writer.write_item(item_id, [], status="failed", stage="read", error=str(error))
            failures.append((item_id, str(error)))
            continue
        writer.write_item(item_id, [clip])
        ok += 1
    writer.finalise()
    return ExchangeReport(ok, len(failures), already, tuple(failures))


def export_clips(dataset: Dataset, out: str | Path, write: Callable[[Clip, str, Path], None]) -> ExchangeReport:
    """Write a folder per clip; one that is there is done, for each appears whole or not at all.

    Args:
        dataset: the clips, read one at a time.
        out: where the folders go, with a `traceworld_manifest.json` that says what came of each clip.
        write: called with the clip, the name of its episode and an empty folder.

    Raises:
        DatasetError: the folder cannot be written, or holds the export of other clips under these names.
    """
    out = Path(out)
    names = {clip_id: folder_name(clip_id) for clip_id in dataset.clip_ids}
    file = out / MANIFEST
    if not file.is_file():
        if out.is_dir() and any(not entry.name.startswith(".") for entry in out.iterdir()):
            raise DatasetError("holds something else", where=str(out), mend="choose a new folder")
        write_json(file, {"episodes": {}})  # at once: what a killed run has written is known as an export's
    before = read_json(file).get("episodes", {})
    ok, done, failures, episodes = 0, 0, [], {}
    for clip_id, name in names.items():
        if (out / name).is_dir():
            if before.get(name, {"clip_id": clip_id}).get("clip_id") != clip_id:
                raise DatasetError("holds another clip's episode", where=str(out / name), mend="choose a new folder")
            done += 1
            episodes[name] = {"clip_id": clip_id, "status": "ok", "error": ""}
            continue
        try:
            _write_folder(dataset.clip(clip_id), name, out / name, write)
            ok += 1
            episodes[name] = {"clip_id": clip_id, "status": "ok", "error": ""}
        except TraceworldError as error:
            failures.append((clip_id, str(error)))
            episodes[name] = {"clip_id": clip_id, "status": "failed", "error": str(error)}
    for left_over in out.glob(f".*{TEMP_SUFFIX}"):  # of killed runs
        shutil.rmtree(left_over, ignore_errors=True)
    write_json(file, {"episodes": {**before, **episodes}})
    return ExchangeReport(ok, len(failures), done, tuple(failures))


def _write_folder(clip: Clip, name: str, folder: Path, write: Callable[[Clip, str, Path], None]) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{TEMP_SUFFIX}")
    try:
        temporary.mkdir(parents=True)
        write(clip, name, temporary)
        os.replace(temporary, folder)
    except OSError as error:
        raise DatasetError(f"cannot be written: {error}", where=str(folder), mend="check space and rights") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def folder_name(clip_id: str) -> str:
    """A clip id as the name of a folder: itself where it can be one, else readable parts and a hash."""
    plain = clip_id.replace("/", "__")
    if "__" not in clip_id and len(plain) <= 120 and all(c.isalnum() or c in "._-" for c in plain) and plain[0] != ".":
        return plain
    readable = "".join(c if c.isalnum() or c in "._-" else "-" for c in plain).lstrip(".-")[:100] or "clip"
    return f"{readable}-{hashlib.blake2b(clip_id.encode(), digest_size=4).hexdigest()}"


def fingerprint(clip: Clip) -> str:
    """A hash of everything an episode's arrays are made from: traces, cameras and times."""
    traces, cameras = clip.traces, clip.cameras
    arrays = (
        clip.time_s, cameras.K, cameras.cam_from_world, traces.xyz_world, traces.visible, traces.valid,
        traces.part_id.astype(np.int64), traces.moving, traces.query_frame.astype(np.int64),
    )  # fmt: skip
    digest = hashlib.blake2b(f"{cameras.width}x{cameras.height}".encode(), digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
