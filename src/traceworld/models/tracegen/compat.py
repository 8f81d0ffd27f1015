"""The released TraceGen code's behaviour, faults included, and its checkpoints (`reference/tracegen.md` §2.2–2.5, 2.10, §7).

Everything that differs from our default is in this file: `reference_config` switches it on, `ReferenceConventions` does it,
`convert_reference` maps a state dict of the released code to ours. Not reproduced: training faults outside the model (weak
points 1–6), and that text conditions get no gradient through their norm. Its reader resizes pictures bilinearly; ours averages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from traceworld.errors import CheckpointError, ConfigError
from traceworld.models.checkpoint import save_checkpoint
from traceworld.models.normalisation import Normalisation
from traceworld.models.tracegen.config import TraceGenConfig
from traceworld.models.tracegen.conventions import Conventions
from traceworld.models.tracegen.grid import Grid
from traceworld.models.tracegen.model import TraceGenModel
from traceworld.models.tracegen.sizes import tracegen_config

NOISE_LEVELS = 100
INCREMENT_LIMIT = (0.05, 0.05, 0.04)
"""u and v as shares of the picture, z in metres: ± these become ± 1, what is beyond is cut off (§2.4)."""
STEP = 0.05
"""Motion of the fastest points per step of the horizon, in picture widths (§1.5)."""
_NULL_NOISE = 0.1
_SHOWN = 8


def reference_config(size: str) -> TraceGenConfig:
    """A released size as the released code runs it: 100 steps, guidance 2, no condition dropout, one clock.

    Raises:
        ConfigError: no such size.
    """
    config = tracegen_config(size)
    if config.encoders is not None:
        # timm's port of DINOv3-L has no biases of query and value.
        config = replace(config, encoders=replace(config.encoders, dino_qkv_bias=False))
    return replace(config, euler_steps=NOISE_LEVELS, guidance=2.0, condition_drop=0.0, clock=False, compat=True)


class ReferenceConventions(Conventions):
    """What the released code does."""

    text_padding: Literal["longest", "max_length"] = "max_length"
    holds_unasked = False

    def __init__(self, config: TraceGenConfig):
        super().__init__(config)
        if config.euler_steps > NOISE_LEVELS:
            raise ConfigError(f"the released code has {NOISE_LEVELS} noise levels", where="euler_steps")

    def grid(self) -> Grid:
        """Pixels 0 … W−1 in equal steps: the picture's corners included."""
        pixel = 2 / self.config.image_size[0]
        return Grid(self.config.grid, -1 + pixel / 2, (2 - pixel) / (self.config.grid - 1))

    def depth_plane(self, depth_m: Float[Tensor, "B H W"], log_range: Float[Tensor, " 2"]) -> Float[Tensor, "B 1 H W"]:
        """Metres as they are."""
        return depth_m.nan_to_num(0.0)[:, None]

    def words_seen(self, mask: Bool[Tensor, "B L"]) -> None:
        """All condition tokens, padding included."""
        return

    def positions(self, path_uvz: Float[Tensor, "B N H 3"]) -> Float[Tensor, "B N H 3"]:
        """u and v cut off at the picture's edges (px / W in [0, 1], pixel centres at integers)."""
        half = 1 / self.config.image_size[0]
        uv = path_uvz[..., :2].clamp(-1 + half, 1 + half)
        return torch.cat([uv, path_uvz[..., 2:]], dim=-1)

    def to_network(self, increment: Float[Tensor, "*B 3"], s_delta: Float[Tensor, "*#B 3"]) -> Float[Tensor, "*B 3"]:
        """Fixed limits instead of the corpus' scale, and a clamp."""
        return (increment / self._limit(increment)).clamp(-1, 1)

    def from_network(self, x: Float[Tensor, "*B 3"], s_delta: Float[Tensor, "*#B 3"]) -> Float[Tensor, "*B 3"]:
        return x * self._limit(x)

    def _limit(self, like: Tensor) -> Float[Tensor, " 3"]:
        u, v, z = INCREMENT_LIMIT
        return like.new_tensor([2 * u, 2 * v, z])  # our uv is twice a share of the picture

    def draw_tau(self, count: int, generator: torch.Generator | None, device: torch.device) -> Float[Tensor, " R"]:
        """k / 100, k uniform in 0 … 99: pure noise is never trained."""
        level = (torch.rand(count, generator=generator, device=device) * NOISE_LEVELS).floor()
        return level / NOISE_LEVELS

    def mean_error(
        self, velocity: Float[Tensor, "R H side side 3"], target: Float[Tensor, "R H side side 3"], weight: Tensor
    ) -> Float[Tensor, ""]:
        """Squared error over all entries, those without data counting as zero error."""
        counted = (weight > 0)[..., None]
        return torch.where(counted, velocity.float() - target.float(), 0).square().mean()

    def total_weight(self, weight: Float[Tensor, "R H side side"]) -> Float[Tensor, ""]:
        return weight.new_tensor(weight.numel())

    def schedule(self, steps: int) -> list[tuple[float, float]]:
        """Noise levels 99 … 0 with a step of 1/100 whatever their number: fewer leave part of the noise in."""
        stride = NOISE_LEVELS // steps
        return [(stride * k / NOISE_LEVELS, 1 / NOISE_LEVELS) for k in reversed(range(steps))]

    def unconditional(
        self, tokens: Float[Tensor, "B L C"], null: Float[Tensor, "1 most C"], generator: torch.Generator | None
    ) -> Float[Tensor, "B L C"]:
        """Weak noise that the network was never trained on, drawn anew per prediction."""
        noise = torch.randn(tokens.shape, generator=generator, device=tokens.device)
        return (noise * _NULL_NOISE).to(tokens.dtype)


# --- checkpoints -----------------------------------------------------------------------------------------------------

_DECODER = "diffusion_decoder.cogvideox."
_BLOCK = _DECODER + r"transformer_blocks\.(\d+)\."
_DINO = r"dino_encoder\.vision_model\."
_SIGLIP = r"(siglip|depth)_encoder\."
_TOWER = {"siglip": "siglip", "depth": "depth_siglip"}

_RULES: list[tuple[str, str]] = [
    (_BLOCK + r"norm1\.linear\.(.*)", r"decoder.layers.\1.norm_attention.proj.\2"),
    (_BLOCK + r"norm1\.norm\.(.*)", r"decoder.layers.\1.norm_attention.norm.\2"),
    (_BLOCK + r"norm2\.linear\.(.*)", r"decoder.layers.\1.norm_mlp.proj.\2"),
    (_BLOCK + r"norm2\.norm\.(.*)", r"decoder.layers.\1.norm_mlp.norm.\2"),
    (_BLOCK + r"attn1\.to_([qkv])\.(.*)", r"decoder.layers.\1.\2_proj.\3"),
    (_BLOCK + r"attn1\.to_out\.0\.(.*)", r"decoder.layers.\1.o_proj.\2"),
    (_BLOCK + r"attn1\.norm_([qk])\.(.*)", r"decoder.layers.\1.norm_\2.\3"),
    (_BLOCK + r"ff\.net\.0\.proj\.(.*)", r"decoder.layers.\1.mlp_in.\2"),
    (_BLOCK + r"ff\.net\.2\.(.*)", r"decoder.layers.\1.mlp_out.\2"),
    (_DECODER + r"patch_embed\.proj\.(.*)", r"decoder.patch_proj.\1"),
    (_DECODER + r"patch_embed\.text_proj\.(.*)", r"decoder.condition_proj.\1"),
    (_DECODER + r"time_embedding\.linear_1\.(.*)", r"decoder.time_mlp.0.\1"),
    (_DECODER + r"time_embedding\.linear_2\.(.*)", r"decoder.time_mlp.2.\1"),
    (_DECODER + r"norm_final\.(.*)", r"decoder.norm.\1"),
    (_DECODER + r"norm_out\.linear\.(.*)", r"decoder.modulation_out.\1"),
    (_DECODER + r"norm_out\.norm\.(.*)", r"decoder.norm_out.\1"),
    (_DECODER + r"proj_out\.(.*)", r"decoder.velocity_proj.\1"),
    (r"diffusion_decoder\.learnable_padding_tokens", "null_condition"),
    (r"learnable_depth_mask_token", "condition.no_depth_token"),
    (r"vision_fusion\.(.*)", r"condition.fuse.\1"),
    (r"dino_encoder\.final_layernorm\.(.*)", r"condition.dino_norm.\1"),
    (r"siglip_encoder\.final_layernorm\.(.*)", r"condition.siglip_norm.\1"),
    (r"depth_encoder\.final_layernorm\.(.*)", r"condition.depth_norm.\1"),
    (r"depth_encoder\.stem_adapter\.(.*)", r"condition.depth_stem.\1"),
    (r"t5_encoder\.final_layernorm\.(.*)", r"condition.text_norm.\1"),
    (r"t5_encoder\.text_model\.(.*)", r"condition.t5.\1"),
    # transformers 4 wraps the tower once more than transformers 5 does
    (_SIGLIP + r"vision_model\.(?:vision_model\.)?(.*)", r"condition.<\1>.\2"),
    (_DINO + r"cls_token", "condition.dino.embeddings.cls_token"),
    (_DINO + r"reg_token", "condition.dino.embeddings.register_tokens"),
    (_DINO + r"patch_embed\.proj\.(.*)", r"condition.dino.embeddings.patch_embeddings.\1"),
    (_DINO + r"norm\.(.*)", r"condition.dino.norm.\1"),
    (_DINO + r"blocks\.(\d+)\.gamma_([12])", r"condition.dino.model.layer.\1.layer_scale\2.lambda1"),
    (_DINO + r"blocks\.(\d+)\.norm([12])\.(.*)", r"condition.dino.model.layer.\1.norm\2.\3"),
    (_DINO + r"blocks\.(\d+)\.attn\.qkv\.(.*)", r"condition.dino.model.layer.\1.attention.<qkv>.\2"),
    (_DINO + r"blocks\.(\d+)\.attn\.proj\.(.*)", r"condition.dino.model.layer.\1.attention.o_proj.\2"),
    (_DINO + r"blocks\.(\d+)\.mlp\.fc1\.(.*)", r"condition.dino.model.layer.\1.mlp.up_proj.\2"),
    (_DINO + r"blocks\.(\d+)\.mlp\.fc2\.(.*)", r"condition.dino.model.layer.\1.mlp.down_proj.\2"),
]
_DERIVED = re.compile(rf"{_DINO}rope\..*|{_SIGLIP}vision_model\.(vision_model\.)?embeddings\.position_ids")
"""Buffers that follow from the config."""
_UNUSED = ("condition.dino.embeddings.mask_token",)
"""Ours has it for its own pre-training; timm's port has not, and nothing reads it."""


def reference_names(name: str) -> list[str]:
    """Our name(s) of a tensor of the released code; several for a fused query-key-value; [] for a buffer that we derive.

    `torch.compile` and DDP leave `_orig_mod.` and `module.` in names; they are dropped.

    Raises:
        KeyError: no rule knows the name.
    """
    plain = re.sub(r"(^|\.)(?:(?:_orig_mod|module)\.)+", r"\1", name)
    if _DERIVED.fullmatch(plain):
        return []
    for pattern, ours in _RULES:
        if match := re.fullmatch(pattern, plain):
            mapped = match.expand(ours)
            mapped = re.sub(r"<(siglip|depth)>", lambda tower: _TOWER[tower[1]], mapped)
            return [mapped.replace("<qkv>", f"{part}_proj") for part in "qkv"] if "<qkv>" in mapped else [mapped]
    raise KeyError(name)


def convert_reference(state: Mapping[str, Tensor], config: TraceGenConfig) -> TraceGenModel:
    """A model that holds a state dict of the released code.

    Args:
        state: its `model_state_dict`.
        config: what it is, usually `reference_config(size)`.

    Raises:
        CheckpointError: names that no rule knows, tensors that the model wants and the state dict has not, or tensors of
            another shape; all listed.
    """
    unmapped, found = [], dict[str, Tensor]()
    for name, tensor in state.items():
        try:
            names = reference_names(name)
        except KeyError:
            unmapped.append(name)
            continue
        parts = tensor.chunk(len(names)) if len(names) > 1 else [tensor]
        found |= dict(zip(names, parts, strict=False))
    model = TraceGenModel(config)
    wanted = model.state_dict()
    found |= {name: torch.zeros_like(wanted[name]) for name in _UNUSED if name in wanted and name not in found}
    missing = sorted(set(wanted) - set(found))
    unmapped += sorted(set(found) - set(wanted))
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(set(wanted) & set(found))
        if found[name].shape != wanted[name].shape
    ]
    faults = [
        f"{what} {', '.join(names[:_SHOWN])}" + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for what, names in (("unknown", unmapped), ("missing", missing), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise CheckpointError(
            f"does not fit the config: {'; '.join(faults)}",
            where="TraceGen checkpoint",
            mend="give the size it was trained at (4x8, 6x12 or 12x16)",
        )
    model.load_state_dict({name: found[name].to(wanted[name].dtype) for name in wanted})
    return model.eval()


def read_reference(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a released checkpoint: `.safetensors`, or `.pth` read without running any code in it.

    Raises:
        CheckpointError: missing, damaged, or it holds more than tensors and plain values.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        record = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise CheckpointError("does not exist", where=str(path)) from error
    except (SafetensorError, OSError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"is truncated or damaged: {error}", where=str(path), mend="fetch it again") from error
    except Exception as error:
        raise CheckpointError(
            f"holds more than tensors and plain values: {str(error).splitlines()[0]}",
            where=str(path),
            mend="where you trust it, save its model_state_dict alone as .safetensors",
        ) from error
    return record.get("model_state_dict", record)


def convert_tracegen(path: str | Path, size: str, out: str | Path) -> Path:
    """A released checkpoint file → a checkpoint folder of ours, encoders included (loading it downloads no weights).

    Raises:
        CheckpointError: the file is missing or damaged, or does not fit the size (what does not is listed).
        ConfigError: no such size.
    """
    model = convert_reference(read_reference(path), reference_config(size))
    # One step is a fixed 0.05 of motion of the fastest points; its fixed limits stand in for a scale of the corpus.
    scales = Normalisation({"arc": (1.0, 1.0, 1.0)}, {"arc": STEP})
    return save_checkpoint(out, model, scales, {"converted_from": "released TraceGen"}, keep_backbones=True)
