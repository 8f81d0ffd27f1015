"""What the log-probability pass of reinforcement sees and computes, against generation, for every family of base models."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import robotracer_toys as toys

from traceworld.errors import InvalidInputError
from traceworld.training.robotracer.grpo import answer_log_probs, answer_tokenizer, whole_inputs

LENGTH = 6


def asked(model, processor, examples):
    """(ids, mask) of questions with the likeliest answers behind."""
    batch = processor.generation_batch(examples)
    ids = model.generate(**batch, max_new_tokens=LENGTH).ids
    ids = torch.nn.functional.pad(ids, (0, LENGTH - ids.shape[1]), value=processor.pad_id).clone()
    ended = (ids == processor.end_id).cumsum(1) - (ids == processor.end_id).int() > 0
    whole = torch.cat([batch["input_ids"], ids], dim=1)
    return whole, torch.cat([batch["attention_mask"], (~ended).long()], dim=1), ids, ~ended


@pytest.mark.parametrize("family", toys.FAMILIES)
def test_the_scoring_pass_agrees_with_generation_token_by_token(family):
    model, processor = toys.make(family)
    examples = [toys.example(0, question="Where?"), toys.example(1, question="And where is the other one?", full=False)]
    whole, mask, ids, real = asked(model, processor, examples)
    never = [processor.spatial_id, processor.scale_id, processor.image_id]
    with torch.no_grad():
        inputs = whole_inputs(processor, examples, whole, mask, LENGTH)
        logits = model(**inputs, logits_to_keep=LENGTH + 1).logits[:, :-1]
        swapped = whole_inputs(processor, [_with_geometry_of(examples[0], 5), examples[1]], whole, mask, LENGTH)
        other = model(**swapped, logits_to_keep=LENGTH + 1).logits[:, :-1]
    assert logits.shape[:2] == ids.shape
    logits[..., never] = -torch.inf
    assert torch.equal(logits.argmax(-1)[real], ids[real])
    assert float((other[0] - logits[0])[..., : min(never)].abs().max()) > 1e-4  # geometry does reach this pass


def _with_geometry_of(example, seed):
    other = toys.example(seed)
    return type(example)(example.image, example.turns, other.K, other.depth_m, other.world_from_cam)


def test_a_row_of_another_question_is_refused():
    model, processor = toys.make()
    examples = [toys.example(0, question="Where?"), toys.example(1, question="When?")]
    whole, mask, _, _ = asked(model, processor, examples)
    with pytest.raises(InvalidInputError, match="row 0"):
        whole_inputs(processor, examples[::-1], whole, mask, LENGTH)


def test_probabilities_are_those_of_the_draw():
    logits = torch.tensor([[[0.0, math.log(3.0), 9.0]]])
    logps, entropy = answer_log_probs(logits, torch.tensor([[1]]), 1.0, [2])
    assert float(logps) == pytest.approx(math.log(0.75))
    assert float(entropy) == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
    cold, _ = answer_log_probs(logits, torch.tensor([[1]]), 0.5, [2])
    assert float(cold) == pytest.approx(math.log(0.9))
    assert logits.tolist()[0][0][2] == 9.0  # what was given is left as it was


def test_gradients_flow_through_the_probabilities():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    answer_log_probs(logits, torch.zeros(2, 3, dtype=torch.long), 1.0, [4])[0].sum().backward()
    assert np.isfinite(logits.grad.numpy()).all()
    assert float(logits.grad[..., 4].abs().max()) == 0
    assert float(logits.grad[..., 0].min()) > 0


@pytest.mark.parametrize("family", toys.FAMILIES)
def test_answers_end_as_the_family_ends_them(family):
    _, processor = toys.make(family)
    tokenizer = answer_tokenizer(processor)
    assert (tokenizer.eos_token_id, tokenizer.padding_side) == (processor.end_id, "left")
    assert tokenizer.pad_token_id == processor.pad_id
    assert processor.tokenizer.eos_token != processor.family.end  # the model's own is untouched
