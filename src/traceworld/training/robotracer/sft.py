"""Supervised fine-tuning in two stages through transformers' Trainer (RoboTracer §3.2, D.2): next words, and the scale.

    L = L_ntp + 0.1 · ‖log ŝ − log s*‖²

A run folder holds the Trainer's checkpoints (to go on from), `log.jsonl`, and at the end `model/`, a RoboTracer checkpoint.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from traceworld.extras import require
from traceworld.models.robotracer.checkpoint import save_robotracer
from traceworld.models.robotracer.model import RoboTracer
from traceworld.models.robotracer.processor import RoboTracerProcessor
from traceworld.training.robotracer.examples import Examples
from traceworld.training.robotracer.guiding import Guide
from traceworld.training.robotracer.learner import Learner
from traceworld.training.robotracer.loss_parts import LossParts
from traceworld.training.robotracer.optimiser import MuonWithAdamW
from traceworld.training.robotracer.run_folder import RESULT_FOLDER, epoch_callback, log_callback, start_or_continue
from traceworld.training.robotracer.stages import SftConfig
from traceworld.training.robotracer.trained_weights import TrainedWeights, newest_checkpoint

if TYPE_CHECKING:
    from transformers import TrainerCallback


@dataclass(frozen=True)
class SftResult:
    """What a run ended with.

    Attributes:
        steps: done in all. examples: in the data. trained_parameters: how many numbers learned.
        loss, ntp_loss, scale_loss: means since the last line of the log; scale_loss is None where no example has a scale.
        checkpoint: folder of the trained RoboTracer.
    """

    steps: int
    examples: int
    trained_parameters: int
    loss: float
    ntp_loss: float
    scale_loss: float | None
    checkpoint: str


def train_sft(
    model: RoboTracer,
    processor: RoboTracerProcessor,
    examples: Examples,
    config: SftConfig,
    out: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> SftResult:
    """Train a stage; goes on at the newest checkpoint in `out`. `model` is trained in place.

    Args:
        model: as it was when the run was started (see `trained_weights`).

    Raises:
        MissingExtraError: accelerate is not installed.
        ConfigError: the run in `out` was started with other options.
        NonFiniteLossError: the loss is NaN or infinite.
    """
    require("accelerate")
    transformers = require("transformers")
    start_or_continue(out, config.to_json())
    trained, learner = model.trainable(config.stage), Learner(model)
    if config.gradient_checkpointing:
        learner.gradient_checkpointing_enable({"use_reentrant": False})
    arguments = transformers.TrainingArguments(**trainer_options(config), output_dir=str(out))
    trainer = _trainer_class()(
        model=learner,
        args=arguments,
        train_dataset=examples,
        data_collator=processor.training_batch,
        callbacks=[*callbacks, log_callback(out), epoch_callback(examples)],
        scale_weight=config.scale_loss_weight,
        muon=config.optimizer == "muon",
        guide=Guide(model, processor) if config.guide else None,
        guide_weight=config.guide,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    newest = newest_checkpoint(out)
    with plain_attention(model, config.precision == "bf16", always=config.guide > 0):
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    last: dict[str, float] = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
    model.eval()
    if trainer.is_world_process_zero():
        training = {"method": "sft", "steps": trainer.state.global_step, **config.to_json()}
        save_robotracer(out / RESULT_FOLDER, model, processor, training)
    names = dict(model.named_parameters())
    return SftResult(
        steps=trainer.state.global_step,
        examples=len(examples),
        trained_parameters=sum(names[name].numel() for name in trained),
        loss=last.get("loss", math.nan),
        ntp_loss=last.get("ntp_loss", math.nan),
        scale_loss=last.get("scale_loss"),
        checkpoint=str(out / RESULT_FOLDER),
    )


@contextlib.contextmanager
def plain_attention(model: RoboTracer, half: bool, always: bool = False) -> Iterator[None]:
    """Within the block the base's attention is written out where that trains faster: in half precision on a CPU, whose fused
    attention has a slow backward pass (of `robotracer-nano`'s step 0.94 s instead of 1.10), or `always`, to be seen."""
    base: Any = model.vlm
    usual = base.config._attn_implementation
    if not always and (not half or model.device.type != "cpu"):
        yield
        return
    base.set_attn_implementation("eager")
    try:
        yield
    finally:
        base.set_attn_implementation(usual)


def trainer_options(config: SftConfig) -> dict[str, Any]:
    """The options of transformers' `TrainingArguments` that a stage stands for."""
    return {
        "learning_rate": config.lr,
        "weight_decay": config.weight_decay,
        "warmup_steps": config.warmup,  # below 1: a part of all steps
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "per_device_train_batch_size": config.batch,
        "gradient_accumulation_steps": config.grad_accumulation,
        "lr_scheduler_type": {"constant": "constant_with_warmup"}.get(config.schedule, config.schedule),
        "max_grad_norm": config.clip,
        "bf16": config.precision == "bf16",
        "seed": config.seed,
        "data_seed": config.seed,
        "dataloader_num_workers": config.workers,
        "save_strategy": "steps",
        "save_steps": config.save_every,
        "save_total_limit": 2,
        "logging_steps": config.log_every,
        "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": True,  # a batch without depth, say, leaves the depth features without a gradient
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
    }


def _trainer_class() -> Any:
    """Made when it is needed: transformers is optional."""
    transformers = require("transformers")

    class SftTrainer(LossParts, TrainedWeights, transformers.Trainer):
        loss_is_scaled_for_ga = False  # ours is the mean of a batch
        optimizer: Any

        def __init__(
            self, *args: Any, scale_weight: float, muon: bool, guide: Guide | None, guide_weight: float, **kwargs: Any
        ):
            super().__init__(*args, **kwargs)
            self.scale_weight, self.muon = scale_weight, muon
            self.guide, self.guide_weight = guide, guide_weight

        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            if self.optimizer is None and self.muon:
                self.optimizer = MuonWithAdamW(self.model, self.args.learning_rate, self.args.weight_decay)
            return super().create_optimizer(*args, **kwargs)

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            with self.guide.watching() if self.guide else contextlib.nullcontext():
                output = model(**inputs)
            loss, parts = output.ntp_loss, {"ntp_loss": output.ntp_loss}
            if bool(torch.isfinite(inputs["scale_target"]).any()):
                loss = loss + self.scale_weight * output.scale_loss
                parts["scale_loss"] = output.scale_loss
            if self.guide is not None:
                parts["guide_loss"] = self.guide.loss(inputs["input_ids"], inputs["labels"])
                loss = loss + self.guide_weight * parts["guide_loss"]
            self.note(loss, **parts)
            return (loss, output) if return_outputs else loss

    return SftTrainer
