"""The size dial: `small`, `base`, `large` (mu0-paper Table 7; the dossier's §1.3 for the published shapes), and below them
what a CPU can train: `nano` (4.9M parameters), `nano-2m` (2.3M) and `nano-1m` (1.4M), the same model at three widths."""

from __future__ import annotations

import difflib
from dataclasses import replace

from traceworld.errors import ConfigError
from traceworld.models.mu0.config import (
    ExpertConfig,
    LocalFeatureConfig,
    LossConfig,
    Mu0Config,
    NanoPrefixConfig,
    SmolVLMPrefixConfig,
)


def expert_mlp_hidden(width: int) -> int:
    """Hidden width of the expert's gated MLP: 4 · ⌊2·width/3⌋, rounded up to a multiple of 256 (SmolVLA's rule)."""
    return -(-4 * (2 * width // 3) // 256) * 256


def _full(size: str, prefix: SmolVLMPrefixConfig) -> Mu0Config:
    width = prefix.text_width // 2
    return Mu0Config(size=size, prefix=prefix, expert=ExpertConfig(width=width, mlp_hidden=expert_mlp_hidden(width)))


_SMOLVLM_256M = SmolVLMPrefixConfig(hub_id="HuggingFaceTB/SmolVLM2-256M-Video-Instruct")
_SMOLVLM_500M = replace(
    _SMOLVLM_256M,
    hub_id="HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
    text_width=960,
    text_heads=15,
    text_kv_heads=5,
    text_mlp=2560,
)
# Rotary bases: the text_config of the published configs says 100,000 for the two smaller models and 130,000 for SmolVLM2-2.2B
# (the base of SmolLM2-1.7B, 8,192 positions). 273,768, which ports of "SmolVLM 2.2B" state, is that of the first SmolVLM,
# which was stretched to 16,384. Loading published weights compares these numbers with the config that comes with them.
_SMOLVLM_2B = SmolVLMPrefixConfig(
    hub_id="HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    vision_width=1152,
    vision_layers=27,
    vision_heads=16,
    vision_mlp=4304,
    vision_patch=14,
    vision_image_size=384,
    connector_shuffle=3,
    text_width=2048,
    text_heads=32,
    text_kv_heads=32,
    text_mlp=8192,
    text_rope_theta=130_000.0,
)


def _nano(size: str, width: int) -> Mu0Config:
    """The embedded model at one width: depth, words, picture and heads of 32 stay, all that is wide follows the width."""
    prefix = NanoPrefixConfig(
        stem_channels=(width // 8, width // 4, width // 2),
        width=width,
        heads=width // 32,
        mlp_hidden=-(-8 * width // 24) * 8,
    )
    expert = ExpertConfig(
        width=width, mlp_hidden=2 * width, history_scale="s_delta", history_time="clean", summary=True
    )
    return Mu0Config(
        size=size, prefix=prefix, local=LocalFeatureConfig(source="prefix"), expert=expert, loss=LossConfig(draws=4)
    )


_SIZES = {
    "nano-1m": _nano("nano-1m", 96),
    "nano-2m": _nano("nano-2m", 128),
    "nano": _nano("nano", 192),
    "small": _full("small", _SMOLVLM_256M),
    "base": _full("base", _SMOLVLM_500M),
    "large": _full("large", _SMOLVLM_2B),
}
SIZES = tuple(_SIZES)
OFFICIAL = "-official"
"""Ending of a size's name that stands for compat with the released code."""


def mu0_config(size: str) -> Mu0Config:
    """The config of a named size; `large-official` is `large` as the released code has it (`official.switches`).

    Raises:
        ConfigError: no such size; names the nearest.
    """
    if size.endswith(OFFICIAL):
        from traceworld.models.mu0.official.switches import official_config

        return official_config(mu0_config(size.removesuffix(OFFICIAL)))
    if size not in _SIZES:
        near = difflib.get_close_matches(size, _SIZES, n=1, cutoff=0.3)
        raise ConfigError(
            f"no μ0 size is called '{size}', there are {', '.join(_SIZES)}",
            where="size",
            mend=f"did you mean '{near[0]}'?" if near else None,
        )
    return _SIZES[size]
