"""Names and shapes of the released state dict (dossier §1.3) and where each tensor goes in our model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from traceworld.models.mu0.config import Mu0Config

Shape = tuple[int, ...]

_W = r"^model\.vlm_with_expert\."
_VISION = _W + r"vlm\.model\.vision_model\.(?:base_model\.model\.)?"
_RENAMED = [
    # The depth pass: PEFT's adapters and the stem of its own
    (_VISION + r"encoder\.layers\.(\d+)\.\w+\.(\w+)\.lora_([AB])\.default\.weight$", r"prefix.depth_adapter.layers.\1.\2.\3"),
    (_W + r"_depth_patch_embedding\.(\w+)$", r"prefix.depth_stem.\1"),
    # The frozen VLM; PEFT wraps its vision tower
    (_VISION + r"(.+?)(?:\.base_layer)?\.(weight|bias)$", r"prefix.vlm.model.vision_model.\1.\2"),
    (_W + r"vlm\.((?:model\.(?:connector|text_model)|lm_head)\..+)$", r"prefix.vlm.\1"),
    # The expert
    (_W + r"lm_expert\.layers\.(\d+)\.self_attn\.(\w+)\.weight$", r"expert.layers.\1.\2.weight"),
    (_W + r"lm_expert\.layers\.(\d+)\.mlp\.(\w+)\.weight$", r"expert.layers.\1.mlp.\2.weight"),
    (_W + r"lm_expert\.layers\.(\d+)\.input_layernorm\.weight$", r"expert.layers.\1.norm_attention.weight"),
    (_W + r"lm_expert\.layers\.(\d+)\.post_attention_layernorm\.weight$", r"expert.layers.\1.norm_mlp.weight"),
    (_W + r"lm_expert\.norm\.weight$", r"expert.norm.weight"),
    (r"^model\.trace_adaln_modulation\.(\d+)\.1\.(\w+)$", r"expert.layers.\1.modulation.proj.\2"),
    # The keypoint tokens and the heads
    (r"^model\.trace_time_embedding\.weight$", r"tokens.group_embedding.weight"),
    (r"^model\.trace_seg_embedding\.weight$", r"tokens.segment_embedding.weight"),
    (r"^model\.trace_uv_pos_mlp\.([02])\.(\w+)$", r"tokens.place_mlp.\1.\2"),
    (r"^model\.trace_in_proj_history\.(\w+)$", r"tokens.history_lift.\1"),
    (r"^model\.trace_in_proj_future\.(\w+)$", r"tokens.control_lift.\1"),
    (r"^model\.trace_dino_fuse_(in|out)\.(\w+)$", r"tokens.fuse_\1.\2"),
    (r"^model\.trace_timestep_embedder\.mlp\.([02])\.(\w+)$", r"time_embedding.mlp.\1.\2"),
    (r"^model\.trace_out_proj_future\.(\w+)$", r"velocity_proj.\1"),
    (r"^model\.trace_done_proj_bsp\.(\w+)$", r"validity_proj.\1"),
    # The frozen DINOv2
    (r"^model\.dino\.(.+)$", r"features.dino.\1"),
]  # fmt: skip
_DINO_RENAMED = [  # transformers 5.3, which wrote the file, and later ones
    (r"\.attention\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
]
_DEAD = re.compile(r"^model\.action_time_mlp_(in|out)\.(weight|bias)$")
_TABLE = "tokens.group_embedding.weight"


@dataclass(frozen=True)
class KeyPlan:
    """Which released tensor becomes which of ours.

    Attributes:
        sources: our name → released name.
        dead: released names that nothing reads.
        unknown: released names that have no place.
        missing: our names that nothing fills.
        misshapen: "released name (shape) instead of (shape)".
    """

    sources: Mapping[str, str]
    dead: tuple[str, ...]
    unknown: tuple[str, ...]
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]


def our_name(key: str, ours: Iterable[str]) -> str | None:
    """Our name of a released tensor, among `ours`; None if it has none."""
    known = ours if isinstance(ours, set | frozenset | dict) else set(ours)
    for pattern, name in _RENAMED:
        if re.match(pattern, key):
            renamed = re.sub(pattern, name, key)
            if renamed in known:
                return renamed
            for old, new in _DINO_RENAMED:
                renamed = re.sub(old, new, renamed)
            return renamed if renamed in known else None
    return None


def plan_keys(released: Mapping[str, Shape], ours: Mapping[str, Shape], optional: tuple[str, ...] = ()) -> KeyPlan:
    """Match the tensors of a file with those of a model.

    Args:
        released: name → shape in the file.
        ours: name → shape in our model.
        optional: beginnings of our names that the file need not hold (the published backbones).
    """
    sources: dict[str, str] = {}
    dead, unknown, misshapen = [], [], []
    for key, shape in released.items():
        if _DEAD.match(key):
            dead.append(key)
            continue
        name = our_name(key, ours)
        if name is None or name in sources:
            unknown.append(key)
            continue
        sources[name] = key
        wanted = ours[name]
        fits = shape[0] >= wanted[0] and shape[1:] == wanted[1:] if name == _TABLE else shape == wanted
        if not fits:
            misshapen.append(f"{key} {shape} instead of {wanted}")
    missing = [name for name in ours if name not in sources and not name.startswith(optional)]
    return KeyPlan(sources, tuple(dead), tuple(unknown), tuple(missing), tuple(misshapen))


def rows_used(name: str, wanted: Shape) -> slice | None:
    """The rows of a released tensor that we take, if not all: its table has one per step, and one per token is read."""
    return slice(wanted[0]) if name == _TABLE else None


def unread_parameters(config: Mu0Config) -> int:
    """Trainable numbers in the released model that nothing reads: the action MLP and the table's other rows.

    The published totals count them.
    """
    width, expert = config.expert.width, config.expert
    action_mlp = (2 * width * width + width) + (width * width + width)
    tokens = config.history // expert.history_group + config.num_controls // expert.control_group
    return action_mlp + (config.history + config.horizon - tokens) * width


def grouped(keys: Iterable[str]) -> str:
    """Names for a message: those that differ only in a layer's number stand together, with their count."""
    counts: dict[str, list[str]] = {}
    for key in keys:
        counts.setdefault(re.sub(r"\.\d+\.", ".*.", key), []).append(key)
    return ", ".join(same[0] if len(same) == 1 else f"{name} ({len(same)})" for name, same in counts.items())
