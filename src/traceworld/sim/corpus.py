"""Training corpora: exact traces of many episodes of many tasks, with pictures of a few frames each.

Identity and depth are rendered small and for every trace frame (exact visibility costs 5 ms a frame); colour only for
the frames that training will start from. An item of the clip store is a block of episodes of one task.
"""

from __future__ import annotations

import json
import logging
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from traceworld.errors import ConfigError, MissingExtraError, RenderingError
from traceworld.sim.cameras import CameraView, film_cameras, named_view
from traceworld.sim.casting import furnish, is_plain, settings_of, stage_for
from traceworld.sim.embodiments import SAWYER, check_embodiment, embodiment_for
from traceworld.sim.film import DEPTH_UNIT_M, Film, depth_picture, shoot
from traceworld.sim.glue import traces_of
from traceworld.sim.rendering import SceneRenderer
from traceworld.sim.sampling import sample_points
from traceworld.sim.tasks import resolve_tasks
from traceworld.sim.variety import Variety
from traceworld.sim.workers import worker_pool
from traceworld.sim.worlds import STEP_S, Rollout, Stage, World, versions
from traceworld.traces.manifest import read_statuses
from traceworld.traces.types import Clip, Media
from traceworld.traces.writer import DatasetWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorpusConfig:
    """What a corpus is made of. Every default is what the shipped model was trained on.

    Attributes:
        cameras: fixed cameras of which each episode gets one at random.
        camera_jitter: how far the view is off the named one (1 = ±8° around, ±10 % in distance …; 0 = exactly it).
        image_size: (width, height) of pictures and depth, pixels.
        pictures_per_episode: frames with a picture, always the first, the others at random.
        num_points: points traced per episode.
        trace_stride: simulator steps per clip frame.
        action_noise: largest standard deviation of the noise on the expert's motion; each episode draws its own from 0
            to this.
        hold_steps, max_steps: how long an episode goes on after success; when it is given up.
        block: episodes per item (a shard of the store).
        seed: of everything random.
        embodiments: who plays; each run of as many episodes as there are names has each name once, in an order drawn by
            the seed. The motion and the camera of an episode do not depend on who plays it.
        variety: how much the look may differ between episodes; None leaves Meta-World's.
    """

    cameras: tuple[str, ...] = ("corner", "corner", "corner3")
    camera_jitter: float = 1.0
    image_size: tuple[int, int] = (192, 144)
    pictures_per_episode: int = 8
    num_points: int = 160
    trace_stride: int = 2
    action_noise: float = 0.1
    hold_steps: int = 24
    max_steps: int = 200
    block: int = 10
    seed: int = 0
    embodiments: tuple[str, ...] = (SAWYER,)
    variety: Variety | None = None

    def __post_init__(self):
        counts = ("pictures_per_episode", "num_points", "trace_stride", "block", "max_steps")
        bad = [name for name in counts if getattr(self, name) < 1]
        if bad or min(self.image_size) < 16 or not self.cameras:
            raise ConfigError("must be positive", where=f"CorpusConfig.{(bad or ['image_size or cameras'])[0]}")
        if not self.embodiments:
            raise ConfigError("names nobody", where="CorpusConfig.embodiments")
        for name in self.embodiments:
            check_embodiment(name)


def build_corpus(
    out: str | Path,
    tasks: Sequence[str] = ("trained",),
    episodes_per_task: int | Mapping[str, int] = 100,
    seed: int = 0,
    workers: int = 2,
    **options: Any,
) -> dict[str, Any]:
    """Simulate episodes and store them as clips with exact traces. Resumes where a killed run stopped.

    The same arguments give the same clips, whatever the number of workers and however often it was interrupted.

    Args:
        out: dataset folder (clip store, format 1).
        tasks: Meta-World tasks, or `all`, `trained`, `held-out`.
        episodes_per_task: episodes of each; or how many by name of task or group, of which a task's own name counts first,
            then the smallest group.
        seed: of placements, noise, cameras, choice of points and pictures.
        workers: processes; 0 works in this one.
        options: fields of `CorpusConfig`.

    Returns:
        The content of `dataset.json`: counts and statistics.

    Raises:
        ConfigError: unknown task or option, or a task without a number of episodes.
        RenderingError: no renderer on this machine.
    """
    unknown = set(options) - {field.name for field in fields(CorpusConfig)}
    if unknown:
        raise ConfigError(f"has no option '{min(unknown)}'", where="CorpusConfig")
    config = CorpusConfig(seed=seed, **options)
    writer = DatasetWriter(out, source=source_of(config))
    wanted = _episodes_of(resolve_tasks(tasks), episodes_per_task)
    items = [
        (task, first, min(first + config.block, episodes))
        for first in range(0, max(wanted.values(), default=0), config.block)
        for task, episodes in wanted.items()  # all tasks early, so that a part is a fair sample
        if first < episodes
    ]
    done = _done(writer)
    todo = [(task, first, last) for task, first, last in items if done.get(item_id(task, first)) != last - first]
    log.info("%d of %d items to simulate", len(todo), len(items))
    started = time.monotonic()
    for number, item in enumerate(_run(Path(out), todo, config, workers), 1):
        log.info("%s from episode %d done, %d/%d, %.0f s", *item[:2], number, len(todo), time.monotonic() - started)
    return writer.finalise()


def _episodes_of(tasks: Sequence[str], episodes: int | Mapping[str, int]) -> dict[str, int]:
    """How many episodes of each task."""
    if isinstance(episodes, int):
        return dict.fromkeys(tasks, episodes)
    wanted: dict[str, int] = {}
    for members, number in sorted(
        ((resolve_tasks([name]), number) for name, number in episodes.items()), key=_smallest
    ):
        wanted = dict.fromkeys(members, number) | wanted
    missing = [task for task in tasks if task not in wanted]
    if missing:
        raise ConfigError(f"gives no number for '{missing[0]}'", where="episodes_per_task")
    return {task: wanted[task] for task in tasks}


def _smallest(entry: tuple[tuple[str, ...], int]) -> int:
    return len(entry[0])


def item_id(task: str, first: int) -> str:
    """Name of the block of episodes of a task that begins with episode `first`."""
    return f"{task}/{first:05d}"


def source_of(config: CorpusConfig) -> str:
    """What the manifest says about where the clips come from: everything that decides them."""
    return f"traceworld sim {json.dumps(_settings(config), sort_keys=True)}"


def _settings(config: CorpusConfig) -> dict[str, Any]:
    return settings_of(config, "embodiments", "variety")


def _done(writer: DatasetWriter) -> dict[str, int]:
    """Number of clips of each finished item.

    Raises:
        ConfigError: the folder holds another corpus.
    """
    complete = writer.done_items(retry_failed=True)
    finished = [item for item in read_statuses(writer.path) if item["item_id"] in complete]
    for item in finished:
        if item["source"] != writer.source:
            raise ConfigError(
                f"holds a corpus of other settings: {item['source']}",
                where=str(writer.path),
                mend="choose a new folder",
            )
    return {item["item_id"]: len(item["clips"]) for item in finished}


def _run(out: Path, todo: list[tuple[str, int, int]], config: CorpusConfig, workers: int):
    if workers < 1:
        for item in todo:
            build_item(out, *item, config)
            yield item
        return
    with worker_pool(workers) as pool:
        running = {pool.submit(build_item, out, *item, config): item for item in todo}
        try:
            for future in as_completed(running):
                future.result()
                yield running[future]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def build_item(out: Path, task: str, first: int, last: int, config: CorpusConfig) -> None:
    """Simulate and store one block of episodes of one task. A block that fails is noted as failed; the rest goes on."""
    writer = DatasetWriter(out, source=source_of(config))
    name = item_id(task, first)
    started = time.process_time()
    try:
        world = World(task)
        stage = stage_for(world, config.embodiments, config.variety)
        with SceneRenderer(stage.model, *config.image_size) as renderer:
            media = writer.media_folder(name)
            clips = [
                build_clip(world, stage, renderer, episode, config, media / f"{episode:05d}", out)
                for episode in range(first, last)
            ]
    except (RenderingError, MissingExtraError):
        raise  # no block would do better
    except Exception as error:
        log.exception("%s failed", name)
        writer.write_item(name, [], status="failed", stage="simulate", error=f"{type(error).__name__}: {error}")
        return
    writer.write_item(name, clips, timings={"cpu_s_per_episode": (time.process_time() - started) / len(clips)})


def episode_rng(config: CorpusConfig, task: str, episode: int) -> np.random.Generator:
    """The generator of one episode: a function of seed, task and episode alone."""
    return np.random.default_rng([config.seed, zlib.crc32(task.encode()), episode])


def build_clip(
    world: World, stage: Stage, renderer: SceneRenderer, episode: int, config: CorpusConfig, media: Path, root: Path
) -> Clip:
    """One episode: play it, film identity and depth, choose points, draw the pictures."""
    rng = episode_rng(config, world.task, episode)
    seed = int(rng.integers(1 << 31))
    noise = float(rng.uniform(0, config.action_noise))
    rollout = world.rollout(seed, action_noise=noise, hold_steps=config.hold_steps, max_steps=config.max_steps)
    states = rollout.qpos[:: config.trace_stride]
    place = [config.seed, zlib.crc32(world.task.encode())]
    embodiment = embodiment_for(config.embodiments, episode, place)
    painted = furnish(stage, rollout, states, embodiment, config.variety, [*place, episode])
    renderer.upload_textures(painted)
    name = config.cameras[rng.integers(len(config.cameras))]
    view = named_view(stage, name).jittered(rng, config.camera_jitter)
    cameras = film_cameras(stage, view, states, *config.image_size)
    film = shoot(stage, renderer, cameras, states)
    pictures = _picture_frames(len(states), config.pictures_per_episode, rng)
    choice = rng.choice(pictures, min(4, len(pictures)), replace=False)
    traces = traces_of(film, *sample_points(film, np.sort(choice), config.num_points, rng))
    return Clip(
        clip_id=f"{world.task}-{episode:05d}",
        time_s=np.arange(len(states)) * (STEP_S * config.trace_stride),
        cameras=cameras,
        traces=traces,
        media=_draw(stage, renderer, film, states, pictures, media, root),
        task=rollout.instruction,
        provenance=_provenance(rollout, name, view, noise, embodiment, config),
    )


def _picture_frames(num_frames: int, num_pictures: int, rng: np.random.Generator) -> np.ndarray:
    """Frame 0 and others, of which none is so late that there is no future to speak of."""
    later = np.arange(1, max(num_frames - 8, 1))
    return np.append(0, np.sort(rng.choice(later, min(num_pictures - 1, len(later)), replace=False)))


def _draw(
    stage: Stage,
    renderer: SceneRenderer,
    film: Film,
    states: np.ndarray,
    frames: np.ndarray,
    folder: Path,
    root: Path,
) -> Media:
    folder.mkdir(parents=True, exist_ok=True)
    for frame in frames.tolist():
        stage.put(states[frame])
        color = renderer.color(stage.data, film.cameras[frame])
        cv2.imwrite(str(folder / f"{frame:04d}.jpg"), color[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        cv2.imwrite(str(folder / f"{frame:04d}.png"), depth_picture(film.depth_m[frame], DEPTH_UNIT_M))
    return Media(
        kind="frames",
        path=folder.relative_to(root).as_posix(),
        frame_index=tuple(frames.tolist()),
        files=tuple(f"{frame:04d}.jpg" for frame in frames),
        depth_files=tuple(f"{frame:04d}.png" for frame in frames),
        depth_unit_m=DEPTH_UNIT_M,
    )


def _provenance(
    rollout: Rollout, name: str, view: CameraView, noise: float, embodiment: str, config: CorpusConfig
) -> dict[str, Any]:
    cast = {} if is_plain(config.embodiments, config.variety) else {"embodiment": embodiment}
    return cast | {
        "source": "meta-world",
        "task": rollout.task,
        "seed": rollout.seed,
        "camera": {"name": name, **asdict(view)},
        "success": rollout.success_step is not None,
        "action_noise": noise,
        "visibility": "depth test in every frame",
        "config": _settings(config),
        "versions": versions(),
    }
