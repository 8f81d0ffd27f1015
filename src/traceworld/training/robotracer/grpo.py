"""TRL's GRPO trainer for a model with inputs that TRL does not know (RoboTracer D.4 modifies R1-V for the same reason).

TRL gives a picture to the log-probability pass, and a fixed list of tensors beside; geometry would reach `generate` alone. Here
every row carries a ticket instead (which question, in which epoch), and both passes make the model's whole input from it. So
the answers are scored under what they were drawn under, and a row whose words do not agree with its ticket is refused.

A reference for the KL divergence is a frozen copy in memory, or the model with its adapters off; TRL alone would load it from a hub.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from traceworld.errors import InvalidInputError
from traceworld.extras import require
from traceworld.models.robotracer.model import RoboTracer
from traceworld.models.robotracer.processor import Example, RoboTracerProcessor
from traceworld.training.draws import seed_of
from traceworld.training.robotracer.examples import Examples, Ticket
from traceworld.training.robotracer.learner import Learner
from traceworld.training.robotracer.run_folder import whole_epochs
from traceworld.training.robotracer.trained_weights import TrainedWeights

_OF_WORDS = ("input_ids", "attention_mask", "mm_token_type_ids")
"""Inputs that are as long as the words; the rest of a batch is pictures and geometry."""
_KEPT_EXAMPLES = 64


def make_trainer(
    model: RoboTracer,
    processor: RoboTracerProcessor,
    examples: Examples,
    arguments: Any,
    reward_functions: Sequence[Any],
    adapters: Any = None,
    callbacks: Sequence[Any] = (),
) -> Any:
    """A TRL trainer for a RoboTracer.

    Args:
        model: which parameters learn is already set.
        arguments: a `GRPOConfig`.
        reward_functions: as TRL calls them, with the column `index` of the question.
        adapters: a `peft.LoraConfig`: train those instead.

    Raises:
        MissingExtraError: trl, datasets or peft is not installed.
    """
    datasets = require("datasets")
    questions = [record.turns[-1][0] for record in examples.records]
    table = datasets.Dataset.from_dict({"prompt": questions, "index": list(range(len(questions)))})
    return _trainer_class()(
        tracer=model,
        processor=processor,
        examples=examples,
        reward_funcs=list(reward_functions),
        args=arguments,
        train_dataset=table,
        peft_config=adapters,
        callbacks=list(callbacks),
    )


def answer_tokenizer(processor: RoboTracerProcessor) -> Any:
    """The processor's tokenizer as TRL wants it: padding on the left, answers end as the family ends them."""
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer.eos_token, tokenizer.padding_side = processor.family.end, "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def whole_inputs(
    processor: RoboTracerProcessor,
    examples: Sequence[Example],
    ids: Int[Tensor, "B L"],
    mask: Int[Tensor, "B L"],
    answer_length: int,
) -> dict[str, Any]:
    """Inputs of `RoboTracer.forward` for questions with their answers behind.

    Args:
        ids, mask: question, padded on the left, then `answer_length` tokens of answer, padded on the right.

    Raises:
        InvalidInputError: the question in a row is not that of its example.
    """
    batch = processor.generation_batch(examples)
    asked, seen = ids[:, : ids.shape[1] - answer_length], mask[:, : ids.shape[1] - answer_length].bool()
    for row, example in enumerate(examples):
        wanted = batch["input_ids"][row][batch["attention_mask"][row].bool()].to(ids.device)
        if not torch.equal(asked[row][seen[row]], wanted):
            raise InvalidInputError(
                f"row {row} does not begin with the question {example.turns[-1][0]!r}",
                where="ids",
                mend="keep tickets and rows together",
            )
    whole = {name: value for name, value in batch.items() if name not in _OF_WORDS}
    if "mm_token_type_ids" in batch:
        whole["mm_token_type_ids"] = (ids == processor.image_id).long()
    return {"input_ids": ids, "attention_mask": mask, **whole}


def answer_log_probs(
    logits: Float[Tensor, "B C V"], answers: Int[Tensor, "B C"], temperature: float, never: Sequence[int]
) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
    """Log-probability of each token of the answers, and the entropy where it was drawn.

    Args:
        never: tokens that are never drawn, so that the probabilities are those of the draw.
    """
    scaled = logits.float() / temperature
    scaled[..., list(never)] = torch.finfo(scaled.dtype).min
    all_logps = torch.log_softmax(scaled, dim=-1)
    entropy = -(all_logps.exp() * all_logps).sum(-1)
    return all_logps.gather(-1, answers[..., None])[..., 0], entropy


@functools.cache
def _trainer_class() -> Any:
    """Made when it is needed: TRL is optional."""
    trl, transformers = require("trl"), require("transformers")

    class GeometryGrpoTrainer(TrainedWeights, trl.GRPOTrainer):
        def __init__(
            self, tracer: RoboTracer, processor: RoboTracerProcessor, examples: Examples, args: Any, **kwargs: Any
        ):
            self.processor, self.examples = processor, examples
            self.never = [processor.spatial_id, processor.scale_id, processor.image_id]
            self._tickets: list[Ticket] = []
            self._example = functools.lru_cache(maxsize=_KEPT_EXAMPLES)(examples.of)
            beta, full = args.beta, kwargs.get("peft_config") is None
            reference = Learner(copy.deepcopy(tracer)).requires_grad_(False).eval() if beta and full else None
            args.beta = 0.0  # with one, TRL would load the reference by the name of the model
            learner = Learner(tracer)
            super().__init__(model=learner, args=args, processing_class=answer_tokenizer(processor), **kwargs)
            args.beta = self.beta = beta
            if reference is not None:
                self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)
            self.remove_callback(transformers.PrinterCallback)

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """None: the run folder says what the model is."""

        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            epoch = whole_epochs(self.state)
            tickets = [Ticket(int(row["index"]), epoch) for row in inputs]
            with self._for(tickets):
                output = super()._generate_and_score_completions(inputs)
            output["ticket"] = torch.tensor(tickets)
            return output

        def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
            with self._for([Ticket(*row) for row in inputs["ticket"].tolist()]):
                return super()._compute_loss(model, inputs)

        @contextlib.contextmanager
        def _for(self, tickets: list[Ticket]) -> Iterator[None]:
            """Within the block the rows of a batch are those of these tickets."""
            self._tickets = tickets
            try:
                yield
            finally:
                self._tickets = []

        def _tokenize_prompts(self, prompts: list) -> tuple[list[list[int]], None, dict[str, Any]]:
            batch = self.processor.generation_batch([self._example(ticket) for ticket in self._tickets])
            rows = zip(batch["input_ids"], batch["attention_mask"], strict=True)
            return [ids[mask.bool()].tolist() for ids, mask in rows], None, {}

        def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> tuple[list[list[int]], None]:
            batch = self.processor.generation_batch([self._example(ticket) for ticket in self._tickets])
            batch = {name: self._to_device(value) for name, value in batch.items()}
            tracer = self._tracer()
            was_training = tracer.training
            tracer.eval()
            seed = seed_of(self.args.seed, self.state.global_step, self.accelerator.process_index)
            drawn = tracer.generate(
                **batch, temperature=self.temperature, seed=seed, max_new_tokens=self.max_completion_length
            )
            tracer.train(was_training)
            return [_to_end(row, self.processor.end_id) for row in drawn.ids.tolist()], None

        def _get_per_token_logps_and_entropies(
            self,
            model: Any,
            input_ids: Tensor,
            attention_mask: Tensor,
            logits_to_keep: int,
            batch_size: int | None = None,
            compute_entropy: bool = False,
            **_: Any,
        ) -> tuple[Tensor, Tensor | None, None]:
            logps, entropies = [], []
            for start in range(0, len(input_ids), batch_size or len(input_ids)):
                rows = slice(start, start + (batch_size or len(input_ids)))
                ids, mask = input_ids[rows], attention_mask[rows]
                seen = [self._example(ticket) for ticket in self._tickets[rows]]
                batch = whole_inputs(self.processor, seen, ids, mask, logits_to_keep)
                batch = {name: self._to_device(value) for name, value in batch.items()}
                with self.accelerator.autocast():
                    logits = model(**batch, logits_to_keep=logits_to_keep + 1).logits[:, :-1]
                logp, entropy = answer_log_probs(logits, ids[:, -logits_to_keep:], self.temperature, self.never)
                logps.append(logp)
                entropies.append(entropy)
            return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

        def _tracer(self) -> RoboTracer:
            learner = self.accelerator.unwrap_model(self.model_wrapped)
            inner = learner if isinstance(learner, Learner) else learner.get_base_model()
            return inner.tracer

        def _to_device(self, value: Any) -> Any:
            return value.to(self.accelerator.device) if hasattr(value, "to") else value

    return GeometryGrpoTrainer


def _to_end(row: list[int], end: int) -> list[int]:
    """Tokens up to the first end, which is part of what was drawn."""
    return row[: row.index(end) + 1] if end in row else row
