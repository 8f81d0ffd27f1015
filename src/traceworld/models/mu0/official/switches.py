"""The switches in which the released μ0 differs from the paper's intent, in one table (dossier §7.1).

Positions (suffix at the prefix's end in joint layers, at 0 in cross layers), the order of norm, shift, scale and gate, the
cross layers' reading of rotated keys, the soft anchor row of the fit, and the validity read at the last Euler step are the
same in both and need no switch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

from traceworld.errors import ConfigError
from traceworld.models.mu0.config import Mu0Config, SmolVLMPrefixConfig

ARC_STEP = 0.05
"""Image widths of path per step of the released data (dossier §2.2)."""

SWITCHES: dict[str, Any] = {
    "compat": "official",
    "degree": 3,
    "knots": "official",  # Bézier pieces, joined C0
    "target": "spline",
    "use_history": True,
    "prefix.prompt": "Task: {}\n",
    "prefix.max_text_tokens": 48,
    "prefix.rope_base": 10_000.0,
    "prefix.attention": "bidirectional",
    "prefix.embedding_scale": "sqrt_width",
    "expert.anchor_z": False,
    "expert.history_validity": False,
    "expert.history_scale": "none",
    "expert.history_time": "shared",
    "expert.summary": False,
    "expert.clock": False,
}
"""Dotted field → value. Without these a config cannot say `compat="official"`."""

_RECIPE: dict[str, Any] = {
    "euler_steps": 4,
    "prefix.depth_lora_rank": 8,
    "prefix.depth_lora_alpha": 16.0,
    # The released flow loss is a sum over 30 numbers, ours their mean: 1 : 0.5 : 5 becomes 1 : 0.5/30 : 5/30.
    "loss.lambda_done": 0.5 / 30,
    "loss.lambda_rig": 5 / 30,
    "loss.rigidity": "distance",
    "loss.tau": "beta",
    "loss.draws": 1,
}
"""What the released recipe also sets, and a checkpoint may have otherwise."""


def official_config(config: Mu0Config) -> Mu0Config:
    """A full-size config with every switch set as in the released code.

    Raises:
        ConfigError: the prefix is not SmolVLM2.
    """
    if not isinstance(config.prefix, SmolVLMPrefixConfig):
        raise ConfigError("the released model has a SmolVLM2 prefix", where="prefix", mend="use small, base or large")
    return _with(config, SWITCHES | _RECIPE | {"size": f"{config.size}-official"})


def check_official(config: Mu0Config) -> None:
    """
    Raises:
        ConfigError: a switch stands otherwise than in the released code (all named).
    """
    if not isinstance(config.prefix, SmolVLMPrefixConfig):
        raise ConfigError("the released model has a SmolVLM2 prefix", where="compat", mend="use compat='none'")
    wrong = [
        f"{path} is {_get(config, path)!r}, not {value!r}"
        for path, value in SWITCHES.items()
        if _get(config, path) != value
    ]
    if wrong:
        raise ConfigError("; ".join(wrong), where="compat", mend="use official.switches.official_config")


def _get(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def _with(config: Mu0Config, values: dict[str, Any]) -> Mu0Config:
    own = {path: value for path, value in values.items() if "." not in path}
    for part in ("prefix", "expert", "loss"):
        inner = {path.split(".")[1]: value for path, value in values.items() if path.startswith(f"{part}.")}
        own[part] = dataclasses.replace(getattr(config, part), **inner)
    return replace(config, **own)
