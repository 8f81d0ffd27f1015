"""Reinforcement of a fine-tuned RoboTracer by GRPO (§3.2, D.4) with the rewards of `rewards`.

A run folder holds the trainer's checkpoints (to go on from), `log.jsonl`, and at the end `model/`, a RoboTracer checkpoint
(adapters are merged into it).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from traceworld.extras import require
from traceworld.models.robotracer.checkpoint import save_robotracer
from traceworld.models.robotracer.model import RoboTracer
from traceworld.models.robotracer.processor import RoboTracerProcessor
from traceworld.training.robotracer.annotation import Annotation
from traceworld.training.robotracer.examples import Examples
from traceworld.training.robotracer.grpo import make_trainer
from traceworld.training.robotracer.records import annotation_of
from traceworld.training.robotracer.rewards import NAMES, RewardConfig, Rewards, reward
from traceworld.training.robotracer.rft_config import LoraOptions, RftConfig
from traceworld.training.robotracer.run_folder import RESULT_FOLDER, log_callback, start_or_continue
from traceworld.training.robotracer.trained_weights import newest_checkpoint

if TYPE_CHECKING:
    from transformers import TrainerCallback

_KEPT = 4096


@dataclass(frozen=True)
class RftResult:
    """What a run ended with.

    Attributes:
        steps: done in all. examples: questions. trained_parameters: how many numbers learned.
        reward: weighted sum, mean over the answers since the last line of the log. rewards: by name. kl: None without a reference.
        checkpoint: folder of the trained RoboTracer.
    """

    steps: int
    examples: int
    trained_parameters: int
    reward: float
    rewards: dict[str, float]
    kl: float | None
    checkpoint: str


def train_rft(
    model: RoboTracer,
    processor: RoboTracerProcessor,
    examples: Examples,
    config: RftConfig,
    out: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> RftResult:
    """Train by reinforcement; goes on at the newest checkpoint in `out`. `model` is trained in place.

    Args:
        model: as it was when the run was started; the reference of the KL divergence.
        examples: each record's last question is asked; what rewards compare with is `records.annotation_of`.

    Raises:
        MissingExtraError: trl, datasets or peft is not installed.
        ConfigError: the run in `out` was started with other options, or `batch` is no multiple of `samples`.
        DatasetError: a record gives nothing to reward.
    """
    for record in examples.records:
        annotation_of(record, (1, 1), 1.0)  # a record without a truth stops the run now, not after a day
    start_or_continue(out, config.to_json())
    model.trainable("enhancement")
    trainer = make_trainer(
        model,
        processor,
        examples,
        require("trl").GRPOConfig(**trainer_options(config), output_dir=str(out)),
        reward_functions(examples.annotation, config.rewards),
        None if config.lora is None else lora_config(config.lora),
        [*callbacks, log_callback(out)],
    )
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    newest = newest_checkpoint(out)
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    last: dict[str, float] = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
    if config.lora is not None:
        trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
    model.eval()
    if trainer.is_world_process_zero():
        training = {"method": "rft", "steps": trainer.state.global_step, **config.to_json()}
        save_robotracer(out / RESULT_FOLDER, model, processor, training)
    return RftResult(
        steps=trainer.state.global_step,
        examples=len(examples),
        trained_parameters=trained,
        reward=last.get("reward", math.nan),
        rewards={name: last.get(f"rewards/{name}/mean", math.nan) for name in NAMES},
        kl=last.get("kl"),
        checkpoint=str(out / RESULT_FOLDER),
    )


def trainer_options(config: RftConfig) -> dict[str, Any]:
    """The options of TRL's `GRPOConfig` that a run stands for."""
    return {
        "learning_rate": config.lr,
        "num_generations": config.samples,
        "per_device_train_batch_size": config.batch,
        "gradient_accumulation_steps": config.grad_accumulation,
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "beta": config.beta,
        "loss_type": config.loss,
        "scale_rewards": "group" if config.scale_rewards else "none",
        "reward_weights": config.reward_weights,
        "temperature": config.temperature,
        "max_completion_length": config.max_new_tokens,
        "lr_scheduler_type": config.schedule,
        "max_grad_norm": config.clip,
        "bf16": config.precision == "bf16",
        "gradient_checkpointing": config.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "seed": config.seed,
        "data_seed": config.seed,
        "save_strategy": "steps",
        "save_steps": config.save_every,
        "save_total_limit": 2,
        "logging_steps": config.log_every,
        "ddp_find_unused_parameters": True,  # a batch without depth, say, leaves the depth features without a gradient
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
    }


def lora_config(options: LoraOptions) -> Any:
    """PEFT's config of the adapters. Raises MissingExtraError: peft is not installed."""
    return require("peft").LoraConfig(
        r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=options.targets
    )


def reward_functions(
    truth: Callable[[int], Annotation], config: RewardConfig
) -> list[Callable[..., list[float | None]]]:
    """The five rewards as TRL calls them: with `completions` and the column `index`; in the order of `rewards.NAMES`.

    Args:
        truth: annotation of a question by its index.
    """
    annotation = functools.lru_cache(maxsize=_KEPT)(truth)

    @functools.lru_cache(maxsize=_KEPT)  # each answer is read once for all five
    def scored(index: int, text: str) -> Rewards:
        return reward(text, annotation(index), config)

    def named(name: str) -> Callable[..., list[float | None]]:
        def function(completions: list[str], index: list[int], **_: Any) -> list[float | None]:
            return [getattr(scored(i, text), name) for i, text in zip(index, completions, strict=True)]

        function.__name__ = name
        return function

    assert tuple(field.name for field in dataclasses.fields(Rewards)) == NAMES
    return [named(name) for name in NAMES]
