"""Tiny models and batches for the tests of this room."""

import dataclasses

import numpy as np
import pytest
import torch

from traceworld.models.mu0.config import (
    ExpertConfig,
    LocalFeatureConfig,
    LossConfig,
    Mu0Config,
    NanoPrefixConfig,
    SmolVLMPrefixConfig,
)
from traceworld.models.mu0.model import Mu0Model
from traceworld.models.normalisation import Normalisation

TINY_NANO = NanoPrefixConfig(
    image_height=32,
    image_width=48,
    stem_channels=(4, 6, 8),
    width=16,
    layers=4,
    heads=2,
    mlp_hidden=24,
    word_buckets=64,
    max_words=6,
)
TINY_SMOLVLM = SmolVLMPrefixConfig(
    layers=3,
    image_size=32,
    vision_width=24,
    vision_layers=2,
    vision_heads=2,
    vision_mlp=32,
    vision_patch=8,
    vision_image_size=32,
    connector_shuffle=2,
    text_width=32,
    text_heads=4,
    text_kv_heads=2,
    text_mlp=40,
    vocab=50,
)
TINY_DINO = LocalFeatureConfig(source="dino", image_size=28, patch=7, width=12, layers=2, heads=2)


@pytest.fixture
def tiny_config() -> Mu0Config:
    """A nano-shaped μ0 of a few thousand parameters with h=4, H=8, D=5."""
    return Mu0Config(
        history=4,
        horizon=8,
        num_controls=5,
        prefix=TINY_NANO,
        local=LocalFeatureConfig(source="prefix"),
        expert=ExpertConfig(width=20, mlp_hidden=24, history_group=4, control_group=5, uv_freqs=3, summary=True),
        loss=LossConfig(draws=2),
    )


@pytest.fixture
def smolvlm_config() -> Mu0Config:
    """The full-size shape (SmolVLM2 prefix, DINOv2 features) with tiny numbers."""
    return Mu0Config(
        history=4,
        horizon=8,
        num_controls=5,
        prefix=TINY_SMOLVLM,
        local=TINY_DINO,
        expert=ExpertConfig(width=16, mlp_hidden=24, history_group=4, control_group=5, uv_freqs=3),
    )


@pytest.fixture
def build():
    """build(config): a model whose zero-initialised layers are filled as well, so that every path carries a signal."""

    def make(config: Mu0Config, seed: int = 0, normalisation: Normalisation | None = None) -> Mu0Model:
        torch.manual_seed(seed)
        model = Mu0Model(config, normalisation)
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
        if not isinstance(config.prefix, NanoPrefixConfig):
            model.prefix.tokenizer = fake_tokenizer
        return model.eval()

    return make


def fake_tokenizer(prompts):
    """Characters as tokens, right-padded: what a hub tokenizer returns, without a hub."""
    rows = [[ord(c) % 49 for c in prompt][:10] for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    return ids, mask


@pytest.fixture
def make_batch():
    """make_batch(config, B, N): random numbers in the shape of a collated batch."""

    def make(config: Mu0Config, B: int = 3, N: int = 5, seed: int = 0) -> dict:
        g = torch.Generator().manual_seed(seed)

        def uniform(*shape):
            return torch.rand(*shape, generator=g)

        depth_present = torch.arange(B) % 2 == 0
        depth = torch.where(depth_present[:, None, None], uniform(B, 24, 32) + 0.5, torch.nan)
        history_valid = uniform(B, N, config.history) > 0.3
        history_valid[:, 0] = False
        return {
            "image": (uniform(B, 24, 32, 3) * 255).to(torch.uint8),
            "depth_m": depth,
            "depth_present": depth_present,
            "instruction": [f"open drawer {i}" for i in range(B)],
            "K_uv": torch.zeros(B, 4),
            "anchor_uvz": torch.cat([uniform(B, N, 2) * 1.8 - 0.9, uniform(B, N, 1) + 0.5], dim=-1),
            "anchor_z_known": uniform(B, N) > 0.3,
            "history": (uniform(B, N, config.history, 3) - 0.5) * history_valid[..., None],
            "history_valid": history_valid,
            "present": torch.ones(B, N, dtype=torch.bool),
            "part_id": torch.randint(-1, 2, (B, N), generator=g),
            "moving": torch.ones(B, N, dtype=torch.bool),
            "future": uniform(B, N, config.horizon, 3) - 0.5,
            "future_valid": uniform(B, N, config.horizon) > 0.2,
            "controls": torch.randn(B, N, config.num_controls, 3, generator=g) * 0.5,
            "controls_usable": uniform(B, N) > 0.2,
            "clock": torch.arange(B) % 2,
        }

    return make


KEYPOINT_FIELDS = [
    "anchor_uvz",
    "anchor_z_known",
    "history",
    "history_valid",
    "present",
    "part_id",
    "moving",
    "future",
    "future_valid",
    "controls",
    "controls_usable",
]


@pytest.fixture
def permute():
    """permute(batch, order): the same batch with its keypoints in another order."""
    return lambda batch, order: batch | {name: batch[name][:, order] for name in KEYPOINT_FIELDS}


@pytest.fixture
def pad():
    """pad(batch, count): the same batch with `count` padded keypoints full of rubbish."""

    def add(batch: dict, count: int) -> dict:
        out = dict(batch)
        for name in KEYPOINT_FIELDS:
            value = batch[name]
            shape = (value.shape[0], count, *value.shape[2:])
            if value.dtype.is_floating_point:
                rubbish = torch.full(shape, 1e3)
            else:
                rubbish = torch.ones(shape).to(value.dtype)
            out[name] = torch.cat([value, rubbish], dim=1)
        out["present"][:, -count:] = False
        return out

    return add


@pytest.fixture
def normalisation() -> Normalisation:
    return Normalisation(
        {"time": (0.2, 0.3, 0.1), "arc": (0.4, 0.5, 0.2)},
        {"time": 0.05, "arc": 0.02},
        float(np.log(0.3)),
        float(np.log(3.0)),
    )


@pytest.fixture
def replaced():
    """replaced(config, "expert", history_time="clean"): the config with fields of one of its parts changed."""
    return lambda config, part, **fields: dataclasses.replace(
        config, **{part: dataclasses.replace(getattr(config, part), **fields)}
    )
