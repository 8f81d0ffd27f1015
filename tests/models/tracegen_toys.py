"""Tiny TraceGens and batches, and the names and shapes of a released checkpoint, written down from its description."""

from __future__ import annotations

import dataclasses

import torch

from traceworld.models.mu0.config import NanoPrefixConfig
from traceworld.models.tracegen.compat import reference_config
from traceworld.models.tracegen.config import DecoderConfig, HubEncodersConfig, TraceGenConfig
from traceworld.models.tracegen.model import TraceGenModel

NANO = TraceGenConfig(
    horizon=8,
    grid=6,
    euler_steps=3,
    decoder=DecoderConfig(layers=2, heads=2, head_dim=8, time_width=12, patch_time=4, image_positions=True),
    nano=NanoPrefixConfig(
        image_height=32,
        image_width=48,
        stem_channels=(4, 6, 8),
        width=16,
        layers=2,
        heads=2,
        mlp_hidden=24,
        word_buckets=64,
        max_words=6,
    ),
)
TINY_ENCODERS = HubEncodersConfig(
    image_size=16,
    patch=8,
    dino_width=16,
    dino_layers=2,
    dino_heads=2,
    dino_mlp=24,
    dino_registers=2,
    siglip_width=12,
    siglip_layers=1,
    siglip_heads=2,
    siglip_mlp=20,
    t5_width=16,
    t5_layers=1,
    t5_heads=2,
    t5_mlp=24,
    vocab=40,
    max_text_tokens=5,
)
HUB = dataclasses.replace(NANO, decoder=DecoderConfig(2, 2, 8, 12), nano=None, encoders=TINY_ENCODERS)
REFERENCE = dataclasses.replace(
    reference_config("6x12"),
    size="custom",
    horizon=8,
    grid=6,
    decoder=HUB.decoder,
    encoders=dataclasses.replace(TINY_ENCODERS, dino_qkv_bias=False),
)


def words(instructions):
    """Characters as tokens, padded to 5: what a hub tokenizer returns, without a hub."""
    ids = torch.zeros(len(instructions), 5, dtype=torch.long)
    mask = torch.zeros(len(instructions), 5, dtype=torch.bool)
    for row, text in enumerate(instructions):
        found = torch.tensor([ord(c) % 39 + 1 for c in text[:5]])
        ids[row, : len(found)], mask[row, : len(found)] = found, True
    return ids, mask


def build(config, seed=0, normalisation=None):
    """A random model in which every layer that starts at zero carries a signal."""
    torch.manual_seed(seed)
    model = TraceGenModel(config, normalisation)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    if config.encoders is not None:
        model.condition.tokenizer = words
    return model.eval()


def make_batch(config, B=3, N=5, seed=0):
    """Random numbers in the shape of a collated batch."""
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=g)

    present = torch.arange(B) % 2 == 0
    return {
        "image": (uniform(B, 24, 32, 3) * 255).to(torch.uint8),
        "depth_m": torch.where(present[:, None, None], uniform(B, 24, 32) + 0.5, torch.nan),
        "depth_present": present,
        "instruction": [f"{i} open drawer"[: 4 + i] for i in range(B)],
        "anchor_uvz": torch.cat([uniform(B, N, 2) * 1.8 - 0.9, uniform(B, N, 1) + 0.5], dim=-1),
        "present": torch.ones(B, N, dtype=torch.bool),
        "future": (uniform(B, N, config.horizon, 3) - 0.5).cumsum(2),
        "future_valid": uniform(B, N, config.horizon) > 0.2,
        "clock": torch.arange(B) % 2,
        "sample_id": [f"s{i}" for i in range(B)],
    }


KEYPOINT_FIELDS = ("anchor_uvz", "present", "future", "future_valid")


def reference_shapes(config):
    """Name → shape of every tensor of a released checkpoint (dossier §2.2, §2.10; diffusers 0.35, timm 1.0, transformers 4)."""
    d, e, width = config.decoder, config.encoders, config.decoder.width
    features, cond = 3 * d.patch_time * d.patch_space**2, e.t5_width
    shapes = {}

    def linear(name, inputs, outputs, bias=True):
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def norm(name, size):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (size,)

    tokens = (e.image_size // e.patch) ** 2
    root = "diffusion_decoder.cogvideox."
    shapes["diffusion_decoder.learnable_padding_tokens"] = (1, tokens + e.max_text_tokens, cond)
    shapes["learnable_depth_mask_token"] = (1, 1, e.siglip_width)
    linear("vision_fusion", e.dino_width + 2 * e.siglip_width, cond)
    linear(root + "patch_embed.proj", features, width)
    linear(root + "patch_embed.text_proj", cond, width)
    linear(root + "time_embedding.linear_1", width, d.time_width)
    linear(root + "time_embedding.linear_2", d.time_width, d.time_width)
    for i in range(d.layers):
        block = f"{root}transformer_blocks.{i}."
        for n in ("norm1", "norm2"):
            linear(f"{block}{n}.linear", d.time_width, 6 * width)
            norm(f"{block}{n}.norm", width)
        for n in ("to_q", "to_k", "to_v", "to_out.0"):
            linear(f"{block}attn1.{n}", width, width)
        norm(f"{block}attn1.norm_q", d.head_dim)
        norm(f"{block}attn1.norm_k", d.head_dim)
        linear(f"{block}ff.net.0.proj", width, 4 * width)
        linear(f"{block}ff.net.2", 4 * width, width)
    norm(root + "norm_final", width)
    linear(root + "norm_out.linear", d.time_width, 2 * width)
    norm(root + "norm_out.norm", width)
    linear(root + "proj_out", width, features)

    dino, size = "dino_encoder.vision_model.", e.dino_width
    norm("dino_encoder.final_layernorm", size)
    shapes[dino + "cls_token"], shapes[dino + "reg_token"] = (1, 1, size), (1, e.dino_registers, size)
    shapes[dino + "patch_embed.proj.weight"], shapes[dino + "patch_embed.proj.bias"] = (
        (size, 3, e.patch, e.patch),
        (size,),
    )
    for i in range(e.dino_layers):
        block = f"{dino}blocks.{i}."
        shapes[block + "gamma_1"] = shapes[block + "gamma_2"] = (size,)
        norm(block + "norm1", size)
        norm(block + "norm2", size)
        linear(block + "attn.qkv", size, 3 * size, bias=False)
        linear(block + "attn.proj", size, size)
        linear(block + "mlp.fc1", size, e.dino_mlp)
        linear(block + "mlp.fc2", e.dino_mlp, size)
    norm(dino + "norm", size)

    for name in ("siglip", "depth"):
        tower, size = f"{name}_encoder.vision_model.vision_model.", e.siglip_width
        norm(f"{name}_encoder.final_layernorm", size)
        shapes[tower + "embeddings.patch_embedding.weight"] = (size, 3, e.patch, e.patch)
        shapes[tower + "embeddings.patch_embedding.bias"] = (size,)
        shapes[tower + "embeddings.position_embedding.weight"] = (tokens, size)
        for i in range(e.siglip_layers):
            layer = f"{tower}encoder.layers.{i}."
            norm(layer + "layer_norm1", size)
            norm(layer + "layer_norm2", size)
            for n in ("q_proj", "k_proj", "v_proj", "out_proj"):
                linear(f"{layer}self_attn.{n}", size, size)
            linear(layer + "mlp.fc1", size, e.siglip_mlp)
            linear(layer + "mlp.fc2", e.siglip_mlp, size)
        norm(tower + "post_layernorm", size)
        shapes[tower + "head.probe"] = (1, 1, size)
        shapes[tower + "head.attention.in_proj_weight"] = (3 * size, size)
        shapes[tower + "head.attention.in_proj_bias"] = (3 * size,)
        linear(tower + "head.attention.out_proj", size, size)
        norm(tower + "head.layernorm", size)
        linear(tower + "head.mlp.fc1", size, e.siglip_mlp)
        linear(tower + "head.mlp.fc2", e.siglip_mlp, size)
    shapes["depth_encoder.stem_adapter.weight"], shapes["depth_encoder.stem_adapter.bias"] = (3, 1, 1, 1), (3,)

    t5, size = "t5_encoder.text_model.", e.t5_width
    norm("t5_encoder.final_layernorm", size)
    shapes[t5 + "shared.weight"] = shapes[t5 + "encoder.embed_tokens.weight"] = (e.vocab, size)
    for i in range(e.t5_layers):
        block = f"{t5}encoder.block.{i}.layer."
        for n in "qkvo":
            linear(f"{block}0.SelfAttention.{n}", size, size, bias=False)
        if i == 0:
            shapes[block + "0.SelfAttention.relative_attention_bias.weight"] = (32, e.t5_heads)
        shapes[block + "0.layer_norm.weight"] = shapes[block + "1.layer_norm.weight"] = (size,)
        linear(block + "1.DenseReluDense.wi", size, e.t5_mlp, bias=False)
        linear(block + "1.DenseReluDense.wo", e.t5_mlp, size, bias=False)
    shapes[t5 + "encoder.final_layer_norm.weight"] = (size,)
    return shapes


def reference_state(config, seed=0):
    """Random tensors with the names and shapes of a released checkpoint; tied embeddings are one tensor."""
    g = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(shape, generator=g) * 0.3 for name, shape in reference_shapes(config).items()}
    state["t5_encoder.text_model.encoder.embed_tokens.weight"] = state["t5_encoder.text_model.shared.weight"]
    return state
