"""The ablations of mu0-paper Table 6 as configs: each takes one part away."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace

from traceworld.errors import ConfigError
from traceworld.models.mu0.config import Mu0Config


def _raw_trace(config: Mu0Config) -> Mu0Config:
    expert = replace(config.expert, control_group=config.horizon)  # still one token per keypoint
    return replace(config, target="raw", num_controls=config.horizon, expert=expert)


def _no_dino(config: Mu0Config) -> Mu0Config:
    return replace(config, local=replace(config.local, source="none"))


def _no_rigidity(config: Mu0Config) -> Mu0Config:
    return replace(config, loss=replace(config.loss, lambda_rig=0.0))


def _no_depth(config: Mu0Config) -> Mu0Config:
    return replace(config, use_depth=False, expert=replace(config.expert, anchor_z=False))


def _no_history(config: Mu0Config) -> Mu0Config:
    return replace(config, use_history=False)


ABLATIONS: dict[str, Callable[[Mu0Config], Mu0Config]] = {
    "raw-trace": _raw_trace,
    "no-dino": _no_dino,
    "no-rigidity": _no_rigidity,
    "no-depth": _no_depth,
    "no-history": _no_history,
}
"""Row of Table 6 → config without that part. Other weights of the rigidity loss are `loss.lambda_rig`."""


def ablated(config: Mu0Config, name: str) -> Mu0Config:
    """`config` without one part (see `ABLATIONS`); they compose.

    Raises:
        ConfigError: no such ablation; names the nearest.
    """
    if name not in ABLATIONS:
        near = difflib.get_close_matches(name, ABLATIONS, n=1, cutoff=0.3)
        raise ConfigError(
            f"no ablation is called '{name}', there are {', '.join(ABLATIONS)}",
            where="ablation",
            mend=f"did you mean '{near[0]}'?" if near else None,
        )
    return ABLATIONS[name](config)
