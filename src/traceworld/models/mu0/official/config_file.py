"""The released config.json read strictly: every field is understood, ignored by name, or refused (dossier §1.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from traceworld.errors import CheckpointError, ConfigError, MissingWeightsError
from traceworld.extras import require
from traceworld.models.mu0.config import (
    ExpertConfig,
    LocalFeatureConfig,
    Mu0Config,
    SmolVLMPrefixConfig,
)
from traceworld.models.mu0.depth_adapter import ADAPTED
from traceworld.models.mu0.official.stats_file import read_json_object
from traceworld.models.mu0.official.switches import official_config
from traceworld.models.mu0.sizes import OFFICIAL, SIZES, expert_mlp_hidden, mu0_config
from traceworld.models.pretrained import missing_weights

_ONLY: dict[str, Any] = {
    "type": "smolvla",
    "trace_mode": True,
    "trace_dim": 3,
    "tokenizer_max_length": 48,
    "self_attn_every_n_layers": 2,
    "attention_mode": "cross_attn",
    "freeze_vision_encoder": True,
    "train_expert_only": True,
    "add_image_special_tokens": False,
    "prefix_length": -1,
    "trace_done_head": True,
    "trace_adaln_freq_embed_size": 256,
    "min_period": 4e-3,
    "max_period": 4.0,
    "depth_clone_stem": True,
    "depth_lora_targets": list(ADAPTED),
    "dino_num_prefix_tokens": 1,
}
"""Fields of which one value can be reproduced."""

_LEGACY = {"trace_bspline_mode": True, "step_by_step_delta": False}
"""Fields of older versions; the released code takes these values for granted, so a file may only say the same."""

_READ: dict[str, type | tuple[type, ...]] = {
    "history_len": int,
    "future_len": int,
    "trace_uv_num_freqs": int,
    "trace_group_horizon": int,
    "trace_bspline_n_ctrl": int,
    "trace_bspline_ctrl_per_token": int,
    "num_steps": int,
    "vlm_model_name": str,
    "num_vlm_layers": int,
    "num_expert_layers": int,
    "expert_width_multiplier": (int, float),
    "resize_imgs_with_padding": list,
    "use_depth": bool,
    "depth_lora_rank": int,
    "depth_lora_alpha": (int, float),
    "use_dino": bool,
    "dino_model_name": str,
    "dino_input_size": int,
    "done_threshold": (int, float),
    "done_loss_weight": (int, float),
    "rigidity_loss_weight": (int, float),
    "input_features": dict,
}
"""Fields that say what the model is, and their JSON type."""

_OPTIONAL = {"delta_scale"}

_IGNORED = frozenset({
    "n_obs_steps", "chunk_size", "n_action_steps", "max_state_dim", "max_action_dim", "normalization_mapping",
    "empty_cameras", "use_cache",
    "adapt_to_pi_aloha", "use_delta_joint_actions_aloha", "train_state_proj", "pad_language_to", "rtc_config",
    "output_features",
    "compile_model", "compile_mode", "device", "use_amp", "use_peft", "push_to_hub", "repo_id", "private", "tags",
    "license", "pretrained_path",
    "load_vlm_weights", "vlm_lr_multiplier", "n_min", "n_max",
    "depth_lora_dropout", "depth_dropout_prob", "trace_history_full_mask_prob", "trace_history_kp_dropout_prob",
    "done_bias_init",
    "optimizer_lr", "optimizer_betas", "optimizer_eps", "optimizer_weight_decay", "optimizer_grad_clip_norm",
    "scheduler_warmup_steps", "scheduler_decay_steps", "scheduler_decay_lr",
})  # fmt: skip
"""Fields of actions, of the hub, and of training, which prediction does not depend on."""

_CAMERA = "observation.images.cam_front"


@dataclass(frozen=True)
class ReleasedConfig:
    """What config.json says.

    Attributes:
        config: ours.
        ignored: fields that were there and do not matter.
        delta_scale: s_Δ if the file repeats it; the stats file must say the same.
    """

    config: Mu0Config
    ignored: tuple[str, ...]
    delta_scale: tuple[float, ...] | None


def read_config(path: str | Path) -> ReleasedConfig:
    """Read a released config.json.

    Raises:
        CheckpointError: unreadable; or a field is unknown, missing, or says what cannot be reproduced (all named).
        MissingWeightsError: it names a backbone that is not one of the three published ones and whose config is not cached.
    """
    values = read_json_object(path)
    faults = _faults(values)
    if faults:
        raise CheckpointError(
            "; ".join(faults), where=str(path), mend="only checkpoints of the released trace model can be converted"
        )
    try:
        config = _build(values)
    except ConfigError as error:
        raise CheckpointError(str(error), where=str(path)) from error
    scale = values.get("delta_scale")
    return ReleasedConfig(
        config, tuple(sorted(_IGNORED & values.keys())), None if scale is None else tuple(map(float, scale))
    )


def _faults(values: Mapping[str, Any]) -> list[str]:
    known = _ONLY.keys() | _LEGACY.keys() | _READ.keys() | _OPTIONAL | _IGNORED
    faults = [f"unknown field {name}" for name in sorted(values.keys() - known)]
    faults += [f"missing field {name}" for name in sorted((_ONLY.keys() | _READ.keys()) - values.keys())]
    for name, only in (_ONLY | _LEGACY).items():
        if name in values and (values[name] != only or isinstance(values[name], bool) != isinstance(only, bool)):
            faults.append(f"{name} is {values[name]!r}, only {only!r} can be reproduced")
    for name, kind in _READ.items():
        value = values.get(name)
        if name in values and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            faults.append(f"{name} is {value!r}, of a wrong type")
    if faults:
        return faults
    if values["num_expert_layers"] > 0 and values["num_expert_layers"] != values["num_vlm_layers"]:
        faults.append("num_expert_layers differs from num_vlm_layers: an expert with skipped layers is not supported")
    size = values["resize_imgs_with_padding"]
    if len(size) != 2 or size[0] != size[1]:
        faults.append(f"resize_imgs_with_padding is {size}, not a square")
    scale = values.get("delta_scale")
    if scale is not None and (len(scale) != 3 or not all(isinstance(x, int | float) for x in scale)):
        faults.append(f"delta_scale is {scale!r}, not three numbers")
    wanted = [_CAMERA, f"{_CAMERA}_depth"] if values["use_depth"] else [_CAMERA]
    features = values["input_features"]
    shapes = [f.get("shape") if isinstance(f, Mapping) else None for f in features.values()]
    if list(features) != wanted or any(shape != [3, *size] for shape in shapes):
        faults.append(f"input_features are {list(features)} of shapes {shapes}, not {wanted} of {[3, *size]}")
    return faults


def _build(values: Mapping[str, Any]) -> Mu0Config:
    size, prefix = _prefix(values["vlm_model_name"], values["num_vlm_layers"], values["expert_width_multiplier"])
    width = int(prefix.text_width * values["expert_width_multiplier"])
    plain = Mu0Config(
        size=size,
        history=values["history_len"],
        horizon=values["future_len"],
        num_controls=values["trace_bspline_n_ctrl"],
        euler_steps=values["num_steps"],
        stop_threshold=float(values["done_threshold"]),
        use_depth=values["use_depth"],
        prefix=prefix,
        local=_local(values),
        expert=ExpertConfig(
            width=width,
            mlp_hidden=expert_mlp_hidden(width),
            history_group=values["trace_group_horizon"],
            control_group=values["trace_bspline_ctrl_per_token"],
            uv_freqs=values["trace_uv_num_freqs"],
            anchor_z=False,
        ),
    )
    config = official_config(plain)
    per_point = 3 * config.num_controls  # the released flow loss is a sum over so many numbers, ours a mean
    return replace(
        config,
        size=size,
        euler_steps=plain.euler_steps,
        prefix=replace(
            cast(SmolVLMPrefixConfig, config.prefix),
            image_size=values["resize_imgs_with_padding"][0],
            depth_lora_rank=values["depth_lora_rank"],
            depth_lora_alpha=float(values["depth_lora_alpha"]),
        ),
        loss=replace(
            config.loss,
            lambda_done=values["done_loss_weight"] / per_point,
            lambda_rig=values["rigidity_loss_weight"] / per_point,
        ),
    )


def _prefix(name: str, layers: int, multiplier: float) -> tuple[str, SmolVLMPrefixConfig]:
    """Size label and prefix of a VLM: one of the three published ones, or by its own config from the hub cache."""
    for size in SIZES:
        prefix = mu0_config(size).prefix
        if isinstance(prefix, SmolVLMPrefixConfig) and prefix.hub_id == name:
            published = layers == prefix.layers and multiplier == 0.5
            return f"{size}{OFFICIAL}" if published else "custom", replace(prefix, layers=layers)
    theirs = _cached_config(name)
    vision, text = theirs.vision_config, theirs.text_config
    return "custom", SmolVLMPrefixConfig(
        hub_id=name,
        layers=layers,
        vision_width=vision.hidden_size,
        vision_layers=vision.num_hidden_layers,
        vision_heads=vision.num_attention_heads,
        vision_mlp=vision.intermediate_size,
        vision_patch=vision.patch_size,
        vision_image_size=vision.image_size,
        connector_shuffle=theirs.scale_factor,
        text_width=text.hidden_size,
        text_heads=text.num_attention_heads,
        text_kv_heads=text.num_key_value_heads,
        text_mlp=text.intermediate_size,
        text_rope_theta=float(text.rope_parameters["rope_theta"]),
        vocab=text.vocab_size,
    )


def _local(values: Mapping[str, Any]) -> LocalFeatureConfig:
    name, size = values["dino_model_name"], values["dino_input_size"]
    if not values["use_dino"]:
        return LocalFeatureConfig(source="none")
    published = LocalFeatureConfig(image_size=size)
    if name == published.hub_id:
        return published
    theirs = _cached_config(name)
    return LocalFeatureConfig(
        hub_id=name,
        image_size=size,
        patch=theirs.patch_size,
        width=theirs.hidden_size,
        layers=theirs.num_hidden_layers,
        heads=theirs.num_attention_heads,
    )


def _cached_config(name: str) -> Any:
    try:
        return require("transformers").AutoConfig.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        missing: MissingWeightsError = missing_weights(name, None)
        raise missing from error
