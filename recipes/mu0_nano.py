"""Make the shipped `mu0-nano`: simulate, train, score, write the model card.

    python recipes/mu0_nano.py --out runs/mu0-nano                      # everything; run it again to go on
    python recipes/mu0_nano.py --out runs/mu0-nano --no-install         # leave the package's weights as they are

Every stage is resumable: simulation per block of episodes, training to the last step, the rest is quick. The five tasks of
`traceworld.sim.tasks.HELD_OUT` are never trained on; test episodes have seeds of their own. Needs no GPU and no download.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console

import traceworld
from traceworld.evaluation.forecast import evaluate_forecast, forecast_tables
from traceworld.models.checkpoint import load_checkpoint, save_checkpoint
from traceworld.sim.corpus import build_corpus
from traceworld.sim.tasks import HELD_OUT, TRAINED
from traceworld.training import TrainConfig, train

SHIPPED = Path(traceworld.__file__).parent / "models" / "weights" / "mu0-nano"
TEST_SEED = 1_000_003
CARRIED = tuple(
    f"{name}-v3"
    for name in (
        "assembly", "basketball", "bin-picking", "box-close", "disassemble", "hammer", "hand-insert",
        "peg-insert-side", "pick-out-of-hole", "pick-place", "pick-place-wall", "push-back", "shelf-place", "stick-pull",
    )
)  # fmt: skip
"""Trained tasks in which a thing is taken and carried: where it goes follows from two places, so they need more examples."""
_CALIBRATION_STEPS = 12


@dataclass(frozen=True)
class Recipe:
    """
    Attributes:
        out: folder for corpora, run and results.
        episodes: training episodes per task. carried_episodes: of the tasks of `CARRIED`; None: as of all. test_episodes: of
            each test set.
        tasks: train on these instead of all 45. held_out: and report these apart.
        minutes: of training; the number of steps follows from a measurement on this machine, once.
        steps: fix the number of steps instead.
        batch, lr, optimizer, init_from, warmup, ema, keypoints, arc_weight, seed, precision: see `TrainConfig`.
        sim_workers, workers, threads: processes that simulate, processes that read, threads that train.
        install: put the result into the package.
    """

    out: Path
    episodes: int = 110
    carried_episodes: int | None = 170
    test_episodes: int = 5
    tasks: tuple[str, ...] = TRAINED
    held_out: tuple[str, ...] = HELD_OUT
    minutes: float = 50.0
    steps: int | None = None
    batch: int = 16
    lr: float = 2e-3
    optimizer: Literal["adamw", "muon"] = "muon"
    init_from: str | None = None
    warmup: int = 200
    ema: float = 0.999
    keypoints: tuple[int, int] = (8, 40)
    arc_weight: float = 0.2
    precision: str = "bf16"
    seed: int = 0
    sim_workers: int = 2
    workers: int = 1
    threads: int = 2
    install: bool = True


def main(recipe: Recipe) -> dict[str, Any]:
    """Run all stages that are not done yet. Returns the figures of the model card."""
    out = recipe.out
    out.mkdir(parents=True, exist_ok=True)
    with stage(out, "simulate"):
        episodes: int | dict[str, int]
        for name, tasks, episodes, seed in (
            ("train", recipe.tasks, training_episodes(recipe), recipe.seed),
            ("unseen", recipe.tasks, recipe.test_episodes, TEST_SEED),
            ("held_out", recipe.held_out, recipe.test_episodes, TEST_SEED),
        ):
            build_corpus(out / name, tasks, episodes, seed=seed, workers=recipe.sim_workers)
    config = train_config(recipe)
    with stage(out, "train"):
        result = train(config)
    if result.status != "finished":
        raise SystemExit(f"training stopped at step {result.step}: run the same command again")
    earlier = origin(recipe.init_from)
    packed = pack(out, Path(result.model), earlier)
    with stage(out, "score"):
        scores = {
            clock: evaluate_forecast(
                [str(packed)], [out / "unseen", out / "held_out"], clock=clock, held_out=recipe.held_out
            )
            for clock in (("time", "arc") if recipe.arc_weight > 0 else ("time",))
        }
    figures = {
        "result": scores,
        "training": {
            "config": config.to_json(),
            "steps": result.step,
            "val": result.val,
            "parameters": result.parameters,
            "started_from": earlier,
        },
        "cost_minutes": json.loads((out / "minutes.json").read_text()),
        "machine": {
            "cpus": os.cpu_count(),
            "threads": recipe.threads,
            "arch": platform.machine(),
            "torch": torch.__version__,
        },
    }
    write(packed / "result.json", json.dumps(figures, indent=1, sort_keys=True) + "\n")
    write(packed / "README.md", card(recipe, figures))
    for file in packed.iterdir():
        file.chmod(0o644)
    if recipe.install:
        shutil.copytree(packed, SHIPPED, dirs_exist_ok=True)
    return figures


def training_episodes(recipe: Recipe) -> dict[str, int]:
    """How many episodes of each task are trained on."""
    carried = recipe.episodes if recipe.carried_episodes is None else recipe.carried_episodes
    return {task: carried if task in CARRIED else recipe.episodes for task in recipe.tasks}


def train_config(recipe: Recipe) -> TrainConfig:
    """The run, with the number of steps that fit into `minutes` on this machine (measured once and written down)."""

    def config(out: Path, steps: int) -> TrainConfig:
        return TrainConfig(
            data=(str(recipe.out / "train"),),
            out=str(out),
            size="nano",
            steps=steps,
            batch=recipe.batch,
            optimizer=recipe.optimizer,
            lr=recipe.lr,
            init_from=recipe.init_from,
            warmup=min(recipe.warmup, steps // 4),
            schedule="cosine",
            clip=1.0,
            ema=recipe.ema,
            precision="bf16" if recipe.precision == "bf16" else "fp32",
            arc_weight=recipe.arc_weight,
            keypoints=recipe.keypoints,
            moving_share=0.9,
            history_drop_all=0.5,
            depth_drop=0.3,
            val_fraction=0.03,
            eval_every=500,
            checkpoint_every=500,
            seed=recipe.seed,
            workers=recipe.workers,
            threads=recipe.threads,
        )

    plan = recipe.out / "plan.json"
    if recipe.steps is not None:
        return config(recipe.out / "run", recipe.steps)
    if not plan.exists():
        trial = recipe.out / "calibration"
        shutil.rmtree(trial, ignore_errors=True)
        rate = train(config(trial, _CALIBRATION_STEPS)).samples_per_s
        shutil.rmtree(trial)
        steps = max(1, round(60 * recipe.minutes * rate / recipe.batch))
        write(plan, json.dumps({"windows_per_s": rate, "steps": steps}) + "\n")
    return config(recipe.out / "run", json.loads(plan.read_text())["steps"])


def pack(out: Path, model: Path, earlier: dict[str, Any] | None) -> Path:
    """The averaged weights as fp16: what is shipped is what is scored."""
    found = load_checkpoint(model)
    extra = {**found.extra, "started_from": earlier}
    return save_checkpoint(out / "mu0-nano", found.model, found.normalisation, extra, dtype="float16")


def card(recipe: Recipe, figures: dict[str, Any]) -> str:
    """The model card, from measured figures only."""
    scores, cost, training = figures["result"], figures["cost_minutes"], figures["training"]
    main_key = scores["time"]["protocol"]["main"]
    first = main_key.replace("topS", "top1")
    lines = [
        "# mu0-nano",
        "",
        "A small μ0 (arXiv 2606.13769 §3) that predicts 3D traces from one picture and an instruction, trained from scratch on",
        f"simulated Meta-World episodes. {training['parameters']:,} parameters, stored as float16. Made by `recipes/mu0_nano.py`.",
        "",
        f"- Data: {sum(training_episodes(recipe).values()):,} episodes of {len(recipe.tasks)} tasks with exact traces "
        f"({recipe.episodes} of each"
        + (f", {recipe.carried_episodes} where a thing is carried" if recipe.carried_episodes is not None else "")
        + f"); never trained on: {', '.join(recipe.held_out)}.",
        *(f"- {line}" for line in history(training)),
        f"- Cost on {figures['machine']['cpus']} CPU cores ({figures['machine']['arch']}), minutes: "
        + ", ".join(f"{name} {minutes:.0f}" for name, minutes in cost.items())
        + ".",
        "",
        f'Unseen episodes, moving points, 32 steps, best of 5 and first sample; × = ratio to "nothing moves" '
        f"({main_key}, {first}; 95 % interval over clips).",
        "",
        "| clock | model | history | best of 5 | × | 95 % | first | × | × trained tasks | × held-out tasks |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for clock, report in scores.items():
        for name, model in report["models"].items():
            for setting in ("no_history", "history"):
                found = model[setting]
                low, high = found["interval95"][main_key]
                groups = [
                    found["by_group"].get(group, {}).get(f"ratio_{main_key}") for group in ("trained", "held_out")
                ]
                lines.append(
                    f"| {clock} | {name} | {'yes' if setting == 'history' else 'no'} | {found['metrics'][main_key]:.4f} "
                    f"| {found['ratio'][main_key]:.3f} | {low:.3f}–{high:.3f} | {found['metrics'][first]:.4f} "
                    f"| {found['ratio'][first]:.3f} | "
                    + " | ".join("" if g is None else f"{g:.3f}" for g in groups)
                    + " |"
                )
    lines += [
        "",
        "Limits: one robot, one table, rendered pictures; instructions are one sentence per task; no real video was seen.",
        "",
    ]
    return "\n".join(lines)


def history(training: dict[str, Any]) -> list[str]:
    """One line for each run that the weights went through, the first one first."""
    config = training["config"]
    line = (
        f"Training: {training['steps']} steps of {config['batch']} windows, {config['optimizer']}, learning rate "
        f"{config['lr']:g}, {config['schedule']}; result = average of the weights ({config['ema']:g})."
    )
    earlier = training.get("started_from")
    return [line] if earlier is None else [*history(earlier), f"{line} It started from the weights of the run before."]


def origin(checkpoint: str | None) -> dict[str, Any] | None:
    """What a checkpoint that training starts from says of its own training."""
    if checkpoint is None:
        return None
    extra = load_checkpoint(Path(checkpoint)).extra
    config = {**TrainConfig(data=("",), out="").to_json(), **extra["training"]}  # options that came later
    return {"config": config, "steps": extra["step"], "started_from": extra.get("started_from")}


@contextmanager
def stage(out: Path, name: str) -> Iterator[None]:
    """Adds the minutes of a stage to `minutes.json`, over all restarts."""
    started, file = time.monotonic(), out / "minutes.json"
    logging.getLogger("recipe").info("%s …", name)
    try:
        yield
    finally:
        spent = json.loads(file.read_text()) if file.exists() else {}
        spent[name] = round(spent.get(name, 0.0) + (time.monotonic() - started) / 60, 2)
        write(file, json.dumps(spent) + "\n")


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    made = main(tyro.cli(Recipe))
    for report in made["result"].values():
        Console(width=160).print(forecast_tables(report))
