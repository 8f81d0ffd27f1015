"""The released model's condition encoders through their transformers classes (dossier §2.2): DINOv3 and SigLIP on RGB, a second
SigLIP on depth, T5 on words. All four are frozen; norms, depth stem, mask token and fusion are trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from traceworld.errors import ConfigError, MissingWeightsError
from traceworld.extras import require
from traceworld.models.backbones import Backbone
from traceworld.models.mu0.pictures import resize_depth, resize_rgb
from traceworld.models.mu0.prefix import depth_rows
from traceworld.models.pretrained import load_pretrained
from traceworld.models.tracegen.condition import FROZEN_ENCODERS, Condition
from traceworld.models.tracegen.config import HubEncodersConfig
from traceworld.models.tracegen.conventions import Conventions

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class HubCondition(nn.Module):
    """
    Attributes:
        dino, siglip, depth_siglip, t5: the frozen models.
        tokenizer: callable(instructions) → (ids [B,W], mask [B,W]); by default the hub model's.
    """

    def __init__(self, config: HubEncodersConfig, conventions: Conventions):
        super().__init__()
        transformers = require("transformers")
        if config.image_size % config.patch:
            raise ConfigError(f"{config.patch} px patches do not tile {config.image_size} px", where="encoders.patch")
        self.config, self.conventions = config, conventions
        side = config.image_size // config.patch
        self.width, self.image_grid = config.t5_width, (side, side)
        self.max_tokens = side * side + config.max_text_tokens
        self.dino = _frozen(transformers.DINOv3ViTModel(_dino_config(config)))
        self.siglip = _frozen(transformers.SiglipVisionModel(_siglip_config(config)))
        self.depth_siglip = _frozen(transformers.SiglipVisionModel(_siglip_config(config)))
        self.t5 = _frozen(transformers.T5EncoderModel(_t5_config(config)))
        self.dino_norm = nn.LayerNorm(config.dino_width)
        self.siglip_norm = nn.LayerNorm(config.siglip_width)
        self.depth_norm = nn.LayerNorm(config.siglip_width)
        self.text_norm = nn.LayerNorm(config.t5_width)
        self.depth_stem = nn.Conv2d(1, 3, 1)
        self.no_depth_token = nn.Parameter(torch.randn(1, 1, config.siglip_width))
        self.fuse = nn.Linear(config.dino_width + 2 * config.siglip_width, self.width)
        self.tokenizer: Callable[[Sequence[str]], tuple[Tensor, Tensor]] = self._tokenize

    def load_pretrained(self) -> None:
        """Fill the four frozen models with their published weights from the local hub cache.

        Raises:
            MissingWeightsError: some are not on this machine: all of them with licence and command.
            CheckpointError: they are not of the shapes that the config says.
        """
        absent: dict[str, MissingWeightsError] = {}
        for name, class_name, hub_id, revision in self._published():
            try:
                load_pretrained(getattr(self, name), class_name, hub_id, revision)
            except MissingWeightsError as error:
                absent[hub_id] = error
        if absent:
            raise MissingWeightsError(
                "; ".join(error.message for error in absent.values()),
                where=", ".join(absent),
                mend=" && ".join(str(error.mend) for error in absent.values()),
            )

    def backbones(self, path: str) -> tuple[Backbone, ...]:
        """The published parts that a checkpoint may name instead of holding. `path`: of this module in its model.

        A DINOv3 without biases is not what the hub has, so it is none of them.
        """
        return tuple(
            Backbone(f"{path}.{name}", class_name, hub_id, revision or _commit(getattr(self, name)))
            for name, class_name, hub_id, revision in self._published()
            if name != "dino" or self.config.dino_qkv_bias
        )

    def _published(self) -> tuple[tuple[str, str, str, str | None], ...]:
        """(submodule, transformers class, hub id, revision) of each frozen part."""
        c = self.config
        return (
            ("dino", "DINOv3ViTModel", c.dino_id, c.dino_revision),
            ("siglip", "SiglipVisionModel", c.siglip_id, c.siglip_revision),
            ("depth_siglip", "SiglipVisionModel", c.siglip_id, c.siglip_revision),
            ("t5", "T5EncoderModel", c.t5_id, c.t5_revision),
        )

    def train(self, mode: bool = True) -> HubCondition:
        super().train(mode)
        for name in FROZEN_ENCODERS:
            getattr(self, name).eval()
        return self

    def forward(self, batch: Mapping[str, Any], depth_log_range: Float[Tensor, " 2"]) -> Condition:
        rgb = resize_rgb(batch["image"], self.config.image_size, self.config.image_size)
        depth = self._see_depth(batch, depth_log_range, len(rgb))
        seen = torch.cat([self._see_dino(rgb), self._see_siglip(rgb), depth], dim=-1)
        image = self.fuse(seen)
        ids, mask = batch["words"] if "words" in batch else self.read(batch["instruction"])
        words, mask = self._understand(ids, mask)
        whole = mask.new_ones(image.shape[:2])
        return Condition(torch.cat([image, words.to(image.dtype)], dim=1), torch.cat([whole, mask], dim=1))

    def _see_dino(self, rgb: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B L C"]:
        mean, std = (rgb.new_tensor(x)[:, None, None] for x in (_IMAGENET_MEAN, _IMAGENET_STD))
        with torch.no_grad():
            hidden = self.dino(pixel_values=((rgb - mean) / std).to(self.dino.dtype)).last_hidden_state
        return self.dino_norm(hidden[:, 1 + self.config.dino_registers :].to(self.dino_norm.weight.dtype))

    def _see_siglip(self, rgb: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B L C"]:
        with torch.no_grad():
            hidden = self.siglip(pixel_values=(rgb * 2 - 1).to(self.siglip.dtype)).last_hidden_state
        return self.siglip_norm(hidden.to(self.siglip_norm.weight.dtype))

    def _see_depth(self, batch: Mapping[str, Any], log_range: Tensor, count: int) -> Float[Tensor, "B L C"]:
        """Depth tokens; the learned mask token where there is no depth. Gradients pass the frozen tower to the stem."""
        side = self.config.image_size
        tokens = self.no_depth_token.expand(count, self.image_grid[0] * self.image_grid[1], -1)
        rows = depth_rows(batch)
        if len(rows):
            metres = resize_depth(batch["depth_m"][rows], side, side)
            plane = self.depth_stem(self.conventions.depth_plane(metres, log_range))
            hidden = self.depth_siglip(pixel_values=plane.to(self.depth_siglip.dtype)).last_hidden_state
            found = self.depth_norm(hidden.to(self.depth_norm.weight.dtype))
            tokens = tokens.to(found.dtype).index_copy(0, rows, found)
        return tokens

    def read(self, instructions: Sequence[str]) -> tuple[Int[Tensor, "B W"], Bool[Tensor, "B W"]]:
        """The tokens of the instructions; a batch may hold them as `words` instead."""
        return self.tokenizer(instructions)

    def _understand(
        self, ids: Int[Tensor, "B W"], mask: Bool[Tensor, "B W"]
    ) -> tuple[Float[Tensor, "B W C"], Bool[Tensor, "B W"]]:
        ids, mask = (x.to(self.fuse.weight.device) for x in (ids, mask))
        with torch.no_grad():
            hidden = self.t5(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return self.text_norm(hidden.to(self.text_norm.weight.dtype)), mask

    def _tokenize(self, instructions: Sequence[str]) -> tuple[Int[Tensor, "B W"], Bool[Tensor, "B W"]]:
        from traceworld.models.mu0.prefix_smolvlm import load_tokenizer

        out = load_tokenizer(self.config.t5_id, self.config.t5_revision)(
            list(instructions),
            padding=self.conventions.text_padding,
            truncation=True,
            max_length=self.config.max_text_tokens,
            return_tensors="pt",
        )
        return out["input_ids"], out["attention_mask"].bool()


def _frozen(module: nn.Module) -> Any:
    return module.eval().requires_grad_(False)


def _commit(module: Any) -> str | None:
    """The hub's revision that was loaded; None for random weights."""
    return getattr(module.config, "_commit_hash", None)


def _dino_config(config: HubEncodersConfig) -> Any:
    return require("transformers").DINOv3ViTConfig(
        hidden_size=config.dino_width,
        intermediate_size=config.dino_mlp,
        num_hidden_layers=config.dino_layers,
        num_attention_heads=config.dino_heads,
        num_register_tokens=config.dino_registers,
        patch_size=config.patch,
        image_size=config.image_size,
        query_bias=config.dino_qkv_bias,
        value_bias=config.dino_qkv_bias,
    )


def _siglip_config(config: HubEncodersConfig) -> Any:
    return require("transformers").SiglipVisionConfig(
        hidden_size=config.siglip_width,
        intermediate_size=config.siglip_mlp,
        num_hidden_layers=config.siglip_layers,
        num_attention_heads=config.siglip_heads,
        patch_size=config.patch,
        image_size=config.image_size,
    )


def _t5_config(config: HubEncodersConfig) -> Any:
    return require("transformers").T5Config(
        d_model=config.t5_width,
        d_kv=config.t5_width // config.t5_heads,
        d_ff=config.t5_mlp,
        num_layers=config.t5_layers,
        num_heads=config.t5_heads,
        vocab_size=config.vocab,
    )
