"""Episode folders of the released TraceExtract into our clip store."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from traceworld.errors import ConfigError, DatasetError
from traceworld.traces.atomic import write_atomically
from traceworld.traces.exchange import ExchangeReport, import_episodes
from traceworld.traces.frames_of_clip import Frames
from traceworld.traces.lerobot.columns import PROVENANCE_KEY as ROBOT_COLUMNS
from traceworld.traces.schema import Shard
from traceworld.traces.traceextract import layout
from traceworld.traces.traceextract.captions import events_of_texts
from traceworld.traces.traceextract.episode import Episode, is_episode, read_episode
from traceworld.traces.traceextract.identity import track_rows, world_traces
from traceworld.traces.traceextract.layout import damaged
from traceworld.traces.traceextract.originals import FOLDER_KEY, keep_originals
from traceworld.traces.types import Clip, Event, Media
from traceworld.traces.writer import DatasetWriter

INSTRUCTIONS_KEY = "instructions"
"""Provenance key: the three instructions behind each event."""
_FINE_LEVELS = 65534


def import_traceextract(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    fps: float | int | None = None,
    metric: bool = True,
    keep_originals: bool = True,
    max_episodes: int | None = None,
    retry_failed: bool = False,
) -> ExchangeReport:
    """Read episode folders into a clip store, one at a time; repeat the call to go on after a kill.

    Points come back as tracks over the whole clip (`identity.py`), entities with numbers of their own, pictures as PNG
    (lossless), depth as 16-bit PNG in the finest unit that reaches, captions as events. An episode that `export_traceextract`
    wrote gives the clip it was made from.

    Args:
        folders: episodes, or folders of them.
        out: dataset folder to write or to go on with.
        fps: frames per second, which the format does not keep. None: from meta.json where it tells, else 10.
        metric: take depth as metres, as the released trainer does, though the released depth is metric in name only.
        keep_originals: keep the sample arrays beside the clip, so that an export of the unchanged clip equals the episode
            bit for bit. Costs about as much disk as the episode's samples, compressed.
        max_episodes: read at most so many of each folder.
        retry_failed: try again what failed in an earlier run.

    Raises:
        DatasetError: a folder holds no episode, or the dataset folder cannot be written.
        ConfigError: fps is not positive.
    """
    if fps is not None and not fps > 0:
        raise ConfigError(f"{fps} is not positive", where="fps")
    episodes = (
        (name, functools.partial(_read, folder, name, float(fps) if fps else None, metric, keep_originals))
        for name, folder in _episodes([Path(folder) for folder in folders], max_episodes)
    )
    return import_episodes(out, "import traceextract", episodes, retry_failed=retry_failed)


def _episodes(folders: Sequence[Path], most: int | None) -> Iterator[tuple[str, Path]]:
    for folder in folders:
        inside = [folder] if is_episode(folder) else []
        if not inside and folder.is_dir():
            inside = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and is_episode(path)]
        if not inside:
            raise DatasetError(
                "holds no TraceExtract episode (a folder with samples/ and images.npy)",
                where=str(folder),
                mend="give an episode folder or the folder that holds them",
            )
        yield from ((path.resolve().name, path) for path in inside[:most])


def _read(folder: Path, name: str, fps: float | None, metric: bool, originals: bool, writer: DatasetWriter) -> Clip:
    episode = read_episode(folder)
    place = writer.media_folder(name)
    media, exact = _store_pictures(episode, place, writer.path)
    own = _own_clip(folder, episode, media, writer.path)
    if own is not None:
        return own
    rate, where = (fps, "given") if fps is not None else _rate(episode)
    events, instructions = _events(episode, folder)
    provenance: dict[str, Any] = {
        "source": "traceextract",
        "episode": folder.resolve().name,
        "time_s": f"{rate:g} frames per second, {where}",
        "meta": dict(episode.meta or {}),
    }
    if any(said[1] or said[2] for said in instructions):
        provenance[INSTRUCTIONS_KEY] = instructions
    if originals:
        provenance[FOLDER_KEY] = (place / "originals").relative_to(writer.path).as_posix()
    clip = Clip(
        name,
        np.arange(episode.num_frames) / rate,
        episode.cameras,
        world_traces(episode, track_rows(episode)),
        media,
        events,
        episode.description.strip(),
        metric=metric,
        provenance=provenance,
        root=writer.path,
    )
    if originals:
        keep_originals(place / "originals", folder, episode, clip, depth=not exact)
    return clip


def _events(episode: Episode, folder: Path) -> tuple[tuple[Event, ...], list[list[str]]]:
    return events_of_texts(episode.texts, episode.num_frames, folder) if episode.texts is not None else ((), [])


def _rate(episode: Episode) -> tuple[float, str]:
    meta = episode.meta or {}
    source, frames = meta.get("source_fps"), meta.get("num_frames_at_source_fps")
    if isinstance(source, int | float) and isinstance(frames, int) and source > 0 and frames >= episode.num_frames:
        return float(source) / max(1, round(frames / episode.num_frames)), "from meta.json"
    if meta.get("dataset") in layout.DATASET_FPS:
        return layout.DATASET_FPS[str(meta["dataset"])], f"the released preset for {meta['dataset']}"
    return layout.DEFAULT_FPS, "assumed"


def _own_clip(folder: Path, episode: Episode, media: Media, root: Path) -> Clip | None:
    """The clip that `export_traceextract` made this episode of; captions that were changed since are those of the folder."""
    path = folder / layout.OWN / "clip.parquet"
    if not path.exists():
        return None
    clip = Shard(path).clip(0, root)
    if clip.num_frames != episode.num_frames:
        raise damaged(path, f"is of {clip.num_frames} frames; the episode has {episode.num_frames}")
    events = clip.events
    about = folder / layout.OWN / layout.CAPTIONS
    now = folder / layout.CAPTIONS
    if now.exists() and (not about.exists() or about.read_bytes() != now.read_bytes()):
        events, _ = _events(episode, folder)
    shown = set(clip.media.frame_index) if clip.media.kind == "frames" else None
    kept = [i for i, f in enumerate(media.frame_index) if shown is None or f in shown]
    media = Media(
        media.kind,
        media.path,
        tuple(media.frame_index[i] for i in kept),
        tuple(media.files[i] for i in kept),
        tuple(media.depth_files[i] for i in kept) if media.depth_files else (),
        media.depth_unit_m,
    )
    beside = (FOLDER_KEY, ROBOT_COLUMNS)  # files of the other dataset folder, which are not here
    provenance = {key: value for key, value in clip.provenance.items() if key not in beside}
    return Clip(
        clip.clip_id, clip.time_s, clip.cameras, clip.traces, media, events, clip.task, clip.metric, provenance, root
    )


def _store_pictures(episode: Episode, folder: Path, root: Path) -> tuple[Media, bool]:
    """Pictures and depth as files; whether the depth files hold every float16 value exactly."""
    unit, exact = _depth_unit(episode.depth)
    files, depth_files = [], []
    for frame in range(episode.num_frames):
        files.append(f"{frame:06d}.png")
        _save_png(folder / files[-1], np.asarray(episode.images[frame]))
        if episode.depth is not None and unit is not None:
            metres = np.asarray(episode.depth[frame], np.float64)
            levels = np.nan_to_num(np.rint(metres / unit), nan=0, posinf=0, neginf=0)
            depth_files.append(f"{frame:06d}.depth.png")
            _save_png(
                folder / depth_files[-1], np.where((levels > 0) & (levels <= _FINE_LEVELS), levels, 0).astype(np.uint16)
            )
    path = folder.resolve().relative_to(root.resolve()).as_posix()
    return Media("frames", path, tuple(range(len(files))), tuple(files), tuple(depth_files), unit or 0.001), exact


def _save_png(path: Path, values: np.ndarray) -> None:
    picture = Image.fromarray(values)
    write_atomically(path, functools.partial(picture.save, format="PNG", compress_level=2))


def _depth_unit(depth: Frames | None) -> tuple[float | None, bool]:
    """Metres per level, a power of two that reaches the largest depth; whether all values are whole multiples of it.

    None where no depth is known at all.
    """
    if depth is None:
        return None, True
    least, most, clean = np.inf, 0.0, True
    for frame in range(depth.shape[0]):
        values = np.asarray(depth[frame], np.float64)
        known = np.isfinite(values) & (values > 0)
        clean &= bool((known | (values == 0)).all())
        if known.any():
            least, most = min(least, float(values[known].min())), max(most, float(values[known].max()))
    if not most:
        return None, False
    unit = 2.0 ** np.ceil(np.log2(most / _FINE_LEVELS))
    finest = 2.0 ** (max(np.floor(np.log2(least)), -14) - 10)  # the spacing of float16 at the least depth
    return float(unit), bool(clean and finest >= unit)
