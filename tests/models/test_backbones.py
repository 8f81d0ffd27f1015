"""Checkpoints that name the published parts instead of holding them."""

import functools
import json

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

from traceworld.errors import CheckpointError, MissingWeightsError
from traceworld.models.backbones import fingerprint, named_backbones
from traceworld.models.checkpoint import load_checkpoint, load_weights, save_checkpoint
from traceworld.models.mu0.counting import count_parameters
from traceworld.models.mu0.local_features import DinoFeatures
from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.prefix_smolvlm import SmolVLMPrefix
from traceworld.models.pretrained import cached_revision


@pytest.fixture
def published(smolvlm_config, replaced, tmp_path):
    """A config whose backbones are published in local folders."""
    torch.manual_seed(1)
    hub = tmp_path / "hub"
    SmolVLMPrefix(smolvlm_config.prefix).vlm.save_pretrained(hub / "vlm")
    DinoFeatures(smolvlm_config.local).dino.save_pretrained(hub / "dino")
    config = replaced(smolvlm_config, "prefix", hub_id=str(hub / "vlm"))
    return replaced(config, "local", hub_id=str(hub / "dino"))


@pytest.fixture
def trained(published, build):
    model = build(published)
    model.load_pretrained()
    return model


def frozen_names(model):
    return {name for name in model.state_dict() if name.startswith(("prefix.vlm.", "features.dino."))}


def test_only_what_was_trained_is_stored_and_comes_back_whole(trained, normalisation, tmp_path):
    folder = save_checkpoint(tmp_path / "m", trained, normalisation)
    stored = load_file(folder / "model.safetensors")
    assert set(stored) == set(trained.state_dict()) - frozen_names(trained)
    assert sum(map(torch.Tensor.numel, stored.values())) == count_parameters(trained.config)["trainable"]
    again = load_checkpoint(folder).model
    for name, tensor in trained.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_freezing_is_counted_after_loading(trained, normalisation, tmp_path):
    expected = count_parameters(trained.config)
    loaded = load_checkpoint(save_checkpoint(tmp_path / "m", trained, normalisation)).model
    for model in (trained, loaded):
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected["trainable"]
        assert not any(p.requires_grad for p in (*model.prefix.vlm.parameters(), *model.features.parameters()))
    frozen = sum(count for name, count in expected.items() if name.startswith("vlm_") or name == "dino")
    assert expected["total"] - expected["trainable"] == frozen


def test_unfrozen_backbones_are_an_error_after_loading(published):
    model = Mu0Model(published)
    model.features.dino.layernorm.bias.requires_grad_(True)
    with pytest.raises(CheckpointError, match="12 parameters of the frozen backbones would be trained"):
        model.load_pretrained()


def test_a_backbone_that_was_trained_is_stored(trained, normalisation, tmp_path):
    for parameter in trained.prefix.vlm.parameters():
        parameter.requires_grad_(True)
    assert [b.path for b in named_backbones(trained)] == ["features.dino"]
    folder = save_checkpoint(tmp_path / "m", trained, normalisation)
    assert "prefix.vlm.lm_head.weight" in load_file(folder / "model.safetensors")
    assert torch.equal(load_checkpoint(folder).model.prefix.vlm.lm_head.weight, trained.prefix.vlm.lm_head.weight)


def test_kept_backbones_need_nothing_else(trained, normalisation, tmp_path):
    folder = save_checkpoint(tmp_path / "m", trained, normalisation, keep_backbones=True)
    (tmp_path / "hub").rename(tmp_path / "gone")
    loaded = load_checkpoint(folder).model
    assert torch.equal(loaded.features.dino.layernorm.bias, trained.features.dino.layernorm.bias)


def test_missing_and_other_backbones(trained, normalisation, published, tmp_path):
    folder = save_checkpoint(tmp_path / "m", trained, normalisation)
    torch.manual_seed(9)
    other = DinoFeatures(published.local).dino
    other.save_pretrained(tmp_path / "other" / "dino")
    trained.prefix.vlm.save_pretrained(tmp_path / "other" / "vlm")
    with pytest.raises(CheckpointError, match=r"features\.dino.*not the weights that the checkpoint was trained on"):
        load_checkpoint(folder, backbones=tmp_path / "other")
    with pytest.raises(MissingWeightsError, match=r"hf download .* --local-dir"):
        load_checkpoint(folder, backbones=tmp_path / "nowhere")
    (tmp_path / "hub").rename(tmp_path / "moved")
    with pytest.raises(MissingWeightsError, match="hf download"):
        load_checkpoint(folder)
    assert load_checkpoint(folder, backbones=tmp_path / "moved").model.config == published


def test_weights_alone_fill_the_backbones_too(trained, published, normalisation, tmp_path, build):
    """What the trainer does with `init_from`: the model was never given published weights."""
    folder = save_checkpoint(tmp_path / "m", trained, normalisation)
    fresh = build(published, seed=5)
    load_weights(folder, fresh)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor), name


def test_checkpoints_from_before_hold_everything(trained, normalisation, tmp_path):
    folder = save_checkpoint(tmp_path / "m", trained, normalisation, keep_backbones=True)
    record = json.loads((folder / "config.json").read_text())
    del record["backbones"]
    (folder / "config.json").write_text(json.dumps(record))
    (tmp_path / "hub").rename(tmp_path / "gone")
    assert torch.equal(load_checkpoint(folder).model.prefix.vlm.lm_head.weight, trained.prefix.vlm.lm_head.weight)


def test_a_lost_tensor_of_the_trained_part_is_still_an_error(trained, normalisation, tmp_path):
    from safetensors.torch import save_file

    folder = save_checkpoint(tmp_path / "m", trained, normalisation)
    stored = load_file(folder / "model.safetensors")
    del stored["prefix.depth_stem.bias"]
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing prefix\.depth_stem\.bias"):
        load_checkpoint(folder)


def test_a_random_model_and_nano_name_none(smolvlm_config, tiny_config, build, replaced):
    assert named_backbones(build(tiny_config)) == []
    assert [b.path for b in named_backbones(build(smolvlm_config))] == ["features.dino"]
    assert named_backbones(torch.nn.Linear(2, 2)) == []


def test_fingerprint():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(300, 7, generator=g), torch.randn(5, generator=g)
    assert fingerprint([a, b]) == fingerprint([b, a]) == fingerprint([a.bfloat16(), b.double().float()])
    assert fingerprint([a, b]) != fingerprint([a.reshape(7, 300), b])
    assert fingerprint([a, b]) != fingerprint([a + 0.1, b])
    assert fingerprint([a, b]) != fingerprint([a])


def test_the_cached_revision_is_recorded(monkeypatch, tmp_path):
    commit = "a" * 40
    repository = tmp_path / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    found = functools.partial(huggingface_hub.try_to_load_from_cache, cache_dir=tmp_path)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", found)
    assert cached_revision("org/name", None) == commit
    assert cached_revision("org/name", commit) == commit
    assert cached_revision("org/other", None) is None
    assert cached_revision(str(tmp_path), None) is None


def test_the_revision_goes_into_the_record(trained, normalisation, tmp_path):
    trained.features.dino.config._commit_hash = "b" * 40
    folder = save_checkpoint(tmp_path / "m", trained, normalisation)
    record = json.loads((folder / "config.json").read_text())["backbones"]
    assert record["features.dino"]["revision"] == "b" * 40
    assert record["prefix.vlm"]["revision"] is None  # a local folder
    assert record["prefix.vlm"]["class"] == "SmolVLMForConditionalGeneration"
