"""SmolVLM2 as the prefix (mu0-paper §3.1, B.1), through its transformers classes: frozen, cut to its first text layers,
with a depth pathway that has a trainable patch stem of its own and shares every deeper layer."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from traceworld.extras import require
from traceworld.models.blocks.attention import attend, merge_heads, split_heads
from traceworld.models.blocks.rotary import rotary_angles, rotate
from traceworld.models.mu0.config import SmolVLMPrefixConfig
from traceworld.models.mu0.conventions import Conventions
from traceworld.models.mu0.depth_adapter import DepthAdapter
from traceworld.models.mu0.prefix import Prefix, depth_rows
from traceworld.models.pretrained import load_pretrained, missing_weights


def smolvlm_config(config: SmolVLMPrefixConfig) -> Any:
    """The transformers config of the cut model."""
    transformers = require("transformers")
    return transformers.SmolVLMConfig(
        vision_config={
            "hidden_size": config.vision_width,
            "intermediate_size": config.vision_mlp,
            "num_hidden_layers": config.vision_layers,
            "num_attention_heads": config.vision_heads,
            "patch_size": config.vision_patch,
            "image_size": config.vision_image_size,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": config.text_width,
            "intermediate_size": config.text_mlp,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.text_heads,
            "num_key_value_heads": config.text_kv_heads,
            "head_dim": config.text_width // config.text_heads,
            "vocab_size": config.vocab,
            "rms_norm_eps": 1e-5,
            "pad_token_id": min(2, config.vocab - 1),
            "rope_parameters": {"rope_type": "default", "rope_theta": config.text_rope_theta},
        },
        scale_factor=config.connector_shuffle,
        image_token_id=config.vocab - 1,
        tie_word_embeddings=False,
    )


@functools.cache
def load_tokenizer(hub_id: str, revision: str | None) -> Any:
    """The cached tokenizer of a hub model. MissingWeightsError if it is not on this machine."""
    try:
        return require("transformers").AutoTokenizer.from_pretrained(hub_id, revision=revision, local_files_only=True)
    except (OSError, ValueError) as error:  # ValueError: the config is cached, the tokenizer is not
        raise missing_weights(hub_id, revision) from error


class SmolVLMPrefix(nn.Module):
    """RGB tokens, depth tokens (when some sample has depth) and words through SmolVLM2's first text layers.

    Attributes:
        vlm: the frozen `SmolVLMForConditionalGeneration`, its unused language head included, as published.
        depth_stem: trainable patch embedding for Turbo depth, cloned from the RGB one; None without depth.
        depth_adapter: trainable low-rank changes of the SigLIP layers for depth; None where they are shared as they are.
        tokenizer: callable(list of prompts) → (ids [B,W], mask [B,W]); by default the hub model's.
        tokenizer_folder: where its files are, if not in the hub cache.
    """

    map_channels: tuple[int, ...] = ()
    summary_width = 0

    def __init__(
        self, config: SmolVLMPrefixConfig, conventions: Conventions | None = None, use_depth: bool = True
    ) -> None:
        super().__init__()
        transformers = require("transformers")
        self.config, self.conventions = config, conventions or Conventions()
        self.num_layers, self.num_heads, self.num_kv_heads = config.layers, config.text_heads, config.text_kv_heads
        self.head_dim = config.text_width // config.text_heads
        self.rope_base = config.text_rope_theta if config.rope_base is None else config.rope_base
        self.gradient_checkpointing = False
        self.vlm = transformers.SmolVLMForConditionalGeneration(smolvlm_config(config)).eval().requires_grad_(False)
        self.depth_stem: nn.Module | None = None
        self.depth_adapter: DepthAdapter | None = None
        if use_depth:
            stem = self.vlm.model.vision_model.embeddings.patch_embedding
            self.depth_stem = copy.deepcopy(stem).requires_grad_(True)
            if config.depth_lora_rank:
                self.depth_adapter = DepthAdapter(
                    config.vision_layers,
                    config.vision_width,
                    config.vision_mlp,
                    config.depth_lora_rank,
                    config.depth_lora_alpha,
                )
        self.tokenizer = self._tokenize
        self.tokenizer_folder: str | None = None

    def load_pretrained(self) -> None:
        """Fill in the published weights and clone the depth stem from them.

        Raises:
            MissingWeightsError: they are not on this machine.
            CheckpointError: they are not of the shapes that the config says, or were trained with another rotary base, norm
                epsilon, number of heads or activation.
        """
        if self.config.hub_id is None:
            raise missing_weights("the config names no hub_id", None)
        load_pretrained(self.vlm, "SmolVLMForConditionalGeneration", self.config.hub_id, self.config.revision)
        if self.depth_stem is not None:
            stem = self.vlm.model.vision_model.embeddings.patch_embedding
            self.depth_stem.load_state_dict(stem.state_dict())

    def train(self, mode: bool = True) -> SmolVLMPrefix:
        super().train(mode)
        self.vlm.eval()  # frozen
        return self

    def forward(self, batch: Mapping[str, Any], depth_log_range: Float[Tensor, " 2"]) -> Prefix:
        size, present = self.config.image_size, batch["depth_present"]
        rgb = self._see(self.conventions.rgb(batch["image"], size, size), None)
        ids, word_mask = batch["words"] if "words" in batch else self.read(batch["instruction"])
        words = self.vlm.model.text_model.embed_tokens(ids.to(rgb.device)).to(rgb.dtype)
        parts, masks = [rgb, words], [rgb.new_ones(rgb.shape[:2], dtype=torch.bool), word_mask.to(rgb.device)]
        rows: Any = depth_rows(batch) if self.depth_stem is not None else ()
        if len(rows):  # absent depth is not encoded, only its place is kept while another sample of the batch has depth
            picture = self.conventions.depth_picture(batch["depth_m"][rows], depth_log_range, size, size)
            depth = torch.zeros_like(rgb).index_copy(0, rows, self._see(picture, self.depth_stem).to(rgb.dtype))
            parts.insert(1, depth)
            masks.insert(1, present[:, None].expand(-1, rgb.shape[1]))
        embeddings, mask = torch.cat(parts, dim=1), torch.cat(masks, dim=1)
        if self.config.embedding_scale == "sqrt_width":
            embeddings = embeddings * self.config.text_width**0.5
        positions = mask.cumsum(1) - 1
        keys, values = self._read(embeddings, mask, positions.clamp(min=0))
        return Prefix(keys, values, mask, mask.sum(1))

    def read(self, instructions: Sequence[str]) -> tuple[Int[Tensor, "B W"], Bool[Tensor, "B W"]]:
        """The tokens of the instructions; a batch may hold them as `words` instead."""
        texts = [self.conventions.instruction(text) for text in instructions]
        return self.tokenizer([self.config.prompt.format(text) for text in texts])

    def _see(self, picture: Float[Tensor, "B 3 H W"], stem: nn.Module | None) -> Float[Tensor, "B L C"]:
        """One picture in [0, 1] → image tokens, through SigLIP and the connector.

        A depth picture brings its `stem`, which replaces the patch embedding; with it the adapter is in force.
        """
        vision = self.vlm.model.vision_model
        pixels = picture * 2 - 1
        patch = self.config.vision_patch
        whole = torch.ones(
            len(pixels), *(s // patch for s in pixels.shape[-2:]), dtype=torch.bool, device=pixels.device
        )
        replaced: dict[str, Tensor] = (
            {} if stem is None else {f"patch_embedding.{name}": p for name, p in stem.named_parameters()}
        )
        dtype = next(vision.parameters()).dtype
        inputs = {"pixel_values": pixels.to(dtype if stem is None else next(stem.parameters()).dtype)}
        inputs["patch_attention_mask"] = whole
        hidden = functional_call(vision.embeddings, replaced, args=(), kwargs=inputs).to(dtype)
        for index, layer in enumerate(vision.encoder.layers):
            run = layer
            if stem is not None and self.depth_adapter is not None:
                run = functools.partial(self.depth_adapter, index, layer)
            if self.gradient_checkpointing and hidden.requires_grad:
                hidden = checkpoint(run, hidden, None, use_reentrant=False)
            else:
                hidden = run(hidden, None)
        return self.vlm.model.connector(vision.post_layernorm(hidden))

    def _read(
        self, x: Float[Tensor, "B L C"], mask: Bool[Tensor, "B L"], positions: Int[Tensor, "B L"]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Run the text layers and keep each one's rotated keys and values.

        Written out instead of calling the text model with its cache, for three reasons: the rotary base may be another,
        the attention may be bidirectional, and transformers drops the cache under gradient checkpointing. What follows the
        last layer's keys and values is not computed at all.
        """
        length = x.shape[1]
        seen = mask[:, None].expand(-1, length, -1)
        if self.config.attention == "causal":
            seen = seen & torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        seen = seen | torch.eye(
            length, dtype=torch.bool, device=x.device
        )  # a padding token sees itself: no empty softmax
        cos, sin = rotary_angles(positions, self.head_dim, self.rope_base)
        layers = self.vlm.model.text_model.layers
        keys, values = [], []
        for index, layer in enumerate(layers):
            last = index == len(layers) - 1
            if self.gradient_checkpointing and x.requires_grad:
                x, key, value = checkpoint(self._text_layer, layer, x, seen, cos, sin, last, use_reentrant=False)
            else:
                x, key, value = self._text_layer(layer, x, seen, cos, sin, last)
            keys.append(key)
            values.append(value)
        return tuple(keys), tuple(values)

    def _text_layer(self, layer: Any, x: Tensor, seen: Tensor, cos: Tensor, sin: Tensor, last: bool):
        attention = layer.self_attn
        normed = layer.input_layernorm(x)
        key = rotate(split_heads(attention.k_proj(normed), self.head_dim), cos, sin)
        value = split_heads(attention.v_proj(normed), self.head_dim)
        if last:
            return x, key, value
        query = rotate(split_heads(attention.q_proj(normed), self.head_dim), cos, sin)
        x = x + attention.o_proj(merge_heads(attend(query, key, value, seen)))
        return x + layer.mlp(layer.post_attention_layernorm(x)), key, value

    def _tokenize(self, prompts: Sequence[str]) -> tuple[Int[Tensor, "B W"], Bool[Tensor, "B W"]]:
        if self.tokenizer_folder is not None:
            tokenizer = load_tokenizer(self.tokenizer_folder, None)
        elif self.config.hub_id is not None:
            tokenizer = load_tokenizer(self.config.hub_id, self.config.revision)
        else:
            raise missing_weights("the tokenizer of a random SmolVLM", None)
        out = tokenizer(
            list(prompts),
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.config.max_text_tokens,
            return_tensors="pt",
        )
        return out["input_ids"], out["attention_mask"].bool()
