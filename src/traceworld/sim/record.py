"""Recording simulated episodes as ordinary RGB-D folders, with the exact truth kept beside them.

`<out>/<episode>/` is what a depth camera would give and all that extraction may read. `<out>/<episode>.truth/` is what
only a simulator knows: identity and depth of every pixel, the pose of every body, the camera.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from traceworld.errors import ConfigError, MediaError, RenderingError
from traceworld.sim.cameras import CameraChoice, CameraPath, film_cameras
from traceworld.sim.casting import furnish, is_plain, settings_of, stage_for
from traceworld.sim.embodiments import SAWYER, check_embodiment
from traceworld.sim.film import DEPTH_UNIT_M, Film, depth_picture, shoot
from traceworld.sim.rendering import SceneRenderer
from traceworld.sim.tasks import check_task, resolve_tasks
from traceworld.sim.truth import TRUTH_SUFFIX, is_complete_truth, read_description, write_truth
from traceworld.sim.variety import Variety
from traceworld.sim.workers import worker_pool
from traceworld.sim.worlds import STEP_S, Rollout, Stage, World, versions

log = logging.getLogger(__name__)

CLIP_FILE = "clip.json"


@dataclass(frozen=True)
class RecordConfig:
    """How an episode is filmed.

    Attributes:
        camera: a Meta-World camera by name, a free view, or a path.
        size: (width, height), pixels.
        frame_stride: simulator steps (12.5 ms) per frame; 2 gives 40 frames per second.
        write_poses: put the camera's pose into the folder. The world frame is then the simulator's; without poses it is
            the first frame of the camera, the only frame that a film alone defines.
        action_noise, hold_steps, max_steps: see `World.rollout`.
        depth_noise_m: standard deviation of the depth at 1 m; it grows with the square of the distance, as a stereo
            camera's does. The truth stays exact.
        shadows: cast shadows and reflections (slow; the training corpora have none).
        embodiment: who plays; the motion is the same whoever does.
        variety: draw the look from the seed, so far from Meta-World's; None leaves that.
    """

    camera: CameraChoice = "corner"
    size: tuple[int, int] = (640, 480)
    frame_stride: int = 2
    write_poses: bool = False
    action_noise: float = 0.0
    hold_steps: int = 24
    max_steps: int = 300
    depth_noise_m: float = 0.0
    shadows: bool = False
    embodiment: str = SAWYER
    variety: Variety | None = None

    def __post_init__(self):
        if min(self.size) < 16 or self.frame_stride < 1 or self.depth_noise_m < 0:
            raise ConfigError(
                f"size {self.size}, frame_stride {self.frame_stride}, depth_noise_m {self.depth_noise_m}",
                where="RecordConfig",
                mend="at least 16×16 pixels, a stride of 1 or more, no negative noise",
            )
        check_embodiment(self.embodiment)


def record_episode(
    task: str,
    seed: int,
    out_dir: str | Path,
    camera: CameraChoice = "corner",
    size: tuple[int, int] = (640, 480),
    frame_stride: int = 2,
    *,
    moving_camera: bool = False,
    world: World | None = None,
    **options: Any,
) -> Path:
    """Film one episode. The same arguments give the same bytes; a finished episode is not filmed again.

    Args:
        task: a Meta-World task.
        seed: of the placement (and of noise and of the moving camera's path).
        out_dir: gets `<task>-<seed>/` and `<task>-<seed>.truth/`.
        camera, size, frame_stride: see `RecordConfig`.
        moving_camera: move the camera along a smooth path that starts at `camera` (a name or a view).
        world: an open world of this task, to save making one.
        options: further fields of `RecordConfig`.

    Returns:
        The RGB-D folder.

    Raises:
        ConfigError: unknown task, camera or option; or the episode is there, filmed otherwise.
        RenderingError: no renderer on this machine.
    """
    if moving_camera and not isinstance(camera, CameraPath):
        camera = CameraPath(start=camera, seed=seed)
    try:
        config = RecordConfig(camera, (size[0], size[1]), frame_stride, **options)
    except TypeError as error:
        raise ConfigError(str(error), where="record_episode", mend="see RecordConfig for the options") from error
    task = check_task(task)
    folder = Path(out_dir) / f"{task}-{seed:04d}"
    truth = folder.with_name(folder.name + TRUTH_SUFFIX)
    description = _describe(task, seed, config)
    if (folder / CLIP_FILE).is_file() and is_complete_truth(truth):
        _check_same(folder, description)
        return folder
    world = world or World(task)
    rollout = world.rollout(
        seed, action_noise=config.action_noise, hold_steps=config.hold_steps, max_steps=config.max_steps
    )
    states = rollout.qpos[::frame_stride]
    stage = stage_for(world, (config.embodiment,), config.variety)
    furnish(stage, rollout, states, config.embodiment, config.variety, [seed])
    cameras = film_cameras(stage, config.camera, states, *config.size)
    with SceneRenderer(stage.model, *config.size, shadows=config.shadows) as renderer:
        film = shoot(stage, renderer, cameras, states)
        # The truth first: a folder that extraction can find is then never without it.
        _appear(
            truth,
            lambda temporary: write_truth(
                temporary, film, _in_world(film, config), description, rollout, stage.body_names()
            ),
        )
        _appear(
            folder,
            lambda temporary: _write_clip(temporary, stage, renderer, film, states, rollout, config, description),
        )
    return folder


@dataclass(frozen=True)
class Recording:
    """What came of one episode. `status` is `ok` or `failed`; `success`: the expert did what was asked."""

    task: str
    seed: int
    status: str
    path: str = ""
    frames: int = 0
    success: bool = False
    error: str = ""


def record_many(
    tasks: Sequence[str],
    episodes: int,
    out_dir: str | Path,
    *,
    seed: int = 0,
    workers: int = 1,
    **options: Any,
) -> list[Recording]:
    """Film episodes of several tasks in parallel processes. An episode that fails is reported; the rest goes on.

    Args:
        tasks: Meta-World tasks, or `all`, `trained`, `held-out`.
        episodes: how many of each.
        out_dir: see `record_episode`.
        seed: of the first episode of each task; the others follow.
        workers: processes; 0 works in this one.
        options: arguments of `record_episode`.

    Returns:
        One record per episode, tasks in order, seeds within.

    Raises:
        ConfigError: unknown task, camera or option, or existing recordings of other settings.
        RenderingError: no renderer on this machine.
    """
    seeds = list(range(seed, seed + episodes))
    jobs = [(task, seeds, str(out_dir), options) for task in resolve_tasks(tasks)]
    if workers < 1:
        return [recording for job in jobs for recording in _record_task(*job)]
    with worker_pool(workers) as pool:
        done = [pool.submit(_record_task, *job) for job in jobs]
        try:
            return [recording for future in done for recording in future.result()]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _record_task(task: str, seeds: list[int], out_dir: str, options: dict[str, Any]) -> list[Recording]:
    world = World(task)
    recordings = []
    for seed in seeds:
        try:
            folder = record_episode(task, seed, out_dir, world=world, **options)
        except (RenderingError, ConfigError):
            raise  # no other episode would do better
        except Exception as error:
            log.exception("%s, seed %d", task, seed)
            recordings.append(Recording(task, seed, "failed", error=f"{type(error).__name__}: {error}"))
            continue
        frames = len(json.loads((folder / CLIP_FILE).read_text())["timestamps_s"])
        success = read_description(folder)["success_frame"] is not None
        recordings.append(Recording(task, seed, "ok", str(folder), frames, success))
        log.info("%s: %d frames", folder, frames)
    return recordings


def _describe(task: str, seed: int, config: RecordConfig) -> dict[str, Any]:
    described = settings_of(config, "embodiment", "variety")
    described["camera"] = {"kind": type(config.camera).__name__, "value": described["camera"]}
    cast = {} if is_plain((config.embodiment,), config.variety) else {"embodiment": config.embodiment}
    episode = {"source": "meta-world", "task": task, "seed": seed, "config": described, "versions": versions()}
    return json.loads(json.dumps(episode | cast))


def _check_same(folder: Path, description: dict[str, Any]) -> None:
    try:
        found = json.loads((folder / CLIP_FILE).read_text())["simulated"]
    except (ValueError, KeyError, OSError) as error:
        raise MediaError(
            f"is damaged: {error}", where=str(folder), mend="delete the folder and record again"
        ) from error
    if found | {"versions": None} != description | {"versions": None}:
        raise ConfigError(
            "was recorded with other settings", where=str(folder), mend="choose another folder, or delete this one"
        )


def _in_world(film: Film, config: RecordConfig) -> np.ndarray:
    """[4,4] from the simulator's world to the recording's."""
    return np.eye(4) if config.write_poses else film.cameras.cam_from_world[0]


def _appear(folder: Path, write: Any) -> None:
    """Make a folder that is there whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)  # what a killed run left
    temporary.mkdir()
    try:
        write(temporary)
        if folder.exists():  # an incomplete one, or one without truth
            shutil.rmtree(folder)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_clip(
    folder: Path,
    stage: Stage,
    renderer: SceneRenderer,
    film: Film,
    states: np.ndarray,
    rollout: Rollout,
    config: RecordConfig,
    description: dict[str, Any],
) -> None:
    for name in ("color", "depth"):
        (folder / name).mkdir()
    noise = np.random.default_rng([rollout.seed, 0xDE9])
    for t, qpos in enumerate(states):
        stage.put(qpos)
        color = renderer.color(stage.data, film.cameras[t])
        depth_m = film.depth_m[t].astype(np.float64)
        if config.depth_noise_m > 0:
            depth_m += config.depth_noise_m * depth_m**2 * noise.normal(size=depth_m.shape)
        cv2.imwrite(str(folder / "color" / f"{t:04d}.jpg"), color[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        cv2.imwrite(str(folder / "depth" / f"{t:04d}.png"), depth_picture(depth_m, DEPTH_UNIT_M))
    K = film.cameras.K[0].tolist()
    clip: dict[str, Any] = {
        "task": rollout.instruction,
        "width": film.cameras.width,
        "height": film.cameras.height,
        "color_K": K,
        "depth_K": K,
        "depth_unit_m": DEPTH_UNIT_M,
        "depth_invalid": 0,
        "depth_registered": True,
        "distortion": [0.0] * 5,
        "timestamps_s": [round(t * config.frame_stride * STEP_S, 6) for t in range(film.num_frames)],
        "simulated": description,
    }
    if config.write_poses:
        clip["cam_from_world"] = film.cameras.cam_from_world.tolist()
    (folder / CLIP_FILE).write_text(json.dumps(clip, indent=1))
