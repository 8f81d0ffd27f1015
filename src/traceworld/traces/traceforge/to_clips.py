"""TraceForge episodes into our clip store."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from traceworld.errors import ConfigError, DatasetError, InvalidInputError, MediaError
from traceworld.geometry.cameras import project, unproject
from traceworld.geometry.motion import trace_diameter
from traceworld.traces.exchange import ExchangeReport, import_episodes
from traceworld.traces.media import open_picture, write_pictures
from traceworld.traces.traceextract.layout import check_array, damaged, read_npz, take_keys
from traceworld.traces.traceforge import layout
from traceworld.traces.traceforge.recover import depth_by_frame, step_times
from traceworld.traces.types import Cameras, Clip, Event, Media, Traces
from traceworld.traces.writer import DatasetWriter

MOVING_SHARE = 0.05
"""Of the image width: a point that travels further counts as moving (the layout has no such flag)."""
_RESIDUAL_PX = 2.0


def import_traceforge(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    fps: float | int = 10.0,
    metric: bool = False,
    max_episodes: int | None = None,
    retry_failed: bool = False,
) -> ExchangeReport:
    """Read TraceForge episodes into a clip store; repeat the call to go on after a kill.

    A clip has the points of all query frames, each from its query frame on. Those of the first segment come from `coords`,
    with visibility; those of later ones from `traj_2d` and `traj` (`recover.py`), as far as `traj` reaches, taken as visible
    in the picture. Pictures and depth exist for query frames alone.

    Args:
        folders: episodes (`<video>/samples/<video>_<q>.npz` and `<video>/<video>.npz`), or folders of them.
        out: dataset folder to write or to go on with.
        fps: frames per second, which the layout does not keep.
        metric: depth is in metres. By default it is not: VGGT's scale is its own unless depth was given to it.
        max_episodes: read at most so many of each folder.
        retry_failed: try again what failed in an earlier run.

    Raises:
        DatasetError: a folder holds no episode, or the dataset folder cannot be written.
        ConfigError: fps is not positive.
    """
    if not fps > 0:
        raise ConfigError(f"{fps} is not positive", where="fps")
    episodes = (
        (name, functools.partial(_read, folder, name, float(fps), metric))
        for name, folder in _episodes([Path(folder) for folder in folders], max_episodes)
    )
    return import_episodes(out, "import traceforge", episodes, retry_failed=retry_failed)


def _episodes(folders: Sequence[Path], most: int | None) -> Iterator[tuple[str, Path]]:
    for folder in folders:
        inside = [folder] if (folder / "samples").is_dir() else []
        if not inside and folder.is_dir():
            inside = [path for path in sorted(folder.iterdir()) if (path / "samples").is_dir() and path.name[0] != "."]
        if not inside:
            raise DatasetError(
                "holds no TraceForge episode (a folder with samples/)",
                where=str(folder),
                mend="give an episode folder or the folder that holds them",
            )
        yield from ((path.resolve().name, path) for path in inside[:most])


def _read(folder: Path, name: str, fps: float, metric: bool, writer: DatasetWriter) -> Clip:
    path = layout.main_file(folder)
    video = take_keys(read_npz(path), layout.VIDEO_KEYS, {}, path)
    width, height = int(video["width"]), int(video["height"])
    try:
        cameras = Cameras(video["intrinsics"].astype(np.float64), video["extrinsics"].astype(np.float64), width, height)
    except InvalidInputError as error:
        raise damaged(path, error.message, "intrinsics" if error.where == "Cameras.K" else "extrinsics") from error
    T = len(cameras)
    queries = layout.query_files(folder, name)
    if not queries or queries[-1][0] >= T:
        raise damaged(folder / "samples", f"holds {'no sample' if not queries else f'a sample beyond the {T} frames'}")
    segments = [_segment(file, frame, cameras, video if i == 0 else None) for i, (frame, file) in enumerate(queries)]
    traces = _join(segments, cameras)
    said = _instructions(folder / layout.INSTRUCTIONS)
    provenance: dict[str, Any] = {
        "source": "traceforge",
        "episode": name,
        "time_s": f"{fps:g} frames per second, given",
    }
    if said:
        provenance["instructions"] = [said]
    task = next((text for text in said if text), "")
    return Clip(
        name,
        np.arange(T) / fps,
        cameras,
        traces,
        _pictures(folder, [frame for frame, _ in queries], writer, name),
        (Event(0, T, task),) if task else (),
        task,
        metric=metric,
        provenance=provenance,
        root=writer.path,
    )


@dataclass
class _Segment:
    """The points of one query frame: [S,N,3] world from frame `start` on, NaN where unknown; seen [S,N]."""

    start: int
    xyz_world: np.ndarray
    visible: np.ndarray


def _segment(path: Path, frame: int, cameras: Cameras, video: dict[str, np.ndarray] | None) -> _Segment:
    arrays = read_npz(path)
    sizes: dict[str, int] = {}
    keys = take_keys(arrays, {k: s for k, s in layout.SAMPLE_KEYS.items() if k != "frame_index"}, sizes, path)
    if "frame_index" in arrays and int(np.ravel(arrays["frame_index"])[0]) != frame:
        raise damaged(
            path, f"is {int(np.ravel(arrays['frame_index'])[0])}, the file's name says {frame}", "frame_index"
        )
    if video is not None and frame == 0:
        coords = video["coords"]
        if coords.shape[1] != sizes["N"]:
            raise damaged(path, f"has {sizes['N']} points; coords of the video {coords.shape[1]}", "keypoints")
        return _Segment(0, coords[: len(cameras)].astype(np.float64), video["visibs"][: len(cameras), :, 0])
    count = int(keys["valid_steps"].sum())
    if count == 0 or not keys["valid_steps"][:count].all():
        raise damaged(path, "is not a run of valid steps from the first on", "valid_steps")
    S = min(sizes["S"], len(cameras) - frame)
    uv, traj = keys["traj_2d"][:, :S].astype(np.float64), keys["traj"][:, :count]
    whole = np.isfinite(uv).all((1, 2)) & np.isfinite(traj).all((1, 2))  # a lost point must not spoil the others' clock
    if not whole.any():
        raise damaged(path, "holds no point that is finite throughout", "traj_2d")
    times, residual = step_times(uv[whole], traj[whole])
    if np.median(residual) > _RESIDUAL_PX:
        raise damaged(path, f"does not follow traj (off by {np.median(residual):.1f} px)", "traj_2d")
    z, inside = depth_by_frame(times, traj[..., 2], S)
    usable = whole[:, None] & inside[None] & (z > 0)
    world = unproject(uv, np.where(usable, z, np.nan), cameras.K[frame], cameras.cam_from_world[frame])
    world = np.where(usable[..., None], world, np.nan).transpose(1, 0, 2)
    shown = project(world, cameras.K[frame : frame + S], cameras.cam_from_world[frame : frame + S])[..., :2]
    with np.errstate(invalid="ignore"):
        visible = np.asarray(((shown >= 0) & (shown <= [cameras.width, cameras.height])).all(-1))
    return _Segment(frame, world, visible)


def _join(segments: Sequence[_Segment], cameras: Cameras) -> Traces:
    T, N = len(cameras), sum(segment.xyz_world.shape[1] for segment in segments)
    xyz, visible = np.full((T, N, 3), np.nan, np.float32), np.zeros((T, N), bool)
    query, offset = np.zeros(N, np.int32), 0
    for segment in segments:
        frames = slice(segment.start, segment.start + len(segment.xyz_world))
        points = slice(offset, offset + segment.xyz_world.shape[1])
        xyz[frames, points], visible[frames, points] = segment.xyz_world, segment.visible
        query[points], offset = segment.start, points.stop
    valid = np.asarray(np.isfinite(xyz).all(-1))
    visible = np.asarray(visible & valid)
    seen = project(xyz.astype(np.float64), cameras.K[0], cameras.cam_from_world[0])
    moving = trace_diameter(seen, visible) > MOVING_SHARE * cameras.width
    return Traces(xyz, visible, valid, np.full(N, -1, np.int32), moving, query)


def _pictures(folder: Path, frames: Sequence[int], writer: DatasetWriter, name: str) -> Media:
    images, depths = {}, {}
    for frame in frames:
        found = sorted((folder / "images").glob(f"*_{frame}.png"))
        if not found:
            raise MediaError("is missing", where=str(folder / "images" / f"{name}_{frame}.png"), mend="restore it")
        images[frame] = open_picture(found[0])
        depth = sorted((folder / "depth").glob(f"*_{frame}_raw.npz"))
        if depth:
            stored = read_npz(depth[0])
            if "depth" not in stored:
                raise damaged(depth[0], "is missing", "depth")
            metres = check_array(stored["depth"], (np.float32, ("H", "W")), {}, depth[0], "depth")
            depths[frame] = np.where(metres > 0, metres, np.nan)
    with_depth = depths if len(depths) == len(images) else None
    reach = max((float(np.nanmax(d, initial=0.0)) for d in depths.values()), default=0.0)
    unit = max(reach / 65000, 1e-5)
    return write_pictures(
        writer.media_folder(name), images, with_depth, relative_to=writer.path, quality=95, depth_unit_m=unit
    )


def _instructions(path: Path) -> list[str]:
    if not path.exists():
        return []
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return [str(said.get(key) or "").strip() for key in layout.TEXT_KEYS]
    except (OSError, ValueError, AttributeError) as error:
        raise damaged(path, f"is damaged: {error}") from error
