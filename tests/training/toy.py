"""A model and windows small enough that a whole run takes a second; they follow the contracts of the real ones."""

from __future__ import annotations

import json

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from traceworld.models.normalisation import Normalisation
from traceworld.training.registry import ModelKind, register_model
from traceworld.training.sources import TrainingData

N, h, H, D = 5, 8, 32, 10


class ToyWindows:
    """`length` windows whose controls are a linear function of the history, with a varying number of keypoints."""

    def __init__(self, length: int, offset: int = 0, poison: int | None = None):
        self.length, self.offset, self.poison = length, offset, poison

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int, *, seed: int, epoch: int) -> dict:
        rng = np.random.default_rng([seed, epoch, index + self.offset])
        n = int(rng.integers(1, N + 1))
        velocity = rng.normal(size=(n, 1, 3)).astype(np.float32)
        future = velocity * np.linspace(0, 1, H, dtype=np.float32)[None, :, None]
        controls = velocity * np.linspace(0, 1, D, dtype=np.float32)[None, :, None]
        if index == self.poison:
            controls = controls * np.nan
        return {
            "image": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8),
            "depth_m": np.full((8, 8), np.nan, np.float32),
            "depth_present": False,
            "instruction": "push",
            "K_uv": np.zeros(4, np.float32),
            "anchor_uvz": rng.uniform(-1, 1, (n, 3)).astype(np.float32),
            "anchor_z_known": np.ones(n, bool),
            "history": -velocity * np.arange(h, 0, -1, dtype=np.float32)[None, :, None] / H,
            "history_valid": np.ones((n, h), bool),
            "present": np.ones(n, bool),
            "part_id": np.zeros(n, np.int64),
            "moving": np.ones(n, bool),
            "future": future,
            "future_valid": np.ones((n, H), bool),
            "controls": controls,
            "controls_usable": np.ones(n, bool),
            "clock": 0,
            "sample_id": f"toy-{index + self.offset}",
        }


class ToyModel(nn.Module):
    """Flow matching on the history alone; a frozen and a backbone parameter are there for the groups."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3 * h + 3 * D + 1, 32), nn.SiLU(), nn.Dropout(0.1), nn.Linear(32, 3 * D))
        self.backbone = nn.Linear(3 * D, 3 * D)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def loss(self, batch, generator):
        controls = batch["controls"].flatten(2)
        noise = torch.randn(controls.shape, generator=generator)
        tau = torch.rand(len(controls), 1, 1, generator=generator)
        x = tau * noise + (1 - tau) * controls
        inputs = torch.cat([batch["history"].flatten(2), x, tau.expand(*x.shape[:2], 1)], -1)
        error = (self.backbone(self.net(inputs)) - (noise - controls)).square().mean(-1)
        flow = (error * batch["present"]).sum() / batch["present"].sum()
        return {"loss": flow, "flow": flow}


def _save(folder, model, normalisation, extra):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"normalisation": normalisation.to_dict(), **extra}, sort_keys=True))


def _load(folder, model):
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return Normalisation.from_dict(json.loads((folder / "config.json").read_text())["normalisation"])


def toy_kind() -> ModelKind:
    return ModelKind(
        build=lambda config: ToyModel(),
        save=_save,
        load=_load,
        set_normalisation=lambda model, scales: None,
        image_size=lambda model: (8, 8),
        is_backbone=lambda name: name.startswith("backbone"),
    )


def toy_data(**train) -> TrainingData:
    return TrainingData([ToyWindows(37, **train)], [1.0], [ToyWindows(9, offset=1000)], Normalisation())


register_model("toy", toy_kind)
