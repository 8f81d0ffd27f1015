"""One optimiser step and one prediction of a μ0 with frozen parts in bfloat16, in a process of its own, so that its peak memory
is its own: `python large_run.py SIZE` prints what came of it as JSON. SIZE `tiny` is the full-size shape with a few channels."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import time
from typing import Any

import numpy as np
import torch

from traceworld.models.mu0.config import ExpertConfig, LocalFeatureConfig, Mu0Config, SmolVLMPrefixConfig
from traceworld.models.mu0.model import Mu0Model, check_frozen
from traceworld.models.mu0.predictor import Mu0Predictor
from traceworld.models.mu0.sizes import mu0_config
from traceworld.models.precision import build_frugally
from traceworld.traces.types import Observation
from traceworld.training.config import TrainConfig
from traceworld.training.optim import build_optimizers
from traceworld.training.registry import model_kind

N = 64


def tiny() -> Mu0Config:
    prefix = SmolVLMPrefixConfig(
        layers=4, image_size=32, vision_width=16, vision_layers=2, vision_heads=2, vision_mlp=24, vision_patch=8,
        vision_image_size=32, connector_shuffle=2, text_width=32, text_heads=4, text_kv_heads=2, text_mlp=48, vocab=64,
    )  # fmt: skip
    local = LocalFeatureConfig(image_size=28, patch=14, width=16, layers=1, heads=2)
    return dataclasses.replace(
        mu0_config("large"), size="custom", prefix=prefix, local=local, expert=ExpertConfig(width=16, mlp_hidden=24)
    )


def windows(config: Mu0Config, B: int = 1) -> dict[str, Any]:
    """A collated batch of noise with everything a training window may have."""
    g = torch.Generator().manual_seed(0)
    width, height = config.image_size

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=g)

    return {
        "image": (uniform(B, height, width, 3) * 255).to(torch.uint8),
        "depth_m": uniform(B, height, width) + 0.5,
        "depth_present": torch.ones(B, dtype=torch.bool),
        "instruction": ["open the top drawer of the cabinet"] * B,
        "anchor_uvz": torch.cat([uniform(B, N, 2) * 1.8 - 0.9, uniform(B, N, 1) + 0.5], dim=-1),
        "anchor_z_known": torch.ones(B, N, dtype=torch.bool),
        "history": uniform(B, N, config.history, 3) - 0.5,
        "history_valid": torch.ones(B, N, config.history, dtype=torch.bool),
        "present": torch.ones(B, N, dtype=torch.bool),
        "part_id": torch.arange(N).expand(B, -1) % 4,
        "future_valid": torch.ones(B, N, config.horizon, dtype=torch.bool),
        "controls": torch.randn(B, N, config.num_controls, 3, generator=g) * 0.5,
        "controls_usable": torch.ones(B, N, dtype=torch.bool),
        "clock": torch.zeros(B, dtype=torch.long),
    }


def words(prompts: Any) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.arange(1, 13).expand(len(prompts), -1)
    return ids, torch.ones_like(ids, dtype=torch.bool)


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run(config: Mu0Config) -> dict[str, Any]:
    found: dict[str, Any] = {}
    begun = time.perf_counter()

    def note(stage: str) -> None:
        found[f"{stage}_s"], found[f"{stage}_peak_gib"] = time.perf_counter() - begun, peak_gib()

    torch.manual_seed(0)
    model = build_frugally(lambda: Mu0Model(config))
    model.prefix.tokenizer = words
    check_frozen(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    found["trained"], found["frozen"] = (sum(p.numel() for p in part) for part in (trained, frozen))
    found["dtypes"] = [sorted({str(p.dtype) for p in part}) for part in (trained, frozen)]
    note("built")

    options = TrainConfig(data=("none",), out="", size="large", precision="bf16", batch=1)
    optimizer = build_optimizers(model, options, model_kind("mu0").is_backbone)
    model.train()
    model.enable_gradient_checkpointing()
    before = [p.detach().flatten()[:8].clone() for p in trained]
    sample = [p.detach().flatten()[:8].clone() for p in frozen]
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.loss(windows(config), torch.Generator().manual_seed(0))
    losses["loss"].backward()
    found["losses"] = {name: float(value.detach()) for name, value in losses.items()}
    found["without_gradient"] = sum(p.grad is None for p in trained)
    found["norm"] = float(torch.nn.utils.clip_grad_norm_(trained, options.clip))
    optimizer.step()
    found["moved"] = sum(not torch.equal(b, p.detach().flatten()[:8]) for b, p in zip(before, trained, strict=True))
    found["frozen_moved"] = sum(not torch.equal(b, p.flatten()[:8]) for b, p in zip(sample, frozen, strict=True))
    states = [state for part in optimizer.parts for state in part.state.values()]
    found["optimizer_numbers"] = sum(t.numel() for state in states for t in state.values() if t.numel() > 1)
    note("stepped")

    optimizer.zero_grad()
    rng = np.random.default_rng(0)
    observation = Observation(
        image=rng.integers(0, 256, (480, 640, 3), dtype=np.uint8),
        instruction="open the top drawer of the cabinet",
        depth_m=rng.uniform(0.5, 2, (480, 640)).astype(np.float32),
        keypoints_uv=rng.uniform(-0.9, 0.9, (16, 2)),
    )
    prediction = Mu0Predictor(model).predict(observation, num_samples=2)
    found["prediction"] = {
        "shape": list(prediction.uvz.shape),
        "finite": bool(np.isfinite(prediction.uvz).all()),
        "timing": dict(prediction.timing),
    }
    note("predicted")
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(tiny() if sys.argv[1] == "tiny" else mu0_config(sys.argv[1]))))
