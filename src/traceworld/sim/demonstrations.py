"""Demonstrations by Meta-World's scripted experts: recorded by seed, one file per episode, read back as `Demonstrations`.

A folder holds `demonstrations.json` (settings) and `episodes/<task>-<number>.parquet`, one row per control step: state before the
action, the expert's action, the action that was sent (they differ when noise is asked for), a JPEG per camera and, if it is asked
for, a 16-bit PNG of its depth. Number
k of a task is the first success among seeds of its own, so every episode is a function of the settings, its task and its
number, any number of processes can record, and a killed run goes on. `traces.lerobot.write_lerobot` turns a folder
into a LeRobot dataset.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, UInt8, UInt16

from traceworld.errors import ConfigError, DatasetError, InvalidInputError
from traceworld.sim.control import METAWORLD_SPEC, PUBLISHED_CAMERA, PUBLISHED_STEPS, WRIST, MetaworldEnv, training_seed
from traceworld.sim.control_policies import clipped_expert_action
from traceworld.sim.film import depth_picture
from traceworld.sim.workers import worker_pool
from traceworld.sim.worlds import versions
from traceworld.traces.atomic import read_json, write_atomically, write_json
from traceworld.traces.demonstrations import Demonstration
from traceworld.traces.robot import ActionSpec, RobotObservation

log = logging.getLogger(__name__)

DESCRIPTION, EPISODES = "demonstrations.json", "episodes"
FORMAT = 1
ATTEMPTS = 16
"""Seeds tried for one demonstration."""

DEPTH_UNIT_M = 0.0002
"""Metres per step of the depth pictures: up to 13.1 m, 0 unknown. Meta-World's cameras see no farther than 7 m."""

ROWS_PER_GROUP = 16
_META = b"traceworld.demonstration"


@dataclass(frozen=True)
class DemonstrationConfig:
    """How demonstrations are recorded.

    Attributes:
        cameras: the scene camera first (`sim.control.CONTROL_CAMERAS`).
        image_size: (width, height), pixels.
        seed: of the whole set.
        action_noise: standard deviation of what is added to the motion that is sent, in its own unit (1 = 1 cm per step),
            correlated over about ten steps. The action written down is the expert's own, so noise shows how to come back.
        hold_steps: how long the expert goes on after success.
        max_steps: an attempt that is not done by then has failed.
        robot: who is shown doing it (`MetaworldEnv`).
        depth: keep metric depth of every camera as well.
    """

    cameras: tuple[str, ...] = (PUBLISHED_CAMERA, WRIST)
    image_size: tuple[int, int] = (192, 144)
    seed: int = 0
    action_noise: float = 0.0
    hold_steps: int = 10
    max_steps: int = PUBLISHED_STEPS
    robot: str = "sawyer"
    depth: bool = False

    def __post_init__(self):
        if self.action_noise < 0 or self.hold_steps < 0:
            raise ConfigError(f"noise {self.action_noise}, hold {self.hold_steps}", where="DemonstrationConfig")


def record_demonstrations(
    out: str | Path, tasks: Sequence[str], per_task: int, config: DemonstrationConfig | None = None, *, workers: int = 0
) -> list[dict[str, Any]]:
    """Record what is missing of `per_task` successful episodes of each task.

    Args:
        out: new folder, or one of the same settings, which is gone on with.
        tasks: Meta-World tasks, each once.
        per_task: demonstrations of each.
        workers: processes; 0: this one.

    Returns:
        Per task: `task`, `demonstrations`, `frames`, `failed` (numbers of which no seed succeeded, left out).

    Raises:
        ConfigError: unknown task or camera, or a folder of other settings.
        RenderingError: no renderer on this machine. DatasetError: the folder cannot be written.
    """
    if per_task < 1 or not tasks:
        raise ConfigError(f"{per_task} of {list(tasks)}", where="demonstrations", mend="one task and one of it or more")
    config = config or DemonstrationConfig()
    folder = Path(out)
    _open_for_writing(folder, config)
    jobs = [(task, number) for task in tasks for number in range(per_task)]
    todo = [job for job in jobs if not _file(folder, *job).exists()]
    log.info("%d of %d demonstrations to record", len(todo), len(jobs))
    failed = [job for job, done in _run(folder, todo, config, workers) if not done]
    return [_row(folder, task, per_task, failed) for task in tasks]


def _row(folder: Path, task: str, per_task: int, failed: Sequence[tuple[str, int]]) -> dict[str, Any]:
    files = [file for number in range(per_task) if (file := _file(folder, task, number)).exists()]
    frames = sum(pq.read_metadata(file).num_rows for file in files)
    missing = sorted(number for name, number in failed if name == task)
    return {"task": task, "demonstrations": len(files), "frames": frames, "failed": missing}


def _file(folder: Path, task: str, number: int) -> Path:
    return folder / EPISODES / f"{task}-{number:05d}.parquet"


def _open_for_writing(folder: Path, config: DemonstrationConfig) -> None:
    described = {
        "format": FORMAT,
        "settings": _settings(config),
        "spec": json.loads(json.dumps(asdict(METAWORLD_SPEC))),
        "versions": versions(),
    }
    if not (folder / DESCRIPTION).exists():
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError("is not empty and holds no demonstrations", where=str(folder), mend="choose a new folder")
        write_json(folder / DESCRIPTION, described)
        return
    found = read_json(folder / DESCRIPTION)
    if differing := [key for key in described if found.get(key) != described[key]]:
        raise ConfigError(
            f"holds demonstrations of other {differing[0]}: {found.get(differing[0])}",
            where=str(folder),
            mend="choose a new folder",
        )


def _settings(config: DemonstrationConfig) -> dict[str, Any]:
    """As JSON. Folders that were begun before there was depth say nothing of it: without it nothing is said."""
    settings = json.loads(json.dumps(asdict(config)))
    return settings if config.depth else {name: value for name, value in settings.items() if name != "depth"}


def _run(
    folder: Path, todo: list[tuple[str, int]], config: DemonstrationConfig, workers: int
) -> Iterator[tuple[tuple[str, int], bool]]:
    if workers < 1:
        recorder = _Recorder(folder, config)
        try:
            for job in todo:
                yield job, recorder.record(*job)
        finally:
            recorder.close()
        return
    with worker_pool(workers, _begin_work, folder, config) as pool:
        running = {pool.submit(_work, *job): job for job in todo}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_RECORDER: _Recorder | None = None
"""This worker process's recorder."""


def _begin_work(folder: Path, config: DemonstrationConfig) -> None:
    global _RECORDER
    _RECORDER = _Recorder(folder, config)


def _work(task: str, number: int) -> bool:
    assert _RECORDER is not None
    return _RECORDER.record(task, number)


class _Recorder:
    """One process's environment."""

    def __init__(self, folder: Path, config: DemonstrationConfig):
        self._folder, self._config = folder, config
        self._env: MetaworldEnv | None = None

    def record(self, task: str, number: int) -> bool:
        """Record one demonstration; False if none of its seeds succeeds."""
        env = self._env_of(task)
        for attempt in range(ATTEMPTS):
            seed = training_seed(self._config.seed, number * ATTEMPTS + attempt)
            env.reset(seed)
            begun = env.snapshot()
            intended, sent, success_step = play_expert(env, seed, self._config)
            if success_step is None:
                continue
            env.restore(begun)
            table = _film(env, intended, sent, self._config)
            meta = {
                "task": env.task,
                "number": number,
                "seed": seed,
                "instruction": env.instruction,
                "success_step": success_step,
            }
            _write(_file(self._folder, env.task, number), table, meta)
            return True
        log.warning("%s, number %d: the expert fails on all %d seeds", task, number, ATTEMPTS)
        return False

    def _env_of(self, task: str) -> MetaworldEnv:
        if self._env is None or self._env.task != task:
            self.close()
            config = self._config
            self._env = MetaworldEnv(
                task, config.cameras, config.image_size, config.depth, max_steps=config.max_steps, robot=config.robot
            )
        return self._env

    def close(self) -> None:
        if self._env is not None:
            self._env.close()


def play_expert(
    env: MetaworldEnv, seed: int, config: DemonstrationConfig
) -> tuple[Float32[np.ndarray, "T 4"], Float32[np.ndarray, "T 4"], int | None]:
    """Let the expert act from where the environment is, without rendering.

    Returns:
        What it intended and what was sent, per step, and the number of steps after which the task was done (None: never).
    """
    script, rng, drift = env.expert(), np.random.default_rng([seed, 0xD3A]), np.zeros(3)
    intended: list[np.ndarray] = []
    sent: list[np.ndarray] = []
    done: int | None = None
    while len(sent) < config.max_steps and (done is None or len(sent) < done + config.hold_steps):
        intended.append(clipped_expert_action(env, script))
        drift = 0.9 * drift + np.sqrt(1 - 0.9**2) * rng.normal(size=3)
        sent.append(intended[-1].copy())
        sent[-1][:3] = np.clip(sent[-1][:3] + config.action_noise * drift, -1, 1)
        if env.step(sent[-1]).success and done is None:
            done = len(sent)
    return np.array(intended), np.array(sent), done


def _film(env: MetaworldEnv, intended: np.ndarray, sent: np.ndarray, config: DemonstrationConfig) -> pa.Table:
    """Play the actions again and write down what is seen before each."""
    seen: list[RobotObservation] = []
    pictures: dict[str, list[bytes]] = {f"image/{name}": [] for name in config.cameras}
    pictures |= {f"depth/{name}": [] for name in config.cameras if config.depth}
    for action in sent:
        observation = env.observe()
        for name, image in observation.images.items():
            pictures[f"image/{name}"].append(_jpeg(image))
        for name, depth_m in observation.depth_m.items():
            pictures[f"depth/{name}"].append(_png(depth_picture(depth_m, DEPTH_UNIT_M)))
        seen.append(observation)
        env.step(action)
    columns: dict[str, pa.Array] = {
        "state": _vectors(np.array([each.state for each in seen])),
        "action": _vectors(intended),
        "sent": _vectors(sent),
    }
    return pa.table(columns | {name: pa.array(files, pa.binary()) for name, files in pictures.items()})


def _write(path: Path, table: pa.Table, meta: Mapping[str, Any]) -> None:
    table = table.replace_schema_metadata({_META: json.dumps(meta, sort_keys=True).encode()})
    packing: Any = {name: "none" if "/" in name else "zstd" for name in table.column_names}
    write_atomically(
        path, lambda temporary: pq.write_table(table, temporary, compression=packing, row_group_size=ROWS_PER_GROUP)
    )


def _vectors(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel().astype(np.float32)), values.shape[1])


def _jpeg(image: np.ndarray) -> bytes:
    _, file = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return file.tobytes()


def _png(depth: UInt16[np.ndarray, "H W"]) -> bytes:
    _, file = cv2.imencode(".png", depth)
    return file.tobytes()


class StoredDemonstrations:
    """The demonstrations of a folder (`traces.demonstrations.Demonstrations`), tasks in alphabetical order.

    Args:
        folder: made by `record_demonstrations`.
        tasks: only these; None for all.
        per_task: only the first so many of each.

    Raises:
        DatasetError: no such folder, or it is damaged. ConfigError: it has none of a task that is asked for.
    """

    def __init__(self, folder: str | Path, tasks: Sequence[str] | None = None, per_task: int | None = None):
        self._folder = Path(folder)
        described = read_json(self._folder / DESCRIPTION)
        if described.get("format") != FORMAT:
            raise DatasetError(f"has format {described.get('format')}", where=str(folder), mend="update traceworld")
        self.name = self._folder.name
        spec: dict[str, Any] = described["spec"]
        self.spec = ActionSpec(**spec | {key: tuple(value) for key, value in spec.items() if isinstance(value, list)})
        self.cameras: tuple[str, ...] = tuple(described["settings"]["cameras"])
        self.depth_cameras = self.cameras if described["settings"].get("depth", False) else ()
        found: dict[str, list[Path]] = {}
        for path in sorted((self._folder / EPISODES).glob("*.parquet")):
            found.setdefault(path.stem.rpartition("-")[0], []).append(path)
        if missing := sorted(set(tasks or ()) - set(found)):
            raise ConfigError(f"has none of '{missing[0]}'", where=str(folder), mend=f"it has {', '.join(found)}")
        self.tasks: tuple[str, ...] = tuple(task for task in found if tasks is None or task in tasks)
        self._files = [path for task in self.tasks for path in found[task][:per_task]]
        if not self._files:
            raise DatasetError("holds no demonstration", where=str(folder), mend="record some: traceworld sim demos")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Demonstration:
        path = self._files[index]
        try:
            file = pq.ParquetFile(path)
            numbers = file.read(["state", "action"])
            about = json.loads(file.schema_arrow.metadata[_META])
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"cannot be read: {error}", where=str(path), mend="delete it and record again"
            ) from error
        return Demonstration(
            episode_id=path.stem,
            instruction=about["instruction"],
            fps=self.spec.control_hz,
            state=_matrix(numbers["state"]),
            action=_matrix(numbers["action"]),
            cameras=self.cameras,
            read_frame=_FrameReader(path, numbers.num_rows),
            success=True,
            depth_cameras=self.depth_cameras,
            read_depth=_DepthReader(path, numbers.num_rows) if self.depth_cameras else None,
        )

    def instructions(self) -> list[str]:
        """The instruction of every episode; one is read per task."""
        words: dict[str, str] = {}
        for index, path in enumerate(self._files):
            task = path.stem.rpartition("-")[0]
            if task not in words:
                words[task] = self[index].instruction
        return [words[path.stem.rpartition("-")[0]] for path in self._files]


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    return np.array(column.combine_chunks().flatten(), np.float32).reshape(len(column), -1)


@dataclass(frozen=True)
class _FrameReader:
    """Reads the pictures of one file; nothing is held open, so it may be sent to other processes."""

    path: Path
    frames: int

    def __call__(self, camera: str, frame: int) -> UInt8[np.ndarray, "_h _w 3"]:
        picture = _decoded(self.path, self.frames, f"image/{camera}", frame, cv2.IMREAD_COLOR)
        return np.ascontiguousarray(picture[..., ::-1])


@dataclass(frozen=True)
class _DepthReader:
    """Reads the depth maps of one file, likewise."""

    path: Path
    frames: int

    def __call__(self, camera: str, frame: int) -> Float32[np.ndarray, "_h _w"]:
        steps = _decoded(self.path, self.frames, f"depth/{camera}", frame, cv2.IMREAD_UNCHANGED)
        return np.where(steps > 0, steps.astype(np.float32) * np.float32(DEPTH_UNIT_M), np.float32(np.nan))


def _decoded(path: Path, frames: int, column: str, frame: int, how: int) -> np.ndarray:
    if not 0 <= frame < frames:
        raise InvalidInputError(f"has {frames} frames, not frame {frame}", where=str(path))
    files = _row_group(str(path), column, frame // ROWS_PER_GROUP)
    picture = cv2.imdecode(np.frombuffer(files[frame % ROWS_PER_GROUP], np.uint8), how)
    if picture is None:
        raise DatasetError(f"frame {frame} of '{column}' is damaged", where=str(path), mend="record it again")
    return picture


@lru_cache(maxsize=512)
def _row_group(path: str, column: str, group: int) -> list[bytes]:
    try:
        file = pq.ParquetFile(path)
        if column not in file.schema_arrow.names:
            kind, _, camera = column.partition("/")
            raise InvalidInputError(f"has no {'camera' if kind == 'image' else kind} '{camera}'", where=path)
        return file.read_row_group(group, [column])[column].to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"cannot be read: {error}", where=path, mend="delete it and record again") from error
