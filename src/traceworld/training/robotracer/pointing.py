"""Pointing: how the base of `robotracer-nano` learns to see before it learns to speak. Ours: a published base has seen the web.

A question is read without its picture; its state where the answer would begin asks the cells of the picture, which were not told
the question, for two points of the answer: the first and the last. Learned are the cell that holds each (cross-entropy over all
cells), where in the cell it is, and its depth. One pass over a picture serves all its questions and no answer is spelled. What is
learned is what next-token prediction needs: picture, projector and words that find each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from traceworld.errors import ConfigError, DatasetError
from traceworld.extras import require
from traceworld.models.robotracer.checkpoint import save_robotracer
from traceworld.models.robotracer.model import RoboTracer
from traceworld.models.robotracer.processor import Example, RoboTracerProcessor
from traceworld.tracespatial.answers import parse_trace
from traceworld.training.robotracer.examples import Examples
from traceworld.training.robotracer.loss_parts import LossParts
from traceworld.training.robotracer.optimiser import MuonWithAdamW
from traceworld.training.robotracer.run_folder import RESULT_FOLDER, epoch_callback, log_callback, start_or_continue
from traceworld.training.robotracer.sft import plain_attention, trainer_options
from traceworld.training.robotracer.stages import SftConfig
from traceworld.training.robotracer.trained_weights import TrainedWeights, newest_checkpoint

if TYPE_CHECKING:
    from transformers import TrainerCallback

ROLES = 2
"""The first and the last point of an answer."""
_UV_RANGE = 1000


class PointingLoss(NamedTuple):
    """Means over questions and roles: of the cross-entropy over cells; of the distance from the point inside its cell, in
    cells; of |log d − log d*|, over what has a depth. `error_uv`: where it points, mean distance in parts of the picture."""

    cell: Float[Tensor, ""]
    offset: Float[Tensor, ""]
    depth: Float[Tensor, ""]
    error_uv: Float[Tensor, ""]

    @property
    def total(self) -> Float[Tensor, ""]:
        return self.cell + self.offset + self.depth


class Pointing(nn.Module):
    """A base with the heads that point; they are not kept.

    Args:
        tracer: of InternVL's family, whose picture is one square of cells, row by row. Its spatial encoder is not asked.

    Raises:
        ConfigError: it is of another family.
    """

    def __init__(self, tracer: RoboTracer):
        super().__init__()
        if tracer.family.name != "internvl":
            raise ConfigError(
                f"pictures of {tracer.family.name} are no square of cells", where="base", mend="InternVL's class"
            )
        self.tracer = tracer
        base: Any = tracer.vlm
        width = base.get_input_embeddings().weight.shape[1]
        self.asks = nn.Linear(width, ROLES * width)
        self.cells = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.reads = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 3))

    def forward(
        self,
        pixel_values: Float[Tensor, "B 3 H W"],
        question_ids: Int[Tensor, "N L"],
        question_mask: Int[Tensor, "N L"],
        picture: Int[Tensor, " N"],
        uv: Float[Tensor, "N R 2"],
        depth_m: Float[Tensor, "N R"],
    ) -> PointingLoss:
        """
        Args:
            question_ids, question_mask: of `RoboTracerProcessor.questions`. picture: which each is about.
            uv: the points, in [0,1] of the picture. depth_m: NaN unknown.
        """
        scores, asked, cells = self._find(pixel_values, question_ids, question_mask, picture)
        side = math.isqrt(scores.shape[-1])
        place = (uv * side).clamp(0, side - 1e-3)
        column, row = place.floor().unbind(-1)
        target = (row * side + column).long()
        cell = F.cross_entropy(scores.flatten(0, 1), target.flatten())
        found = self._read(asked, cells, target)
        offset = (found[..., :2] - (place - place.floor() - 0.5)).norm(dim=-1).mean()
        known = depth_m.isfinite()
        distance = (found[..., 2] - depth_m.nan_to_num(1.0).log()).abs()
        depth = (distance * known).sum() / known.sum().clamp(min=1)
        with torch.no_grad():
            error_uv = (self._points(scores, asked, cells)[..., :2] - uv).norm(dim=-1).mean()
        return PointingLoss(cell, offset, depth, error_uv)

    def _points(self, scores: Tensor, asked: Tensor, cells: Tensor) -> Float[Tensor, "N R 3"]:
        """First and last point of each answer: u, v in [0,1] and metres, read in the likeliest cell."""
        side, best = math.isqrt(scores.shape[-1]), scores.argmax(-1)
        found = self._read(asked, cells, best)
        corner = torch.stack([best % side, best // side], dim=-1)
        return torch.cat([(corner + 0.5 + found[..., :2]) / side, found[..., 2:].exp()], dim=-1)

    def _find(self, pixel_values: Tensor, ids: Tensor, mask: Tensor, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of each cell [N,R,P]; what was asked [N,R,C]; cells [N,P,C]."""
        base: Any = self.tracer.vlm.model
        seen = base.get_image_features(pixel_values=pixel_values).pooler_output
        cells = self.cells(seen.float())[picture]
        states = base.language_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        last = states[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]
        asked = self.asks(last).unflatten(-1, (ROLES, -1))
        return (asked @ cells.mT / math.sqrt(cells.shape[-1])).float(), asked, cells

    def _read(self, asked: Tensor, cells: Tensor, at: Int[Tensor, "N R"]) -> Float[Tensor, "N R 3"]:
        """Offset from the middle of a cell, in cells, and log of the depth, as seen from what was asked."""
        there = cells.gather(1, at[..., None].expand(-1, -1, cells.shape[-1]))
        return self.reads(there * asked).float()


@dataclass(frozen=True)
class PointingConfig:
    """Options of a run.

    Attributes:
        steps, lr, precision, seed: as of `SftConfig`; Muon for wide matrices.
        batch: pictures per step; how many questions are asked of each is a matter of the examples (`Examples.most_apart`).
        save_every, log_every: steps.
    """

    steps: int
    lr: float = 2e-3
    batch: int = 32
    precision: str = "bf16"
    seed: int = 0
    save_every: int = 200
    log_every: int = 20

    def loop(self) -> SftConfig:
        """The same for the Trainer. Raises ConfigError for an impossible value."""
        return SftConfig(
            "enhancement", lr=self.lr, batch=self.batch, max_steps=self.steps, precision=self.precision, seed=self.seed,  # type: ignore[arg-type]
            save_every=self.save_every, log_every=self.log_every, optimizer="muon", drop=0.0, scale_loss_weight=0.0,
        )  # fmt: skip


def pointing_batch(processor: RoboTracerProcessor, examples: Sequence[Example]) -> dict[str, Tensor]:
    """Inputs of `Pointing`. Questions whose answer is no trace are left out.

    Raises:
        DatasetError: none is left.
    """
    asked, picture, uv, depth_m = [], [], [], []
    for number, example in enumerate(examples):
        for question, answer in example.turns:
            points = parse_trace(answer).points
            if not len(points):
                continue
            ends = points[[0, -1]]
            asked.append(question)
            picture.append(number)
            uv.append(ends[:, :2] / _UV_RANGE)
            depth_m.append(ends[:, 2] if ends.shape[1] == 3 else np.full(ROLES, np.nan))
    if not asked:
        raise DatasetError("have no answer with a point", where="examples", mend="give traces or pointing")
    ids, mask = processor.questions(asked)
    return {
        "pixel_values": processor.pictures([example.image for example in examples])["pixel_values"],
        "question_ids": ids,
        "question_mask": mask,
        "picture": torch.tensor(picture),
        "uv": torch.tensor(np.array(uv), dtype=torch.float32),
        "depth_m": torch.tensor(np.array(depth_m), dtype=torch.float32),
    }


def train_pointing(
    tracer: RoboTracer,
    processor: RoboTracerProcessor,
    examples: Examples,
    config: PointingConfig,
    out: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Teach the base of a RoboTracer to point, in place; goes on at the newest checkpoint in `out`. Returns the folder of the
    RoboTracer with that base.

    Raises:
        MissingExtraError: accelerate is not installed.
        ConfigError: the run in `out` was started with other options, or the base is of another family.
        NonFiniteLossError: the loss is NaN or infinite.
    """
    require("accelerate")
    transformers = require("transformers")
    loop = config.loop()
    start_or_continue(out, {"method": "pointing", **loop.to_json()})
    tracer.trainable("enhancement")  # in float32, and a checkpoint will hold the base; of it the base alone learns here
    tracer.requires_grad_(False)
    tracer.vlm.requires_grad_(True)
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed)
        model = Pointing(tracer)
    trainer = _trainer_class()(
        model=model,
        args=transformers.TrainingArguments(**trainer_options(loop), output_dir=str(out)),
        train_dataset=examples,
        data_collator=lambda chosen: pointing_batch(processor, chosen),
        callbacks=[*callbacks, log_callback(out), epoch_callback(examples)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    newest = newest_checkpoint(out)
    with plain_attention(tracer, config.precision == "bf16"):
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    tracer.requires_grad_(True)
    tracer.eval()
    return save_robotracer(out / RESULT_FOLDER, tracer, processor, {"method": "pointing", **loop.to_json()})


def _trainer_class() -> Any:
    """Made when it is needed: transformers is optional."""
    transformers = require("transformers")

    class PointingTrainer(LossParts, TrainedWeights, transformers.Trainer):
        optimizer: Any

        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            if self.optimizer is None:
                self.optimizer = MuonWithAdamW(self.model, self.args.learning_rate, self.args.weight_decay)
            return super().create_optimizer(*args, **kwargs)

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            found: PointingLoss = model(**inputs)
            self.note(found.total, **found._asdict())
            return (found.total, found) if return_outputs else found.total

    return PointingTrainer
