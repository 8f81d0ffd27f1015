"""The full-size shape with tiny random models of the real transformers classes; parameter counts on the meta device."""

import builtins
import dataclasses
import sys

import pytest
import torch

from traceworld.errors import CheckpointError, ConfigError, MissingWeightsError
from traceworld.models.mu0.counting import count_parameters
from traceworld.models.mu0.local_features import DinoFeatures
from traceworld.models.mu0.prefix_smolvlm import SmolVLMPrefix
from traceworld.models.mu0.sizes import mu0_config

transformers = pytest.importorskip("transformers")
LOG_RANGE = torch.log(torch.tensor([0.3, 3.0]))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def test_keys_and_values_are_those_of_the_language_model(smolvlm_config, build, make_batch):
    """Against transformers' own forward pass with its cache: causal, its rotary base, its image features."""
    prefix_module = build(smolvlm_config).prefix
    batch = make_batch(smolvlm_config)
    batch["depth_present"][:] = False
    batch["image"] = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    prefix = prefix_module(batch, LOG_RANGE)
    model = prefix_module.vlm.model
    pixels = batch["image"].movedim(-1, 1).float() / 255 * 2 - 1
    image = torch.stack(model.get_image_features(pixel_values=pixels[:, None]).pooler_output)
    ids, mask = prefix_module.tokenizer([f"Task: {text}\n" for text in batch["instruction"]])
    embeddings = torch.cat([image, model.text_model.embed_tokens(ids)], dim=1)
    attention = torch.cat([torch.ones(image.shape[:2], dtype=torch.bool), mask], dim=1)
    cache = model.text_model(
        inputs_embeds=embeddings,
        attention_mask=attention.long(),
        position_ids=(attention.cumsum(1) - 1).clamp(min=0),
        use_cache=True,
    ).past_key_values
    assert torch.equal(prefix.mask, attention)
    assert len(prefix.keys) == 3
    for index in range(3):
        real = attention[:, None, :, None]
        for ours, theirs in ((prefix.keys, "keys"), (prefix.values, "values")):
            expected = getattr(cache.layers[index], theirs)
            torch.testing.assert_close(ours[index] * real, expected * real, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_absent_depth_takes_no_part(smolvlm_config, build, make_batch):
    """A sample without depth is encoded the same whether or not its neighbour has depth."""
    model = build(smolvlm_config)
    batch = make_batch(smolvlm_config)
    together = model.prefix(batch, LOG_RANGE)
    assert together.keys[0].shape[2] == 4 + 4 + 10  # RGB, depth, words
    alone = model.prefix({k: v[1:2] for k, v in batch.items()}, LOG_RANGE)
    assert alone.keys[0].shape[2] == 4 + 10
    assert together.end[1] == alone.end[0] == 14
    for a, b in zip(together.keys, alone.keys, strict=True):
        torch.testing.assert_close(a[1:2][:, :, together.mask[1]], b, atol=1e-5, rtol=1e-4)


def test_depth_trains_its_stem_and_nothing_else_of_the_backbone(smolvlm_config, build, make_batch):
    model = build(smolvlm_config).train()
    model.loss(make_batch(smolvlm_config), generator())["loss"].backward()
    assert all(p.grad.any() for p in model.prefix.depth_stem.parameters())
    frozen = [*model.prefix.vlm.parameters(), *model.features.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)
    assert not model.prefix.vlm.training
    assert not model.features.dino.training
    dead = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert dead == []


def test_depth_stem_is_a_clone_and_shares_the_deeper_layers(smolvlm_config):
    prefix = SmolVLMPrefix(smolvlm_config.prefix)
    rgb = prefix.vlm.model.vision_model.embeddings.patch_embedding
    assert torch.equal(prefix.depth_stem.weight, rgb.weight)
    picture = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(prefix._see(picture, prefix.depth_stem), prefix._see(picture, None))
        prefix.depth_stem.weight += 0.1
        assert not torch.equal(prefix._see(picture, prefix.depth_stem), prefix._see(picture, None))


@torch.no_grad()
@pytest.mark.parametrize(
    "change", [{"attention": "bidirectional"}, {"embedding_scale": "sqrt_width"}, {"rope_base": 10.0}]
)
def test_switches_change_the_keys(smolvlm_config, build, make_batch, replaced, change):
    batch = make_batch(smolvlm_config)
    plain = build(smolvlm_config).prefix(batch, LOG_RANGE).keys[-1]
    other = build(replaced(smolvlm_config, "prefix", **change)).prefix(batch, LOG_RANGE).keys[-1]
    assert not torch.allclose(plain, other)


@torch.no_grad()
def test_bidirectional_pictures_see_the_words(smolvlm_config, build, make_batch, replaced):
    batch = make_batch(smolvlm_config)
    other = batch | {"instruction": ["zzz"] * 3}
    for attention, sees in (("causal", False), ("bidirectional", True)):
        prefix = build(replaced(smolvlm_config, "prefix", attention=attention)).prefix
        a, b = (prefix(x, LOG_RANGE).keys[-1][:, :, :4] for x in (batch, other))
        assert torch.allclose(a, b) != sees


def test_gradient_checkpointing_gives_the_same_gradients(smolvlm_config, build, make_batch):
    grads = []
    for on in (False, True):
        model = build(smolvlm_config)
        model.enable_gradient_checkpointing(on)
        model.loss(make_batch(smolvlm_config), generator())["loss"].backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-6, rtol=1e-4)


def test_it_samples_and_is_equivariant(smolvlm_config, build, make_batch, permute):
    model, batch = build(smolvlm_config), make_batch(smolvlm_config)
    noise = torch.randn(3, 2, 5, 5, 3, generator=generator())
    order = torch.tensor([3, 1, 4, 0, 2])
    a, _ = model.sample(batch, 2, noise=noise)
    b, _ = model.sample(permute(batch, order), 2, noise=noise[:, :, order])
    assert (a[:, :, order] - b).abs().max() < 1e-5


@torch.no_grad()
def test_dino_features_are_patches_where_they_belong(smolvlm_config, make_batch):
    features = DinoFeatures(smolvlm_config.local)
    (map_,) = features(make_batch(smolvlm_config))
    assert map_.shape == (3, 12, 4, 4)
    batch = make_batch(smolvlm_config)
    batch["image"] = torch.full((3, 28, 28, 3), 128, dtype=torch.uint8)
    with torch.no_grad():
        image = batch["image"].movedim(-1, 1).float() / 255
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        pixels = (image - mean[:, None, None]) / std[:, None, None]
        expected = features.dino(pixel_values=pixels).last_hidden_state[:, 1:]
    torch.testing.assert_close(features(batch)[0].flatten(2).mT, expected, atol=1e-5, rtol=1e-4)


def test_missing_weights_say_licence_and_command(smolvlm_config, replaced, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = replaced(smolvlm_config, "prefix", hub_id="HuggingFaceTB/SmolVLM2-nowhere", revision="abc").prefix
    prefix = SmolVLMPrefix(config)
    expected = r"Apache-2.0.*hf download HuggingFaceTB/SmolVLM2-nowhere --revision abc"
    with pytest.raises(MissingWeightsError, match=expected):
        prefix.load_pretrained()
    with pytest.raises(MissingWeightsError, match=expected):
        prefix.tokenizer(["open"])
    with pytest.raises(MissingWeightsError):
        SmolVLMPrefix(smolvlm_config.prefix).load_pretrained()
    with pytest.raises(MissingWeightsError):
        SmolVLMPrefix(smolvlm_config.prefix).tokenizer(["open"])


def test_weights_from_a_published_folder(smolvlm_config, replaced, tmp_path):
    """A deeper model saved as the hub saves it: the first layers come over, the stem is cloned from them."""
    deeper = SmolVLMPrefix(replaced(smolvlm_config, "prefix", layers=4).prefix)
    deeper.vlm.save_pretrained(tmp_path)
    prefix = SmolVLMPrefix(dataclasses.replace(smolvlm_config.prefix, hub_id=str(tmp_path)))
    prefix.load_pretrained()
    for name, tensor in prefix.vlm.state_dict().items():
        assert torch.equal(tensor, deeper.vlm.state_dict()[name]), name
    stem = prefix.vlm.model.vision_model.embeddings.patch_embedding
    assert torch.equal(prefix.depth_stem.weight, stem.weight)
    wider = dataclasses.replace(smolvlm_config.prefix, text_mlp=48, hub_id=str(tmp_path))
    with pytest.raises(CheckpointError, match="mlp"):
        SmolVLMPrefix(wider).load_pretrained()


@pytest.mark.parametrize(
    ("part", "setting", "value", "said"),
    [
        (
            "text_config",
            "rope_parameters",
            {"rope_type": "default", "rope_theta": 273_768.0},
            "rope_theta.*100000.*273768",
        ),
        (
            "text_config",
            "rope_parameters",
            {"rope_type": "linear", "rope_theta": 1e5, "factor": 2.0},
            "factor.*None.*2.0",
        ),
        ("text_config", "rms_norm_eps", 1e-6, "rms_norm_eps.*1e-05.*1e-06"),
        ("text_config", "num_attention_heads", 8, "num_attention_heads.*4.*8"),
        ("vision_config", "layer_norm_eps", 1e-5, "vision_config.layer_norm_eps.*1e-06.*1e-05"),
    ],
)
def test_published_weights_of_other_settings_are_refused(smolvlm_config, tmp_path, part, setting, value, said):
    """Nothing of this shows in a tensor's shape: the model would run and be wrong."""
    published = SmolVLMPrefix(smolvlm_config.prefix).vlm
    if setting == "num_attention_heads":  # the same tensors, cut into more heads
        published.config.text_config.head_dim, published.config.text_config.num_key_value_heads = 4, 4
    setattr(getattr(published.config, part), setting, value)
    published.save_pretrained(tmp_path)
    prefix = SmolVLMPrefix(dataclasses.replace(smolvlm_config.prefix, hub_id=str(tmp_path)))
    with pytest.raises(CheckpointError, match=said):
        prefix.load_pretrained()


def test_dino_weights_from_a_published_folder(smolvlm_config, replaced, tmp_path, build):
    torch.manual_seed(3)
    published = DinoFeatures(smolvlm_config.local)
    published.dino.save_pretrained(tmp_path)
    features = DinoFeatures(replaced(smolvlm_config, "local", hub_id=str(tmp_path)).local)
    features.load_pretrained()
    for a, b in zip(features.parameters(), published.parameters(), strict=True):
        assert torch.equal(a, b)


def test_torchvision_is_never_imported(smolvlm_config, build, make_batch, monkeypatch):
    real = builtins.__import__

    def guarded(name, *args, **kwargs):
        assert name.split(".")[0] != "torchvision"
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", guarded)
    build(smolvlm_config).sample(make_batch(smolvlm_config), 1, generator())
    assert "torchvision" not in sys.modules


@pytest.mark.parametrize(
    ("size", "ours", "published"),
    [("small", 340.685e6, 342.3e6), ("base", 566.310e6, 568.3e6), ("large", 2579.752e6, 2587.3e6)],
)
def test_parameter_counts_are_the_papers(size, ours, published):
    """With what the released model has and ours has not, counted by hand, the totals are the published ones."""
    counts = count_parameters(size)
    total = counts.pop("total")
    trainable = counts.pop("trainable")
    assert total == sum(counts.values())
    assert total == pytest.approx(ours, rel=5e-4)
    assert trainable < 0.25 * total
    assert counts["vlm_text"] > counts["depth_stem"] > 0
    config = mu0_config(size)
    vision, hidden, rank, width = config.prefix.vision_width, config.prefix.vision_mlp, 8, config.expert.width
    attention, mlp = 4 * rank * (vision + vision), 2 * rank * (vision + hidden)  # q, k, v, out; fc1, fc2
    depth_lora = config.prefix.vision_layers * (attention + mlp)
    dead_action_mlp = (2 * width * width + width) + (width * width + width)
    assert (total + depth_lora + dead_action_mlp) / 1e6 == pytest.approx(published / 1e6, abs=0.1)


def test_parameter_counts_of_the_parts_of_large():
    """The parts that the released code has too, from the dossier (in millions)."""
    counts = count_parameters("large")
    assert counts["expert"] / 1e6 == pytest.approx(382.8, abs=0.05)
    assert counts["expert_modulation"] / 1e6 == pytest.approx(126.0, abs=0.05)
    assert counts["dino"] / 1e6 == pytest.approx(86.6, abs=0.05)
    assert counts["depth_stem"] / 1e6 == pytest.approx(0.68, abs=0.005)
    vlm = sum(counts[name] for name in ("vlm_vision", "vlm_text", "vlm_language_head"))
    assert vlm / 1e6 == pytest.approx(1978.3, abs=0.1)


def test_parameter_counts_of_nano():
    counts = count_parameters("nano")
    assert counts["total"] == counts["trainable"] < 5e6
    with pytest.raises(ConfigError):
        count_parameters("nanno")
