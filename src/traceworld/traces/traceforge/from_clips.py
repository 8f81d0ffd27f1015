"""Our clips as TraceForge episodes."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from traceworld.errors import ExtractionError, InvalidInputError
from traceworld.geometry.cameras import project, resize_K
from traceworld.geometry.retime import official_retime
from traceworld.traces.exchange import ExchangeReport, export_clips
from traceworld.traces.frames_of_clip import DepthStack, ImageStack
from traceworld.traces.store import Dataset
from traceworld.traces.traceextract.layout import save_npz
from traceworld.traces.traceforge import layout
from traceworld.traces.types import Cameras, Clip

_LAST_LEVEL = 65535


def export_traceforge(dataset: Dataset, out: str | Path, *, every: int = 5) -> ExchangeReport:
    """Write every clip as a TraceForge episode folder, exactly its files and keys; repeat the call to go on after a kill.

    A sample holds the points that are known and in the picture at its query frame, at most 128 frames ahead; a point that is
    lost keeps its last known place, as the released tracker's would (a row without any value would make the released loss
    NaN). Steps are shares of the picture's size: the released rule takes the last point for the bottom right corner, which
    is so for a grid alone, and cuts everything beyond it. The released TraceGen takes the first 400 points of a sample for a
    20×20 grid: clips with other points suit trainers that read points. Depth of clips without any is 0.

    Args:
        dataset: the clips. One without pictures, or without a point at any query frame, is reported as failed.
        out: folder of episodes.
        every: a query frame every so many frames, if it has a picture (else the next one that has).

    Raises:
        InvalidInputError: every is less than 1.
        DatasetError: the folder cannot be written.
    """
    if every < 1:
        raise InvalidInputError("must be at least 1", where="every")
    return export_clips(dataset, out, functools.partial(_write, every=every))


def _write(clip: Clip, name: str, folder: Path, every: int) -> None:
    images = ImageStack(clip)
    depth = DepthStack(clip, images)
    cameras = clip.cameras
    K = resize_K(cameras.K, (cameras.width, cameras.height), images.size)
    cameras = Cameras(K, cameras.cam_from_world, *images.size)
    for part in ("images", "depth", "samples"):
        (folder / part).mkdir()
    first: np.ndarray | None = None
    for frame in _query_frames(images.frames, every):
        points, sample = _sample(clip, cameras, frame)
        if not len(points):
            continue
        stem = f"{name}_{frame}"
        first = points if frame == 0 else first
        path = f"{name}/images/{stem}.png"[: layout.PATH_LENGTH]
        sample["image_path"] = np.array([path], f"<U{layout.PATH_LENGTH}")
        save_npz(folder / "samples" / f"{stem}.npz", sample)
        Image.fromarray(images[frame]).save(folder / "images" / f"{stem}.png", compress_level=2)
        metres = depth[frame].astype(np.float32)
        levels = np.minimum(np.rint(metres * layout.DEPTH_SCALE), _LAST_LEVEL).astype(np.uint16)
        Image.fromarray(levels).save(folder / "depth" / f"{stem}.png", compress_level=2)
        np.savez(folder / "depth" / f"{stem}_raw.npz", depth=metres)
    if not any((folder / "samples").iterdir()):
        raise ExtractionError("has no point at any query frame", where=f"clip {clip.clip_id}", mend="leave it out")
    _write_video(clip, cameras, depth, first, folder / f"{name}.npz")
    _write_instructions(clip, folder / layout.INSTRUCTIONS)


def _query_frames(pictured: list[int], every: int) -> Iterator[int]:
    due = 0
    for frame in pictured:
        if frame >= due:
            yield frame
            due = frame - frame % every + every


def _sample(clip: Clip, cameras: Cameras, frame: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The points known and in the picture at a query frame, and the keys of its sample."""
    window, size = slice(frame, frame + layout.FUTURE), (cameras.width, cameras.height)
    xyz = np.where(clip.traces.valid[window][..., None], clip.traces.xyz_world[window].astype(np.float64), np.nan)
    seen = project(xyz, cameras.K[frame], cameras.cam_from_world[frame])
    usable = np.isfinite(seen).all(-1)
    with np.errstate(invalid="ignore"):
        points = np.flatnonzero(
            usable[0] & ((seen[0, :, :2] >= -0.5) & (seen[0, :, :2] <= np.array(size) - 0.5)).all(-1)
        )
    if not len(points):
        return points, {}
    last = np.maximum.accumulate(np.where(usable[:, points], np.arange(len(seen))[:, None], 0), axis=0)
    tracks = seen[last, points[None]].transpose(1, 0, 2).astype(np.float32)
    traj, valid = official_retime(tracks, layout.INTERVAL, layout.TOP, layout.FUTURE, size)
    return points, {
        "keypoints": tracks[:, 0, :2],
        "traj": traj,
        "traj_2d": tracks[..., :2],
        "valid_steps": valid,
        "frame_index": np.array([frame], np.int64),
    }


def _write_video(clip: Clip, cameras: Cameras, depth: DepthStack, first: np.ndarray | None, path: Path) -> None:
    T0 = min(layout.FUTURE, clip.num_frames)
    points = np.zeros(0, np.int64) if first is None else first
    confident = path.with_name(".confident.npy")  # on disk: a long video's would not fit into memory
    known = np.lib.format.open_memmap(confident, mode="w+", dtype=np.float16, shape=depth.shape)
    depths = np.zeros((T0, *depth.shape[1:]), np.float16)
    for frame in range(clip.num_frames):
        metres = depth[frame]
        known[frame] = metres > 0
        if frame < T0:
            depths[frame] = metres
    np.savez(
        path,
        coords=clip.traces.xyz_world[:T0, points],
        extrinsics=cameras.cam_from_world.astype(np.float32),
        intrinsics=cameras.K.astype(np.float32),
        height=np.int64(cameras.height),
        width=np.int64(cameras.width),
        depths=depths,
        unc_metric=known,
        visibs=clip.traces.visible[:T0, points][..., None],
    )
    del known
    confident.unlink()


def _write_instructions(clip: Clip, path: Path) -> None:
    """The clip's instructions where an import left them; else its task and the coarsest captions, cyclically three."""
    kept = clip.provenance.get("instructions")
    said = [str(text) for text in kept[0]] if clip.provenance.get("source") == "traceforge" and kept else []
    if not any(said):
        coarse = sorted(clip.events, key=lambda event: -event.level)
        texts = list(dict.fromkeys(filter(None, [clip.task, *(event.caption for event in coarse)])))
        said = [texts[i % len(texts)] for i in range(3)] if texts else []
    if said:
        path.write_text(json.dumps(dict(zip(layout.TEXT_KEYS, said, strict=True)), ensure_ascii=False, indent=2))
