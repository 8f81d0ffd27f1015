"""AgiBot episodes in the layout that the released TraceExtract reads: `<task>/<episode>/obs.mp4` and `task.txt`.

Nothing else is known of them there, so a clip has pictures and a task, assumed intrinsics and no traces yet. (The dataset
as it is published has another layout, with calibration and robot state; its LeRobot conversion goes through
`import_lerobot`.)
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from traceworld.errors import DatasetError, MediaError
from traceworld.traces.datasets.unknown_camera import TOLD, assumed_camera
from traceworld.traces.exchange import ExchangeReport, import_episodes
from traceworld.traces.types import Clip, Event, Media, Traces
from traceworld.traces.video_frames import VideoFrames
from traceworld.traces.writer import DatasetWriter

VIDEO, TASK = "obs.mp4", "task.txt"


def import_agibot(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    max_episodes: int | None = None,
    retry_failed: bool = False,
) -> ExchangeReport:
    """Read AgiBot episodes into a clip store; repeat the call to go on after a kill. Videos stay where they are.

    Args:
        folders: episodes, tasks, or the folder of all tasks.
        out: dataset folder to write or to go on with.
        max_episodes: read at most so many of each folder.
        retry_failed: try again what failed in an earlier run.

    Raises:
        DatasetError: a folder holds no episode, or the dataset folder cannot be written.
    """
    episodes = (
        (name, functools.partial(_read, path, name))
        for name, path in _episodes([Path(folder) for folder in folders], max_episodes)
    )
    return import_episodes(out, "import agibot", episodes, retry_failed=retry_failed)


def _episodes(folders: Sequence[Path], most: int | None) -> Iterator[tuple[str, Path]]:
    for folder in folders:
        found = sorted(path.parent for path in folder.rglob(VIDEO))
        if not found:
            raise DatasetError(f"holds no {VIDEO}", where=str(folder), mend="check the path")
        for path in found[:most]:
            full = path.resolve()
            yield f"{full.parent.name}__{full.name}", path  # episode numbers alone are not unique


def _read(folder: Path, name: str, _writer: DatasetWriter) -> Clip:
    video = folder / VIDEO
    frames = VideoFrames(video)
    try:
        height, width = frames.read(0).shape[:2]
        T = len(frames)
    finally:
        frames.close()
    fps = _rate(video)
    try:
        task = (folder / TASK).read_text(encoding="utf-8").strip() if (folder / TASK).exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"is damaged: {error}", where=str(folder / TASK), mend="restore it") from error
    return Clip(
        name,
        np.arange(T) / fps,
        assumed_camera(width, height, T),
        Traces.empty(T),
        Media("video", str(video.resolve())),
        (Event(0, T, task),) if task else (),
        task,
        metric=False,
        provenance={"source": "agibot", "episode": name, "intrinsics": TOLD},
    )


def _rate(video: Path) -> float:
    """Frames per second as the file's header says.

    Raises:
        MediaError: it says nothing.
    """
    with av.open(str(video), options={"protocol_whitelist": "file"}) as container:
        rate = container.streams.video[0].average_rate
    if not rate:
        raise MediaError("says no frame rate", where=str(video), mend="write it again with one")
    return float(rate)
