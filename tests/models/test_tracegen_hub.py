"""The condition encoders through their transformers classes, tiny and random; the nano one."""

import dataclasses
import json

import pytest
import torch
from tracegen_toys import HUB, NANO, TINY_ENCODERS, build, make_batch

from traceworld.errors import ConfigError, MissingWeightsError
from traceworld.models.tracegen.condition_hub import HubCondition
from traceworld.models.tracegen.conventions import Conventions

transformers = pytest.importorskip("transformers")


def test_shapes_and_masks():
    model = build(HUB)
    condition = model.encode(make_batch(HUB))
    assert condition.tokens.shape == (3, 4 + 5, 16)
    assert condition.mask[:, :4].all()
    assert condition.mask[:, 4:].sum(1).tolist() == [4, 5, 5]
    assert torch.isfinite(condition.tokens).all()


@torch.no_grad()
def test_depth_of_one_observation_is_its_own_business():
    model = build(HUB)
    batch = make_batch(HUB)
    together = model.encode(batch)
    for row in range(3):
        alone = model.encode({k: v[row : row + 1] for k, v in batch.items()})
        torch.testing.assert_close(together.tokens[row : row + 1], alone.tokens, atol=1e-5, rtol=1e-4)
    blind = model.encode(batch | {"depth_present": torch.zeros(3, dtype=torch.bool)})
    assert torch.equal(blind.tokens[1], together.tokens[1])
    assert not torch.allclose(blind.tokens[0], together.tokens[0])


@torch.no_grad()
def test_depth_enters_as_log_depth_with_near_on_top():
    depth = torch.tensor([[[0.2, 1.0], [5.0, torch.nan]]])
    plane = Conventions(HUB).depth_plane(depth, torch.log(torch.tensor([0.2, 5.0])))
    torch.testing.assert_close(plane[0, 0], torch.tensor([[1.0, 0.0], [-1.0, -1.0]]), atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("config", [HUB, NANO], ids=["hub", "nano"])
def test_a_batch_prepared_for_the_compiler_says_the_same(config):
    """Words as numbers and counted depth instead of strings and flags (`ModelKind.prepare`)."""
    from traceworld.training.registry import model_kind

    model, batch = build(config), make_batch(config)
    prepared = model_kind("tracegen").prepare(model, batch)
    assert not any(isinstance(value, list) for value in prepared.values())
    assert torch.equal(model.encode(prepared).tokens, model.encode(batch).tokens)


def test_frozen_stays_frozen_and_in_eval_mode():
    model = build(HUB).train()
    for name in ("dino", "siglip", "depth_siglip", "t5"):
        part = getattr(model.condition, name)
        assert not part.training
        assert not any(p.requires_grad for p in part.parameters())
    assert model.condition.fuse.training


@torch.no_grad()
def test_words_are_read_by_t5_and_its_padding_is_not_seen():
    """What stands in the padding changes nothing that is visible."""
    model = build(HUB)
    batch = make_batch(HUB)
    ids, mask = model.condition.tokenizer(batch["instruction"])
    a, _ = model.condition._understand(ids, mask)
    b, _ = model.condition._understand(torch.where(mask, ids, 7), mask)
    torch.testing.assert_close(a[mask], b[mask], atol=1e-5, rtol=1e-4)


def test_absent_weights_name_licence_and_command():
    with pytest.raises(MissingWeightsError) as caught:
        build(HUB).load_pretrained()
    message = str(caught.value)
    for part in (
        "hf download facebook/dinov3-vitl16-pretrain-lvd1689m",
        "hf download google/siglip-base-patch16-384",
        "hf download google-t5/t5-base",
        "DINOv3 License",
        "Apache-2.0",
    ):
        assert part in message
    with pytest.raises(MissingWeightsError, match="google-t5/t5-base"):
        HubCondition(TINY_ENCODERS, Conventions(HUB))._tokenize(["push"])


def test_published_weights_are_copied(tmp_path):
    """The same code path as for real weights, from local folders instead of hub ids."""
    source = build(HUB, seed=5).condition
    ids = {}
    for field, name in (("dino_id", "dino"), ("siglip_id", "siglip"), ("t5_id", "t5")):
        getattr(source, name).save_pretrained(tmp_path / name)
        ids[field] = str(tmp_path / name)
    model = build(dataclasses.replace(HUB, encoders=dataclasses.replace(TINY_ENCODERS, **ids)), seed=6)
    model.load_pretrained()
    for name, theirs in (("dino", "dino"), ("siglip", "siglip"), ("depth_siglip", "siglip"), ("t5", "t5")):
        ours, theirs = getattr(model.condition, name).state_dict(), getattr(source, theirs).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert all(not p.requires_grad for p in model.condition.t5.parameters())


def test_patches_must_tile_the_picture():
    with pytest.raises(ConfigError, match="do not tile 16 px"):
        HubCondition(dataclasses.replace(TINY_ENCODERS, patch=7), Conventions(HUB))


@torch.no_grad()
def test_nano_condition():
    model = build(NANO)
    condition = model.encode(make_batch(NANO))
    assert model.condition.image_grid == (2, 3)
    assert condition.tokens.shape[1] - 6 == condition.mask[:, 6:].shape[1] <= model.condition.max_tokens - 6
    assert "last" not in dict(model.condition.named_children())
    assert not any(name.startswith("condition.last") for name in model.state_dict())


def test_nano_trains_and_predicts_through_the_registry(tmp_path, monkeypatch):
    """`traceworld train --model tracegen`: build, a run of a few steps, a checkpoint that predicts, the same on resuming."""
    from toy import ToyWindows  # of tests/training

    from traceworld.models import load_predictor
    from traceworld.models.normalisation import Normalisation
    from traceworld.training.config import TrainConfig
    from traceworld.training.loop import train
    from traceworld.training.sources import TrainingData

    tiny = dataclasses.replace(NANO, horizon=32)
    monkeypatch.setattr("traceworld.models.tracegen.sizes.tracegen_config", lambda size: tiny)
    scales = Normalisation({"time": (0.2, 0.2, 0.2)}, {"time": 0.025})
    data = TrainingData([ToyWindows(40)], [1.0], [ToyWindows(6, offset=50)], scales)
    options = {
        "data": ("toy",),
        "model": "tracegen",
        "size": "nano",
        "batch": 4,
        "workers": 0,
        "log_every": 1,
        "eval_every": 0,
        "lr": 1e-3,
    }
    whole = train(TrainConfig(out=str(tmp_path / "whole"), steps=4, checkpoint_every=0, **options), data)
    assert whole.status == "finished"
    losses = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert any("covered" in entry for entry in losses)
    train(TrainConfig(out=str(tmp_path / "parts"), steps=2, checkpoint_every=2, **options), data)
    parts = train(TrainConfig(out=str(tmp_path / "parts"), steps=4, checkpoint_every=2, **options), data)
    a, b = (load_predictor(run.model).model.state_dict() for run in (whole, parts))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_hub_sizes_refuse_to_train_their_encoders(tmp_path):
    from traceworld.training.config import TrainConfig
    from traceworld.training.registry import model_kind

    with pytest.raises(ConfigError, match="encoders stay frozen"):
        model_kind("tracegen").build(TrainConfig(data=("x",), out="y", model="tracegen", train_vlm=True))
