"""RoboTracer on tiny random models of every family, through their transformers classes: the same code as with real weights."""

import copy
import dataclasses

import pytest
import torch
import transformers
from robotracer_toys import FAMILIES, TINY, base_config, byte_tokenizer, example, make, make_vlm

from traceworld.errors import ConfigError, InvalidInputError, MissingWeightsError
from traceworld.models.robotracer.config import NoEncoderConfig, RoboTracerConfig
from traceworld.models.robotracer.model import build_robotracer, grow_embeddings
from traceworld.models.robotracer.scale import scale_loss

QWENS = ("qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def made():
    return {family: make(family) for family in FAMILIES}


def unlike(count=2):
    """Examples of several picture sizes and answer lengths."""
    return [example(i, 40 + 16 * i, 56 - 12 * i, answer="[(1, 2, 3.000)]" * (i + 1)) for i in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_what_they_say(made, family):
    model, processor = made[family]
    assert sum(p.numel() for p in model.parameters()) < 200_000
    batch = processor.training_batch(unlike())
    with torch.no_grad():
        out = model(**batch)
    labels = batch["labels"]
    expected = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(out.ntp_loss, expected)
    torch.testing.assert_close(out.scale_loss, (out.log_scale - batch["scale_target"].log()).square().mean())
    torch.testing.assert_close(out.loss, out.ntp_loss + 0.1 * out.scale_loss)
    silent = {**batch, "labels": None, "scale_target": None}
    with torch.no_grad():
        quiet = model(**silent)
    assert (quiet.loss, quiet.ntp_loss, quiet.scale_loss) == (None, None, None)
    assert torch.equal(quiet.logits, out.logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_does_not_see_its_batch(made, family):
    """Padding, other pictures and other geometry in the batch change nothing: places, masks and positions are right."""
    model, processor = made[family]
    examples = unlike()
    whole = processor.training_batch(examples)
    with torch.no_grad():
        together = model(**whole)
        for i, each in enumerate(examples):
            alone = model(**processor.training_batch([each]))
            real = whole["attention_mask"][i].bool()
            torch.testing.assert_close(together.logits[i][real], alone.logits[0], atol=2e-4, rtol=2e-3)
            torch.testing.assert_close(together.log_scale[i], alone.log_scale[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_says_what_the_forward_pass_would(made, family):
    """Greedy tokens are the argmax at their places when the whole text is read at once; so is the scale."""
    model, processor = made[family]
    examples = unlike()
    asked = processor.generation_batch(examples)
    generated = model.generate(**asked, max_new_tokens=6)
    whole = {**asked, "input_ids": torch.cat([asked["input_ids"], generated.ids], 1)}
    new = torch.ones_like(generated.ids)
    whole["attention_mask"] = torch.cat([asked["attention_mask"], new], 1)
    if "mm_token_type_ids" in asked:
        whole["mm_token_type_ids"] = torch.cat([asked["mm_token_type_ids"], 0 * new], 1)
    with torch.no_grad():
        out = model(**whole)
    logits = out.logits[:, -generated.ids.shape[1] - 1 : -1].clone()
    logits[..., [processor.spatial_id, processor.scale_id, processor.image_id]] = -torch.inf
    ended = (generated.ids == processor.end_id).cumsum(1) - (generated.ids == processor.end_id).long() > 0
    assert torch.equal(logits.argmax(-1)[~ended], generated.ids[~ended])
    torch.testing.assert_close(generated.scale_m, out.log_scale.exp(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_geometry_changes_its_own_sample_and_no_other(made, family):
    model, processor = made[family]
    batch = processor.training_batch([example(0), example(1)])
    geometry = batch["geometry"]
    with torch.no_grad():
        before = model(**batch)
        for name in ("intrinsics", "depth_m", "poses"):
            hidden = dataclasses.replace(geometry, **{f"{name}_present": torch.tensor([False, True])})
            after = model(**{**batch, "geometry": hidden})
            assert (after.logits[0] - before.logits[0]).abs().max() > 1e-5
            assert torch.equal(after.logits[1], before.logits[1])
            assert after.log_scale[1] == before.log_scale[1]
        upto = int((batch["input_ids"][0] == processor.spatial_id).nonzero()[0, 0])
        assert torch.equal(after.logits[0, :upto], before.logits[0, :upto]), (
            "nothing before the spatial tokens knows it"
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_scale_loss_reaches_all_that_makes_the_scale(family):
    model, processor = make(family)
    model.trainable("enhancement")
    batch = processor.training_batch(unlike())
    scale_loss(model(**batch).log_scale, batch["scale_target"]).backward()
    parts = ("spatial_encoder", "spatial_projector", "scale_embedding", "scale_projector", "scale_decoder", "vlm.model")
    for part in parts:
        reached = [p.grad for name, p in model.named_parameters() if name.startswith(part) and p.grad is not None]
        assert max(float(grad.abs().max()) for grad in reached) > 0, part
    assert model.spatial_encoder.scale_token.grad.abs().max() > 0


@pytest.mark.parametrize("family", ["qwen3_vl", "smolvlm"])
@pytest.mark.parametrize("stage", ["alignment", "enhancement"])
def test_what_is_frozen_in_a_stage_stays_bit_for_bit(family, stage):
    model, processor = make(family)
    names = set(model.trainable(stage))
    own = {n for n, _ in model.named_parameters() if not n.startswith("vlm.")}
    assert names == (own if stage == "alignment" else {n for n, _ in model.named_parameters()})
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(**processor.training_batch(unlike())).loss.backward()
    optimizer.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    parts = {name.split(".")[0] for name in moved}
    ours = {"spatial_encoder", "spatial_projector", "scale_embedding", "scale_projector", "scale_decoder"}
    assert parts == (ours if stage == "alignment" else ours | {"vlm"})


def test_answers_are_drawn_reproducibly_and_leave_torchs_generator_alone(made):
    model, processor = made["qwen2_5_vl"]
    asked = processor.generation_batch(unlike())
    state = torch.random.get_rng_state()
    first, again, other = (model.generate(**asked, num_answers=3, temperature=1.0, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.ids.shape[0] == 6
    assert first.scale_m.shape == (2,)
    assert torch.equal(first.ids, again.ids)
    assert not torch.equal(first.ids, other.ids)
    greedy = model.generate(**asked)
    torch.testing.assert_close(first.scale_m, greedy.scale_m)
    thrice = model.generate(**asked, num_answers=3)
    assert torch.equal(thrice.ids, greedy.ids.repeat_interleave(3, 0))


def test_the_bases_own_generation_settings_do_not_count(made):
    model, processor = made["smolvlm"]
    asked = processor.generation_batch(unlike())
    expected = model.generate(**asked)
    spoiled = copy.deepcopy(model)
    spoiled.vlm.generation_config = transformers.GenerationConfig(
        do_sample=True, temperature=9.0, repetition_penalty=3.0
    )
    assert torch.equal(spoiled.generate(**asked).ids, expected.ids)


def test_a_base_in_half_precision():
    """Frozen as it is published; what is trained is float32, our own parts always."""
    model, processor = make("qwen3_vl")
    batch = processor.training_batch(unlike())
    with torch.no_grad():
        exact = model(**batch)
    model.vlm.bfloat16()
    model.trainable("alignment")
    assert model.vlm.lm_head.weight.dtype == torch.bfloat16
    out = model(**batch)
    assert out.log_scale.dtype == torch.float32
    torch.testing.assert_close(out.log_scale, exact.log_scale, atol=0.02, rtol=0.1)
    out.loss.backward()
    assert model.spatial_encoder.scale_token.grad.abs().max() > 0
    assert model.generate(**processor.generation_batch(unlike()), max_new_tokens=2).ids.shape[0] == 2
    model.trainable("enhancement")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_gradient_checkpointing_and_generation_while_training():
    model, processor = make("smolvlm")
    model.trainable("enhancement")
    batch = processor.training_batch(unlike())
    gradients = []
    for checkpointed in (False, True):
        model.zero_grad()
        if checkpointed:
            model.vlm.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
        said = model.generate(**processor.generation_batch(unlike()), max_new_tokens=3)
        assert model.training
        assert model.vlm.model.training
        model(**batch).loss.backward()
        gradients.append((said.ids, model.spatial_encoder.scale_token.grad.clone()))
    assert torch.equal(gradients[0][0], gradients[1][0])
    torch.testing.assert_close(gradients[0][1], gradients[1][1])
    whole = torch.cat([processor.generation_batch(unlike())["input_ids"], said.ids], 1)
    assert not whole.is_inference(), "what was said can be trained on"


@pytest.mark.parametrize("family", QWENS)
def test_spatial_tokens_are_words_to_m_rope(made, family):
    model, processor = made[family]
    batch = processor.training_batch([example()])
    args = (batch["input_ids"], batch["mm_token_type_ids"], batch["image_grid_thw"])
    positions, _ = model.vlm.model.get_rope_index(*args, attention_mask=batch["attention_mask"])
    at = (batch["input_ids"][0] == processor.spatial_id).nonzero()[:, 0]
    ours = positions[:, 0, at]
    assert torch.equal(ours, ours[:1].expand(3, -1)), "the same on all three axes"
    assert torch.equal(ours[0].diff(), torch.ones(len(at) - 1, dtype=ours.dtype))
    pictured = positions[:, 0, (batch["input_ids"][0] == processor.image_id)]
    assert not torch.equal(pictured[1], pictured[2]), "pictures have rows and columns"


def test_without_an_encoder_there_is_still_a_scale():
    model, processor = make("qwen3_vl", dataclasses.replace(TINY, spatial=NoEncoderConfig()))
    batch = processor.training_batch(unlike())
    assert "geometry" not in batch
    model(**batch).loss.backward()
    assert model.scale_embedding.grad.abs().max() > 0


def test_no_weight_no_scale_in_the_loss():
    model, processor = make("qwen3_vl", dataclasses.replace(TINY, scale_loss_weight=0.0))
    out = model(**processor.training_batch(unlike()))
    torch.testing.assert_close(out.loss, out.ntp_loss)
    assert out.scale_loss is not None


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_grow_by_their_mean_and_only_when_they_must(tied):
    config = base_config("smolvlm", byte_tokenizer("smolvlm"))
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    vlm = make_vlm(config)
    before = vlm.get_input_embeddings().weight.detach().clone()
    grow_embeddings(vlm, len(before))
    assert torch.equal(vlm.get_input_embeddings().weight, before)
    grow_embeddings(vlm, len(before) + 2)
    after = vlm.get_input_embeddings().weight
    assert torch.equal(after[: len(before)], before)
    torch.testing.assert_close(after[len(before) :], before.mean(0).expand(2, -1))
    assert vlm.get_output_embeddings().weight.shape[0] == len(before) + 2
    assert (vlm.get_output_embeddings().weight is after) == tied


def test_what_does_not_fit_is_refused(made):
    model, processor = made["internvl"]
    batch = processor.training_batch([example()])
    with pytest.raises(InvalidInputError, match="is missing"):
        model(**{**batch, "geometry": None})
    for token, message in ((processor.spatial_id, "spatial tokens"), (processor.scale_id, "<SCALE>")):
        ids = batch["input_ids"].clone()
        ids[0, (ids[0] == token).nonzero()[0, 0]] = 5
        with pytest.raises(InvalidInputError, match=message):
            model(**{**batch, "input_ids": ids})
    plain = {"input_ids": torch.tensor([[5, 6, 7]]), "geometry": batch["geometry"]}
    with pytest.raises(InvalidInputError, match="<SCALE>"):
        model(**plain)
    assert not model.vlm.get_input_embeddings()._forward_hooks, "nothing stays behind after an error"
    with pytest.raises(ConfigError, match="no stage"):
        model.trainable("warmup")
    with pytest.raises(ConfigError, match="no base"):
        build_robotracer(TINY, processor)
    with pytest.raises(MissingWeightsError, match="hf download nobody/nothing"):
        build_robotracer(RoboTracerConfig(base="nobody/nothing"), processor)
