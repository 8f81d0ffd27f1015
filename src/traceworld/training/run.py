"""The living parts of a run, and how they are put together: fresh, from other weights, or where a run left off."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from traceworld.errors import CheckpointError, ConfigError
from traceworld.training import checkpoints
from traceworld.training.checkpoints import TrainerState
from traceworld.training.config import TrainConfig, refuse_other_run
from traceworld.training.data import Batch, Rows
from traceworld.training.distributed import World
from traceworld.training.optim import Ema, Optimizers, build_optimizers
from traceworld.training.registry import ModelKind, model_kind
from traceworld.training.sharding import LossModule, ShardedLoss, Twin, shard
from traceworld.training.sources import TrainingData, open_training_data

log = logging.getLogger(__name__)


@dataclass
class Run:
    """The living parts of a run.

    Attributes:
        model: as the kind built it; its parameters are cut over the ranks with `parallel="fsdp"`.
        loss: what is called for the loss of a batch; wraps `model`.
        twin: where a cut model is put together for checkpoints; None if the model is whole.
        validation: fixed batches with the rows that this rank has of each; filled at the first validation.
    """

    config: TrainConfig
    world: World
    kind: ModelKind
    model: Any
    loss: nn.Module
    optimizer: Optimizers
    ema: Ema | None
    twin: Twin | None
    data: TrainingData
    state: TrainerState
    validation: list[tuple[Rows, Batch]] = field(default_factory=list)
    last_val: dict[str, float] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.world.device

    def whole_model(self) -> Any:
        """The model with all its weights (collective); only rank 0's is to be used."""
        return self.model if self.twin is None else self.twin.fill(self.model)

    def without_exchange(self) -> contextlib.AbstractContextManager:
        """For all but the last backward pass of a step: keep the gradient, do not exchange it yet."""
        return self.loss.no_sync() if isinstance(self.loss, DistributedDataParallel) else contextlib.nullcontext()


def start_run(
    config: TrainConfig, out: Path, data: TrainingData | None, world: World, kind: ModelKind | None = None
) -> Run:
    """All parts of a run, continued at its newest checkpoint if there is one (collective).

    Raises:
        ConfigError, DatasetError, CheckpointError: see `train`.
    """
    if config.batch < world.size:
        raise ConfigError(
            f"{config.batch} windows cannot be shared by {world.size} ranks",
            where="TrainConfig.batch",
            mend="it counts the windows of all ranks: at least one each",
        )
    kind = kind or model_kind(config.model)
    newest = _newest(out, world)
    state = TrainerState(0, config.to_json())
    if newest:
        state = checkpoints.read_state(newest)
        refuse_other_run(state.config, config)
        state = replace(state, config=config.to_json())
        log.info("continuing %s at step %d", out, state.step)
    torch.manual_seed(config.seed)
    model = kind.build(config)
    if config.gradient_checkpointing:
        _enable_checkpointing(model)
    averages, scales = None, None
    if newest and config.ema:
        kind.load(newest / "ema", model)
        averages = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    if newest:
        scales = kind.load(newest / "model", model)
    elif config.init_from:
        scales = kind.load(Path(config.init_from), model)
    if data is None:
        with world.leader_first():
            data = open_training_data(config, config.image_size or kind.image_size(model), scales, kind.windows(model))
    kind.set_normalisation(model, data.normalisation)
    loss, twin = _parallel(config, kind, model, world)
    ema = Ema(model, config.ema) if config.ema else None
    if ema and averages:
        ema.fill(averages)
    optimizer = build_optimizers(model, config, kind.is_backbone)
    if newest:
        checkpoints.read_optimizer(newest, model, optimizer)
    return Run(config, world, kind, model, loss, optimizer, ema, twin, data, state)


def _newest(out: Path, world: World) -> Path | None:
    found = checkpoints.steps_on_disk(out)
    steps = world.gather([found[-1] if found else -1])[:, 0]
    if (steps != steps[0]).any():
        raise CheckpointError(
            f"ranks see different newest checkpoints (steps {[int(s) for s in steps]})",
            where=str(out),
            mend="out must be a folder that all machines of the run share",
        )
    return checkpoints.folder_of(out, found[-1]) if found else None


def _parallel(config: TrainConfig, kind: ModelKind, model: Any, world: World) -> tuple[nn.Module, Twin | None]:
    """The model on its device, as a loss module that exchanges gradients."""
    sharded = world.size > 1 and config.parallel == "fsdp"
    if sharded and (config.compile or config.optimizer == "muon"):
        # A compiled graph ends at every gathering of parameters; Muon needs whole matrices.
        option = "compile" if config.compile else "optimizer"
        raise ConfigError("is not supported with parallel='fsdp'", where=f"TrainConfig.{option}", mend="take 'ddp'")
    twin = Twin(model, world) if sharded else None
    model.to(world.device)
    if sharded:
        cut = ShardedLoss(model)
        shard(cut, kind.units(model), world)
        return cut, twin
    if world.size == 1:
        return LossModule(model, config.compile), None
    # A batch without depth, say, leaves the depth stem without a gradient, on one rank or on all.
    loss = LossModule(model, config.compile)
    return DistributedDataParallel(loss, find_unused_parameters=True, broadcast_buffers=False), None


def _enable_checkpointing(model: nn.Module) -> None:
    enable = getattr(model, "enable_gradient_checkpointing", None)
    if enable is None:
        raise ConfigError(
            "this model cannot recompute its activations",
            where="TrainConfig.gradient_checkpointing",
            mend="leave the option off",
        )
    enable()
