"""The one training loop: any registered model, any windows, any number of processes, resumable to the last bit.

Everything random in step s follows from (seed, s), and the order of the data from (seed, draw number), so weights,
optimizer and the number of steps done are all the state there is. A run killed at any moment and started again ends with
the same weights as one that never stopped (same machine, same number of threads and ranks).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from traceworld.training import checkpoints
from traceworld.training.config import TrainConfig
from traceworld.training.data import Batch, DrawOrder, TrainingWindows, training_batches, validation_batches
from traceworld.training.distributed import join_world
from traceworld.training.draws import seed_of
from traceworld.training.interrupt import StopSignal, torch_threads
from traceworld.training.log import RunLog
from traceworld.training.recipes import differences
from traceworld.training.registry import ModelKind
from traceworld.training.run import Run, start_run
from traceworld.training.sources import TrainingData
from traceworld.training.step import evaluate, one_step

_VALIDATION = 22  # keeps the random streams of one seed apart


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        status: `finished` (all steps done), `out_of_time` (max_minutes) or `interrupted` (SIGTERM, SIGINT).
        step: optimiser steps done in all. model: predictor checkpoint of the result (averaged weights if `ema`).
        checkpoint: newest checkpoint. best_step, best_loss: lowest fixed validation loss seen at a checkpoint.
        val: the last validation, parts by name. minutes: of this process. samples_per_s: windows per second of training.
        parameters, trained_parameters: of the model.
    """

    status: str
    step: int
    model: str
    checkpoint: str
    best_step: int | None
    best_loss: float | None
    val: dict[str, float]
    minutes: float
    samples_per_s: float
    parameters: int
    trained_parameters: int


def train(config: TrainConfig, data: TrainingData | None = None, kind: ModelKind | None = None) -> TrainResult:
    """Train a model, or continue the run found in `config.out`.

    Args:
        config: all options.
        data: windows to train on instead of those of `config.data` (for data that is in no clip store).
        kind: what is trained, instead of what is registered as `config.model` (for models with options of their own).
    Raises:
        ConfigError: an option is unknown or impossible, or the run in `out` was started with others.
        DatasetError: a store is missing or yields no windows.
        CheckpointError: `init_from` or a checkpoint of the run does not fit.
        NonFiniteLossError: the loss became NaN; names the step and the windows.
        RankLostError: another process of the run died; the same command goes on from the last checkpoint.
    """
    out = Path(config.out)
    with (
        join_world(config.device) as world,
        torch.random.fork_rng(devices=[]),
        torch_threads(config.threads),
        StopSignal() as stop,
    ):
        out.mkdir(parents=True, exist_ok=True)
        run = start_run(config, out, data, world, kind)
        with RunLog(out, config, start=run.state.step, writes=world.leads) as record:
            record.write("start", _description(run))
            status, seconds, seen = _steps(run, out, record, stop)
        result = _result(run, out, status, seconds, seen)
        if world.leads:
            _write_json(out / "result.json", asdict(result))
        world.wait()
    return result


def _description(run: Run) -> dict[str, Any]:
    """What this start of the run uses."""
    config = run.config
    return {
        "step": run.state.step,
        "ranks": run.world.size,
        "device": str(run.device),
        "torch": torch.__version__,
        "config": config.to_json(),
        "recipe_differences": differences(config),
        "time": time.time(),
    }


# --- steps -----------------------------------------------------------------------------------------------------------


def _steps(run: Run, out: Path, record: RunLog, stop: StopSignal) -> tuple[str, float, int]:
    """Run until done, out of time or told to stop. Returns the status, seconds of training and windows seen."""
    config = run.config
    begun = time.monotonic()
    training_s, seen, status = 0.0, 0, "finished"
    batches = _batches(run)
    while run.state.step < config.steps:
        start = time.monotonic()
        entry = one_step(run, batches)
        spent = time.monotonic() - start
        training_s += spent
        step = run.state.step + 1
        run.state = replace(run.state, step=step)
        seen += config.batch * config.grad_accumulation
        if config.log_every and step % config.log_every == 0:
            rate = config.batch * config.grad_accumulation / spent
            record.write("step", {"step": step, **entry, "samples_per_s": round(rate, 2), "time": time.time()})
        record.advance(step, f"loss {entry['loss']:.4f}")
        late = config.max_minutes is not None and time.monotonic() - begun >= 60 * config.max_minutes
        asked, late = run.world.any(stop.asked, late)  # all ranks end after the same step
        if asked or late:
            status = "interrupted" if asked else "out_of_time"
        ending = status != "finished" or step == config.steps
        better = False
        if _due(config.eval_every, step) or (ending and status != "interrupted"):
            better = _validate(run, record)
        if _due(config.checkpoint_every, step) or ending or better:
            _checkpoint(run, out)
        if status != "finished":
            break
    if not run.last_val and status == "finished":  # continued after its end: only the report is missing
        _validate(run, record)
    return (status if run.state.step < config.steps else "finished"), training_s, seen


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _batches(run: Run) -> Iterator[Batch]:
    config = run.config
    if run.state.step >= config.steps:
        return iter(())
    order = DrawOrder([len(s) for s in run.data.train], run.data.weights, config.seed)
    windows = TrainingWindows(run.data.train, order, config.seed, config.colour_jitter, config.depth_noise_m)
    per_step = config.grad_accumulation
    return training_batches(
        windows,
        start=run.state.step * per_step,
        count=(config.steps - run.state.step) * per_step,
        batch=config.batch,
        workers=config.workers,
        rank=run.world.rank,
        size=run.world.size,
        pin=run.device.type == "cuda",
    )


# --- validation and checkpoints --------------------------------------------------------------------------------------


@torch.no_grad()
def _validate(run: Run, record: RunLog) -> bool:
    """Mean loss over windows, keypoints, noise and τ that are the same at every call (no choice by lucky noise).

    Returns whether it is the lowest so far.
    """
    config, world = run.config, run.world
    if not run.validation:
        run.validation = validation_batches(
            run.data.val,
            windows=config.val_windows,
            batch=config.batch,
            seed=seed_of(config.seed, _VALIDATION),
            rank=world.rank,
            size=world.size,
        )
    if not run.validation:
        return False
    run.model.eval()
    total: dict[str, float] = {}
    count = 0
    with run.ema.in_place_of(run.model) if run.ema else contextlib.nullcontext():
        for number, (rows, batch) in enumerate(run.validation):
            generator = torch.Generator(device=run.device).manual_seed(seed_of(config.seed, _VALIDATION, number))
            _, parts = evaluate(run, batch, generator, rows)
            count += rows.total
            for name, value in parts().items():
                total[name] = total.get(name, 0.0) + value * rows.total
    run.last_val = {name: value / count for name, value in total.items()}
    record.write("val", {"step": run.state.step, **run.last_val, "windows": count, "time": time.time()})
    best = run.state.best_loss
    if best is not None and run.last_val["loss"] >= best:
        return False
    run.state = replace(run.state, best_step=run.state.step, best_loss=run.last_val["loss"])
    return True


def _checkpoint(run: Run, out: Path) -> None:
    """Write a checkpoint of now; keep it and the best one. Every rank gives its part, rank 0 writes."""
    step, leads = run.state.step, run.world.leads

    def save(folder: Path) -> None:
        model = run.whole_model()
        if leads:
            run.kind.save(folder, model, run.data.normalisation, {"step": step})

    def fill(folder: Path) -> None:
        save(folder / "model")
        if run.ema:
            with run.ema.in_place_of(run.model):
                save(folder / "ema")
        tensors = checkpoints.optimizer_tensors(run.model, run.optimizer, keep=leads)
        if leads:
            checkpoints.write_trainer(folder, tensors, run.state)

    folder = checkpoints.folder_of(out, step)
    if leads:
        checkpoints.write_whole(folder, fill)
        checkpoints.sweep(out, {step, run.state.best_step or step})
    else:
        fill(folder)


def _result(run: Run, out: Path, status: str, seconds: float, seen: int) -> TrainResult:
    """Write `<out>/model`, the predictor checkpoint of the result, and say how the run went."""
    state = run.state

    with run.ema.in_place_of(run.model) if run.ema else contextlib.nullcontext():
        model = run.whole_model()
        extra = {"step": state.step, "status": status, "val": run.last_val, "training": state.config}
        if run.world.leads:
            checkpoints.write_whole(
                out / "model", lambda folder: run.kind.save(folder, model, run.data.normalisation, extra)
            )
    parameters = list(run.model.parameters())
    return TrainResult(
        status=status,
        step=state.step,
        model=str(out / "model"),
        checkpoint=str(checkpoints.folder_of(out, state.step)),
        best_step=state.best_step,
        best_loss=state.best_loss,
        val=run.last_val,
        minutes=seconds / 60,
        samples_per_s=seen / seconds if seconds else 0.0,
        parameters=sum(p.numel() for p in parameters),
        trained_parameters=sum(p.numel() for p in parameters if p.requires_grad),
    )


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")
    os.replace(temporary, path)
