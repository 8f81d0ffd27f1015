"""The one training loop: any registered model, any windows, resumable to the last bit.

Everything random in step s follows from (seed, s), and the order of the data from (seed, draw number), so weights,
optimizer and the number of steps done are all the state there is. A run killed at any moment and started again ends with
the same weights as one that never stopped (same machine, same number of threads).
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from traceworld.errors import ConfigError, NonFiniteLossError
from traceworld.training import checkpoints
from traceworld.training.checkpoints import TrainerState
from traceworld.training.config import TrainConfig, refuse_other_run
from traceworld.training.data import Batch, DrawOrder, TrainingWindows, to_device, training_batches, validation_batches
from traceworld.training.log import RunLog
from traceworld.training.optim import Ema, Optimizers, build_optimizers, learning_rate
from traceworld.training.registry import ModelKind, model_kind
from traceworld.training.sources import TrainingData, open_training_data

log = logging.getLogger(__name__)

_NOISE, _VALIDATION = 21, 22  # keep the random streams of one seed apart


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


@dataclass
class _Run:
    """The living parts of a run."""

    config: TrainConfig
    kind: ModelKind
    model: Any
    optimizer: Optimizers
    ema: Ema | None
    device: torch.device
    data: TrainingData
    state: TrainerState
    validation: list[Batch]
    last_val: dict[str, float]


def train(config: TrainConfig, data: TrainingData | None = None) -> TrainResult:
    """Train a model, or continue the run found in `config.out`.

    Args:
        config: all options.
        data: windows to train on instead of those of `config.data` (for data that is in no clip store).
    Raises:
        ConfigError: an option is unknown or impossible, or the run in `out` was started with others.
        DatasetError: a store is missing or yields no windows.
        CheckpointError: `init_from` or a checkpoint of the run does not fit.
        NonFiniteLossError: the loss became NaN; names the step and the windows.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]), _threads(config.threads), _StopSignal() as stop:
        run = _start(config, out, data)
        with RunLog(out, start=run.state.step, steps=config.steps) as record:
            status, seconds, seen = _steps(run, out, record, stop)
    result = _result(run, out, status, seconds, seen)
    _write_json(out / "result.json", asdict(result))
    return result


# --- start -----------------------------------------------------------------------------------------------------------


def _start(config: TrainConfig, out: Path, data: TrainingData | None) -> _Run:
    kind = model_kind(config.model)
    found = checkpoints.steps_on_disk(out)
    newest = checkpoints.folder_of(out, found[-1]) if found else None
    state = TrainerState(0, config.to_json())
    if newest:
        state = checkpoints.read_state(newest)
        refuse_other_run(state.config, config)
        state = replace(state, config=config.to_json())
        log.info("continuing %s at step %d", out, state.step)
    device = _device(config.device)
    torch.manual_seed(config.seed)
    model = kind.build(config)
    if config.gradient_checkpointing:
        _enable_checkpointing(model)
    ema, scales = None, None
    if newest and config.ema:
        kind.load(newest / "ema", model)
        ema = Ema(model.to(device), config.ema)
    if newest:
        scales = kind.load(newest / "model", model)
    elif config.init_from:
        scales = kind.load(Path(config.init_from), model)
    data = data or open_training_data(config, config.image_size or kind.image_size(model), scales)
    kind.set_normalisation(model, data.normalisation)
    model = model.to(device)
    if config.ema and ema is None:
        ema = Ema(model, config.ema)
    optimizer = build_optimizers(model, config, kind.is_backbone)
    if newest:
        checkpoints.read_optimizer(newest, model, optimizer)
    return _Run(config, kind, model, optimizer, ema, device, data, state, [], {})


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"'{name}' is no device", where="TrainConfig.device", mend="auto, cpu, cuda") from error


def _enable_checkpointing(model: nn.Module) -> None:
    enable = getattr(model, "enable_gradient_checkpointing", None)
    if enable is None:
        raise ConfigError(
            "this model cannot recompute its activations",
            where="TrainConfig.gradient_checkpointing",
            mend="leave the option off",
        )
    enable()


# --- steps -----------------------------------------------------------------------------------------------------------


def _steps(run: _Run, out: Path, record: RunLog, stop: _StopSignal) -> tuple[str, float, int]:
    """Run until done, out of time or told to stop. Returns the status, seconds of training and windows seen."""
    config = run.config
    begun = time.monotonic()
    training_s, seen, status = 0.0, 0, "finished"
    batches = _batches(run)
    while run.state.step < config.steps:
        start = time.monotonic()
        entry = _one_step(run, batches)
        spent = time.monotonic() - start
        training_s += spent
        step = run.state.step + 1
        run.state = replace(run.state, step=step)
        seen += config.batch * config.grad_accumulation
        if config.log_every and step % config.log_every == 0:
            rate = config.batch * config.grad_accumulation / spent
            record.write("step", {"step": step, **entry, "samples_per_s": round(rate, 2), "time": time.time()})
        record.advance(step, f"loss {entry['loss']:.4f}")
        if stop.asked:
            status = "interrupted"
        elif config.max_minutes is not None and time.monotonic() - begun >= 60 * config.max_minutes:
            status = "out_of_time"
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


def _batches(run: _Run) -> Iterator[Batch]:
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
    )


def _one_step(run: _Run, batches: Iterator[Batch]) -> dict[str, Any]:
    """One optimiser step. Returns what is logged."""
    config, step = run.config, run.state.step
    # Noise comes from the generator; what else draws (dropout) from torch's own, seeded alike.
    generator = torch.Generator(device=run.device).manual_seed(_seed(config.seed, _NOISE, step))
    torch.manual_seed(_seed(config.seed, _NOISE, step))
    rate = learning_rate(step, config)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
    run.model.train()
    run.optimizer.zero_grad()
    total: dict[str, float] = {}
    windows: list[str] = []
    waited = 0.0
    for _ in range(config.grad_accumulation):
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        windows += batch["sample_id"]
        with _autocast(run):
            parts = run.model.loss(to_device(batch, run.device), generator)
        (parts["loss"] / config.grad_accumulation).backward()
        for name, value in parts.items():
            total[name] = total.get(name, 0.0) + float(value.detach()) / config.grad_accumulation
    trained = [p for group in run.optimizer.param_groups for p in group["params"]]
    norm = float(nn.utils.clip_grad_norm_(trained, config.clip))
    if not (math.isfinite(total["loss"]) and math.isfinite(norm)):
        raise NonFiniteLossError(
            f"loss is {total['loss']}, gradient norm {norm}",
            where=f"step {step + 1}, windows {', '.join(windows)}",
            mend="look at these windows; lower lr or the clip; the last checkpoint is intact",
        )
    run.optimizer.step()
    if run.ema:
        run.ema.update(run.model, step + 1)
    return {**total, "lr": rate, "grad_norm": norm, "wait_s": round(waited, 4)}


def _autocast(run: _Run) -> contextlib.AbstractContextManager:
    return torch.autocast(run.device.type, torch.bfloat16, enabled=run.config.precision == "bf16")


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


# --- validation and checkpoints --------------------------------------------------------------------------------------


@torch.no_grad()
def _validate(run: _Run, record: RunLog) -> bool:
    """Mean loss over windows, keypoints, noise and τ that are the same at every call (no choice by lucky noise).

    Returns whether it is the lowest so far.
    """
    config = run.config
    if not run.validation:
        run.validation = validation_batches(
            run.data.val, windows=config.val_windows, batch=config.batch, seed=_seed(config.seed, _VALIDATION)
        )
    if not run.validation:
        return False
    run.model.eval()
    total: dict[str, float] = {}
    count = 0
    with run.ema.in_place_of(run.model) if run.ema else contextlib.nullcontext():
        for number, batch in enumerate(run.validation):
            generator = torch.Generator(device=run.device).manual_seed(_seed(config.seed, _VALIDATION, number))
            with _autocast(run):
                parts = run.model.loss(to_device(batch, run.device), generator)
            size = len(batch["image"])
            count += size
            for name, value in parts.items():
                total[name] = total.get(name, 0.0) + float(value) * size
    run.last_val = {name: value / count for name, value in total.items()}
    record.write("val", {"step": run.state.step, **run.last_val, "windows": count, "time": time.time()})
    best = run.state.best_loss
    if best is not None and run.last_val["loss"] >= best:
        return False
    run.state = replace(run.state, best_step=run.state.step, best_loss=run.last_val["loss"])
    return True


def _checkpoint(run: _Run, out: Path) -> None:
    """Write a checkpoint of now; keep it and the best one."""
    step = run.state.step

    def fill(folder: Path) -> None:
        extra = {"step": step}
        run.kind.save(folder / "model", run.model, run.data.normalisation, extra)
        if run.ema:
            with run.ema.in_place_of(run.model):
                run.kind.save(folder / "ema", run.model, run.data.normalisation, extra)
        checkpoints.write_trainer(folder, run.model, run.optimizer, run.state)

    checkpoints.write_whole(checkpoints.folder_of(out, step), fill)
    checkpoints.sweep(out, {step, run.state.best_step or step})


def _result(run: _Run, out: Path, status: str, seconds: float, seen: int) -> TrainResult:
    """Write `<out>/model`, the predictor checkpoint of the result, and say how the run went."""
    state = run.state

    def fill(folder: Path) -> None:
        extra = {"step": state.step, "status": status, "val": run.last_val, "training": state.config}
        run.kind.save(folder, run.model, run.data.normalisation, extra)

    with run.ema.in_place_of(run.model) if run.ema else contextlib.nullcontext():
        checkpoints.write_whole(out / "model", fill)
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


# --- surroundings ----------------------------------------------------------------------------------------------------


class _StopSignal:
    """Within the block SIGTERM and SIGINT only set `asked`; the loop ends after its step. (Main thread only.)"""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        log.warning("signal %d: stopping after this step", number)
        self.asked = True


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")
    os.replace(temporary, path)
