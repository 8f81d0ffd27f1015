"""The sizes of the policies: heads of 200M and 400M parameters (mu0-paper Table 8) and what a CPU can train and run (`nano`)."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch

from traceworld.errors import ConfigError
from traceworld.models.mu0.config import Mu0Config
from traceworld.policies.action_expert.config import (
    FlowHeadConfig,
    GripperConfig,
    HeadConfig,
    PolicyConfig,
    QueryConfig,
    SceneConfig,
)
from traceworld.policies.action_expert.model import trained_parts
from traceworld.policies.action_expert.trace_features import feature_widths
from traceworld.policies.baselines.config import DiffusionHeadConfig, RegressionHeadConfig

TraceUse = Literal["expert", "self", "none"]
SceneUse = Literal["prefix", "none"]

# π0.5's own action expert (Gemma-300M with modulated norms) is the 400M head: 428M with its modulation. The 200M one is not
# among the released files; this one keeps the shape of its heads and has 14 layers of three quarters of the width.
_HEAD_400M = FlowHeadConfig()
_HEAD_200M = FlowHeadConfig(width=768, depth=14, mlp_hidden=3072, prefix_layers=14)
_HEAD_NANO = FlowHeadConfig(
    width=192, depth=6, heads=6, kv_heads=2, head_dim=32, mlp_hidden=512, prefix_layers=2, draws=2
)
_NANO_DIFFUSION = DiffusionHeadConfig(mlp_hidden=896, draws=2)
_NANO_ACT = RegressionHeadConfig(mlp_hidden=896)


def _nano(head: HeadConfig, trace: TraceUse) -> Callable[[int, int], PolicyConfig]:
    """How the small policies look, the same for all heads."""
    query, gripper = QueryConfig(kind="semantic", count=48), GripperConfig(source="prefix", grid=(4, 6))
    scene = SceneConfig(source="prefix")
    return lambda state_dim, action_dim: PolicyConfig(
        state_dim, action_dim, trace=trace, mixer_heads=6, query=query, gripper=gripper, scene=scene, head=head
    )


def _full(head: FlowHeadConfig) -> Callable[[int, int], PolicyConfig]:
    query = QueryConfig(kind="semantic", count=100)
    return lambda state_dim, action_dim: PolicyConfig(state_dim, action_dim, query=query, head=head)


_SIZES: dict[str, Callable[[int, int], PolicyConfig]] = {
    "nano": _nano(_HEAD_NANO, "expert"),
    "nano-diffusion": _nano(_NANO_DIFFUSION, "none"),
    "nano-act": _nano(_NANO_ACT, "none"),
    "200m": _full(_HEAD_200M),
    "400m": _full(_HEAD_400M),
}
SIZES = tuple(_SIZES)
OFFICIAL = "400m-official"
"""The released policy (`official.switches`)."""


def policy_config(
    size: str,
    state_dim: int,
    action_dim: int,
    *,
    chunk: int = 16,
    trace: TraceUse | None = None,
    scene: SceneUse | None = None,
) -> PolicyConfig:
    """The config of a named size.

    Args:
        chunk: actions per chunk. trace: how motion is injected (`PolicyConfig.trace`); None: as the size says.
        scene: whether it reads the prefix's finer map (`SceneConfig`); None: as the size says.

    Raises:
        ConfigError: no such size (names the nearest), or a finer map for the released policy, which has none.
    """
    if size == OFFICIAL:
        from traceworld.policies.action_expert.official.switches import official_config

        if scene == "prefix":
            raise ConfigError("the released policy reads no finer map", where="scene", mend="leave it off")
        return official_config(state_dim, action_dim, chunk=chunk, use_trace=trace != "none")
    if size not in _SIZES:
        near = difflib.get_close_matches(size, [*_SIZES, OFFICIAL], n=1, cutoff=0.3)
        raise ConfigError(
            f"no policy size is called '{size}', there are {', '.join([*_SIZES, OFFICIAL])}",
            where="size",
            mend=f"did you mean '{near[0]}'?" if near else None,
        )
    config = replace(_SIZES[size](state_dim, action_dim), size=size, chunk=chunk)
    config = config if trace is None else replace(config, trace=trace)
    return config if scene is None else replace(config, scene=SceneConfig(source=scene))


def count_policy(config: PolicyConfig, mu0: Mu0Config) -> dict[str, int]:
    """Parameters that are trained, without making them: `head`, `injection` (eq. 11), `stems`, `total`."""
    with torch.device("meta"):
        stems, head = trained_parts(config, feature_widths(mu0, config))
    injection = 0 if stems.guidance is None else sum(p.numel() for p in stems.guidance.parameters())
    counts = {"head": sum(p.numel() for p in head.parameters()), "injection": injection}
    counts["stems"] = sum(p.numel() for p in stems.parameters()) - injection
    return {**counts, "total": sum(counts.values())}
