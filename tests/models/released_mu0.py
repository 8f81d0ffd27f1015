"""Checkpoints in the released layout, made of random numbers: the key names and shapes of the dossier's §1.3, spelled out."""

import json
from dataclasses import dataclass

import torch
import transformers
from safetensors.torch import save_file

W = "model.vlm_with_expert."
VT = W + "vlm.model.vision_model.base_model.model."
LM = W + "vlm.model.text_model."


@dataclass(frozen=True)
class Shape:
    """Sizes of a released model; the defaults are tiny."""

    vision: int = 24
    vision_layers: int = 2
    vision_heads: int = 2
    vision_mlp: int = 32
    patch: int = 8
    grid: int = 3  # positions per side that SigLIP was trained with
    shuffle: int = 2
    text: int = 32
    heads: int = 4
    kv_heads: int = 2
    text_mlp: int = 40
    layers: int = 4
    vocab: int = 50
    expert: int = 16
    expert_mlp: int = 256
    dino: int = 12
    dino_layers: int = 2
    dino_heads: int = 2
    dino_patch: int = 7
    dino_input: int = 28
    image: int = 32
    rank: int = 8
    h: int = 8
    H: int = 32
    D: int = 10

    @property
    def head_dim(self):
        return self.text // self.heads


LARGE = Shape(
    1152, 27, 16, 4304, 14, 27, 3, 2048, 32, 32, 8192, 20, 49280, 1024, 2816, 768, 12, 12, 14, 518, 512
)  # fmt: skip
BASE = Shape(768, 12, 12, 3072, 16, 32, 4, 960, 15, 5, 2560, 20, 49280, 480, 1280, 768, 12, 12, 14, 518, 512)
SMALL = Shape(768, 12, 12, 3072, 16, 32, 4, 576, 9, 3, 1536, 20, 49280, 288, 768, 768, 12, 12, 14, 518, 512)


def released_shapes(s: Shape) -> dict[str, tuple[int, ...]]:
    """Every key of a released state dict with its shape."""
    keys = {}

    def linear(name, out, into, bias=True):
        keys[f"{name}.weight"] = (out, into)
        if bias:
            keys[f"{name}.bias"] = (out,)

    def norm(name, width):
        keys[f"{name}.weight"] = (width,)
        keys[f"{name}.bias"] = (width,)

    keys[f"{VT}embeddings.patch_embedding.weight"] = (s.vision, 3, s.patch, s.patch)
    keys[f"{VT}embeddings.patch_embedding.bias"] = (s.vision,)
    keys[f"{VT}embeddings.position_embedding.weight"] = (s.grid**2, s.vision)
    for i in range(s.vision_layers):
        at = f"{VT}encoder.layers.{i}."
        norm(f"{at}layer_norm1", s.vision)
        norm(f"{at}layer_norm2", s.vision)
        adapted = {f"self_attn.{x}_proj": (s.vision, s.vision) for x in ("q", "k", "v", "out")}
        adapted |= {"mlp.fc1": (s.vision_mlp, s.vision), "mlp.fc2": (s.vision, s.vision_mlp)}
        for name, (out, into) in adapted.items():
            linear(f"{at}{name}.base_layer", out, into)
            keys[f"{at}{name}.lora_A.default.weight"] = (s.rank, into)
            keys[f"{at}{name}.lora_B.default.weight"] = (out, s.rank)
    norm(f"{VT}post_layernorm", s.vision)
    keys[f"{W}_depth_patch_embedding.weight"] = (s.vision, 3, s.patch, s.patch)
    keys[f"{W}_depth_patch_embedding.bias"] = (s.vision,)
    linear(f"{W}vlm.model.connector.modality_projection.proj", s.text, s.vision * s.shuffle**2, bias=False)
    keys[f"{LM}embed_tokens.weight"] = (s.vocab, s.text)
    kv = s.kv_heads * s.head_dim
    for i in range(s.layers):
        for at, width, mlp, cross in (
            (f"{LM}layers.{i}.", s.text, s.text_mlp, False),
            (f"{W}lm_expert.layers.{i}.", s.expert, s.expert_mlp, i % 2 == 1),
        ):
            linear(f"{at}self_attn.q_proj", s.heads * s.head_dim, width, bias=False)
            linear(f"{at}self_attn.k_proj", kv, kv if cross else width, bias=False)
            linear(f"{at}self_attn.v_proj", kv, kv if cross else width, bias=False)
            linear(f"{at}self_attn.o_proj", width, s.heads * s.head_dim, bias=False)
            linear(f"{at}mlp.gate_proj", mlp, width, bias=False)
            linear(f"{at}mlp.up_proj", mlp, width, bias=False)
            linear(f"{at}mlp.down_proj", width, mlp, bias=False)
            keys[f"{at}input_layernorm.weight"] = (width,)
            keys[f"{at}post_attention_layernorm.weight"] = (width,)
    keys[f"{LM}norm.weight"] = (s.text,)
    keys[f"{W}vlm.lm_head.weight"] = (s.vocab, s.text)
    keys[f"{W}lm_expert.norm.weight"] = (s.expert,)
    E = s.expert
    keys["model.trace_time_embedding.weight"] = (s.h + s.H, E)
    keys["model.trace_seg_embedding.weight"] = (2, E)
    linear("model.trace_uv_pos_mlp.0", E, 32)
    linear("model.trace_uv_pos_mlp.2", E, E)
    linear("model.trace_in_proj_history", E, 3 * s.h)
    linear("model.trace_in_proj_future", E, 3 * s.D)
    linear("model.trace_out_proj_future", 3 * s.D, E)
    linear("model.trace_done_proj_bsp", s.H, E)
    linear("model.trace_timestep_embedder.mlp.0", E, 256)
    linear("model.trace_timestep_embedder.mlp.2", E, E)
    for i in range(s.layers):
        linear(f"model.trace_adaln_modulation.{i}.1", 6 * E, E)
    linear("model.trace_dino_fuse_in", E, E + s.dino)
    linear("model.trace_dino_fuse_out", E, E)
    linear("model.action_time_mlp_in", E, 2 * E)
    linear("model.action_time_mlp_out", E, E)
    C, side = s.dino, s.dino_input // s.dino_patch
    keys["model.dino.embeddings.cls_token"] = (1, 1, C)
    keys["model.dino.embeddings.mask_token"] = (1, C)
    keys["model.dino.embeddings.position_embeddings"] = (1, side**2 + 1, C)
    keys["model.dino.embeddings.patch_embeddings.projection.weight"] = (C, 3, s.dino_patch, s.dino_patch)
    keys["model.dino.embeddings.patch_embeddings.projection.bias"] = (C,)
    for i in range(s.dino_layers):
        at = f"model.dino.encoder.layer.{i}."
        norm(f"{at}norm1", C)
        norm(f"{at}norm2", C)
        for x in ("query", "key", "value"):
            linear(f"{at}attention.attention.{x}", C, C)
        linear(f"{at}attention.output.dense", C, C)
        keys[f"{at}layer_scale1.lambda1"] = (C,)
        keys[f"{at}layer_scale2.lambda1"] = (C,)
        linear(f"{at}mlp.fc1", 4 * C, C)
        linear(f"{at}mlp.fc2", C, 4 * C)
    norm("model.dino.layernorm", C)
    return keys


def is_frozen(key: str) -> bool:
    """Which tensors the release did not train (§3): SigLIP's own, the connector, the language model, DINOv2."""
    return (key.startswith(W + "vlm.") and ".lora_" not in key) or key.startswith("model.dino.")


def released_dtype(key: str, s: Shape) -> torch.dtype:
    """§1.3: VLM, depth stem, DINO and expert bfloat16; adapters, odd layers' k/v, adaLN and trace heads float32."""
    if ".lora_" in key or (key.startswith("model.") and not key.startswith((W, "model.dino."))):
        return torch.float32
    odd = any(f"lm_expert.layers.{i}.self_attn.{x}_proj." in key for i in range(1, s.layers, 2) for x in "kv")
    return torch.float32 if odd else torch.bfloat16


def released_tensors(s: Shape, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of a size at which every path carries a signal."""
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, shape in released_shapes(s).items():
        value = torch.randn(shape, generator=g)
        if "norm" in key and key.endswith("weight"):
            value = 1 + 0.2 * value
        elif len(shape) == 1:
            value = 0.2 * value
        elif "embed_tokens" in key:
            value = 0.3 * value
        elif len(shape) > 1:
            value = value * _gain(shape)
        tensors[key] = value.to(released_dtype(key, s))
    return tensors


def _gain(shape):
    inputs = 1
    for size in shape[1:]:
        inputs *= size
    return 0.7 / inputs**0.5


RELEASED_CONFIG = {
    "type": "smolvla",
    "n_obs_steps": 1,
    "input_features": {
        "observation.images.cam_front": {"type": "VISUAL", "shape": [3, 512, 512]},
        "observation.images.cam_front_depth": {"type": "VISUAL", "shape": [3, 512, 512]},
    },
    "output_features": {},
    "device": "cuda",
    "use_amp": False,
    "push_to_hub": False,
    "repo_id": None,
    "private": None,
    "tags": None,
    "license": None,
    "chunk_size": 50,
    "n_action_steps": 50,
    "normalization_mapping": {"VISUAL": "IDENTITY"},
    "max_state_dim": 32,
    "max_action_dim": 32,
    "resize_imgs_with_padding": [512, 512],
    "empty_cameras": 0,
    "adapt_to_pi_aloha": False,
    "use_delta_joint_actions_aloha": False,
    "tokenizer_max_length": 48,
    "num_steps": 4,
    "use_cache": True,
    "freeze_vision_encoder": True,
    "train_expert_only": True,
    "train_state_proj": True,
    "trace_mode": True,
    "history_len": 8,
    "future_len": 32,
    "trace_dim": 3,
    "n_min": 1,
    "n_max": 256,
    "vlm_lr_multiplier": 1.0,
    "trace_uv_num_freqs": 8,
    "trace_group_horizon": 8,
    "trace_history_full_mask_prob": 0.5,
    "trace_history_kp_dropout_prob": 0.3,
    "use_depth": True,
    "depth_lora_rank": 8,
    "depth_lora_alpha": 16,
    "depth_lora_dropout": 0.0,
    "depth_lora_targets": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    "depth_clone_stem": True,
    "depth_dropout_prob": 0.7,
    "use_dino": True,
    "dino_model_name": "facebook/dinov2-base",
    "dino_input_size": 518,
    "dino_num_prefix_tokens": 1,
    "trace_adaln_freq_embed_size": 256,
    "rigidity_loss_weight": 5.0,
    "trace_done_head": True,
    "done_loss_weight": 0.5,
    "done_bias_init": 3.0,
    "done_threshold": 0.5,
    "trace_bspline_n_ctrl": 10,
    "trace_bspline_ctrl_per_token": 10,
    "delta_scale": [0.25, 0.375, 0.125],
    "optimizer_lr": 1e-4,
    "optimizer_betas": [0.9, 0.95],
    "optimizer_eps": 1e-8,
    "optimizer_weight_decay": 1e-10,
    "optimizer_grad_clip_norm": 10.0,
    "scheduler_warmup_steps": 1000,
    "scheduler_decay_steps": 30000,
    "scheduler_decay_lr": 2.5e-6,
    "vlm_model_name": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    "load_vlm_weights": True,
    "add_image_special_tokens": False,
    "attention_mode": "cross_attn",
    "prefix_length": -1,
    "pad_language_to": "longest",
    "num_expert_layers": 20,
    "num_vlm_layers": 20,
    "self_attn_every_n_layers": 2,
    "expert_width_multiplier": 0.5,
    "min_period": 4e-3,
    "max_period": 4.0,
    "rtc_config": None,
    "compile_model": False,
    "compile_mode": "max-autotune",
}
RELEASED_STATS = {
    "delta_scale_x": 0.25,
    "delta_scale_y": 0.375,
    "delta_scale_z": 0.125,
    "percentile": 95.0,
    "num_samples": 123456,
    "history_len": 8,
    "future_len": 32,
    "target_kind": "anchor",
    "video_fraction": 1.0,
    "depth_log_min": -1.2,
    "depth_log_max": 1.1,
    "depth_p1_m": 0.301,
    "depth_p99_m": 3.004,
    "depth_num_samples": 99,
    "depth_num_dirs": 3,
    "depth_percentile_low": 1.0,
    "depth_percentile_high": 99.0,
}


def write_released(folder, s: Shape = Shape(), tensors=None, **changes):
    """A released folder with a tiny model; the two backbones' configs lie beside it, as in a hub cache.

    Returns:
        The folder (config.json, model.safetensors, meta.json); normalizer_stats.json lies beside it.
    """
    vlm, dino = folder / "cache" / "tiny-vlm", folder / "cache" / "tiny-dino"
    tiny_vlm_config(s).save_pretrained(vlm)
    tiny_dino_config(s).save_pretrained(dino)
    released = folder / "final_ckpt"
    released.mkdir()
    shape = [3, s.image, s.image]
    config = RELEASED_CONFIG | {
        "vlm_model_name": str(vlm),
        "num_vlm_layers": s.layers,
        "num_expert_layers": s.layers,
        "dino_model_name": str(dino),
        "dino_input_size": s.dino_input,
        "resize_imgs_with_padding": shape[1:],
        "input_features": {k: v | {"shape": shape} for k, v in RELEASED_CONFIG["input_features"].items()},
    }
    config = {key: value for key, value in (config | changes).items() if value is not DELETED}
    (released / "config.json").write_text(json.dumps(config))
    (released / "meta.json").write_text('{"step": 200000}')
    (folder / "normalizer_stats.json").write_text(json.dumps(RELEASED_STATS))
    save_file(released_tensors(s) if tensors is None else tensors, released / "model.safetensors")
    return released


DELETED = object()
"""As a change of `write_released`: the field is left out."""


def letters(prompts):
    """Letters as tokens, right-padded: what a hub tokenizer returns, without a hub."""
    rows = [[ord(letter) % 49 for letter in prompt][:48] for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return ids, torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])


def tiny_vlm_config(s: Shape):
    return transformers.SmolVLMConfig(
        vision_config={
            "hidden_size": s.vision,
            "intermediate_size": s.vision_mlp,
            "num_hidden_layers": s.vision_layers,
            "num_attention_heads": s.vision_heads,
            "patch_size": s.patch,
            "image_size": s.grid * s.patch,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": s.text,
            "intermediate_size": s.text_mlp,
            "num_hidden_layers": s.layers + 1,  # the published model is deeper than what is used
            "num_attention_heads": s.heads,
            "num_key_value_heads": s.kv_heads,
            "head_dim": s.head_dim,
            "vocab_size": s.vocab,
            "rms_norm_eps": 1e-5,
            "pad_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 123_456.0},
        },
        scale_factor=s.shuffle,
        image_token_id=s.vocab - 1,
        tie_word_embeddings=False,
    )


def tiny_dino_config(s: Shape):
    return transformers.Dinov2Config(
        hidden_size=s.dino,
        num_hidden_layers=s.dino_layers,
        num_attention_heads=s.dino_heads,
        image_size=s.dino_input,
        patch_size=s.dino_patch,
    )
