"""TraceSpatial datasets: scenes in, checked questions out, in the conversation format that training code of the field reads.

    OUT/build.json                 what was asked for
    OUT/shards/00000.json          questions of a few scenes each, written whole or not at all; a second call goes on from them
    OUT/images/<scene>.png         RGB
    OUT/depth/<scene>.png          uint16 millimetres along the camera axis, 0 unknown
    OUT/train.json                 the first N questions: [{id, image, depth, conversations, provenance, …}]
    OUT/statistics.json            shares by family, steps, metric; rejects by reason (`statistics`)
    OUT/timing.json                seconds per shard: the one file that differs between two runs

Every question is recomputed by `checker` before it is kept. The same source, seed and number give the same bytes, by any number of
workers and through any number of interruptions.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from traceworld.errors import ConfigError, DatasetError, TraceworldError
from traceworld.extract.workers import Loss, run_in_processes
from traceworld.traces.atomic import read_json, write_atomically, write_json
from traceworld.tracespatial.checker import check
from traceworld.tracespatial.checker_geometry import Facts
from traceworld.tracespatial.questions.asking import Mix, ask_all
from traceworld.tracespatial.questions.question import Question
from traceworld.tracespatial.scene import Scene
from traceworld.tracespatial.sources import SceneSource, safe_id, views
from traceworld.tracespatial.statistics import statistics_of

FORMAT_VERSION = 1
BUILD, TRAIN, STATISTICS, TIMING = "build.json", "train.json", "statistics.json", "timing.json"
MAX_DEPTH_MM = 65534
IMAGE_TOKEN = "<image>\n"


@dataclass(frozen=True)
class BuildConfig:
    """What is asked for.

    Attributes:
        questions: how many are wanted. seed: of everything that is drawn.
        mix: how many of each family per scene at most.
        proposals: traces tried per scene.
        scenes_per_shard: scenes whose questions are written together.
        max_scenes: no more scenes than this are looked at (None: as many as it takes).
    """

    questions: int
    seed: int = 0
    mix: Mix = field(default_factory=Mix)
    proposals: int = 10
    scenes_per_shard: int = 4
    max_scenes: int | None = None

    def __post_init__(self):
        if self.questions < 1 or self.scenes_per_shard < 1 or self.proposals < 0:
            raise ConfigError("questions and scenes_per_shard must be at least 1", where="BuildConfig")


@dataclass(frozen=True)
class BuildReport:
    """What a build did: questions written, scenes and shards used, shards made in this call, whether all were found."""

    questions: int
    scenes: int
    shards: int
    made: int
    complete: bool


def build(source: SceneSource, out: str | Path, config: BuildConfig, workers: int = 1) -> BuildReport:
    """Write a dataset, or go on with one that was interrupted.

    Raises:
        ConfigError: the folder holds a dataset of another source, seed or mix.
        DatasetError: it cannot be written, or a worker process died over a shard twice.
    """
    out = Path(out)
    _claim(out, source, config)
    found = _Found(out, config.questions)
    jobs = _missing(out, source, config, found)
    work = partial(_make_shard, source, str(out), config)
    results = map(work, jobs) if workers == 1 else run_in_processes(jobs, work, workers)
    made = 0
    with contextlib.closing(results) if workers > 1 else contextlib.nullcontext():  # type: ignore[type-var]
        for result in results:
            if isinstance(result, Loss):
                raise DatasetError(f"a worker {result.reason}", where=f"shard {result.job[0]}", mend="call again")
            if isinstance(result, TraceworldError):
                raise result
            made += 1
            if found.enough():
                break
    return _finish(out, config, made)


def _claim(out: Path, source: SceneSource, config: BuildConfig) -> None:
    """Say what the folder holds, or check that it holds this. The number of questions may grow or shrink."""
    wanted = {
        "format_version": FORMAT_VERSION,
        "source": source.name,
        "seed": config.seed,
        "mix": dict(config.mix.per_scene),
        "proposals": config.proposals,
        "scenes_per_shard": config.scenes_per_shard,
    }
    file = out / BUILD
    if file.is_file():
        held = read_json(file)
        if other := sorted(name for name in wanted if held.get(name) != wanted[name]):
            raise ConfigError(
                f"holds a dataset of another {other[0]}: {held.get(other[0])!r}",
                where=str(out),
                mend="take another folder",
            )
    write_json(file, wanted)


def _shard_file(out: Path, number: int) -> Path:
    return out / "shards" / f"{number:05d}.json"


def _missing(
    out: Path, source: SceneSource, config: BuildConfig, found: _Found
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(number, scene ids) of shards that are not there yet; ends with the source, or when there are enough questions."""
    ids = itertools.islice(source.scene_ids(), config.max_scenes)
    for number in itertools.count():
        if found.enough() or not (chunk := tuple(itertools.islice(ids, config.scenes_per_shard))):
            return
        if not _shard_file(out, number).is_file():
            yield number, chunk


class _Found:
    """How many different questions the shards from 0 without a gap hold; each shard is read once."""

    def __init__(self, out: Path, wanted: int):
        self.out, self.wanted = out, wanted
        self.next, self.keys = 0, set[str]()

    def enough(self) -> bool:
        while len(self.keys) < self.wanted and (file := _shard_file(self.out, self.next)).is_file():
            self.keys.update(record["key"] for record in read_json(file)["records"])
            self.next += 1
        return len(self.keys) >= self.wanted


# --- one shard --------------------------------------------------------------------------------------------------------


def _make_shard(source: SceneSource, out: str, config: BuildConfig, job: tuple[int, tuple[str, ...]]) -> Any:
    """Ask, check and write the questions of a few scenes. Errors come back as values: they cross a process boundary."""
    number, ids = job
    wall, core = time.perf_counter(), time.process_time()
    records: list[dict[str, Any]] = []
    rejects: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    skipped: dict[str, str] = {}
    try:
        for scene_id in ids:
            try:
                scene = source.load(safe_id(scene_id))
                kept = _scene_records(source, scene, config, rejects, faults)
            except TraceworldError as error:
                skipped[scene_id] = str(error)
                continue
            if kept:
                _write_pictures(Path(out), scene)
            records += kept
        shard = {
            "records": records,
            "rejects": dict(rejects),
            "faults": dict(faults),
            "scenes": len(ids),
            "skipped": skipped,
        }
        write_json(_shard_file(Path(out), number), shard)
        timing = Path(out) / "timing" / f"{number:05d}.json"
        spent = {"seconds": time.perf_counter() - wall, "core_seconds": time.process_time() - core}
        write_json(timing, {**spent, "questions": len(records)})
    except TraceworldError as error:
        return error
    return number


def _scene_records(
    source: SceneSource, scene: Scene, config: BuildConfig, rejects: Counter[str], faults: Counter[str]
) -> list[dict[str, Any]]:
    facts = Facts(scene)
    picture = hashlib.sha256(np.ascontiguousarray(scene.image).tobytes()).hexdigest()[:16]
    records: list[dict[str, Any]] = []
    for place, view in enumerate(views(source, scene, config.seed, config.proposals)):
        families = dict(config.mix.per_scene) if place == 0 else {"trace": config.mix.per_scene.get("trace", 0)}
        asked = ask_all(view, Mix(families), config.seed) if sum(families.values()) else []
        rejects.update(view.rejects)
        for question in asked:
            program = {**question.program, "scene": view.fingerprint}
            if fault := check(scene, question.text, question.answer, program, facts):
                faults[f"{question.family}: {fault}"] += 1
                continue
            records.append(_record(scene, question, program, len(records), picture))
    return records


def _record(scene: Scene, question: Question, program: Mapping[str, Any], number: int, picture: str) -> dict[str, Any]:
    camera = scene.camera
    return {
        "id": f"{scene.scene_id}-{number:03d}",
        "key": hashlib.sha256(f"{picture}|{' '.join(question.text.lower().split())}".encode()).hexdigest()[:24],
        "image": [f"images/{scene.scene_id}.png"],
        "depth": [f"depth/{scene.scene_id}.png"],
        "conversations": [
            {"from": "human", "value": IMAGE_TOKEN + question.text},
            {"from": "gpt", "value": question.answer},
        ],
        "family": question.family,
        "steps": question.steps,
        "metric": question.metric,
        "metric_depth": scene.metric,
        "scene_id": scene.scene_id,
        "source": scene.source,
        "outdoor": scene.outdoor,
        "intrinsics": np.asarray(camera.K, np.float64).tolist(),
        "cam_from_world": np.asarray(camera.cam_from_world, np.float64).tolist(),
        "provenance": dict(program),
    }


def _write_pictures(out: Path, scene: Scene) -> None:
    depth_mm = np.rint(scene.depth_m.astype(np.float64) * 1000)
    depth_mm[depth_mm > MAX_DEPTH_MM] = 0
    for folder, pixels in (("images", scene.image[..., ::-1]), ("depth", depth_mm.astype(np.uint16))):
        done, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels))
        if not done:
            raise DatasetError("cannot be encoded as PNG", where=f"scene {scene.scene_id}")
        _put(out / folder / f"{scene.scene_id}.png", encoded.tobytes())


def _put(path: Path, data: bytes) -> None:
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


# --- the whole --------------------------------------------------------------------------------------------------------


def _finish(out: Path, config: BuildConfig, made: int) -> BuildReport:
    """Put the first N questions together and take away what lies beyond them."""
    shards: list[dict[str, Any]] = []
    unique: dict[str, dict[str, Any]] = {}
    while len(unique) < config.questions and (file := _shard_file(out, len(shards))).is_file():
        shards.append(read_json(file))
        for record in shards[-1]["records"]:
            unique.setdefault(record["key"], record)
    kept = list(unique.values())[: config.questions]
    records = [{name: value for name, value in record.items() if name != "key"} for record in kept]
    last = len(shards) - 1
    _tidy(out, last, {record["scene_id"] for record in records})
    text = "[\n" + ",\n".join(json.dumps(record, sort_keys=True, ensure_ascii=False) for record in records) + "\n]\n"
    write_atomically(out / TRAIN, lambda path: path.write_text(text, encoding="utf-8"))
    write_json(out / STATISTICS, statistics_of(records, shards))
    _collect_timing(out, last)
    scenes = sum(shard["scenes"] for shard in shards)
    return BuildReport(len(records), scenes, len(shards), made, len(records) == config.questions)


def _tidy(out: Path, last: int, scene_ids: set[str]) -> None:
    """Shards that workers made beyond the last one needed, and pictures that no question shows, would differ by chance."""
    for file in (out / "shards").glob("*.json"):
        if int(file.stem) > last:
            file.unlink()
    for folder in ("images", "depth"):
        for file in (out / folder).glob("*.png"):
            if file.stem not in scene_ids:
                file.unlink()


def _collect_timing(out: Path, last: int) -> None:
    """Seconds per shard into one file (those of earlier calls are kept)."""
    held = read_json(out / TIMING) if (out / TIMING).is_file() else {}
    for file in sorted((out / "timing").glob("*.json")):
        held[file.stem] = read_json(file)
    write_json(out / TIMING, {name: value for name, value in held.items() if int(name) <= last})
    shutil.rmtree(out / "timing", ignore_errors=True)


def read_records(out: str | Path) -> list[dict[str, Any]]:
    """The questions of a dataset.

    Raises:
        DatasetError: there is no finished dataset, or it is damaged.
    """
    path = Path(out) / TRAIN
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"cannot be read: {error}", where=str(path), mend="run `traceworld tracespatial build`"
        ) from error
    if not isinstance(records, list):
        raise DatasetError("is not a list of questions", where=str(path), mend="build it again")
    return records


def recheck(source: SceneSource, out: str | Path) -> dict[str, str]:
    """Check every question of a dataset once more, from the files as written; id → fault (empty: all are right).

    Raises:
        DatasetError: no finished dataset. TraceworldError: a scene cannot be made again.
    """
    faults: dict[str, str] = {}
    records = read_records(out)
    for scene_id, group in itertools.groupby(records, key=lambda record: record["scene_id"]):
        scene = source.load(scene_id)
        facts = Facts(scene)
        for record in group:
            asked, answer = (turn["value"] for turn in record["conversations"])
            if fault := check(scene, asked.removeprefix(IMAGE_TOKEN), answer, record["provenance"], facts):
                faults[record["id"]] = fault
    return faults
