"""Few-shot transfer in simulation: what the TraceGen page claims of warm-up and pre-training source, with intervals.

    python recipes/fewshot.py --out runs/fewshot                 # everything; run it again to go on; writes docs/results.md
    python recipes/fewshot.py --out runs/smoke --smoke           # all stages with tiny numbers; writes runs/smoke/results.md
    python recipes/fewshot.py --out runs/shipped --shipped mu0-nano --size nano    # a shipped model instead of pre-training

Pre-train a small μ0 on other arms and other tasks. Then, for each held-out task on a held-out arm, warm up on 5 or 15 episodes,
and compare with random initialisation and with partial sources (the hand alone, the other robots alone), by the error on unseen
episodes of that task and arm. Planned cost on two idle cores: 10 minutes of simulation, 24 of pre-training (three sources, 8
each), 27 of warm-up and test (72 warm-ups of 200 steps, two at a time; 0.2 s a step and core). Stages and cells that are done
are not done again; more seeds can be added to a finished study.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from clips import choose_clips, episodes_by_task
from fewshot_table import FIRST, MAIN, section, summary, verdict_lines
from results import DOCUMENT, command, publish
from stages import finished, keep_options, machine, minutes_of, once, seconds_per_step, stage

from traceworld.errors import ConfigError
from traceworld.evaluation.forecast import REFERENCE, evaluate_forecast
from traceworld.models.describe import count_parameters
from traceworld.models.predictor import WEIGHTS
from traceworld.sim.corpus import build_corpus
from traceworld.sim.embodiments import EMBODIMENTS, check_embodiment
from traceworld.sim.tasks import HELD_OUT, TRAINED, resolve_tasks
from traceworld.sim.variety import Variety
from traceworld.sim.workers import worker_pool
from traceworld.traces.store import open_dataset
from traceworld.training import TrainConfig

HAND = "hand-like"
TARGET_SEED = 2_000_003
FREE = ("out", "seeds", "jobs", "sim_workers", "threads", "results", "smoke", "minutes_pretrain")
"""Options that a study may be continued with other values of."""
log = logging.getLogger("recipe")


@dataclass(frozen=True)
class FewShot:
    """
    Attributes:
        out: folder for corpora, runs and cells.
        shipped: take this shipped model, of the size `size`, as the pre-trained one; no partial sources then. It must not have
            seen the arm, nor the tasks.
        arm: the held-out embodiment: nobody else plays in warm-up and test.
        tasks: held-out tasks.
        source_tasks: those in which partial sources are compared, as on the page two of them.
        pretrain_tasks: tasks of pre-training.
        episodes: of pre-training, of each task by each other embodiment.
        variety: draw the look of pre-training episodes.
        videos: few and more warm-up episodes.
        seeds: repetitions, each with warm-up and test episodes of its own; two at least.
        test_episodes: of each task and seed.
        pictures: frames of each target episode that have a picture, so that a video is more than a few frames.
        size: of the μ0.
        minutes_pretrain: for each source; the number of steps follows from a measurement on this machine, once.
        steps_pretrain: fix the number of steps instead.
        steps_warmup: of every warm-up.
        steps_random: give random initialisation so many instead.
        lr_pretrain: learning rate from scratch, in pre-training and for random initialisation.
        lr_warmup: learning rate of a pre-trained model's warm-up.
        batch_pretrain: windows per step of pre-training.
        batch_warmup: windows per step of warm-up.
        jobs: warm-ups at a time, one thread each; 0: in this process.
        sim_workers: processes that simulate.
        threads: threads that pre-train.
        results: document whose section `fewshot` is written.
        smoke: tiny numbers, to see that all of it runs; writes `results.md` in `out`.
    """

    out: Path
    shipped: str | None = None
    arm: str = "other-arm"
    tasks: tuple[str, ...] = HELD_OUT
    source_tasks: tuple[str, ...] = ("coffee-pull-v3", "door-close-v3")
    pretrain_tasks: tuple[str, ...] = TRAINED
    episodes: int = 4
    variety: bool = False
    videos: tuple[int, int] = (5, 15)
    seeds: int = 3
    test_episodes: int = 8
    pictures: int = 24
    size: str = "nano-1m"
    minutes_pretrain: float = 8.0
    steps_pretrain: int | None = None
    steps_warmup: int = 200
    steps_random: int | None = None
    lr_pretrain: float = 2e-3
    lr_warmup: float = 1e-3
    batch_pretrain: int = 16
    batch_warmup: int = 8
    jobs: int = 2
    sim_workers: int = 2
    threads: int = 2
    results: Path = DOCUMENT
    smoke: bool = False

    def __post_init__(self):
        check_embodiment(self.arm)
        if self.arm == HAND:
            raise ConfigError("leaves no hand to pre-train on", where="arm", mend="hold out a robot")
        if self.shipped is not None and not (WEIGHTS / self.shipped / "config.json").exists():
            raise ConfigError(f"'{self.shipped}' does not ship with this library", where="shipped", mend="mu0-nano")
        if shared := sorted(set(resolve_tasks(self.tasks)) & set(resolve_tasks(self.pretrain_tasks))):
            raise ConfigError(f"shares {shared[0]} with pretrain_tasks", where="tasks", mend="hold it out of one")
        if not self.source_tasks or not set(self.source_tasks) <= set(resolve_tasks(self.tasks)):
            raise ConfigError("must be some of the tasks", where="source_tasks", mend="name them in full")
        if not 1 <= self.videos[0] < self.videos[1] or self.seeds < 2:
            raise ConfigError("few, then more videos, and two seeds at least", where="videos, seeds")


@dataclass(frozen=True)
class Cell:
    """One warm-up and its test: a row (source of the weights, videos of warm-up), a task, a seed."""

    source: str
    videos: int
    task: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.source}-{self.videos}/{self.task}-{self.seed}"


@dataclass(frozen=True)
class Job:
    """What a process needs for a cell. `train` is None where the pre-trained weights are tested as they are."""

    cell: Cell
    train: TrainConfig | None
    model: Path
    test: Path
    result: Path


def main(options: FewShot) -> dict[str, Any]:
    """Run all that is not done yet, write the document. Returns the figures."""
    if options.smoke:
        options = smoke(options)
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    plain = keep_options(out, {name: value for name, value in asdict(options).items() if name not in FREE})
    with stage(out, "simulate"):
        simulate(options)
    with stage(out, "pre-train"):
        pretrained = pretrain(options)
    with stage(out, "warm up"):
        cells = warm_up(options, pretrained)
    figures = {
        **summary(cells, options.videos, () if options.shipped else options.source_tasks),
        "options": {**plain, "seeds": options.seeds, "tasks": list(resolve_tasks(options.tasks))},
        "sources": sources(options),
        "pretrain_episodes": sum(len(open_dataset(store)) for store in stores(options, "all"))
        if not options.shipped
        else None,
        "pretrain_steps": pretrained["all"]["step"],
        "parameters": pretrained["all"]["parameters"],
        "cost_minutes": minutes_of(out),
        "machine": machine(options.threads),
        "command": command("fewshot"),
    }
    # The cost is that of the study, not of looking at it again.
    figures = once(out / f"result-{options.seeds}.json", lambda: figures)
    copy = out / "results.md" if options.smoke else None
    publish(options.results, "fewshot-shipped" if options.shipped else "fewshot", section(figures), instead=copy)
    return figures


def smoke(options: FewShot) -> FewShot:
    """The same study with the smallest numbers that go through every stage."""
    return replace(
        options,
        tasks=options.source_tasks[:1],
        source_tasks=options.source_tasks[:1],
        pretrain_tasks=options.pretrain_tasks[:1],
        episodes=1,
        videos=(1, 2),
        seeds=2,
        test_episodes=1,
        pictures=6,
        steps_pretrain=3,
        steps_warmup=2,
        batch_pretrain=2,
        batch_warmup=2,
    )


# --- data -------------------------------------------------------------------------------------------------------------


def sources(options: FewShot) -> dict[str, list[str]]:
    """Who plays in each source of pre-training."""
    if options.shipped:
        return {"all": [options.shipped]}
    others = [name for name in EMBODIMENTS if name != options.arm]
    return {"all": others, "hand": [HAND], "robots": [name for name in others if name != HAND]}


def stores(options: FewShot, source: str) -> list[Path]:
    """The clip stores of a source: one per embodiment, so that a partial source is a part of the whole one."""
    return [options.out / "pretrain" / name for name in sources(options)[source]]


def simulate(options: FewShot) -> None:
    """Episodes of pre-training, each embodiment with motions of its own, and those of the target."""
    look = Variety() if options.variety else None
    for number, name in enumerate(EMBODIMENTS):
        if name != options.arm and not options.shipped:
            build_corpus(
                options.out / "pretrain" / name,
                options.pretrain_tasks,
                options.episodes,
                seed=number,
                workers=options.sim_workers,
                embodiments=(name,),
                variety=look,
            )
    build_corpus(
        options.out / "target",
        options.tasks,
        options.seeds * (options.videos[1] + options.test_episodes),
        seed=TARGET_SEED,
        workers=options.sim_workers,
        embodiments=(options.arm,),
        pictures_per_episode=options.pictures,
    )


def share_out(options: FewShot, task: str, seed: int) -> dict[str, list[str]]:
    """The target episodes of a task and seed: `test`, and for each number of videos its warm-up; few are among more."""
    most, each = options.videos[1], options.videos[1] + options.test_episodes
    episodes = episodes_by_task(open_dataset(options.out / "target"))[task]
    mine = episodes[seed * each : (seed + 1) * each]
    return {"test": mine[most:], **{str(count): mine[:count] for count in options.videos}}


# --- training ---------------------------------------------------------------------------------------------------------


def base_config(options: FewShot, data: list[Path], out: Path, steps: int) -> TrainConfig:
    """What pre-training and warm-up have in common: the recipe of mu0-nano, on plain time."""
    return TrainConfig(
        data=tuple(map(str, data)),
        out=str(out),
        size=options.size,
        steps=steps,
        optimizer="muon",
        schedule="cosine",
        clip=1.0,
        precision="bf16",
        keypoints=(8, 40),
        moving_share=0.9,
        history_drop_all=0.5,
        depth_drop=0.3,
        eval_every=0,
    )


def pretrain(options: FewShot) -> dict[str, dict[str, Any]]:
    """Train each source for the same number of steps. Returns how each run ended."""
    if options.shipped:
        parameters = count_parameters("mu0", options.size)["trainable"]
        return {"all": {"model": str(WEIGHTS / options.shipped), "step": None, "parameters": parameters}}

    def config(source: str, steps: int) -> TrainConfig:
        return replace(
            base_config(options, stores(options, source), options.out / "pretrain" / f"run-{source}", steps),
            batch=options.batch_pretrain,
            lr=options.lr_pretrain,
            warmup=min(100, steps // 4),
            ema=0.998,
            val_fraction=0.03,
            checkpoint_every=200,
            workers=1 if options.jobs else 0,
            threads=options.threads,
        )

    steps = options.steps_pretrain
    if steps is None:

        def plan() -> dict[str, Any]:
            seconds = seconds_per_step(config("all", 1), options.out / "calibration")
            return {"seconds_per_step": seconds, "steps": max(1, round(60 * options.minutes_pretrain / seconds))}

        steps = once(options.out / "plan.json", plan)["steps"]
    return {source: finished(config(source, steps)) for source in sources(options)}


def cells_of(options: FewShot) -> Iterator[Cell]:
    """All cells of the study, seed by seed: a study that is stopped has fewer seeds."""
    few, more = options.videos
    rows = [("random", few), ("all", few), ("random", more), ("all", more), ("all", 0)]
    partial = [("hand", few), ("robots", few)]
    for seed in range(options.seeds):
        for task in resolve_tasks(options.tasks):
            parts = partial if task in options.source_tasks and not options.shipped else []
            for source, videos in [*rows, *parts]:
                yield Cell(source, videos, task, seed)


def job_of(options: FewShot, cell: Cell, pretrained: dict[str, dict[str, Any]]) -> Job:
    """The cell with its clips chosen."""
    out, folder = options.out, options.out / "cells" / cell.name
    shares = share_out(options, cell.task, cell.seed)
    place = out / "chosen" / f"{cell.task}-{cell.seed}"
    test = choose_clips(out / "target", place / "test", shares["test"])
    fresh = cell.source == "random"
    weights = None if fresh else pretrained[cell.source]["model"]
    train = None
    if cell.videos:
        clips = choose_clips(out / "target", place / str(cell.videos), shares[str(cell.videos)])
        open_dataset(clips).cache()  # here, where nobody else builds it at the same time
        steps = (options.steps_random or options.steps_warmup) if fresh else options.steps_warmup
        train = replace(
            base_config(options, [clips], folder, steps),
            batch=options.batch_warmup,
            lr=options.lr_pretrain if fresh else options.lr_warmup,
            warmup=min(20, steps // 4),
            ema=0.98,
            val_fraction=0.0,
            checkpoint_every=0,
            init_from=weights,
            seed=1 + cell.seed,
            workers=0,
            threads=1,
        )
    return Job(cell, train, Path(weights) if train is None else folder / "model", test, folder.with_suffix(".json"))


def warm_up(options: FewShot, pretrained: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of all cells; those that are there are not made again."""
    jobs = [job_of(options, cell, pretrained) for cell in cells_of(options)]
    todo = [job for job in jobs if not job.result.exists()]
    log.info("%d of %d cells to do", len(todo), len(jobs))
    if options.jobs == 0:
        for job in todo:
            run_cell(job)
    elif todo:
        with worker_pool(options.jobs, torch.set_num_threads, 1) as pool:
            running = [pool.submit(run_cell, job) for job in todo]
            try:
                for number, future in enumerate(as_completed(running), 1):
                    log.info("%s done, %d/%d", future.result(), number, len(todo))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return [json.loads(job.result.read_text()) for job in jobs]


def run_cell(job: Job) -> str:
    """Warm up, test, and leave nothing but the result. Returns the cell's name."""

    def measured() -> dict[str, Any]:
        run = None if job.train is None else finished(job.train)
        report = evaluate_forecast([str(job.model)], job.test, history=(False,), held_out=())
        model = report["models"][job.model.name]["no_history"]
        still = report["models"][REFERENCE]["no_history"]["metrics"]
        return {
            **asdict(job.cell),
            **{figure: model["ratio"][figure] for figure in (MAIN, FIRST)},
            "nothing_moves": {figure: still[figure] for figure in (MAIN, FIRST)},
            "windows": report["windows"],
            "keypoints": report["keypoints"],
            "steps": 0 if run is None else run["step"],
            "minutes": 0.0 if run is None else run["minutes"],
        }

    once(job.result, measured)
    if job.train is not None:
        shutil.rmtree(job.train.out, ignore_errors=True)
    return job.cell.name


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    made = main(tyro.cli(FewShot))
    few, more = made["options"]["videos"]
    print("\n".join(verdict_lines(made["verdict"], few, more)))
