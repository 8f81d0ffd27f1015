"""Tiny μ0s, policies on them and demonstrations in memory, for the tests of policies and of their training."""

from __future__ import annotations

import numpy as np
import torch

from traceworld.models.mu0.config import (
    ExpertConfig,
    LocalFeatureConfig,
    Mu0Config,
    NanoPrefixConfig,
    SmolVLMPrefixConfig,
)
from traceworld.models.mu0.model import Mu0Model
from traceworld.models.normalisation import Normalisation
from traceworld.policies.action_expert.config import FlowHeadConfig, GripperConfig, PolicyConfig, QueryConfig
from traceworld.policies.action_expert.model import PolicyModel
from traceworld.policies.action_expert.normalisation import ActionScales
from traceworld.traces.demonstrations import Demonstration
from traceworld.traces.robot import ActionSpec, RobotObservation

K, A, P = 5, 3, 4
SPEC = ActionSpec(("dx", "dy", "grip"), (-1.0,) * A, (1.0,) * A, 20.0, ("x", "y", "z", "opening"))
SCALES = ActionScales(
    (0.5, -0.2, 0.1, 0.0), (2.0, 0.5, 1.0, 1.0), (0.1, 0.0, -0.2), (0.5, 0.4, 0.9), SPEC, ("scene", "wrist")
)

NANO_MU0 = Mu0Config(
    history=4,
    horizon=8,
    num_controls=5,
    prefix=NanoPrefixConfig(
        image_height=32,
        image_width=48,
        stem_channels=(4, 6, 8),
        width=16,
        layers=4,
        heads=2,
        mlp_hidden=24,
        word_buckets=64,
        max_words=6,
    ),
    local=LocalFeatureConfig(source="prefix"),
    expert=ExpertConfig(width=20, mlp_hidden=24, history_group=4, control_group=5, uv_freqs=3, summary=True),
)
SMOLVLM_MU0 = Mu0Config(
    history=4,
    horizon=8,
    num_controls=5,
    prefix=SmolVLMPrefixConfig(
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
    ),
    local=LocalFeatureConfig(source="dino", image_size=28, patch=7, width=12, layers=2, heads=2),
    expert=ExpertConfig(width=16, mlp_hidden=24, history_group=4, control_group=5, uv_freqs=3),
)
HEAD = FlowHeadConfig(
    width=24, depth=3, heads=4, kv_heads=2, head_dim=8, mlp_hidden=32, prefix_layers=2, euler_steps=4, draws=2
)


def policy_config(**changed) -> PolicyConfig:
    """A policy on `NANO_MU0`."""
    fields = {
        "state_dim": P,
        "action_dim": A,
        "chunk": K,
        "mixer_heads": 4,
        "query": QueryConfig(count=7),
        "gripper": GripperConfig(source="prefix", grid=(2, 3)),
        "head": HEAD,
    }
    return PolicyConfig(**{**fields, **changed})


def tokenizer(prompts):
    """Characters as tokens, right-padded: what a hub tokenizer returns, without a hub."""
    rows = [[ord(c) % 49 for c in prompt][:10] for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return ids, torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])


def filled(model: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """The model with its zero-initialised layers filled as well, so that every path carries a signal."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def make_mu0(config: Mu0Config = NANO_MU0, seed: int = 0) -> Mu0Model:
    torch.manual_seed(seed)
    model = filled(Mu0Model(config, Normalisation()))
    if config.prefix.kind == "smolvlm":
        model.prefix.tokenizer = tokenizer
    return model


def make_policy(config: PolicyConfig | None = None, mu0: Mu0Config = NANO_MU0, seed: int = 0) -> PolicyModel:
    """A policy whose gate and modulations are not zero any more."""
    frozen = make_mu0(mu0, seed)
    return filled(PolicyModel(config or policy_config(), frozen, SCALES))


def picture(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A grey table with two coloured boxes."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 110, np.uint8)
    for colour in ((200, 40, 40), (40, 60, 210)):
        top, left = rng.integers(2, height - 14), rng.integers(2, width - 14)
        image[top : top + 10, left : left + 12] = colour
    return image


def depth_map(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Metres of a tilted table with a hole that nothing is known of."""
    depth = np.linspace(0.6, 1.8, height * width, dtype=np.float32).reshape(height, width)
    depth[5:15, 20:40] = np.nan
    return depth + np.float32(0.003 * (seed % 97))


def observation(seed: int = 0, step: int = 0, instruction: str = "push the red box") -> RobotObservation:
    rng = np.random.default_rng(seed)
    return RobotObservation(
        images={"scene": picture(seed), "wrist": picture(seed + 1000, 40, 40)},
        state=rng.normal(size=P).astype(np.float32),
        instruction=instruction,
        step=step,
    )


class ToyDemonstrations:
    """Episodes in memory: the action is a fixed function of the state and of which box is asked for."""

    name = "toy demonstrations"
    spec = SPEC

    def __init__(self, episodes: int = 6, length: int = 9, wrist: bool = True, seed: int = 0, depth: bool = False):
        self.episodes, self.length, self.wrist, self.seed, self.depth = episodes, length, wrist, seed, depth
        self.reads = 0

    def __len__(self) -> int:
        return self.episodes

    def instructions(self) -> list[str]:
        return [("push the red box", "lift the blue one now")[i % 2] for i in range(self.episodes)]

    def __getitem__(self, index: int) -> Demonstration:
        rng = np.random.default_rng([self.seed, index])
        T = self.length + index % 3
        state = rng.normal(size=(T, P)).astype(np.float32)
        sign = 1 if index % 2 else -1
        action = np.stack([np.tanh(state[:, 0]), sign * np.tanh(state[:, 1]), np.full(T, float(sign))], 1)

        def read_frame(camera: str, frame: int) -> np.ndarray:
            self.reads += 1
            return picture(100 * index + frame + (5000 if camera == "wrist" else 0))

        return Demonstration(
            episode_id=f"episode_{self.seed}_{index:03d}",
            instruction=self.instructions()[index],
            fps=20.0,
            state=state,
            action=action.astype(np.float32),
            cameras=("scene", "wrist") if self.wrist else ("scene",),
            read_frame=read_frame,
            depth_cameras=("scene",) if self.depth else (),
            read_depth=(lambda camera, frame: depth_map(100 * index + frame)) if self.depth else None,
        )
