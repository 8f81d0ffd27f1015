"""A RoboTracer as the trainers of transformers and TRL want a model: with the config and generation config of its base."""

from __future__ import annotations

from typing import Any

from torch import nn

from traceworld.models.robotracer.model import RoboTracer, RoboTracerOutput


class Learner(nn.Module):
    """`tracer`, as a model of the family of its base.

    Attributes:
        accepts_loss_kwargs: False: its losses are means over a batch.
        base_model_prefix: "": weights have no second name here (PEFT asks).
    """

    accepts_loss_kwargs = False
    base_model_prefix = ""

    def __init__(self, tracer: RoboTracer):
        super().__init__()
        self.tracer = tracer
        self.warnings_issued: dict[str, bool] = {}

    def forward(self, **batch: Any) -> RoboTracerOutput:
        """As `RoboTracer.forward`."""
        return self.tracer(**batch)

    @property
    def base(self) -> Any:
        """The image-text model of transformers inside."""
        return self.tracer.vlm

    @property
    def config(self) -> Any:
        return self.base.config

    @property
    def generation_config(self) -> Any:
        return self.base.generation_config

    @property
    def is_gradient_checkpointing(self) -> bool:
        return bool(self.base.is_gradient_checkpointing)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Recompute the base's activations in the backward pass."""
        self.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=gradient_checkpointing_kwargs)

    def gradient_checkpointing_disable(self) -> None:
        """Keep them again."""
        self.base.gradient_checkpointing_disable()

    def enable_input_require_grads(self) -> None:
        """Let gradients start at the embeddings: with frozen ones, recomputed layers would have none."""
        self.base.enable_input_require_grads()

    def add_model_tags(self, tags: Any) -> None:
        """TRL tags models for the hub; ours are not put there by it."""

    def get_input_embeddings(self) -> nn.Module:
        return self.base.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.base.get_output_embeddings()
