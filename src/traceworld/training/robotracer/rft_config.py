"""Options of reinforcement (RoboTracer §3.2, D.4): GRPO with rewards on outcome and process."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from traceworld.training.robotracer.rewards import WEIGHTS, RewardConfig
from traceworld.training.robotracer.stages import check

PAPER_SAMPLES = 8
"""Answers per question."""
PAPER_EPOCHS = 2.0


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters in place of all weights (PEFT).

    Attributes:
        rank, alpha, dropout: of LoRA.
        targets: regular expression for whole names of linear layers. Default: attention and MLP of the language model.
    """

    rank: int = 64
    alpha: int = 128
    dropout: float = 0.0
    targets: str = r".*(?:language_model|text_model)\..*\.(?:q|k|v|o|gate|up|down)_proj"

    def __post_init__(self):
        check(self.rank >= 1, "LoraOptions.rank", self.rank, "must be at least 1")
        check(self.alpha > 0, "LoraOptions.alpha", self.alpha, "must be positive")
        check(0 <= self.dropout < 1, "LoraOptions.dropout", self.dropout, "must be in [0, 1)")


@dataclass(frozen=True)
class RftConfig:
    """Options of a run.

    Attributes:
        rewards: what the paper leaves open; its `weights` are those of the sum.
        samples: answers per question (paper: 8). batch: answers per process and forward pass; times `grad_accumulation` and
            processes, a multiple of `samples`. The paper has one question per GPU.
        epochs: paper: 2. max_steps: stop after so many; 0: after `epochs`.
        beta: weight of the KL divergence to where the run started. The paper has one and does not say how much; 0.04 is that
            of R1-V, which it modifies. 0: no reference is kept.
        loss: how tokens are averaged: `grpo`, per answer and then over answers, as the paper's method does.
        scale_rewards: divide advantages by the group's standard deviation (paper: yes).
        lr, schedule, clip, precision, seed, save_every, log_every, gradient_checkpointing: as of `SftConfig`; the paper gives no lr.
        temperature: of the answers. max_new_tokens: longest answer, in tokens.
        lora: train adapters; None: train all weights that `enhancement` trains.
        drop: chance of each input of geometry to be left out of a question (of all its answers alike).
    """

    rewards: RewardConfig = field(default_factory=RewardConfig)
    samples: int = PAPER_SAMPLES
    batch: int = PAPER_SAMPLES
    grad_accumulation: int = 1
    epochs: float = PAPER_EPOCHS
    max_steps: int = 0
    beta: float = 0.04
    loss: Literal["grpo", "dapo", "dr_grpo"] = "grpo"
    scale_rewards: bool = True
    lr: float = 1e-6
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    clip: float = 1.0
    temperature: float = 1.0
    max_new_tokens: int = 1024
    lora: LoraOptions | None = None
    drop: float = 0.5
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    seed: int = 0
    save_every: int = 500
    log_every: int = 1

    def __post_init__(self):
        for name in ("lr", "epochs", "clip", "temperature"):
            check(getattr(self, name) > 0, f"RftConfig.{name}", getattr(self, name), "must be positive")
        for name in ("batch", "grad_accumulation", "max_new_tokens", "save_every", "log_every"):
            check(getattr(self, name) >= 1, f"RftConfig.{name}", getattr(self, name), "must be at least 1")
        for name in ("beta", "max_steps", "seed"):
            check(getattr(self, name) >= 0, f"RftConfig.{name}", getattr(self, name), "must not be negative")
        check(self.samples >= 2, "RftConfig.samples", self.samples, "an advantage needs at least 2 answers")
        check(0 <= self.drop <= 1, "RftConfig.drop", self.drop, "must be in [0, 1]")

    @property
    def reward_weights(self) -> list[float]:
        """In the order of `rewards.NAMES`."""
        return list(WEIGHTS[self.rewards.weights])

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON keeps."""
        return dataclasses.asdict(self)
