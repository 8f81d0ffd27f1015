"""DROID as it is published for training (RLDS in TFRecord files) into our clip store.

A shard `*.tfrecord-<shard>-of-<shards>` holds episodes; an episode holds a JPEG per step for each of three cameras (320×180,
15 Hz), up to three instructions, and robot state. It holds neither calibration nor depth, so a clip has pictures and words,
assumed intrinsics and no traces yet.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from traceworld.errors import ConfigError, DatasetError
from traceworld.traces.datasets.pictures import store_jpegs
from traceworld.traces.datasets.tf_records import read_example, record_places
from traceworld.traces.datasets.unknown_camera import TOLD, assumed_camera
from traceworld.traces.exchange import ExchangeReport, import_episodes
from traceworld.traces.types import Clip, Event, Traces
from traceworld.traces.writer import DatasetWriter

FPS = 15.0
CAMERAS = ("exterior_image_1_left", "exterior_image_2_left", "wrist_image_left")
INSTRUCTIONS = ("steps/language_instruction", "steps/language_instruction_2", "steps/language_instruction_3")
_SHARD = re.compile(r".+\.tfrecord-(\d+)-of-\d+")
Item = tuple[str, Callable[[DatasetWriter], Clip]]


def import_droid(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    cameras: Sequence[str] | None = None,
    max_episodes: int | None = None,
    retry_failed: bool = False,
) -> ExchangeReport:
    """Read DROID episodes into a clip store; repeat the call to go on after a kill. Pictures are kept as they are (JPEG).

    Args:
        folders: folders with `*.tfrecord-*` files, or version folders with such in them.
        out: dataset folder to write or to go on with.
        cameras: of `CAMERAS`; each gives a clip per episode. None: the first exterior one, as in the released pipeline.
        max_episodes: read at most so many of each folder.
        retry_failed: try again what failed in an earlier run.

    Raises:
        ConfigError: no such camera.
        DatasetError: a folder holds no shard, or the dataset folder cannot be written.
    """
    chosen = tuple(cameras) if cameras else CAMERAS[:1]
    unknown = [camera for camera in chosen if camera not in CAMERAS]
    if unknown:
        raise ConfigError(f"'{unknown[0]}' is unknown", where="cameras", mend=f"choose of {', '.join(CAMERAS)}")
    items = (item for folder in folders for item in _items(Path(folder), chosen, max_episodes))
    return import_episodes(out, "import droid", items, retry_failed=retry_failed)


def _items(folder: Path, cameras: Sequence[str], most: int | None) -> Iterator[Item]:
    shards = sorted(path for path in folder.rglob("*.tfrecord-*") if _SHARD.fullmatch(path.name))
    if not shards:
        raise DatasetError("holds no *.tfrecord-* file", where=str(folder), mend="check the path")
    count = 0
    for shard in shards:
        match = _SHARD.fullmatch(shard.name)
        name = f"droid_shard{match[1] if match else ''}"
        try:
            for number, (offset, length) in enumerate(record_places(shard)):
                if most is not None and count >= most:
                    return
                count += 1
                for camera in cameras:
                    item_id = f"{name}_ep{number:03d}__{camera}"
                    yield item_id, functools.partial(_read, shard, offset, length, camera, item_id)
        except DatasetError as error:  # the shard is broken from here on; the others are not
            yield f"{name}_rest", functools.partial(_broken, error)


def _broken(error: DatasetError, _writer: DatasetWriter) -> Clip:
    raise error


def _read(shard: Path, offset: int, length: int, camera: str, name: str, writer: DatasetWriter) -> Clip:
    features = read_example(shard, offset, length)
    key = f"steps/observation/{camera}"
    pictures = features.get(key)
    where = f"{shard}[{key}] of {name}"
    if not isinstance(pictures, list) or not pictures:
        raise DatasetError("is missing", where=where, mend="download the file again")
    media, (width, height) = store_jpegs(writer, name, pictures, where)
    T = len(pictures)
    said = [_first_text(features.get(instruction)) for instruction in INSTRUCTIONS]
    task = next((text for text in said if text), "")
    return Clip(
        name,
        np.arange(T) / FPS,
        assumed_camera(width, height, T),
        Traces.empty(T),
        media,
        (Event(0, T, task),) if task else (),
        task,
        metric=False,
        provenance={
            "source": "droid",
            "episode": name,
            "recording": _first_text(features.get("episode_metadata/file_path")),
            "intrinsics": TOLD,
            "instructions": [said],
        },
    )


def _first_text(values: object) -> str:
    texts = [value.decode("utf-8", "replace").strip() for value in values] if isinstance(values, list) else []
    return next((text for text in texts if text), "")
