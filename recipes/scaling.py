"""Scaling study in the shape of mu0-paper Table 7: data × width of the nano μ0, on a CPU.

    python recipes/scaling.py --out runs/scaling --corpus runs/mu0-nano    # episodes of another run's corpus; writes docs/results.md
    python recipes/scaling.py --out runs/scaling                           # simulates its own
    python recipes/scaling.py --out runs/smoke --smoke                     # all stages, tiny numbers; writes runs/smoke/results.md

Budget rule: every cell trains for the same number of optimiser steps of the same batch, with the same schedule, seed and test
set; the learning rate is the same for all widths. A part of the data is the first episodes of every task, so 5 % lies inside
20 %. Planned cost on two idle cores: 9 minutes of simulation (none with `--corpus`), `--minutes` (42) of training over the nine
cells, about 1,000 steps each, and 4 of scoring. Run it again to go on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from clips import choose_clips, episodes_by_task, part_of
from results import DOCUMENT, command, markdown_table, publish
from stages import finished, keep_options, machine, minutes_of, once, seconds_per_step, stage

from traceworld.errors import ConfigError
from traceworld.evaluation.forecast import evaluate_forecast
from traceworld.sim.corpus import build_corpus
from traceworld.sim.tasks import TRAINED, resolve_tasks
from traceworld.traces.store import open_dataset
from traceworld.training import TrainConfig

TEST_SEED = 1_000_003
MAIN = "topS_ade@32"
DTW = ("topS_dtw@8", "topS_dtw@16", "topS_dtw@32")
FREE = ("out", "sim_workers", "workers", "threads", "results", "smoke", "minutes")
"""Options that a study may be continued with other values of."""


@dataclass(frozen=True)
class Scaling:
    """
    Attributes:
        out: folder for corpora, runs and cells.
        corpus: take training and test episodes from the folder of a run of `mu0_nano.py` (its `train` and `unseen`).
        tasks: tasks of training and test.
        episodes: of each task: all of the data. Of another run's corpus as many are taken.
        test_episodes: of each task.
        fractions: parts of the data, ascending; the last is 1.
        sizes: widths, ascending.
        minutes: of training in all; the number of steps follows from a measurement of every width on this machine, once.
        steps: fix the number of steps of each cell instead.
        batch: windows per step.
        lr: learning rate.
        seed: of everything random.
        sim_workers: processes that simulate.
        workers: processes that read.
        threads: threads that train.
        results: document whose section `scaling` is written.
        smoke: tiny numbers, to see that all of it runs; writes `results.md` in `out`.
    """

    out: Path
    corpus: Path | None = None
    tasks: tuple[str, ...] = TRAINED
    episodes: int = 20
    test_episodes: int = 2
    fractions: tuple[float, ...] = (0.05, 0.2, 1.0)
    sizes: tuple[str, ...] = ("nano-1m", "nano-2m", "nano")
    minutes: float = 42.0
    steps: int | None = None
    batch: int = 16
    lr: float = 2e-3
    seed: int = 0
    sim_workers: int = 2
    workers: int = 1
    threads: int = 2
    results: Path = DOCUMENT
    smoke: bool = False

    def __post_init__(self):
        parts = self.fractions
        if not parts or list(parts) != sorted(set(parts)) or parts[0] <= 0 or parts[-1] != 1:
            raise ConfigError(f"is {parts}", where="fractions", mend="ascending parts of the data, the last one 1")
        if not self.sizes or len(set(self.sizes)) < len(self.sizes):
            raise ConfigError("names no size, or one twice", where="sizes")


def main(options: Scaling) -> dict[str, Any]:
    """Run all that is not done yet, write the document. Returns the figures."""
    if options.smoke:
        options = smoke(options)
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    plain = keep_options(out, {name: value for name, value in asdict(options).items() if name not in FREE})
    with stage(out, "simulate"):
        train, test = corpora(options)
    parts = {fraction: choose_part(options, train, fraction) for fraction in options.fractions}
    with stage(out, "train"):
        steps = steps_of(options, parts[1.0])
        runs = {cell: run_cell(options, *cell, parts[cell[1]], steps) for cell in cells_of(options)}
    with stage(out, "score"):
        scores = {cell: score(options, *cell, Path(run["model"]), test) for cell, run in runs.items()}
    found = once(
        out / "result.json",
        lambda: {
            "options": plain,
            "steps": steps,
            "episodes": {f"{fraction:g}": len(open_dataset(store).clip_ids) for fraction, store in parts.items()},
            "cells": [
                {"size": size, "fraction": fraction, "parameters": run["parameters"], **scores[size, fraction]}
                for (size, fraction), run in runs.items()
            ],
            "cost_minutes": minutes_of(out),
            "machine": machine(options.threads),
            "command": command("scaling"),
        },
    )
    copy = out / "results.md" if options.smoke else None
    publish(options.results, "scaling", section(found), instead=copy)
    return found


def smoke(options: Scaling) -> Scaling:
    """The same study with the smallest numbers that go through every stage."""
    return replace(
        options, tasks=options.tasks[:1], episodes=2, test_episodes=1, fractions=(0.2, 1.0), steps=2, batch=2
    )


# --- data -------------------------------------------------------------------------------------------------------------


def corpora(options: Scaling) -> tuple[Path, Path]:
    """Training and test episodes of the tasks: simulated as far as they are not there, or chosen from another run's."""
    wanted = (("train", options.episodes, options.seed), ("unseen", options.test_episodes, TEST_SEED))
    if options.corpus is None:
        for name, episodes, seed in wanted:
            build_corpus(options.out / name, options.tasks, episodes, seed=seed, workers=options.sim_workers)
    else:
        for name, episodes, _ in wanted:
            there = episodes_by_task(open_dataset(options.corpus / name))
            tasks = resolve_tasks(options.tasks)
            if short := [task for task in tasks if len(there.get(task, ())) < episodes]:
                raise ConfigError(
                    f"has fewer than {episodes} episodes of {short[0]}",
                    where=str(options.corpus / name),
                    mend="lower episodes or test_episodes, or simulate (without --corpus)",
                )
            chosen = [clip_id for task in tasks for clip_id in there[task][:episodes]]
            choose_clips(options.corpus / name, options.out / name, chosen)
    return options.out / "train", options.out / "unseen"


def choose_part(options: Scaling, train: Path, fraction: float) -> Path:
    """The store of a part of the data."""
    if fraction == 1:
        return train
    return choose_clips(train, options.out / f"train-{fraction:g}", part_of(open_dataset(train), fraction))


# --- cells ------------------------------------------------------------------------------------------------------------


def cells_of(options: Scaling) -> Iterator[tuple[str, float]]:
    """Size and part of the data of each cell, small ones first."""
    for size in options.sizes:
        for fraction in options.fractions:
            yield size, fraction


def config_of(options: Scaling, size: str, data: Path, out: Path, steps: int) -> TrainConfig:
    """The training of a cell: the recipe of mu0-nano, on plain time."""
    return TrainConfig(
        data=(str(data),),
        out=str(out),
        size=size,
        steps=steps,
        batch=options.batch,
        optimizer="muon",
        lr=options.lr,
        warmup=min(100, steps // 4),
        schedule="cosine",
        clip=1.0,
        ema=0.998,
        precision="bf16",
        keypoints=(8, 40),
        moving_share=0.9,
        history_drop_all=0.5,
        depth_drop=0.3,
        val_fraction=0.0,
        eval_every=0,
        checkpoint_every=100,
        seed=options.seed,
        workers=options.workers,
        threads=options.threads,
    )


def steps_of(options: Scaling, data: Path) -> int:
    """Steps of every cell: what fits into `minutes` for all of them together."""
    if options.steps is not None:
        return options.steps

    def plan() -> dict[str, Any]:
        trial = options.out / "calibration"
        seconds = {size: seconds_per_step(config_of(options, size, data, trial, 1), trial) for size in options.sizes}
        once_each = len(options.fractions) * sum(seconds.values())
        return {"seconds_per_step": seconds, "steps": max(1, round(60 * options.minutes / once_each))}

    return once(options.out / "plan.json", plan)["steps"]


def name_of(size: str, fraction: float) -> str:
    return f"{size}-{fraction:g}"


def run_cell(options: Scaling, size: str, fraction: float, data: Path, steps: int) -> dict[str, Any]:
    """Train a cell to its end."""
    folder = options.out / "cells" / name_of(size, fraction)
    return finished(config_of(options, size, data, folder, steps))


def score(options: Scaling, size: str, fraction: float, model: Path, test: Path) -> dict[str, Any]:
    """The cell's figures on the test episodes, kept."""

    def measured() -> dict[str, Any]:
        found = evaluate_forecast([str(model)], test, history=(False,))["models"][model.name]["no_history"]
        return {
            "ratio": found["ratio"][MAIN],
            "interval95": found["interval95"][MAIN],
            "dtw": {key: found["metrics"][key] for key in DTW},
        }

    return once(options.out / "scores" / f"{name_of(size, fraction)}.json", measured)


# --- in words ---------------------------------------------------------------------------------------------------------


def section(figures: Mapping[str, Any]) -> str:
    """The generated section: data × width, then the paper's own layout of Table 7, protocol and cost."""
    options, cells = figures["options"], {(cell["size"], cell["fraction"]): cell for cell in figures["cells"]}
    sizes, parts = options["sizes"], options["fractions"]
    head = ["data", *(f"{size} ({cells[size, 1.0]['parameters'] / 1e6:.1f}M)" for size in sizes)]
    table = [
        [f"{100 * part:g} % ({figures['episodes'][f'{part:g}']:,} episodes)"]
        + [_shown(cells[size, part]) for size in sizes]
        for part in parts
    ]
    cost = ", ".join(f"{name} {minutes:.0f}" for name, minutes in figures["cost_minutes"].items())
    largest = sizes[-1]
    in_layout = [
        *([f"{size}, all data", *_dtw(cells[size, 1.0])] for size in sizes),
        *([f"{100 * part:g} % of the data, {largest}", *_dtw(cells[largest, part])] for part in parts),
    ]
    return "\n".join(
        [
            f"Every cell: {figures['steps']:,} steps of {options['batch']} windows from random initialisation, Muon, learning rate "
            f"{options['lr']:g}, seed {options['seed']}; {len(resolve_tasks(options['tasks']))} tasks, a part of the data is the "
            f"first episodes of each. Test: {options['test_episodes']} unseen episodes of each task.",
            "",
            f'Error relative to "nothing moves" ({MAIN}, no history, lower is better) [95 % over clips].',
            "",
            markdown_table(head, table),
            "",
            "In the layout of Table 7, best-of-5 DTW (uvz):",
            "",
            markdown_table(["", "T=8", "16", "32"], in_layout),
            "",
            f"Cost in minutes on {figures['machine']['cpus']} CPU cores ({figures['machine']['arch']}): {cost}. Command:",
            "",
            "```bash",
            figures["command"],
            "```",
        ]
    )


def _dtw(cell: Mapping[str, Any]) -> list[str]:
    return [f"{cell['dtw'][key]:.4f}" for key in DTW]


def _shown(cell: Mapping[str, Any]) -> str:
    low, high = cell["interval95"]
    return f"{cell['ratio']:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    print(section(main(tyro.cli(Scaling))))
