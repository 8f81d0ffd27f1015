"""Conversion of released checkpoints: what comes out, what is refused, and the published sizes on the meta device."""

import json

import numpy as np
import pytest
import torch
from released_mu0 import (
    BASE,
    DELETED,
    LARGE,
    RELEASED_CONFIG,
    RELEASED_STATS,
    SMALL,
    VT,
    Shape,
    W,
    is_frozen,
    letters,
    released_shapes,
    released_tensors,
    write_released,
)
from safetensors.torch import load_file

from traceworld.cli import main
from traceworld.errors import CheckpointError, MissingWeightsError
from traceworld.models.checkpoint import load_checkpoint
from traceworld.models.mu0.counting import count_parameters
from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.official.config_file import read_config
from traceworld.models.mu0.official.convert import convert_official
from traceworld.models.mu0.official.key_map import plan_keys
from traceworld.models.mu0.sizes import mu0_config


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return write_released(tmp_path_factory.mktemp("released"))


def convert(released, out, **options):
    return convert_official(released, released.parent / "normalizer_stats.json", out, **options)


def parameters(shapes):
    return sum(int(np.prod(shape)) for shape in shapes)


# Published sizes

FULL = [(SMALL, "small", 342.3, None), (BASE, "base", 568.3, None), (LARGE, "large", 2587.3, 522.3)]


@pytest.mark.parametrize(("shape", "size", "total_m", "trained_m"), FULL)
def test_the_published_sizes_map_completely(shape, size, total_m, trained_m):
    """The dossier's keys at full size: each has its place, nothing of ours stays empty, and the totals are published."""
    theirs = released_shapes(shape)
    trained = parameters(value for key, value in theirs.items() if not is_frozen(key))
    assert parameters(theirs.values()) / 1e6 == pytest.approx(total_m, abs=0.05)
    assert trained_m is None or trained / 1e6 == pytest.approx(trained_m, abs=0.05)
    with torch.device("meta"):
        model = Mu0Model(mu0_config(f"{size}-official"))
    plan = plan_keys(theirs, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    assert (plan.unknown, plan.missing, plan.misshapen) == ((), (), ())
    assert sorted(plan.dead) == [
        f"model.action_time_mlp_{end}" for end in ("in.bias", "in.weight", "out.bias", "out.weight")
    ]
    assert len(plan.sources) == len(set(plan.sources.values())) == len(theirs) - 4
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, key in plan.sources.items() if is_frozen(key)}
    counts = count_parameters(f"{size}-official")
    assert counts["total"] == parameters(theirs.values())
    assert counts["trainable"] == trained
    assert counts["total"] == sum(value for name, value in counts.items() if name not in ("total", "trainable"))


def test_info_prints_the_published_count(capsys):
    assert main(["info", "mu0:large-official", "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)["parameters"]
    assert counted["total"] / 1e6 == pytest.approx(2587.3, abs=0.05)
    assert counted["trainable"] / 1e6 == pytest.approx(522.3, abs=0.05)


def test_the_released_config_is_large(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(RELEASED_CONFIG))
    found = read_config(path)
    assert found.config == mu0_config("large-official")
    assert found.delta_scale == (0.25, 0.375, 0.125)
    assert "scheduler_decay_lr" in found.ignored


# What comes out


def test_only_what_was_trained_is_stored(released, tmp_path):
    report = convert(released, tmp_path / "mu0")
    theirs, stored = released_tensors(Shape()), load_file(tmp_path / "mu0" / "model.safetensors")
    assert not any(name.startswith(("prefix.vlm.", "features.dino.")) for name in stored)
    trained = sum(value.numel() for key, value in theirs.items() if not is_frozen(key))
    unread = count_parameters(read_config(released / "config.json").config)["released_unread"]
    assert report.trained_parameters == trained
    assert report.stored_parameters == sum(map(torch.Tensor.numel, stored.values())) == trained - unread
    assert report.released_parameters == sum(map(torch.Tensor.numel, theirs.values()))
    assert report.stored_tensors == len(stored)
    assert report.tokenizer == str(released.parent / "cache" / "tiny-vlm")  # to be fetched
    record = json.loads((tmp_path / "mu0" / "config.json").read_text())
    assert {path: entry["hub_id"] for path, entry in record["backbones"].items()} == {
        "prefix.vlm": str(released.parent / "cache" / "tiny-vlm"),
        "features.dino": str(released.parent / "cache" / "tiny-dino"),
    }
    assert not any(entry["stored"] for entry in record["backbones"].values())
    json.dumps(report.to_dict())


def test_each_tensor_is_where_it_belongs_to_the_bit(released, tmp_path):
    convert(released, tmp_path / "mu0", keep_backbone=True)
    theirs, stored = released_tensors(Shape()), load_file(tmp_path / "mu0" / "model.safetensors")
    pairs = {
        "prefix.depth_adapter.layers.1.out_proj.A": f"{VT}encoder.layers.1.self_attn.out_proj.lora_A.default.weight",
        "prefix.depth_adapter.layers.0.fc2.B": f"{VT}encoder.layers.0.mlp.fc2.lora_B.default.weight",
        "prefix.depth_stem.bias": f"{W}_depth_patch_embedding.bias",
        "prefix.vlm.model.vision_model.encoder.layers.1.mlp.fc1.bias": f"{VT}encoder.layers.1.mlp.fc1.base_layer.bias",
        "prefix.vlm.model.vision_model.post_layernorm.weight": f"{VT}post_layernorm.weight",
        "prefix.vlm.lm_head.weight": f"{W}vlm.lm_head.weight",
        "expert.layers.3.k_proj.weight": f"{W}lm_expert.layers.3.self_attn.k_proj.weight",
        "expert.layers.2.norm_mlp.weight": f"{W}lm_expert.layers.2.post_attention_layernorm.weight",
        "expert.layers.0.modulation.proj.bias": "model.trace_adaln_modulation.0.1.bias",
        "velocity_proj.weight": "model.trace_out_proj_future.weight",
        "tokens.fuse_in.weight": "model.trace_dino_fuse_in.weight",
    }
    for name, key in pairs.items():
        assert torch.equal(stored[name], theirs[key]), name
        assert stored[name].dtype == theirs[key].dtype, name
    assert torch.equal(stored["tokens.group_embedding.weight"], theirs["model.trace_time_embedding.weight"][:2])


def test_statistics_come_along(released, tmp_path):
    convert(released, tmp_path / "mu0", keep_backbone=True)
    scales = load_checkpoint(tmp_path / "mu0").normalisation
    assert scales.s_delta == {"arc": (0.25, 0.375, 0.125)}
    assert scales.steps == {"arc": 0.05}
    assert (scales.depth_log_min, scales.depth_log_max) == (-1.2, 1.1)


def test_backbones_come_from_a_folder_and_must_be_the_ones(released, tmp_path):
    """Without the frozen tensors inside, the same model results once the published ones are at hand; others are refused."""
    convert(released, tmp_path / "whole", keep_backbone=True)
    convert(released, tmp_path / "small")
    whole = load_checkpoint(tmp_path / "whole").model
    with pytest.raises(MissingWeightsError, match="tiny-"):  # the cache has their configs only
        load_checkpoint(tmp_path / "small")
    with pytest.raises(MissingWeightsError, match=r"hf download .*tiny-\w+ --local-dir"):
        load_checkpoint(tmp_path / "small", backbones=tmp_path)
    whole.prefix.vlm.config.text_config.rope_parameters["rope_theta"] = 123_456.0
    whole.prefix.vlm.save_pretrained(tmp_path / "hub" / "tiny-vlm")
    whole.features.dino.save_pretrained(tmp_path / "hub" / "tiny-dino")
    filled = load_checkpoint(tmp_path / "small", backbones=tmp_path / "hub").model
    for name, tensor in whole.state_dict().items():
        assert torch.equal(filled.state_dict()[name], tensor), name
    trainable = sum(p.numel() for p in filled.parameters() if p.requires_grad)
    counts = count_parameters(filled.config)
    assert trainable == counts["trainable"] - counts["released_unread"]
    with torch.no_grad():
        whole.features.dino.layernorm.bias += 1
    whole.features.dino.save_pretrained(tmp_path / "hub" / "tiny-dino")
    with pytest.raises(CheckpointError, match=r"features.dino.*not the weights that the checkpoint was trained on"):
        load_checkpoint(tmp_path / "small", backbones=tmp_path / "hub")


def test_a_kept_tokenizer_makes_the_folder_complete(released, tmp_path):
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "Task": 2, ":": 3, "open": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")
    beside = tmp_path / "beside"
    write_released(tmp_path).rename(beside)
    tokenizer.save_pretrained(tmp_path / "t")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "t" / name).rename(beside / name)
    report = convert_official(beside, tmp_path / "normalizer_stats.json", tmp_path / "mu0", keep_backbone=True)
    assert report.tokenizer == "stored"
    ids, mask = load_checkpoint(tmp_path / "mu0").model.prefix.tokenizer(["Task: open", "Task: open what now"])
    assert ids.tolist() == [[2, 3, 4, 0, 0], [2, 3, 4, 1, 1]]
    assert mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5]


def test_a_model_without_depth_and_dino(tmp_path):
    """`use_depth=False`: no PEFT wrapper, no stem; `use_dino=False`: no DINOv2 and no eq. 5."""
    tensors = {
        key.replace(".base_model.model.", ".").replace(".base_layer.", "."): value
        for key, value in released_tensors(Shape()).items()
        if ".lora_" not in key and "_depth_patch" not in key and "dino" not in key
    }
    features = {"observation.images.cam_front": {"type": "VISUAL", "shape": [3, 32, 32]}}
    released = write_released(tmp_path, tensors=tensors, use_depth=False, use_dino=False, input_features=features)
    convert(released, tmp_path / "mu0", keep_backbone=True)
    model = load_checkpoint(tmp_path / "mu0").model
    assert model.prefix.depth_stem is None
    assert model.features is None
    model.prefix.tokenizer = letters
    assert model.config.use_depth is False


# What is refused


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"smooth_loss_weight": 0.1}, "unknown field smooth_loss_weight"),
        ({"a": 1, "b": 2}, "unknown field a; unknown field b"),
        ({"trace_bspline_mode": False}, "trace_bspline_mode is False, only True"),
        ({"step_by_step_delta": True}, "step_by_step_delta is True, only False"),
        ({"type": "pi0"}, "type is 'pi0'"),
        ({"attention_mode": "self_attn"}, "attention_mode is 'self_attn'"),
        ({"self_attn_every_n_layers": 4}, "self_attn_every_n_layers is 4"),
        ({"trace_mode": 1}, "trace_mode is 1"),
        ({"train_expert_only": False}, "train_expert_only is False"),
        ({"max_period": 8.0}, "max_period is 8.0"),
        ({"prefix_length": 400}, "prefix_length is 400"),
        ({"trace_done_head": False}, "trace_done_head is False"),
        ({"depth_lora_targets": ["q_proj"]}, "depth_lora_targets is"),
        ({"num_expert_layers": 2}, "num_expert_layers differs"),
        ({"resize_imgs_with_padding": [32, 48]}, "not a square"),
        ({"history_len": DELETED}, "missing field history_len"),
        ({"history_len": "8"}, "history_len is '8', of a wrong type"),
        ({"use_depth": False}, "input_features are"),
        ({"delta_scale": [1.0]}, "delta_scale is"),
        ({"trace_group_horizon": 3}, "does not divide history=8"),
        ({"delta_scale": [0.25, 0.375, 0.5]}, "the stats say"),
    ],
)
def test_configs_that_cannot_be_reproduced(tmp_path, changes, named):
    released = write_released(tmp_path, tensors={}, **changes)
    with pytest.raises(CheckpointError, match=named.replace("[", r"\[")) as caught:
        convert(released, tmp_path / "mu0")
    assert "config.json" in str(caught.value)
    assert not (tmp_path / "mu0").exists()


def test_legacy_fields_that_say_the_same_are_fine(tmp_path):
    released = write_released(tmp_path, trace_bspline_mode=True, step_by_step_delta=False, delta_scale=None)
    assert convert(released, tmp_path / "mu0").stored_tensors > 0


def test_an_unknown_backbone_has_to_be_at_hand(tmp_path):
    released = write_released(tmp_path, tensors={}, vlm_model_name="HuggingFaceTB/SmolVLM3-nowhere")
    with pytest.raises(MissingWeightsError, match="hf download HuggingFaceTB/SmolVLM3-nowhere"):
        convert(released, tmp_path / "mu0")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"target_kind": "step"}, "target_kind is 'step'"),
        ({"depth_log_min": None, "depth_log_max": None}, "depth_log_min is None.*depth_log_max is None"),
        ({"delta_scale_y": float("nan")}, "delta_scale_y is nan"),
        ({"delta_scale_x": 0.0}, "three positive numbers"),
        ({"history_len": 16}, "history_len is 16, not 8"),
        ({"future_len": 64}, "future_len is 64, not 32"),
        ({"depth_log_min": 2.0}, "below depth_log_max"),
    ],
)
def test_stats_of_something_else(released, tmp_path, changes, named):
    path = tmp_path / "stats.json"
    path.write_text(json.dumps(RELEASED_STATS | changes))
    with pytest.raises(CheckpointError, match=named):
        convert_official(released, path, tmp_path / "mu0")


def faulty(tmp_path, change):
    tensors = released_tensors(Shape())
    change(tensors)
    return write_released(tmp_path, tensors=tensors)


def without(word):
    return lambda tensors: [tensors.pop(key) for key in list(tensors) if word in key]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.update({"model.state_proj.weight": torch.ones(2)}), r"unknown model\.state_proj\.weight"),
        (lambda t: t.update({f"{W}lm_expert.embed.weight": torch.ones(2)}), r"unknown .*lm_expert\.embed"),
        (without("lora_B"), r"nothing for prefix\.depth_adapter\.layers\.\*\.q_proj\.B \(2\), .*fc2\.B \(2\)"),
        (without("trace_adaln_modulation.3"), r"nothing for expert\.layers\.3\.modulation\.proj\.weight"),
        (without("_depth_patch_embedding.bias"), r"nothing for prefix\.depth_stem\.bias"),
        (without("layers.1.self_attn.q_proj.base_layer"), r"nothing for prefix\.vlm\.model\.vision_model"),
        (
            lambda t: t.update({"model.trace_out_proj_future.weight": torch.ones(96, 16)}),
            r"of another shape model\.trace_out_proj_future\.weight \(96, 16\) instead of \(30, 16\)",
        ),
        (
            lambda t: t.update({"model.trace_time_embedding.weight": torch.ones(1, 16)}),
            r"trace_time_embedding\.weight \(1, 16\) instead of \(2, 16\)",
        ),
        (
            lambda t: t["model.trace_out_proj_future.bias"].fill_(torch.nan),
            r"model\.trace_out_proj_future\.bias: holds NaN",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_listed(tmp_path, change, named):
    with pytest.raises(CheckpointError, match=named):
        convert(faulty(tmp_path, change), tmp_path / "mu0")
    assert not (tmp_path / "mu0").exists()


def test_a_file_without_backbones_is_enough_unless_they_are_to_be_kept(tmp_path):
    released = faulty(tmp_path, lambda t: [t.pop(key) for key in list(t) if is_frozen(key)])
    report = convert(released, tmp_path / "mu0")
    assert all(entry["fingerprint"] is None for entry in report.backbones.values())
    with pytest.raises(CheckpointError, match=r"nothing for .*prefix\.vlm\.lm_head\.weight"):
        convert(released, tmp_path / "kept", keep_backbone=True)


def test_damaged_or_absent_files(released, tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        convert(tmp_path, tmp_path / "mu0")
    with pytest.raises(CheckpointError, match=r"nowhere\.json: cannot be read"):
        convert_official(released, tmp_path / "nowhere.json", tmp_path / "mu0")
    broken = write_released(tmp_path, tensors={"x": torch.ones(3)})
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        convert(broken, tmp_path / "mu0")
    weights.unlink()
    with pytest.raises(CheckpointError, match="no weights here"):
        convert(broken, tmp_path / "mu0")
    (broken / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds a list"):
        convert(broken, tmp_path / "mu0")


# The command


def test_the_command(released, tmp_path, capsys):
    stats = str(released.parent / "normalizer_stats.json")
    words = ["convert", "mu0", str(released), "--stats", stats, "--out", str(tmp_path / "mu0")]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["size"] == "custom"
    assert report["s_delta"] == [0.25, 0.375, 0.125]
    assert main([*words, "--keep-backbone"]) == 0
    assert "trained_parameters" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "mu0").model.config.compat == "official"
    words[2] = str(tmp_path / "absent")
    assert main(words) == 1
    assert "absent" in capsys.readouterr().err.replace("\n", "")
